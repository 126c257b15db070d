"""Metrics: numbers computed from a learning curve, which Optuna optimizes. Numpy only.

A trial's evaluations give r_1 ... r_K at environment steps t_1 < ... < t_K, the budget. r_k is an aggregate over seeds, by
default the mean, of each seed's mean return over its episodes. The point before any training, t_0, stays in the curve and enters
no metric. `lo` and `hi` are the environment's reference returns: normalizing by them, and not by the trial's own curve, lets two
trials be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hyperlax.errors import OptionError, UsageError, counted, did_you_mean
from hyperlax.trial import Outcome

_Direction = Literal["minimize", "maximize"]

_SOLVED_FRACTION = 0.9
"""Part of the way from `lo` to `hi` that `steps_to_threshold` waits for."""


@dataclass(frozen=True)
class ReferenceReturns:
    """The scale of an environment's returns: `lo` of a random policy, `hi` of a solved task. source: the origin of both."""

    lo: float
    hi: float
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(
                f"Reference returns need finite lo < hi, got lo={self.lo}, hi={self.hi}. "
                "lo is the mean return of a random policy, hi that of a solved task."
            )


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a metric.

    Args:
      steps: float64[K], environment steps of one seed at each evaluation, without the point before training.
      curve: float64[K], r_1 ... r_K.
      returns: float64[K, seeds], each seed's mean return over its episodes.
      budget: Environment steps that each seed may take.
      reference: The environment's reference returns.
      num_parameters: Trainable scalars of the policy network that acts.
      train_seconds: The trial's share of its batch's training time.
    """

    steps: np.ndarray
    curve: np.ndarray
    returns: np.ndarray
    budget: int
    reference: ReferenceReturns
    num_parameters: int = 0
    train_seconds: float = 0.0


@dataclass(frozen=True)
class Conditions:
    """The parts of a study that decide whether a metric can vary. is_sized: whether the policy network's sizes are searched."""

    num_seeds: int
    num_evaluations: int
    is_sized: bool


def _varies(conditions: Conditions) -> str:
    return ""


@dataclass(frozen=True)
class Metric:
    """A number that rates a training.

    Args:
      direction: "maximize" or "minimize".
      unit: In words; empty where the name says it.
      definition: One line for the user.
      compute: Computes it.
      per_seed: Whether a single seed has it too. Then `compute` reads the curve only, not `returns`.
      constant: Returns why it says nothing about trials under these conditions, and what to change; "" if it can vary.
    """

    direction: _Direction
    unit: str
    definition: str
    compute: Callable[[_Inputs], float]
    per_seed: bool = False
    constant: Callable[[Conditions], str] = _varies


def peak_performance(curve: np.ndarray) -> float:
    """Return max_k r_k of float64[K]."""
    return float(curve.max())


def final_performance(curve: np.ndarray) -> float:
    """Return the mean of the last max(1, ceil(K / 10)) points of float64[K]."""
    return float(curve[-_final_points(len(curve)) :].mean())


def _normalized_auc(inputs: _Inputs) -> float:
    """Return the area under c_k = clip((r_k - lo) / (hi - lo), 0, 1), divided by t_K - t_1: in [0, 1].

    The points are clipped first, then joined by straight lines (trapezoids). A single point spans no width; its c_1 is
    the limit of shrinking the interval, and is returned.
    """
    steps, reference = inputs.steps, inputs.reference
    height = np.clip((inputs.curve - reference.lo) / (reference.hi - reference.lo), 0.0, 1.0)
    if len(height) == 1:
        return float(height[0])
    widths = np.diff(steps)
    area = np.sum(widths * (height[:-1] + height[1:]) / 2.0)
    return float(area / (steps[-1] - steps[0]))


def _stability_score(inputs: _Inputs) -> float:
    """Return 1 - clip((peak - final) / max(peak - lo, 1e-9), 0, 1): 1 keeps its peak, 0 falls back to a random policy.

    A curve that never rises above `lo` scores 1 only if it ends at its peak.
    """
    peak, final = peak_performance(inputs.curve), final_performance(inputs.curve)
    lost = (peak - final) / max(peak - inputs.reference.lo, 1e-9)
    return float(1.0 - np.clip(lost, 0.0, 1.0))


def _seed_spread(inputs: _Inputs) -> float:
    """Return the population standard deviation (ddof 0) over seeds of each seed's own final performance; 0 for one seed."""
    per_seed = inputs.returns[-_final_points(len(inputs.returns)) :].mean(axis=0)
    return float(per_seed.std())


