"""Pruning: a trial stops early if it does badly at the end of a segment, compared with the trials numbered below it.

Decisions depend on learning curves and trial numbers alone, not on the number of lanes, the order in which trials end or
interruptions. The first trial has no rivals and always continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperlax.pareto import crowding_distances, non_dominated_ranks
from hyperlax.schedulers.base import Continue, Decision, Shown, Stop

_MIN_RIVALS = 5
"""Minimum number of rivals for the median to be meaningful, as Optuna's `n_startup_trials`."""


@dataclass(frozen=True)
class PruningOptions:
    """Options of a pruner.

    Args:
      directions: "minimize" or "maximize", for each column of `Shown.values`.
      objectives: Number of columns that are objectives, the first ones.
      segments: Segments of one training run.
      min_segments: Segments before a trial may be pruned.
      reduction_factor: The best 1/N of trials continue (asha, hyperband, racing seeds).
      percentile: Trials among the best this many percent continue (percentile).
      seeds: Training runs of a trial that follow one another; 1 where its seeds train side by side.
    """

    directions: Sequence[str]
    objectives: int
    segments: int
    min_segments: int = 3
    reduction_factor: int = 3
    percentile: float = 25.0
    seeds: int = 1


class Rule:
    """A rule that says when a trial is compared with earlier ones, and how many continue. This one stops no trial.

    Segments count from 1.
    """

    def compares(self, trial: int, segment: int) -> bool:
        """Return whether the trial may be pruned after this segment, which is not its last."""
        return False

    def group(self, trial: int) -> int:
        """Return the group of the trial: only trials of the same group are rivals."""
        return 0

    def keeps(self, segment: int, better: int, rivals: int) -> bool:
        """Return whether a trial continues after this segment if `better` of its `rivals` are better."""
        return True

    def carries(self, segment: int) -> bool:
        """Return whether trials that ended before this segment are rivals too, by the last values they showed."""
        return False


