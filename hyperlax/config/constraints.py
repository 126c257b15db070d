"""Constraints on metrics: what a trial has to satisfy to be the best.

>>> parse_constraint("num_parameters <= 20000").violation({"num_parameters": 25000.0})
5000.0
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyperlax.errors import UsageError
from hyperlax.metrics import METRICS


@dataclass(frozen=True)
class Constraint:
    """A metric that may be at most, or at least, a bound."""

    metric: str
    sense: Literal["<=", ">="]
    bound: float

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much a trial misses it; at most 0 where it does not, as `constraints_func` of Optuna has it."""
        over = metrics[self.metric] - self.bound
        return over if self.sense == "<=" else -over


def parse_constraint(text: str) -> Constraint:
    """A constraint from `METRIC <= NUMBER` or `METRIC >= NUMBER`. UsageError for anything else."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
    if not found:
        raise UsageError(
            f"--constraint needs 'METRIC <= NUMBER' or 'METRIC >= NUMBER', got {text!r}. Quote it, e.g. "
            "--constraint 'num_parameters <= 20000'."
        )
    metric, sense, number = found.groups()
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise UsageError(f"--constraint: no metric named `{metric}`.{hint} Metrics: {', '.join(METRICS)}.")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise UsageError(
            f"--constraint {text!r}: {number!r} is no finite number. Write one, e.g. {metric} {sense} 20000."
        )
    return Constraint(metric, "<=" if sense == "<=" else ">=", bound)


def are_satisfied(constraints: Sequence[str], metrics: Mapping[str, float]) -> bool:
    """Whether a COMPLETE trial with these metrics can be the best."""
    return all(violation <= 0 for violation in violations(constraints, metrics))


def violations(constraints: Sequence[str], metrics: Mapping[str, float]) -> list[float]:
    """A number per constraint, each at most 0 for a trial that satisfies all of them."""
    return [parse_constraint(text).violation(metrics) for text in constraints]
