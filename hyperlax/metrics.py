"""Metrics: numbers computed from a learning curve, which Optuna optimizes. Numpy only.

A trial's evaluations give r_1 ... r_K at steps t_1 < ... < t_K, the budget. r_k is an aggregate over seeds, by default the mean,
of each seed's mean return over its episodes, or of a task's leading measure. The point before any training, t_0, stays in the
curve and enters no metric. `lo` and `hi` are the ends of the `Scale`, an environment's reference returns: normalizing by them, and
not by the trial's own curve, lets two trials be compared. A measure that is minimized is mirrored, so that r rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperlax.errors import OptionError, UsageError, counted, did_you_mean, format_number
from hyperlax.scale import Conditions, Inputs, Metric, MetricTable, Scale, Words
from hyperlax.trial import MEASURED, Outcome

_SOLVED_FRACTION = 0.9
"""Part of the way from `lo` to `hi` that `steps_to_threshold` waits for."""
_TOO_LARGE = 1e300
"""Size from which a study's database is taken for damaged: sums of such numbers are not finite."""


OF_RETURNS = Words(
    steps="environment steps",
    curve="mean return of the evaluation",
    low="random policy (lo)",
    high="solved task (hi)",
    lane="lane",
    preparing="preparing programs",
    row="a lane of a compiled program",
    waits="a program, for other lanes or for trials",
    has_programs=True,
)


def peak_performance(curve: np.ndarray) -> float:
    """Return max_k r_k of float64[K]."""
    return float(curve.max())


def final_performance(curve: np.ndarray) -> float:
    """Return the mean of the last max(1, ceil(K / 10)) points of float64[K]."""
    return float(curve[-_final_points(len(curve)) :].mean())


def _normalized_auc(inputs: Inputs) -> float:
    """Return the area under c_k = clip((r_k - lo) / (hi - lo), 0, 1), divided by t_K - t_1: in [0, 1].

    The points are clipped first, then joined by straight lines (trapezoids). A single point spans no width; its c_1 is
    the limit of shrinking the interval, and is returned.
    """
    steps, (lo, hi) = inputs.steps, inputs.scale.bounds
    height = np.clip((inputs.curve - lo) / (hi - lo), 0.0, 1.0)
    if len(height) == 1:
        return float(height[0])
    widths = np.diff(steps)
    area = np.sum(widths * (height[:-1] + height[1:]) / 2.0)
    return float(area / (steps[-1] - steps[0]))


def _stability_score(inputs: Inputs) -> float:
    """Return 1 - clip((peak - final) / max(peak - lo, 1e-9), 0, 1): 1 keeps its peak, 0 falls back to a random policy.

    A curve that never rises above `lo` scores 1 only if it ends at its peak.
    """
    peak, final = peak_performance(inputs.curve), final_performance(inputs.curve)
    lost = (peak - final) / max(peak - inputs.scale.bounds[0], 1e-9)
    return float(1.0 - np.clip(lost, 0.0, 1.0))


def _seed_spread(inputs: Inputs) -> float:
    """Return the population standard deviation (ddof 0) over seeds of each seed's own final performance; 0 for one seed."""
    per_seed = inputs.returns[-_final_points(len(inputs.returns)) :].mean(axis=0)
    return float(per_seed.std())


def _steps_to_threshold(inputs: Inputs) -> float:
    """Return the first step at which r reaches lo + 0.9 (hi - lo), on straight lines between t_1 ... t_K.

    It is t_1 if r_1 has reached it, and the budget if r never does, or only in the part of the last rollout beyond the budget.
    """
    steps, curve, budget, (lo, hi) = inputs.steps, inputs.curve, inputs.budget, inputs.scale.bounds
    threshold = lo + _SOLVED_FRACTION * (hi - lo)
    reached = np.flatnonzero(curve >= threshold)
    if len(reached) == 0:
        return float(budget)
    first = int(reached[0])
    if first == 0:
        return float(min(steps[0], budget))
    before, after = curve[first - 1], curve[first]
    part = (threshold - before) / (after - before)
    return float(min(steps[first - 1] + part * (steps[first] - steps[first - 1]), budget))


def _of_one_point(reason: str) -> Callable[[Conditions], str]:
    advice = f"{reason}. Raise {{num_evaluations}} to at least 2"
    return lambda given: "" if given.num_evaluations > 1 else advice


_NOT_SIZED = (
    "the space does not change the size of the policy network. Search its layer_sizes or use_layer_norm in the recipe"
)

