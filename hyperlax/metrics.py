"""A learning curve becomes the numbers that Optuna optimizes. Numpy only.

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

from hyperlax.errors import OptionError, UsageError, did_you_mean
from hyperlax.trial import Outcome

Direction = Literal["minimize", "maximize"]

METRICS: dict[str, Direction] = {
    "peak_performance": "maximize",
    "final_performance": "maximize",
    "normalized_auc": "maximize",
    "stability_score": "maximize",
    "seed_spread": "minimize",
    "steps_to_threshold": "minimize",
    "num_parameters": "minimize",
    "train_seconds": "minimize",
}
"""Every metric and the direction that is better, in the order in which files and reports list them."""

PER_SEED = ("peak_performance", "final_performance", "normalized_auc", "stability_score", "steps_to_threshold")
"""The metrics that a single seed has too."""

SOLVED_FRACTION = 0.9
"""`steps_to_threshold` waits for this part of the way from `lo` to `hi`."""


@dataclass(frozen=True)
class ReferenceReturns:
    """What an environment's returns mean: `lo` a random policy's, `hi` a solved task's, `source` where both are from."""

    lo: float
    hi: float
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise UsageError(
                f"Reference returns need finite lo < hi, got lo={self.lo}, hi={self.hi}. "
                "lo is the mean return of a random policy, hi that of a solved task."
            )


def aggregated(returns: np.ndarray, aggregate: str) -> np.ndarray:
    """r_k, float64[K], of the seeds' mean returns float64[K, seeds] by an aggregate of `AGGREGATES`."""
    return AGGREGATES[aggregate](returns)


def interquartile_mean(returns: np.ndarray) -> np.ndarray:
    """Mean over seeds without the floor(seeds / 4) lowest and as many highest, float64[K] of float64[K, seeds].

    Of fewer than four seeds their mean. Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
    Precipice".
    """
    cut = returns.shape[1] // 4
    return np.sort(returns, axis=1)[:, cut : returns.shape[1] - cut].mean(axis=1)


AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda returns: returns.mean(axis=1),
    "median": lambda returns: np.median(returns, axis=1),
    "iqm": interquartile_mean,
    "worst": lambda returns: returns.min(axis=1),
}
"""What of the seeds' returns may be the trial's: name -> function of float64[K, seeds]. The worst is the lowest return."""


def compute(outcome: Outcome, reference: ReferenceReturns, aggregate: str = "mean") -> dict[str, float]:
    """Every metric of `METRICS`, in its order. aggregate: of `AGGREGATES`.

    Raises ValueError for an outcome that is not COMPLETE, a curve without a point after training, steps that do not
    increase, or anything that is not finite: such a trial has failed and has no metrics.
    """
    steps, returns = _trained_points(outcome)
    found = {
        **of_curve(steps, aggregated(returns, aggregate), outcome.curve.budget, reference),
        "seed_spread": seed_spread(returns),
        "num_parameters": float(outcome.num_parameters),
        "train_seconds": float(outcome.train_seconds),
    }
    metrics = {name: found[name] for name in METRICS}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"trial {outcome.number}: {name} is {value}; a trial without finite metrics is a FAIL.")
    return metrics


def of_curve(steps: np.ndarray, curve: np.ndarray, budget: int, reference: ReferenceReturns) -> dict[str, float]:
    """The metrics of `PER_SEED` of one curve: steps float64[K] and returns float64[K], without the point before training."""
    peak, final = peak_performance(curve), final_performance(curve)
    return {
        "peak_performance": peak,
        "final_performance": final,
        "normalized_auc": normalized_auc(steps, curve, reference),
        "stability_score": stability_score(peak, final, reference),
        "steps_to_threshold": steps_to_threshold(steps, curve, budget, reference),
    }


def peak_performance(curve: np.ndarray) -> float:
    """max_k r_k of float64[K]."""
    return float(curve.max())


def final_performance(curve: np.ndarray) -> float:
    """Mean of the last max(1, ceil(K / 10)) points of float64[K]."""
    return float(curve[-_final_points(len(curve)) :].mean())


def normalized_auc(steps: np.ndarray, curve: np.ndarray, reference: ReferenceReturns) -> float:
    """Area under c_k = clip((r_k - lo) / (hi - lo), 0, 1), divided by t_K - t_1: in [0, 1].

    The points are clipped first, then joined by straight lines (trapezoids). A single point spans no width; its c_1 is
    the limit of shrinking the interval, and is returned.
    """
    height = np.clip((curve - reference.lo) / (reference.hi - reference.lo), 0.0, 1.0)
    if len(height) == 1:
        return float(height[0])
    widths = np.diff(steps)
    area = np.sum(widths * (height[:-1] + height[1:]) / 2.0)
    return float(area / (steps[-1] - steps[0]))


def stability_score(peak: float, final: float, reference: ReferenceReturns) -> float:
    """1 - clip((peak - final) / max(peak - lo, 1e-9), 0, 1): 1 keeps its peak, 0 falls back to a random policy.

    A curve that never rises above `lo` scores 1 only if it ends at its peak.
    """
    lost = (peak - final) / max(peak - reference.lo, 1e-9)
    return float(1.0 - np.clip(lost, 0.0, 1.0))


def seed_spread(returns: np.ndarray) -> float:
    """Population standard deviation (ddof 0) over seeds of each seed's own final performance, float64[K, seeds].

    One seed has no spread: 0.
    """
    per_seed = returns[-_final_points(len(returns)) :].mean(axis=0)
    return float(per_seed.std())


def steps_to_threshold(steps: np.ndarray, curve: np.ndarray, budget: int, reference: ReferenceReturns) -> float:
    """First environment step at which r reaches lo + 0.9 (hi - lo), on straight lines between t_1 ... t_K.

    t_1 if r_1 is already there; the budget if r never is, or only in the part of the last rollout that goes past it.
    """
    threshold = reference.lo + SOLVED_FRACTION * (reference.hi - reference.lo)
    reached = np.flatnonzero(curve >= threshold)
    if len(reached) == 0:
        return float(budget)
    first = int(reached[0])
    if first == 0:
        return float(min(steps[0], budget))
    before, after = curve[first - 1], curve[first]
    part = (threshold - before) / (after - before)
    return float(min(steps[first - 1] + part * (steps[first] - steps[first - 1]), budget))


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
            " ".join(METRICS[name] for name in names),
        )


def _trained_points(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Steps float64[K] and returns float64[K, seeds] of the points after t_0, checked."""
    where = f"trial {outcome.number}"
    if outcome.state != "COMPLETE":
        raise ValueError(f"{where} is {outcome.state} ({outcome.reason}); only COMPLETE trials have metrics.")
    steps = np.asarray(outcome.curve.steps, dtype=np.float64)
    returns = np.asarray(outcome.curve.mean, dtype=np.float64)
    if returns.ndim != 2 or returns.shape[1] == 0 or len(steps) != len(returns):
        raise ValueError(f"{where}: mean needs shape [{len(steps)} points, seeds], got {list(returns.shape)}.")
    if len(steps) < 2:
        raise ValueError(f"{where}: the curve has {len(steps)} points; metrics need one before and one after training.")
    if not np.all(np.isfinite(returns)):
        raise ValueError(f"{where}: the curve holds nan or inf; a trial without finite returns is a FAIL.")
    if not np.all(np.diff(steps) > 0):
        raise ValueError(f"{where}: steps must increase, got {steps.astype(int).tolist()}.")
    return steps[1:], returns[1:]


def _final_points(count: int) -> int:
    """max(1, ceil(K / 10)) in integers."""
    return max(1, -(-count // 10))