def _steps_to_threshold(inputs: _Inputs) -> float:
    """Return the first environment step at which r reaches lo + 0.9 (hi - lo), on straight lines between t_1 ... t_K.

    It is t_1 if r_1 has reached it, and the budget if r never does, or only in the part of the last rollout beyond the budget.
    """
    steps, curve, budget, reference = inputs.steps, inputs.curve, inputs.budget, inputs.reference
    threshold = reference.lo + _SOLVED_FRACTION * (reference.hi - reference.lo)
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
        lambda inputs: peak_performance(inputs.curve),
        per_seed=True,
    ),
    "final_performance": Metric(
        "maximize",
        "mean return",
        "mean of the last tenth of the evaluations",
        lambda inputs: final_performance(inputs.curve),
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
"""Every metric, in the order in which files and reports list them. To add one, add its row: results written before have it as not
known."""


def aggregated(returns: np.ndarray, aggregate: str) -> np.ndarray:
    """Return r_k, float64[K]: the seeds' mean returns, float64[K, seeds], combined by an aggregate of `AGGREGATES`."""
    return AGGREGATES[aggregate](returns)


def _interquartile_mean(returns: np.ndarray) -> np.ndarray:
    """Return the mean over seeds without the floor(seeds / 4) lowest and as many highest, float64[K] of float64[K, seeds].

    With fewer than four seeds it is their mean. Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice".
    """
    cut = returns.shape[1] // 4
    return np.sort(returns, axis=1)[:, cut : returns.shape[1] - cut].mean(axis=1)


AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda returns: returns.mean(axis=1),
    "median": lambda returns: np.median(returns, axis=1),
    "iqm": _interquartile_mean,
    "worst": lambda returns: returns.min(axis=1),
}
"""Ways to combine the returns of a trial's seeds: name -> function of float64[K, seeds]. "worst" is the lowest return."""


def compute(outcome: Outcome, reference: ReferenceReturns, aggregate: str = "mean") -> dict[str, float]:
    """Return every metric of `METRICS`, in its order. aggregate: of `AGGREGATES`.

    Raises ValueError for an outcome that is not COMPLETE, a curve without a point after training, steps that do not
    increase, or anything that is not finite: such a trial has failed and has no metrics.
    """
    steps, returns = _trained_points(outcome)
    parts = steps, aggregated(returns, aggregate), returns, outcome.curve.budget, reference
    inputs = _Inputs(*parts, outcome.num_parameters, outcome.train_seconds)
    metrics = {name: metric.compute(inputs) for name, metric in METRICS.items()}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a trial without finite metrics is a FAIL.")
    return metrics


def of_curve(steps: np.ndarray, curve: np.ndarray, budget: int, reference: ReferenceReturns) -> dict[str, float]:
    """Return the metrics that a single seed has, of its steps float64[K] and returns float64[K] after training began."""
    inputs = _Inputs(steps, curve, curve[:, None], budget, reference)
    return {name: metric.compute(inputs) for name, metric in METRICS.items() if metric.per_seed}


def check_objectives(names: Sequence[str], directions: Sequence[str]) -> None:
    """Raise OptionError unless every name is a metric, none repeats, and each has one direction."""
    if not names:
        raise OptionError("objective_names", "{objective_names} is empty. Metrics: {0}.", ", ".join(METRICS))
    for name in names:
        if name not in METRICS:
            problem = "{objective_names}: no metric named `{0}`. {1}Metrics: {2}."
            raise OptionError("objective_names", problem, name, did_you_mean(name, METRICS), ", ".join(METRICS))
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
            " ".join(METRICS[name].direction for name in names),
        )


def check_varying(names: Sequence[str], conditions: Conditions) -> None:
    """Raise OptionError for an objective that says nothing about trials."""
    for name in names:
        if reason := METRICS[name].constant(conditions):
            problem = f"{{objective_names}} {{0}} cannot tell trials apart: {reason}, or choose another objective."
            raise OptionError("objective_names", problem, name)


def _trained_points(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Return steps float64[K] and returns float64[K, seeds] of the points after t_0. Raises ValueError if they have no metrics."""
    if outcome.state != "COMPLETE":
        raise ValueError(f"the trial is {outcome.state} ({outcome.reason}); only COMPLETE trials have metrics.")
    steps = np.asarray(outcome.curve.steps, dtype=np.float64)
    returns = np.asarray(outcome.curve.mean, dtype=np.float64)
    if returns.ndim != 2 or returns.shape[1] == 0 or len(steps) != len(returns):
        raise ValueError(f"mean needs shape [points: {len(steps)}, seeds], got {list(returns.shape)}.")
    if len(steps) < 2:
        raise ValueError(
            f"the curve has {counted(len(steps), 'point')}; metrics need one before and one after training."
        )
    if not np.all(np.isfinite(returns)):
        raise ValueError("the curve holds nan or inf; a trial without finite returns is a FAIL.")
    if not np.all(np.diff(steps) > 0):
        raise ValueError(f"steps must increase, got {steps.astype(int).tolist()}.")
    return steps[1:], returns[1:]


def _final_points(count: int) -> int:
    """Return max(1, ceil(K / 10)) in integers."""
    return max(1, -(-count // 10))
