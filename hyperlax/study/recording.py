"""The end of trials in the loop: they are recorded together, with their costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hyperlax.backends.base import Backend
from hyperlax.errors import HyperlaxError
from hyperlax.study.batch_files import failed_batch
from hyperlax.study.observer import Observer, tell
from hyperlax.study.result_checks import problem_of_timing
from hyperlax.study.running import RunningTrial
from hyperlax.study.stopping import Limits
from hyperlax.study.trials import Settings, Trials
from hyperlax.trial import BatchResult, HparamBatch, Outcome


class Recorder:
    """A recorder of trials that have ended: those of a batch together, or of a super-batch if lanes are refilled.

    count: trials that have ended, recorded or not. useful_segments: segments in this process whose results were used.
    """

    def __init__(
        self, trials: Trials, backend: Backend, settings: Settings, limits: Limits, observers: Sequence[Observer]
    ):
        self._trials, self._backend, self._settings = trials, backend, settings
        self._limits, self._observers = limits, observers
        self._ended: list[tuple[RunningTrial, Outcome]] = []
        self.count = self.useful_segments = self._lane_segments = 0

    def add(self, running: RunningTrial, outcome: Outcome) -> None:
        """Queue a trial to be recorded."""
        self._ended.append((running, outcome))
        self.count += 1

    def fail(self, running: RunningTrial, cause: str, seconds: float, error: Exception | None) -> None:
        """Record the failure of a trial that has no outcome."""
        self.count += 1
        batch = HparamBatch((running.trial,))
        self._record([running], failed_batch(batch, cause, self._settings.seeds, seconds, error))

    def flush(self, running: Collection[RunningTrial]) -> None:
        """Record all queued trials. running: the trials that have not ended."""
        ended, self._ended = self._ended, []
        batches: dict[tuple[int, int], list[tuple[RunningTrial, Outcome]]] = {}
        for one, outcome in ended:
            place = self._trials.super_batch(one.number), 0 if self._settings.refills else one.group
            batches.setdefault(place, []).append((one, outcome))
        for _, some in sorted(batches.items()):
            if self._settings.refills:
                some.sort(key=lambda pair: pair[0].number)
            trials, outcomes = [one for one, _ in some], tuple(outcome for _, outcome in some)
            self._record(trials, BatchResult(outcomes, self._timing(trials, running)))

    def _record(self, trials: Sequence[RunningTrial], result: BatchResult) -> None:
        batch = HparamBatch(tuple(one.trial for one in trials))
        ends = self._trials.record(batch, result, {one.number: one.shown for one in trials})
        if not self._settings.refills:
            for number in batch.numbers:
                self._backend.leave(number)
        for end in ends:
            self._limits.count(end.state, end.reason)
        tell(self._observers, lambda observer: observer.trials_ended(ends))

    def _timing(self, trials: Sequence[RunningTrial], running: Collection[RunningTrial]) -> dict[str, Any]:
        """Return the costs of trials; for refilled lanes also the share of segments, since the start, that was used."""
        timing = self._backend.timing([one.number for one in trials])
        if problem := problem_of_timing(timing):
            raise HyperlaxError(f"the backend returned {problem}.")
        if "lane_segments" not in timing:
            return timing
        kept = sum(len(one.shown) for one in trials)
        self.useful_segments += kept
        self._lane_segments += timing["lane_segments"]
        useful = self.useful_segments + sum(len(one.shown) for one in running)
        share = useful / self._lane_segments if self._lane_segments else 0.0
        return {**timing, "useful_lane_segments": kept, "useful_share": share}
