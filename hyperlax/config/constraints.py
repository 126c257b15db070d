"""Constraints on metrics, which the best trial must satisfy.

>>> violations(["num_parameters <= 20000", "peak_performance >= 3"], {"num_parameters": 25000.0, "peak_performance": 4.0})
[5000.0, -1.0]
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from hyperlax.errors import OptionError, did_you_mean


def parse_constraint(text: str, known: Collection[str] | None = None) -> tuple[str, float, float]:
    """Return metric, sign and bound of `METRIC <= NUMBER` (sign 1) or `METRIC >= NUMBER` (-1). Raises OptionError for another text.

    known: the metrics of the study's trials; None accepts any name.
    """
    found = re.fullmatch(r"\s*([^\s<>=]+)\s*(<=|>=)\s*(\S+)\s*", text)
    if not found:
        raise OptionError(
            "constraints",
            "{constraints} needs 'METRIC <= NUMBER' or 'METRIC >= NUMBER', got {0!r}. Quote it, e.g. "
            "{constraints} 'num_parameters <= 20000'.",
            text,
        )
    metric, sense, number = found.groups()
    if known is not None and metric not in known:
        hint = did_you_mean(metric, known)
        problem = "{constraints}: no metric named `{0}`. {1}Metrics: {2}."
        raise OptionError("constraints", problem, metric, hint, ", ".join(known))
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        problem = "{constraints} {0!r}: {1!r} is not a finite number; use for example {2} {3} 20000."
        raise OptionError("constraints", problem, text, number, metric, sense)
    return metric, 1.0 if sense == "<=" else -1.0, bound


def violations(constraints: Sequence[str], metrics: Mapping[str, float]) -> list[float]:
    """Return by how much a COMPLETE trial violates each constraint; at most 0 if satisfied, as in Optuna's `constraints_func`."""
    parsed = (parse_constraint(text, metrics) for text in constraints)
    return [sign * (metrics[metric] - bound) for metric, sign, bound in parsed]