@dataclass(frozen=True)
class SuccessiveHalving(Rule):
    """Successive halving: the best 1/reduction_factor continue past each rung, min_segments x reduction_factor^i segments.

    ASHA in its stopping form: Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020.
    """

    min_segments: int
    reduction_factor: int

    def compares(self, trial: int, segment: int) -> bool:
        return self._is_rung(segment, self.min_segments)

    def keeps(self, segment: int, better: int, rivals: int) -> bool:
        return better < max(1, (rivals + 1) // self.reduction_factor)

    def _is_rung(self, segment: int, first: int) -> bool:
        rung = first
        while rung < segment:
            rung *= self.reduction_factor
        return rung == segment


@dataclass(frozen=True)
class Hyperband(SuccessiveHalving):
    """Successive halving in brackets that begin at different rungs. Li et al., "Hyperband", 2018.

    Bracket b of B begins after min_segments x factor^b segments. Of every period of trials it takes
    ceil(B factor^s / (s + 1)), where s = B - 1 - b, as in Hyperband's table. segments: of a whole training run.
    """

    segments: int

    def compares(self, trial: int, segment: int) -> bool:
        return self._is_rung(segment, self.min_segments * self.reduction_factor ** self.group(trial))

    def group(self, trial: int) -> int:
        shares = self._shares()
        place = trial % sum(shares)
        return next(b for b in range(len(shares)) if place < sum(shares[: b + 1]))

    def _shares(self) -> list[int]:
        brackets, rung = 1, self.min_segments * self.reduction_factor
        while rung < self.segments:
            brackets, rung = brackets + 1, rung * self.reduction_factor
        return [math.ceil(brackets * self.reduction_factor**later / (later + 1)) for later in reversed(range(brackets))]


@dataclass(frozen=True)
class Percentile(Rule):
    """Percentile rule: a trial continues while it is among the best `share` of all earlier ones; compared after every segment.

    It follows the median stopping rule of Golovin et al., "Google Vizier", 2017, but compares each earlier trial's last value up to
    that segment instead of running averages.
    """

    min_segments: int
    share: float

    def compares(self, trial: int, segment: int) -> bool:
        return segment >= self.min_segments

    def keeps(self, segment: int, better: int, rivals: int) -> bool:
        return rivals < _MIN_RIVALS or better < math.ceil((rivals + 1) * self.share)

    def carries(self, segment: int) -> bool:
        return True


@dataclass(frozen=True)
class Racing(Rule):
    """A race over seeds: after each seed but the last, the best 1/reduction_factor of trials continue.

    rule: prunes within the first seed. segments: of one training run.
    """

    rule: Rule
    segments: int
    reduction_factor: int

    def compares(self, trial: int, segment: int) -> bool:
        return self.rule.compares(trial, segment) if self._is_first(segment) else segment % self.segments == 0

    def group(self, trial: int) -> int:
        return self.rule.group(trial)

    def keeps(self, segment: int, better: int, rivals: int) -> bool:
        rule = self.rule if self._is_first(segment) else SuccessiveHalving(self.segments, self.reduction_factor)
        return rule.keeps(segment, better, rivals)

    def carries(self, segment: int) -> bool:
        return self._is_first(segment) and self.rule.carries(segment)

    def _is_first(self, segment: int) -> bool:
        """Return whether a segment lies within the first training run, before its end."""
        return segment < self.segments


class Pruner:
    """A scheduler that stops trials by a rule.

    A trial's values at a segment are compared once every rival has reached that segment or ended before it. The first objectives
    decide; the columns after a single objective break ties. rule: says when trials are compared within their first seed.
    """

    def __init__(self, rule: Rule, options: PruningOptions):
        self._rule = Racing(rule, options.segments, options.reduction_factor)
        self._segments, self._objectives = options.segments * options.seeds, options.objectives
        self._signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in options.directions])
        self._settled: dict[int, int] = {}
        self._stopped: dict[int, Stop] = {}
        self._groups: dict[int, int] = {}

    def decide(self, shown: Mapping[int, Shown]) -> dict[int, Decision]:
        """Return Continue or Stop for every trial that has settled segments and has not ended. Others wait.

        Nothing is decided about a trial that has ended. A trial whose last row of values is nan failed in that segment; its earlier
        segments are still compared.
        """
        shown = dict(sorted(shown.items()))
        running = [number for number, trial in shown.items() if not trial.has_ended]
        self._forget(shown)
        for number in running:
            self._settle(number, shown)
        settled: dict[int, Decision] = {n: Continue(self._settled[n]) for n in running if self._settled.get(n)}
        return settled | {n: self._stopped[n] for n in running if n in self._stopped}

    def _forget(self, shown: Mapping[int, Shown]) -> None:
        """Drop the cached decisions about trials that have ended or restarted."""
        for number in list(self._settled):
            trial = shown.get(number)
            if trial is None or trial.has_ended or trial.length < self._settled[number]:
                del self._settled[number]
                self._stopped.pop(number, None)

    def _settle(self, number: int, shown: Mapping[int, Shown]) -> None:
        """Compare a trial segment by segment, up to the first that cannot be compared yet."""
        while number not in self._stopped and self._settled.get(number, 0) < shown[number].length:
            segment = self._settled.get(number, 0) + 1
            if segment < self._segments and self._rule.compares(number, segment):
                rivals = self._rivals(number, shown)
                if not all(shown[rival].has_ended or self._is_known(rival, segment, shown) for rival in rivals):
                    return
                if stop := self._compare(number, segment, rivals, shown):
                    self._stopped[number] = stop
            self._settled[number] = segment

    def _rivals(self, number: int, shown: Mapping[int, Shown]) -> list[int]:
        for other in shown.keys() - self._groups.keys():
            self._groups[other] = self._rule.group(other)
        group = self._groups[number]
        return [other for other in shown if other < number and self._groups[other] == group]

    def _is_known(self, rival: int, segment: int, shown: Mapping[int, Shown]) -> bool:
        """Return whether the result at a segment of a rival in training is known: it survived until there, or ends before."""
        trial, settled, length = shown[rival], self._settled.get(rival, 0), shown[rival].length
        if rival in self._stopped or (trial.has_failed and settled == length):
            return True
        return settled >= segment - 1 and length >= segment

    def _compare(self, number: int, segment: int, rivals: Sequence[int], shown: Mapping[int, Shown]) -> Stop | None:
        own, stopped = shown[number].values[segment - 1], self._stopped
        ends = [stopped[rival].segment if rival in stopped else shown[rival].length for rival in rivals]
        curves = zip((shown[rival].values for rival in rivals), ends, strict=True)
        if self._rule.carries(segment):
            rows = [values[min(segment, end) - 1] for values, end in curves if end]
        else:
            rows = [values[segment - 1] for values, end in curves if end >= segment]
        others = np.array(rows, np.float64).reshape(len(rows), len(self._signs))
        better = count_better(self._signs * own, self._signs * others, self._objectives)
        if self._rule.keeps(segment, better, len(rows)):
            return None
        place = f"pruned after segment {segment} of {self._segments}"
        return Stop(segment, f"{place}: {better} of {len(rows)} earlier trials were better")


def count_better(own: np.ndarray, rivals: np.ndarray, objectives: int) -> int:
    """Return how many rivals, float64[n, columns], rank above `own`, float64[columns]. Larger is better.

    With one objective, a rival is better if it is larger in the first column in which they differ. With several, which are all of
    the columns, a rival is better if its non-dominated rank is lower, or equal with a larger crowding distance (Deb et al., "A Fast
    and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002).

    >>> count_better(np.array([3.0, 0.5]), np.array([[1.0, 0.9], [3.0, 0.4], [3.0, 0.6], [4.0, 0.1]]), objectives=1)
    2
    """
    if objectives == 1:
        first = (rivals != own).argmax(axis=1)
        return int((rivals[np.arange(len(rivals)), first] > own[first]).sum())
    everyone = np.vstack([own, rivals])
    ranks = non_dominated_ranks(everyone)
    front = np.flatnonzero(ranks == ranks[0])
    crowding = crowding_distances(everyone[front])
    return int((ranks < ranks[0]).sum() + (crowding[1:] > crowding[0]).sum())
