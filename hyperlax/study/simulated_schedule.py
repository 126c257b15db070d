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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.options import SearchOptions
from hyperlax.study.manifest import Manifest


@dataclass(frozen=True)
class Schedule:
    """The order in which super-batches are asked and trials end.

    Args:
      ended: Returns the trials that have ended when the super-batch from trial `start` on is asked; None if not known yet. It takes
        `start` and the current trials of the study.
      is_noted: Whether the journal has to keep what `ended` returns.
    """

    ended: Callable[[int, Sequence[FrozenTrial]], frozenset[int] | None]
    is_noted: bool


def schedule_of(options: SearchOptions, manifest: Manifest, survived: Mapping[int, int] | None) -> Schedule | None:
    """Return the schedule of a study; None if all trials of a super-batch end before the next is asked.

    survived: trial that has not ended -> how many segments it has survived; None: they survive to their last segment.
    """
    if not refills_lanes(options):
        return Schedule(partial(_all_but_last, manifest.super_batch), is_noted=False) if manifest.overlaps else None
    longest = options.num_evaluations * (options.num_seeds if options.seed_schedule == "racing" else 1)

    def ended(start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
        def progress(number: int) -> TrialProgress:
            trial = trials[number]
            if not trial.state.is_finished():
                segments = longest if survived is None else survived.get(number, 0)
                return TrialProgress(segments, segments >= longest)
            segments, is_pruned = len(trial.intermediate_values), trial.state == TrialState.PRUNED
            return TrialProgress(segments if is_pruned else min(segments + 1, longest), True)

        views = simulate_schedule(progress, lanes_of(manifest), manifest.super_batch, options.n_trials)
        found = next(itertools.islice(views, start // manifest.super_batch, None), None)
        return found if found is not None and _have_ended([trials[number] for number in found]) else None

    return Schedule(ended, is_noted=True)


def _all_but_last(super_batch: int, start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
    """Return all trials before the last super-batch, which still trains; None while one of them does.

    A super-batch that was asked stays what it was, although failed trials are run again.
    """
    before = max(0, start - super_batch)
    was_asked = start < len(trials)
    return frozenset(range(before)) if was_asked or _have_ended(trials[:before]) else None


def _have_ended(trials: Sequence[FrozenTrial]) -> bool:
    return all(trial.state.is_finished() for trial in trials)


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a trial: how many segments it has survived or ended with, and whether it has ended."""

    segments: int
    has_ended: bool


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
