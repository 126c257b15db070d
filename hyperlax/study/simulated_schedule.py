"""The trials from which a super-batch is suggested that is asked while trials before it still train.

The results that it may use must not depend on the speed of a machine, or a resumed study would not equal an uninterrupted one.
Where trials train in closed batches, they are those of all super-batches but the one before. Where lanes are refilled, they are
the results that would be known if every segment took the same time: the study simulated on lanes of equal speed, a pure function
of how many segments trials lasted, of the lanes and of the super-batch. A function may end some time after its last report: a trial
that was not pruned then ends in the segment after, if it has one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.options import SearchOptions
from hyperlax.study.manifest import Manifest


class Schedule(Protocol):
    """The order in which super-batches are asked and trials end. is_noted: whether the journal has to keep what `ended` returns."""

    is_noted: bool

    def ended(self, start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
        """Return the trials that have ended when the super-batch from trial `start` on is asked; None if not known yet.

        trials: the current trials of the study.
        """
        ...


@dataclass(frozen=True)
class _OneAhead:
    """The schedule of closed batches: a super-batch is asked while the one before trains, and does not know its results."""

    super_batch: int
    is_noted = False

    def ended(self, start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
        """Return all trials before the last super-batch; None while one of them trains.

        A super-batch that was asked stays what it was, although failed trials are run again.
        """
        before = max(0, start - self.super_batch)
        was_asked = start < len(trials)
        return frozenset(range(before)) if was_asked or _have_ended(trials[:before]) else None


def _have_ended(trials: Sequence[FrozenTrial]) -> bool:
    return all(trial.state.is_finished() for trial in trials)


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a trial: how many segments it has survived or ended with, and whether it has ended."""

    segments: int
    has_ended: bool


@dataclass(frozen=True)
class _SimulatedSchedule:
    """Lanes of equal speed that train a study.

    Args:
      lanes: Trials in lanes at once, at most.
      super_batch: Trials of a super-batch.
      total: Trials of the study.
      longest: Segments of a trial that trains to its end.
      survived: Returns how many segments a trial that has not ended has survived by now.
    """

    lanes: int
    super_batch: int
    total: int
    longest: int
    survived: Callable[[int], int]
    is_noted = True

    @classmethod
    def of(
        cls, options: SearchOptions, manifest: Manifest, survived: Callable[[int], int] | None
    ) -> _SimulatedSchedule:
        """Return the schedule of a study. survived: by default trials that have not ended survive to their last segment."""
        longest = options.num_evaluations * (options.num_seeds if options.seed_schedule == "racing" else 1)
        survivors = survived or (lambda trial: longest)
        return cls(lanes_of(manifest), manifest.super_batch, options.n_trials, longest, survivors)

    def ended(self, start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
        """Return the trials that have ended when the super-batch from trial `start` on is asked; None if not known yet.

        trials: the current trials of the study.
        """

        def progress(number: int) -> TrialProgress:
            trial = trials[number]
            if not trial.state.is_finished():
                segments = self.survived(number)
                return TrialProgress(segments, segments >= self.longest)
            segments, is_pruned = len(trial.intermediate_values), trial.state == TrialState.PRUNED
            return TrialProgress(segments if is_pruned else min(segments + 1, self.longest), True)

        views = simulate_schedule(progress, self.lanes, self.super_batch, self.total)
        found = next(itertools.islice(views, start // self.super_batch, None), None)
        return found if found is not None and _have_ended([trials[number] for number in found]) else None


def simulate_schedule(
    progress: Callable[[int], TrialProgress], lanes: int, super_batch: int, total: int
) -> Iterator[frozenset[int]]:
    """Yield the trials that have ended when super-batch 0, 1, ... is asked, as far as the lengths of trials are known.

    Trials 0 ... total - 1 enter free lanes in order. The next super-batch is asked when a lane is free and no trial waits for it.

    >>> known = {0: TrialProgress(2, True), 1: TrialProgress(1, True), 2: TrialProgress(1, False)}
    >>> list(simulate_schedule(known.__getitem__, lanes=2, super_batch=2, total=4))
    [frozenset(), frozenset({1})]
    """
    asked, waiting = 0, deque[int]()
    running: dict[int, int] = {}
    ended: set[int] = set()
    while True:
        while len(running) < lanes and (waiting or asked < total):
            if not waiting:
                yield frozenset(ended)
                first, asked = asked, min(asked + super_batch, total)
                waiting.extend(range(first, asked))
            running[waiting.popleft()] = 0
        if not running:
            return
        for trial in list(running):
            known = progress(trial)
            if known.has_ended and running[trial] + 1 >= known.segments:
                ended.add(trial)
                del running[trial]
            elif running[trial] < known.segments:
                running[trial] += 1
            else:
                return


def refills_lanes(options: SearchOptions) -> bool:
    """Return whether trials of a study end at different times, so that their lanes are refilled."""
    return options.pruner != "none" or options.seed_schedule == "racing"


def lanes_of(manifest: Manifest) -> int:
    """Return how many trials of a study are in lanes at once, at most: as asked for, or as many as one machine trains."""
    if (asked := manifest.arguments.get("in_flight")) is not None:
        return asked
    return min(manifest.super_batch, manifest.lanes * manifest.packing.get("slots", 1))


def schedule_of(options: SearchOptions, manifest: Manifest, survived: Callable[[int], int] | None) -> Schedule | None:
    """Return the schedule of a study; None if all trials of a super-batch end before the next is asked."""
    if refills_lanes(options):
        return _SimulatedSchedule.of(options, manifest, survived)
    return _OneAhead(manifest.super_batch) if manifest.overlaps else None
