"""A trial while it trains: its results so far, the outcome that follows, and how outcomes are recorded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hyperlax.agent import Policy, joined
from hyperlax.backends.base import SHARED, Backend
from hyperlax.errors import HyperlaxError
from hyperlax.study.batch_files import failed
from hyperlax.study.failures import problem_of_timing
from hyperlax.study.observer import Observer, tell
from hyperlax.study.stopping import Limits
from hyperlax.study.trials import Settings, Trials
from hyperlax.trial import BatchResult, Curve, LaneInterval, Outcome, SegmentResult, Trial


@dataclass
class RunningTrial:
    """A trial that waits for a lane or is in one.

    Args:
      group: The trials that it shares lanes with, as in `Backend.enter`.
      done: The curves of its complete repetitions.
      policies: The policies of those repetitions, if known.
      latest: Its latest result, None before its first segment.
      shown: The values by which the scheduler decides, one row per segment.
      settled: Segments that the scheduler has decided about.
      seconds_before, intervals_before: Of lanes that it has left.
      began: Time at which it entered, in seconds of `time.monotonic`.
    """

    trial: Trial
    group: int = SHARED
    done: list[Curve] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    latest: SegmentResult | None = None
    is_in_lane: bool = False
    has_failed: bool = False
    shown: list[list[float]] = field(default_factory=list)
    settled: int = 0
    seconds_before: float = 0.0
    intervals_before: tuple[LaneInterval, ...] = ()
    began: float = 0.0

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def is_settled(self) -> bool:
        """True if the scheduler has decided about all of its segments."""
        return self.settled >= len(self.shown)

    @property
    def intervals(self) -> tuple[LaneInterval, ...]:
        """Lanes that it was in, until now."""
        now = self.latest.intervals if self.is_in_lane and self.latest else ()
        return self.intervals_before + tuple(interval for interval in now if interval not in self.intervals_before)

    def enter(self) -> None:
        """Note that it has a lane."""
        self.is_in_lane, self.began = True, time.monotonic()

    def leave(self) -> None:
        """Note that it no longer has a lane."""
        if self.latest is not None and self.is_in_lane:
            self.intervals_before, self.seconds_before = self.intervals, self.seconds_before + self.latest.train_seconds
        self.is_in_lane = False

    def restart(self, group: int) -> None:
        """Forget everything but the trial and the lanes that it was in."""
        self.intervals_before = self.intervals
        self.group, self.done, self.policies, self.latest, self.shown = group, [], [], None, []
        self.settled, self.seconds_before = 0, 0.0
        self.is_in_lane = self.has_failed = False

    def note(self, result: SegmentResult) -> tuple[int, float, int]:
        """Note its latest result. Return what it has trained since the one before, as `Observer.steps_done` takes it."""
        before = self.latest if self.latest and self.latest.repetition == result.repetition else None
        self.latest = result
        steps = _last_step(result) - (_last_step(before) if before else 0)
        steps = max(0, steps) * result.curve.mean.shape[1]
        lasted = [interval.ended - interval.began for interval in result.intervals]
        seconds = sum(lasted) - sum(one.ended - one.began for one in (before.intervals if before else ()))
        if not lasted or seconds <= lasted[-1]:
            return steps, max(0.0, seconds), 0
        own = round(steps * lasted[-1] / seconds)
        return own, lasted[-1], steps - own

    def end_repetition(self) -> None:
        """Keep the curve and the policy of the repetition that has just ended."""
        assert self.latest is not None
        self.done.append(self.latest.curve)
        self.policies += [self.latest.policy] if self.latest.policy else []

    def segments_before(self) -> int:
        """Return the number of segments of the repetitions before the current one."""
        assert self.latest is not None
        return sum(curve.segments for curve in self.done[: self.latest.repetition])

    def curve_until(self, segment: int) -> Curve:
        """Return its curve up to a segment of the first repetition, or of all that are complete by a later one."""
        first = self.done[0] if self.done else self._curve_now()
        return first.until(segment) if segment < first.segments or not self.done else self.curve()

    def curve(self) -> Curve:
        """Return the curves of its complete repetitions side by side, or of the current one where none is complete."""
        return self.done[0].beside(self.done[1:]) if self.done else self._curve_now()

    def outcome(self, state: str, reason: str, curve: Curve) -> Outcome:
        """Return its outcome."""
        assert self.latest is not None
        return Outcome(
            trial=self.trial,
            state=state,
            reason=reason,
            curve=curve,
            num_parameters=self.latest.num_parameters,
            train_seconds=self.seconds_before + (self.latest.train_seconds if self.is_in_lane else 0.0),
            lane=self.latest.lane,
            fault_step=self.latest.fault_step,
            policy=joined(self.policies) if state == "COMPLETE" and self.policies else None,
            intervals=self.intervals,
            shown=tuple(map(tuple, self.shown)),
            shown_at=self.shown_at(),
        )

    def shown_at(self) -> tuple[int, ...]:
        """Return the environment steps of one seed at each row of `shown`, those of earlier repetitions included."""
        now = [self.latest.curve] if self.latest and self.latest.repetition == len(self.done) else []
        steps: list[int] = []
        for curve in (*self.done, *now):
            before = steps[-1] if steps else 0
            steps += [before + int(step) for step in curve.trained_steps]
        return tuple(steps[: len(self.shown)])

    def so_far(self, segment: int) -> Outcome:
        """Return its outcome if it had ended after this segment of the current repetition."""
        until = self._curve_now().until(segment)
        together = RunningTrial(self.trial, done=[*self.done, until], latest=self.latest)
        return together.outcome("COMPLETE", "", together.curve())

    def _curve_now(self) -> Curve:
        assert self.latest is not None
        return self.latest.curve


def _last_step(result: SegmentResult) -> int:
    return int(result.curve.steps[-1]) if len(result.curve.steps) else 0


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
        result = failed(running.trial, cause, self._settings.seeds, seconds, error)
        (outcome,) = result.outcomes
        shown = {"shown": tuple(map(tuple, running.shown)), "shown_at": running.shown_at()}
        self._record(replace(result, outcomes=(replace(outcome, **shown),)))

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

    def _record(self, batch: BatchResult) -> None:
        results = self._trials.record(batch)
        if not self._settings.refills:
            for result in results:
                self._backend.leave(result.number)
        for result in results:
            self._limits.count(result.number, result.state, result.reason)
        tell(self._observers, lambda observer: observer.trials_ended(results))

    def _timing(self, outcomes: Sequence[Outcome], unfinished: int) -> dict[str, Any]:
        """Return the costs of trials; for refilled lanes also the share of segments, since the start, that was used."""
        timing = self._backend.timing([outcome.number for outcome in outcomes])
        if problem := problem_of_timing(timing):
            raise HyperlaxError(f"the backend returned {problem}.")
        told_before = timing.pop("told_before", 0)
        if "lane_segments" not in timing:
            return timing
        kept = sum(len(outcome.shown) for outcome in outcomes)
        self.useful_segments += kept
        self._lane_segments += timing["lane_segments"] + told_before
        useful = self.useful_segments + unfinished
        share = useful / self._lane_segments if self._lane_segments else 0.0
        return {**timing, "useful_lane_segments": kept, "useful_share": share}
