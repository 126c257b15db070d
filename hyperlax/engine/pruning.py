"""Which trials are pruned: a pure function of what trials showed at equal segment, and of their numbers.

A trial is compared, at the end of a segment, with the trials numbered below it. So its fate follows from learning curves and
numbers alone: not from how many lanes there are, in which order they end, or how often the study was interrupted. The first
trial has nobody before it and always goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperlax.pareto import crowding_distances, non_dominated_ranks

FEWEST_RIVALS = 5
"""Trials below which the median says nothing: as Optuna's `n_startup_trials`."""


@dataclass(frozen=True)
class Rule:
    """When trials are judged, and how many go on.

    name: "none", "asha", "median", "percentile" or "hyperband". segments: of one training run. min_segments: before which nobody is
    judged. reduction_factor: of asha, hyperband and the race over seeds. percentile: of "percentile". seeds: training runs that
    follow one another; after each but the last the trial is judged as by asha, whatever the name.

    asha: Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, in its stopping form: judged after
    min_segments x reduction_factor^i segments. hyperband: Li et al., 2018: as asha, in brackets that begin at different i. median,
    percentile: after the median stopping rule of Golovin et al., "Google Vizier", 2017, with what each earlier trial last showed by
    then in place of running averages: judged after every segment.
    """

    name: str
    segments: int
    min_segments: int = 3
    reduction_factor: int = 3
    percentile: float = 25.0
    seeds: int = 1

    def judges(self, trial: int, segment: int) -> bool:
        """Whether a trial may be pruned after this segment, counted from 1 over all of its training runs."""
        if segment >= self.segments:
            return segment % self.segments == 0 and segment < self.segments * self.seeds
        if segment < self.min_segments or self.name == "none":
            return False
        if self.name in ("median", "percentile"):
            return True
        rung = self.min_segments * self.reduction_factor ** self.bracket(trial)
        while rung < segment:
            rung *= self.reduction_factor
        return rung == segment

    def bracket(self, trial: int) -> int:
        """Its bracket, 0 but for hyperband: of every period of trials, each bracket has a share as in Hyperband's table.

        Bracket b of B begins after min_segments x factor^b segments and takes ceil(B factor^s / (s + 1)) trials, s = B - 1 - b.
        """
        if self.name != "hyperband":
            return 0
        shares = self._shares()
        place = trial % sum(shares)
        return next(b for b in range(len(shares)) if place < sum(shares[: b + 1]))

    def goes_on(self, segment: int, better: int, rivals: int) -> bool:
        """Whether a trial goes on after a segment, of whose `rivals` so many are better."""
        if segment < self.segments and self.name in ("median", "percentile"):
            share = 0.5 if self.name == "median" else self.percentile / 100
            return rivals < FEWEST_RIVALS or better < math.ceil((rivals + 1) * share)
        return better < max(1, (rivals + 1) // self.reduction_factor)

    def carries(self, segment: int) -> bool:
        """Whether rivals that ended before a segment are rivals there, by the last that they showed."""
        return segment < self.segments and self.name in ("median", "percentile")

    def _shares(self) -> list[int]:
        brackets, rung = 1, self.min_segments * self.reduction_factor
        while rung < self.segments:
            brackets, rung = brackets + 1, rung * self.reduction_factor
        return [math.ceil(brackets * self.reduction_factor**later / (later + 1)) for later in reversed(range(brackets))]


@dataclass(frozen=True)
class Verdict:
    """A trial is pruned: after which of its segments, how many of its rivals were better there, and how many there were."""

    segment: int
    better: int
    rivals: int

    def sentence(self, segments: int) -> str:
        """As a reason."""
        return f"pruned after segment {self.segment} of {segments}: {self.better} of {self.rivals} earlier trials were better"


class Standings:
    """What the trials of a study have shown so far, and what follows for them.

    directions: "minimize" or "maximize" of everything that trials show. objectives: how many of these are objectives, the first
    ones, by default all; what follows a single objective decides between trials that are equal in what is before it.
    """

    def __init__(self, rule: Rule, directions: Sequence[str], objectives: int | None = None):
        self.rule, self._objectives = rule, len(directions) if objectives is None else objectives
        self._signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in directions])
        self._shown: dict[int, list[np.ndarray]] = {}
        self._settled: dict[int, int] = {}
        self._ended: set[int] = set()

    def expect(self, trial: int) -> None:
        """A trial that will be trained. Trials are expected in the order of their numbers, or again."""
        self._shown[trial], self._settled[trial] = [], 0
        self._ended.discard(trial)

    def report(self, trial: int, values: Sequence[float]) -> None:
        """What a trial shows at the end of its next segment."""
        self._shown[trial].append(self._signs * np.asarray(values, np.float64))

    def end(self, trial: int) -> None:
        """A trial shows nothing more: it is complete, has failed, or was pruned."""
        self._ended.add(trial)
        self._settled[trial] = len(self._shown[trial])

    def lasted(self, trial: int) -> int:
        """How many segments of a trial are settled: it has survived all of them, or ended at the last."""
        return self._settled[trial]

    def has_ended(self, trial: int) -> bool:
        return trial in self._ended

    def is_settled(self, trial: int) -> bool:
        """Whether nothing that it has shown waits for a verdict."""
        return self._settled[trial] == len(self._shown[trial])

    def settle(self) -> dict[int, Verdict]:
        """Judge all that can be judged by now; the trials that are pruned, which have ended by that."""
        pruned = {}
        for trial in sorted(self._shown.keys() - self._ended):
            while self._settled[trial] < len(self._shown[trial]):
                segment = self._settled[trial] + 1
                if self.rule.judges(trial, segment):
                    if not self._is_decidable(trial, segment):
                        break
                    if verdict := self._judge(trial, segment):
                        del self._shown[trial][segment:]
                        self.end(trial)
                        pruned[trial] = verdict
                        break
                self._settled[trial] = segment
        return pruned

    def _peers(self, trial: int) -> list[int]:
        bracket = self.rule.bracket(trial)
        return [other for other in self._shown if other < trial and self.rule.bracket(other) == bracket]

    def _is_decidable(self, trial: int, segment: int) -> bool:
        """Whether it is known what every rival shows at a segment: it survived until there, or has ended."""
        return all(
            other in self._ended or (self._settled[other] >= segment - 1 and len(self._shown[other]) >= segment)
            for other in self._peers(trial)
        )

    def _judge(self, trial: int, segment: int) -> Verdict | None:
        own, shown = self._shown[trial][segment - 1], [self._shown[other] for other in self._peers(trial)]
        if self.rule.carries(segment):
            rivals = [values[min(segment, len(values)) - 1] for values in shown if values]
        else:
            rivals = [values[segment - 1] for values in shown if len(values) >= segment]
        better = count_better(own, np.array(rivals).reshape(len(rivals), len(own)), self._objectives)
        return None if self.rule.goes_on(segment, better, len(rivals)) else Verdict(segment, better, len(rivals))


def count_better(own: np.ndarray, rivals: np.ndarray, objectives: int) -> int:
    """How many rivals, float64[n, columns], stand before `own`, float64[columns]; larger is better.

    With one objective those that are larger in the first column in which they differ. With several, which are all columns, those of
    a lower non-dominated rank, and of the same rank those with a larger crowding distance (Deb et al., "A Fast and Elitist
    Multiobjective Genetic Algorithm: NSGA-II", 2002).

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
