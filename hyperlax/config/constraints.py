"""Constraints on metrics, which the best trial must satisfy.

>>> parse_constraint("num_parameters <= 20000").violation({"num_parameters": 25000.0})
5000.0
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyperlax.errors import OptionError, did_you_mean
from hyperlax.metrics import METRICS


@dataclass(frozen=True)
class _Constraint:
    """A metric that may be at most, or at least, a bound."""

    metric: str
    sense: Literal["<=", ">="]
    bound: float

    def violation(self, metrics: Mapping[str, float]) -> float:
        """Return by how much a trial violates it; at most 0 if satisfied, as in Optuna's `constraints_func`."""
        over = metrics[self.metric] - self.bound
        return over if self.sense == "<=" else -over


def parse_constraint(text: str, known: Collection[str] = METRICS) -> _Constraint:
    """Return the constraint from `METRIC <= NUMBER` or `METRIC >= NUMBER`. Raises OptionError for any other text.

    known: the metrics of the study's trials.
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
    if metric not in known:
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
    return _Constraint(metric, "<=" if sense == "<=" else ">=", bound)


def are_satisfied(constraints: Sequence[str], metrics: Mapping[str, float]) -> bool:
    """Return whether a COMPLETE trial with these metrics can be the best."""
    return all(violation <= 0 for violation in violations(constraints, metrics))


def violations(constraints: Sequence[str], metrics: Mapping[str, float]) -> list[float]:
    """Return a number per constraint, each at most 0 for a trial that satisfies all of them."""
    return [parse_constraint(text, metrics).violation(metrics) for text in constraints]