METRICS: dict[str, Metric] = {
    "peak_performance": Metric(
        "maximize",
        "mean return",
        "highest mean return of any evaluation",
        lambda inputs: inputs.scale.sign * peak_performance(inputs.curve),
        per_seed=True,
    ),
    "final_performance": Metric(
        "maximize",
        "mean return",
        "mean of the last tenth of the evaluations",
        lambda inputs: inputs.scale.sign * final_performance(inputs.curve),
        per_seed=True,
    ),
    "normalized_auc": Metric(
        "maximize",
        "0 to 1",
        "area under the curve, 0 a random policy's return and 1 a solved task's",
        _normalized_auc,
        per_seed=True,
        constant=_of_one_point("a single evaluation spans no area"),
    ),
    "stability_score": Metric(
        "maximize",
        "0 to 1",
        "1 if the curve ends at its peak, 0 if it falls back to a random policy",
        _stability_score,
        per_seed=True,
        constant=_of_one_point("it is 1 for a single evaluation"),
    ),
    "seed_spread": Metric(
        "minimize",
        "return",
        "standard deviation of final performance over seeds",
        _seed_spread,
        constant=lambda given: "" if given.num_seeds > 1 else "it is 0 for one seed. Raise {num_seeds} to at least 2",
    ),
    "steps_to_threshold": Metric(
        "minimize",
        "environment steps",
        "steps until 90 % of the way from random to solved; the budget if never",
        _steps_to_threshold,
        per_seed=True,
        constant=_of_one_point("it is the budget for a single evaluation"),
    ),
    "num_parameters": Metric(
        "minimize",
        "scalars of the policy",
        "trainable scalars of the policy network that acts",
        lambda inputs: float(inputs.num_parameters),
        constant=lambda given: "" if given.is_sized else _NOT_SIZED,
    ),
    "train_seconds": Metric(
        "minimize",
        "",
        "the trial's share of its batch's training time",
        lambda inputs: float(inputs.train_seconds),
    ),
}
"""Every metric of RL, in the order in which files and reports list them. To add one, add its row: results written before have it
as not known."""


OF_RL = MetricTable(METRICS, "peak_performance")


@dataclass(frozen=True)
class ReferenceReturns:
    """The scale of an environment's returns: `lo` of a random policy, `hi` of a solved task. source: the origin of both."""

    lo: float
    hi: float
    source: str

    words = OF_RETURNS
    name = "return"
    has_start = True
    sign = 1.0
    table = OF_RL
    columns = (*MEASURED, "episodes")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(
                f"Reference returns need finite lo < hi, got lo={self.lo}, hi={self.hi}. "
                "lo is the mean return of a random policy, hi that of a solved task."
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """`lo` and `hi`."""
        return self.lo, self.hi

    def facts(self) -> list[list[str]]:
        """Return the row of the reference returns."""
        ends = f"random policy {format_number(self.lo)}, solved {format_number(self.hi)}"
        return [["reference returns", f"{ends} ({self.source})"]]


def aggregated(returns: np.ndarray, aggregate: str, sign: float = 1.0) -> np.ndarray:
    """Return r_k, float64[K]: the seeds' mean returns, float64[K, seeds], combined by an aggregate of `AGGREGATES`.

    sign: -1.0 if smaller is better.
    """
    return sign * AGGREGATES[aggregate](sign * returns)


def _interquartile_mean(returns: np.ndarray) -> np.ndarray:
    """Return the mean over seeds without the floor(seeds / 4) lowest and as many highest, float64[K] of float64[K, seeds].

    With fewer than four seeds it is their mean, and nan where a seed is. Agarwal et al. (2021), "Deep Reinforcement Learning at the
    Edge of the Statistical Precipice".
    """
    cut = returns.shape[1] // 4
    middle = np.sort(returns, axis=1)[:, cut : returns.shape[1] - cut].mean(axis=1)
    return np.where(np.isnan(returns).any(axis=1), np.nan, middle)


AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda returns: returns.mean(axis=1),
    "median": lambda returns: np.median(returns, axis=1),
    "iqm": _interquartile_mean,
    "worst": lambda returns: returns.min(axis=1),
}
"""Ways to combine the returns of a trial's seeds: name -> function of float64[K, seeds]. "worst" is the lowest return."""


