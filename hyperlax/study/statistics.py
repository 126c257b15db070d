"""Statistics of a confirmation: means on new seeds with their intervals, and the conclusions in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hyperlax.errors import counted, in_sentence
from hyperlax.study.record import Confirmation, Confirmed

_CONFIDENCE = 0.95
_RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return f"[{self.low:.6g}, {self.high:.6g}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its percentile bootstrap interval. Equal values have an interval of no width."""
    return _bootstrap([np.asarray(values)], lambda sample, axis: np.mean(sample, axis=axis))


def difference_interval(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the first mean minus the second, with its percentile bootstrap interval. Both are resampled independently."""
    samples = [np.asarray(values), np.asarray(others)]
    return _bootstrap(samples, lambda ours, theirs, axis: np.mean(ours, axis=axis) - np.mean(theirs, axis=axis))


def complete(confirmation: Confirmation) -> list[Confirmed]:
    """Return the COMPLETE configurations."""
    return [configuration for configuration in confirmation.configurations if configuration.state == "COMPLETE"]


def best_confirmed(confirmation: Confirmation) -> Confirmed | None:
    """Return the one of the search's best with the best mean on the new seeds, the first of equal ones."""
    sign = _sign(confirmation)
    ours = [configuration for configuration in complete(confirmation) if configuration.trial is not None]
    return max(ours, key=lambda ours: sign * np.mean(ours.per_seed[confirmation.metric]), default=None)


def default_of(confirmation: Confirmation) -> Confirmed | None:
    """Return the recipe's own configuration, None unless it is COMPLETE."""
    return next((configuration for configuration in complete(confirmation) if configuration.is_default), None)


def in_short(confirmation: Confirmation) -> list[str]:
    """Return sentences: the best on the new seeds, whether it is better than the default configuration, and the failures."""
    best = best_confirmed(confirmation)
    lines = [] if best is None else [_naming(confirmation, best), _comparing(confirmation, best)]
    return [line for line in [*lines, *_incomplete(confirmation)] if line]


def of_winner(confirmation: Confirmation, number: int) -> list[str]:
    """Return sentences on the search's winner if another trial is the best on the new seeds; none if it is not COMPLETE there."""
    winner = next((ours for ours in complete(confirmation) if ours.trial == number), None)
    if winner is None or winner is best_confirmed(confirmation):
        return []
    return [_measured(confirmation, winner), _comparing(confirmation, winner)]


def in_full(confirmation: Confirmation) -> list[str]:
    """Return the sentences of `in_short`, and one about every configuration."""
    best = best_confirmed(confirmation)
    first = [] if best is None else [_naming(confirmation, best)]
    each = [_comparing(confirmation, ours) for ours in complete(confirmation) if ours.trial is not None]
    return [line for line in [*first, *each, *_incomplete(confirmation)] if line]


def _instead_of(confirmation: Confirmation) -> str:
    """Say why the metric is not the first objective; empty if it is."""
    if confirmation.metric == confirmation.leading:
        return ""
    return f"A single seed has no {confirmation.leading}; {confirmation.metric} is compared instead."


def _naming(confirmation: Confirmation, best: Confirmed) -> str:
    ours = [configuration for configuration in complete(confirmation) if configuration.trial is not None]
    rank = f"{_level_with(confirmation, best, ours)} is the best of {len(ours)} with" if len(ours) > 1 else " has"
    return f"{_measured(confirmation, best, rank)} {_instead_of(confirmation)}".strip()


def _measured(confirmation: Confirmation, ours: Confirmed, rank: str = " has") -> str:
    """State a configuration's mean on the new seeds, after its rank among the others, and what the search had claimed."""
    mean = mean_interval(ours.per_seed[confirmation.metric])
    claimed = "" if ours.claimed is None else f"; the search had claimed {ours.claimed:.6g}"
    words = f"a mean {confirmation.metric} of {mean.estimate:.6g} {mean}{claimed}."
    return f"On {counted(confirmation.seeds, 'new seed')}, {ours.words}{rank} {words}"


def _level_with(confirmation: Confirmation, best: Confirmed, ours: Sequence[Confirmed]) -> str:
    """Name the others of the search's best with the same mean."""
    mean = np.mean(best.per_seed[confirmation.metric])
    level = [
        other.words for other in ours if other is not best and np.mean(other.per_seed[confirmation.metric]) == mean
    ]
    return f", level with {' and '.join(level)}," if level else ""


def _comparing(confirmation: Confirmation, ours: Confirmed) -> str:
    """Say whether a configuration is better than the default one; empty if that is not known."""
    default = default_of(confirmation)
    if ours.is_default:
        return f"{in_sentence(ours.words)} is the default configuration."
    if default is None:
        return ""
    theirs = "the default configuration" + ("" if default.trial is None else f" (trial {default.trial})")
    difference = difference_interval(ours.per_seed[confirmation.metric], default.per_seed[confirmation.metric])
    if difference.holds_zero:
        verb, end = "is not distinguishable from", "which contains 0"
    else:
        ahead = _sign(confirmation) * difference.estimate > 0
        verb, end = "stays ahead of" if ahead else "falls behind", "which excludes 0"
    return f"{in_sentence(ours.words)} {verb} {theirs}: the interval of the difference is {difference}, {end}."


def _incomplete(confirmation: Confirmation) -> list[str]:
    failed = [c for c in confirmation.configurations if c.state == "FAIL"]
    waiting = [c for c in confirmation.configurations if c.state == "WAITING"]
    return [
        *(f"{in_sentence(c.words)} failed on the new seeds: {c.reason}." for c in failed),
        *(f"{in_sentence(c.words)} is not confirmed yet." for c in waiting),
    ]


def _sign(confirmation: Confirmation) -> float:
    return 1.0 if confirmation.direction == "maximize" else -1.0


def _bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> Interval:
    from scipy import stats

    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
        vectorized=True,
    ).confidence_interval
    return Interval(float(statistic(*samples, axis=0)), float(found.low), float(found.high))
