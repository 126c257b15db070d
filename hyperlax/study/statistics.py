"""Statistics of a confirmation: means on new seeds with their intervals, and the conclusions in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hyperlax.errors import counted, format_number, in_sentence
from hyperlax.scale import Scale
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
        return f"[{format_number(self.low)}, {format_number(self.high)}]"


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its percentile bootstrap interval. Equal values have an interval of no width."""
    return _bootstrap([np.asarray(values)], lambda sample, axis: np.mean(sample, axis=axis))


def difference_interval(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the first mean minus the second, with its percentile bootstrap interval. Both are resampled independently."""
    samples = [np.asarray(values), np.asarray(others)]
    return _bootstrap(samples, lambda ours, theirs, axis: np.mean(ours, axis=axis) - np.mean(theirs, axis=axis))


def compared(confirmation: Confirmation, scale: Scale) -> list[str]:
    """Return the metrics to show of every seed: the compared one, then a task's other measures."""
    measures = [name for name in scale.columns if name in scale.table.rows]
    return list(dict.fromkeys((confirmation.metric, *measures)))


def in_short(confirmation: Confirmation) -> list[str]:
    """Return sentences: the search's winner and the best on the new seeds, whether they are better than the default, which to take.

    The failures come last. Whether a claim held, and what is better, follows from intervals.
    """
    best, winner = confirmation.best, _winner(confirmation)
    told = (
        [] if winner is None or winner is best else [_measured(confirmation, winner), _comparing(confirmation, winner)]
    )
    if best is not None:
        told += [_naming(confirmation, best), _comparing(confirmation, best), _advice(confirmation, best)]
    return [line for line in [*told, *_incomplete(confirmation)] if line]


def in_full(confirmation: Confirmation) -> list[str]:
    """Return the sentences of `in_short`, and one about every configuration."""
    best = confirmation.best
    first = [] if best is None else [_naming(confirmation, best)]
    each = [_comparing(confirmation, ours) for ours in confirmation.searched]
    last = [] if best is None else [_advice(confirmation, best)]
    return [line for line in [*first, *each, *last, *_incomplete(confirmation)] if line]


def gain(confirmation: Confirmation, ours: Confirmed) -> Interval | None:
    """Return by how much a configuration is better than the default one; None if it is the default, or that is not COMPLETE."""
    default = confirmation.default
    return None if default is None or ours is default else _ahead(confirmation, ours, default)


def instead_of_winner(confirmation: Confirmation) -> int | None:
    """Return the trial to take instead of the search's winner, None if there is no such trial."""
    best = confirmation.best
    if best is None or confirmation.winner in (None, best.trial):
        return None
    ahead = gain(confirmation, best)
    return None if ahead is not None and ahead.low <= 0 else best.trial


def _ahead(confirmation: Confirmation, ours: Confirmed, other: Confirmed) -> Interval:
    """Return by how much one configuration is better than another, with the interval."""
    found = difference_interval(ours.per_seed[confirmation.metric], other.per_seed[confirmation.metric])
    return found if confirmation.direction == "maximize" else Interval(-found.estimate, -found.high, -found.low)


def _winner(confirmation: Confirmation) -> Confirmed | None:
    """Return the search's winner, None if there are several objectives or it is not COMPLETE on the new seeds."""
    return next((ours for ours in confirmation.complete if ours.trial == confirmation.winner is not None), None)


def _advice(confirmation: Confirmation, best: Confirmed) -> str:
    """Say which configuration to take; empty for a Pareto front, whose trials differ in more than the compared metric."""
    if confirmation.winner is None:
        return ""
    ahead = gain(confirmation, best)
    if best.is_default:
        return f"Take {best.words}, the default configuration: no other has a better mean."
    if ahead is not None and ahead.high < 0:
        return "Take the default configuration."
    if ahead is not None and ahead.holds_zero:
        return f"Neither {best.words} nor the default configuration is shown to be better: take either, or confirm with more seeds."
    winner = _winner(confirmation)
    if winner is None or winner is best:
        return f"Take {best.words}."
    over = _ahead(confirmation, best, winner)
    verb = "is not distinguishable from" if over.holds_zero else "stays ahead of"
    return (
        f"Take {best.words}. It {verb} the search's winner, {winner.words}: the interval of the difference is {over}."
    )


def _instead_of(confirmation: Confirmation) -> str:
    """Say why the metric is not the first objective; empty if it is."""
    if confirmation.metric == confirmation.leading:
        return ""
    return f"A single seed has no {confirmation.leading}; {confirmation.metric} is compared instead."


def _naming(confirmation: Confirmation, best: Confirmed) -> str:
    ours = confirmation.searched
    rank = f"{_level_with(confirmation, best, ours)} is the best of {len(ours)} with" if len(ours) > 1 else " has"
    return f"{_measured(confirmation, best, rank)} {_instead_of(confirmation)}".strip()


def _measured(confirmation: Confirmation, ours: Confirmed, rank: str = " has") -> str:
    """State a configuration's mean on the new seeds, after its rank among the others, and whether the search's claim held."""
    mean = mean_interval(ours.per_seed[confirmation.metric])
    words = f"a mean {confirmation.metric} of {format_number(mean.estimate)} {mean}."
    return f"On {counted(confirmation.seeds, 'new seed')}, {ours.words}{rank} {words} {_claim(confirmation, ours, mean)}".strip()


def _claim(confirmation: Confirmation, ours: Confirmed, mean: Interval) -> str:
    """Say whether the value of the search held: whether the interval reaches it. Empty if there is no such value."""
    if ours.claimed is None:
        return ""
    claim = f"The search had claimed {format_number(ours.claimed)}"
    sign, ends = confirmation.sign, (mean.low, mean.high)
    if max(sign * end for end in ends) < sign * ours.claimed:
        return f"{claim}, which did not hold: the whole interval is {'below' if sign > 0 else 'above'} it."
    if min(sign * end for end in ends) > sign * ours.claimed:
        return f"{claim}, which was exceeded."
    return f"{claim}, which is within the interval."


def _level_with(confirmation: Confirmation, best: Confirmed, ours: Sequence[Confirmed]) -> str:
    """Name the others of the search's best with the same mean."""
    mean = np.mean(best.per_seed[confirmation.metric])
    level = [
        other.words for other in ours if other is not best and np.mean(other.per_seed[confirmation.metric]) == mean
    ]
    return f", level with {' and '.join(level)}," if level else ""


def _comparing(confirmation: Confirmation, ours: Confirmed) -> str:
    """Say whether a configuration is better than the default one; empty if that is not known."""
    default = confirmation.default
    if ours.is_default:
        return f"{in_sentence(ours.words)} is the default configuration."
    if default is None:
        return ""
    theirs = "the default configuration" + ("" if default.trial is None else f" (trial {default.trial})")
    difference = difference_interval(ours.per_seed[confirmation.metric], default.per_seed[confirmation.metric])
    if difference.holds_zero:
        verb, end = "is not distinguishable from", "which contains 0"
    else:
        ahead = confirmation.sign * difference.low > 0
        verb, end = "stays ahead of" if ahead else "falls behind", "which excludes 0"
    return f"{in_sentence(ours.words)} {verb} {theirs}: the interval of the difference is {difference}, {end}."


def _incomplete(confirmation: Confirmation) -> list[str]:
    failed = [c for c in confirmation.configurations if c.state == "FAIL"]
    waiting = [c for c in confirmation.configurations if c.state == "WAITING"]
    return [
        *(f"{in_sentence(c.words)} failed on the new seeds: {c.reason}." for c in failed),
        *(f"{in_sentence(c.words)} is not confirmed yet." for c in waiting),
    ]


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