def compute(outcome: Outcome, scale: Scale, aggregate: str = "mean") -> dict[str, float]:
    """Return every metric of the scale, in its order, without the optional ones that it lacks. aggregate: of `AGGREGATES`.

    Raises ValueError for an outcome that is not COMPLETE, a curve without a point after training, steps that do not
    increase, or anything that is not finite or too large to be kept: such a trial has failed and has no metrics.
    """
    steps, returns = _trained_points(outcome)
    inputs = Inputs(
        steps,
        scale.sign * aggregated(returns, aggregate, scale.sign),
        returns,
        outcome.curve.budget,
        scale,
        outcome.num_parameters,
        outcome.train_seconds,
        {name: values[-len(steps) :] for name, values in outcome.curve.others.items()},
        aggregate,
    )
    rows = scale.table.rows
    metrics = {name: metric.compute(inputs) for name, metric in rows.items()}
    for name, value in metrics.items():
        if not abs(value) < _TOO_LARGE and not (rows[name].is_optional and math.isnan(value)):
            why = (
                "a study keeps numbers below 1e300"
                if math.isfinite(value)
                else "a trial without finite metrics is a FAIL"
            )
            raise ValueError(f"{name} is {value}; {why}.")
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def of_curve(
    steps: np.ndarray, curve: np.ndarray, budget: int, scale: Scale, others: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Return the metrics that a single seed has, of its steps float64[K] and curve float64[K] after training began.

    others: name -> float64[K] of a task's further measures.
    """
    columns = {name: values[:, None] for name, values in (others or {}).items()}
    inputs = Inputs(steps, scale.sign * curve, curve[:, None], budget, scale, others=columns)
    return {name: metric.compute(inputs) for name, metric in scale.table.rows.items() if metric.per_seed}


def check_objectives(names: Sequence[str], directions: Sequence[str], table: MetricTable = OF_RL) -> None:
    """Raise OptionError unless every name is a metric, none repeats, and each has one direction."""
    known = table.rows
    if not names:
        raise OptionError("objective_names", "{objective_names} is empty. Metrics: {0}.", ", ".join(known))
    for name in names:
        if name in table.refused:
            raise OptionError("objective_names", "{objective_names}: {0}.", table.refused[name])
        if name not in known:
            problem = "{objective_names}: no metric named `{0}`. {1}Metrics: {2}."
            raise OptionError("objective_names", problem, name, did_you_mean(name, known), ", ".join(known))
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        problem = "{objective_names}: `{0}` is given more than once. Give each objective once."
        raise OptionError("objective_names", problem, repeated[0])
    if len(names) != len(directions):
        raise OptionError(
            "objective_directions",
            "{0} {objective_names} ({1}) but {2} {objective_directions} ({3}). Give one direction per objective, e.g. "
            "{objective_directions} {4}.",
            len(names),
            ", ".join(names),
            len(directions),
            ", ".join(directions),
            " ".join(known[name].direction for name in names),
        )


def check_varying(names: Sequence[str], conditions: Conditions, table: MetricTable = OF_RL) -> None:
    """Raise OptionError for an objective that says nothing about trials."""
    for name in names:
        if reason := table.rows[name].constant(conditions):
            reason = reason.replace(OF_RL.evaluations, table.evaluations)
            problem = f"{{objective_names}} {{0}} cannot tell trials apart: {reason}, or choose another objective."
            raise OptionError("objective_names", problem, name)


def _trained_points(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Return steps float64[K] and curve float64[K, seeds] of the points after t_0. Raises ValueError if they have no metrics."""
    if outcome.state != "COMPLETE":
        raise ValueError(f"the trial is {outcome.state} ({outcome.reason}); only COMPLETE trials have metrics.")
    steps = np.asarray(outcome.curve.steps, dtype=np.float64)
    returns = np.asarray(outcome.curve.mean, dtype=np.float64)
    if returns.ndim != 2 or returns.shape[1] == 0 or len(steps) != len(returns):
        raise ValueError(f"mean needs shape [points: {len(steps)}, seeds], got {list(returns.shape)}.")
    start = int(outcome.curve.has_start)
    if len(steps) < 1 + start:
        needed = "one before and one after training" if start else "one"
        raise ValueError(f"the curve has {counted(len(steps), 'point')}; metrics need {needed}.")
    if not np.all(np.isfinite(returns)):
        what = "returns" if start else "values"
        raise ValueError(f"the curve holds nan or inf; a trial without finite {what} is a FAIL.")
    if not np.all(np.diff(steps) > 0):
        raise ValueError(f"steps must increase, got {steps.astype(int).tolist()}.")
    return steps[start:], returns[start:]


def _final_points(count: int) -> int:
    """Return max(1, ceil(K / 10)) in integers."""
    return max(1, -(-count // 10))
