"""The end of trials in the loop: they are recorded together, with their costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperlax.backends.base import Backend
from hyperlax.errors import HyperlaxError
from hyperlax.study.batch_files import failed
from hyperlax.study.observer import Observer, tell
from hyperlax.study.result_checks import problem_of_timing
from hyperlax.study.running import RunningTrial
from hyperlax.study.stopping import Limits
from hyperlax.study.trials import Settings, Trials
from hyperlax.trial import BatchResult, Outcome


class Recorder:
    """A recorder of trials that have ended: those of a batch together, or of a super-batch if lanes are refilled.

    count: trials that have ended, recorded or not. useful_segments: segments in this process whose results were used.
    """

    def __init__(
        self, trials: Trials, backend: Backend, settings: Settings, limits: Limits, observers: Sequence[Observer]
    ):
        self._trials, self._backend, self._settings = trials, backend, settings
        self._limits, self._observers = limits, observers
        self._ended: list[tuple[int, Outcome]] = []
        self.count = self.useful_segments = self._lane_segments = 0

    def add(self, outcome: Outcome, group: int) -> None:
        """Queue a trial to be recorded. group: the trials that it shared lanes with."""
        self._ended.append((group, outcome))
        self.count += 1

    def fail(self, running: RunningTrial, cause: str, seconds: float, error: Exception | None) -> None:
        """Record the failure of a trial that has no outcome."""
        self.count += 1
        self._record(failed(running.trial, running.shown, cause, self._settings.seeds, seconds, error))

    def flush(self, unfinished: int) -> None:
        """Record all queued trials. unfinished: segments so far of the trials that have not ended."""
        ended, self._ended = self._ended, []
        batches: dict[tuple[int, int], list[Outcome]] = {}
        for group, outcome in ended:
            place = self._trials.super_batch(outcome.number), 0 if self._settings.refills else group
            batches.setdefault(place, []).append(outcome)
        for _, outcomes in sorted(batches.items()):
            if self._settings.refills:
                outcomes.sort(key=lambda outcome: outcome.number)
            self._record(BatchResult(tuple(outcomes), self._timing(outcomes, unfinished)))

    def _record(self, result: BatchResult) -> None:
        ends = self._trials.record(result)
        if not self._settings.refills:
            for end in ends:
                self._backend.leave(end.number)
        for end in ends:
            self._limits.count(end.state, end.reason)
        tell(self._observers, lambda observer: observer.trials_ended(ends))

    def _timing(self, outcomes: Sequence[Outcome], unfinished: int) -> dict[str, Any]:
        """Return the costs of trials; for refilled lanes also the share of segments, since the start, that was used."""
        timing = self._backend.timing([outcome.number for outcome in outcomes])
        if problem := problem_of_timing(timing):
            raise HyperlaxError(f"the backend returned {problem}.")
        if "lane_segments" not in timing:
            return timing
        kept = sum(len(outcome.shown) for outcome in outcomes)
        self.useful_segments += kept
        self._lane_segments += timing["lane_segments"]
        useful = self.useful_segments + unfinished
        share = useful / self._lane_segments if self._lane_segments else 0.0
        return {**timing, "useful_lane_segments": kept, "useful_share": share}
