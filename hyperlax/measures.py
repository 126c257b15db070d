"""The scale of a task: its measures as metrics, beside those that every curve has.

>>> from hyperlax.tasks import Measure
>>> list(Measures((Measure("loss", "minimize"),), budget=10, evaluations=5).table.rows)
['loss', 'peak_performance', 'final_performance', 'seed_spread', 'train_seconds']
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hyperlax.errors import format_number
from hyperlax.metrics import METRICS, OF_RETURNS, aggregated
from hyperlax.scale import Inputs, Metric, MetricTable, Words
from hyperlax.tasks import Measure, Task
from hyperlax.trial import MEASURED

RESERVED = frozenset(
    {
        *METRICS, *MEASURED, "episodes", "trial", "seed", "step", "steps", "state", "reason", "seconds", "segment", "of", "batch",
        "exec_batch", "intermediate", "only", "finite",
    }
)  # fmt: skip
"""Names that files or the database use for something else, so that neither a measure nor a hyperparameter can have them."""
_SCALED = ("normalized_auc", "stability_score", "steps_to_threshold")
"""Metrics that need both ends of the scale."""


@dataclass(frozen=True)
class Measures:
    """The scale of a task's trials: its measures. A study keeps it in study.json, so that it can be read without the recipe.

    measures: the leading one first. budget, evaluations: the last step and the number of reports of a trial. has_programs: whether
    trials are lanes of compiled programs, and not processes.
    """

    measures: tuple[Measure, ...]
    budget: int
    evaluations: int
    has_programs: bool = False

    has_start = False

    @property
    def leading(self) -> Measure:
        """Measure that the curve shows."""
        return self.measures[0]

    @property
    def words(self) -> Words:
        """Words of a function in worker processes, or of a JAX program in lanes."""
        name = self.name
        own = {"steps": "steps", "curve": name, "low": f"low of {name}", "high": f"high of {name}"}
        if self.has_programs:
            return replace(OF_RETURNS, **own)
        return Words(
            **own,
            lane="slot",
            preparing="starting processes",
            row="a worker process",
            waits="trials",
            has_programs=False,
        )

    @property
    def name(self) -> str:
        """Name of the leading measure."""
        return self.leading.name

    def facts(self) -> list[list[str]]:
        """Return a row per measure."""
        return [["leading measure" if one is self.leading else "measure", _in_words(one)] for one in self.measures]

    @property
    def sign(self) -> float:
        """1.0 if the leading measure is maximized, -1.0 if it is minimized."""
        return 1.0 if self.leading.direction == "maximize" else -1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """`low` and `high` of the leading measure, or `-high` and `-low` of one that is minimized."""
        low, high = self.leading.low, self.leading.high
        if low is None or high is None:
            return math.nan, math.nan
        return (low, high) if self.sign > 0 else (-high, -low)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(measure.name for measure in self.measures)

    @property
    def table(self) -> MetricTable:
        """Measures, each by its value at the last evaluation, then the metrics of the leading one's curve."""
        return _table_of(self)


def _in_words(measure: Measure) -> str:
    ends = (
        f"{word} {format_number(end)}"
        for word, end in (("low", measure.low), ("high", measure.high))
        if end is not None
    )
    return ", ".join((f"{measure.name}, {measure.direction}d", *ends))


def measures_of(task: Task) -> Measures:
    """Return what a task is measured by, equal to what study.json keeps of it."""
    measures = (replace(one, low=_as_float(one.low), high=_as_float(one.high)) for one in task.all_measures)
    return Measures(tuple(measures), task.budget, task.evaluations, task.has_programs)


def _as_float(value: float | None) -> float | None:
    return None if value is None else float(value)


@cache
def _table_of(scale: Measures) -> MetricTable:
    leading, is_scaled = scale.leading, not math.isnan(scale.bounds[0])
    name, direction = leading.name, leading.direction
    own: dict[str, dict[str, Any]] = {
        "peak_performance": {"direction": direction, "unit": name},
        "final_performance": {"direction": direction, "unit": name},
        "seed_spread": {"unit": name},
        "steps_to_threshold": {"unit": "steps"},
    }
    rows = {measure.name: _at_the_end(measure, measure is leading) for measure in scale.measures}
    refused = {"num_parameters": "num_parameters counts the parameters of a policy, and a task has none"}
    for metric, row in METRICS.items():
        if metric in _SCALED and not is_scaled:
            refused[metric] = f'{metric} needs low and high of Measure("{name}")'
        elif metric not in refused:
            rows[metric] = replace(row, **own.get(metric, {}))
    return MetricTable(rows, name, refused, evaluations="the task's evaluations")


def _at_the_end(measure: Measure, is_leading: bool) -> Metric:
    """Return the metric of a measure: its value at the last evaluation."""
    direction = measure.direction
    if is_leading:
        return Metric(direction, "", "", lambda inputs: inputs.scale.sign * float(inputs.curve[-1]), True)
    sign = 1.0 if direction == "maximize" else -1.0

    def last(inputs: Inputs) -> float:
        values = aggregated(inputs.others[measure.name], inputs.aggregate, sign)
        return float(next((value for value in values[::-1] if not math.isnan(value)), math.nan))

    return Metric(direction, "", "", last, per_seed=True, is_optional=True)
