"""The one loop of everything that trains: ask for trials, train, decide, record; until nothing is left or it has to stop.

Searches, sweeps, populations, confirmations and single runs differ in what the loop is given: where trials come from and results
go (`Trials`), where they train (`Backend`), which of them continue (`Scheduler`) and who is told (`Observer`).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperlax.backends.base import SHARED, Backend, Evicted
from hyperlax.engine.checkpoint import SaveTimer
from hyperlax.errors import HyperlaxError, UsageError, numbered
from hyperlax.fields import check
from hyperlax.schedulers.base import Continue, CopyFrom, Decision, Scheduler, Shown, Stop
from hyperlax.study.failures import cause_of_error, problem_of
from hyperlax.study.observer import Observer, Training, tell
from hyperlax.study.running import Recorder, RunningTrial
from hyperlax.study.stopping import Limits
from hyperlax.study.trials import REFUSED, Settings, Trials
from hyperlax.trial import SegmentResult, Trial

log = logging.getLogger(__name__)


class Loop:
    """A training of trials while it runs. scheduler: None where every trial trains to its end."""

    def __init__(
        self,
        trials: Trials,
        backend: Backend,
        scheduler: Scheduler | None,
        settings: Settings,
        limits: Limits,
        observers: Sequence[Observer],
    ):
        self._trials, self._backend, self._scheduler = trials, backend, scheduler
        self._settings, self._limits, self._observers = settings, limits, observers
        self._running: dict[int, RunningTrial] = {}
        self._waiting: list[tuple[int, ...]] = []
        self._shown: dict[int, Shown] = {}
        self._copies: dict[int, CopyFrom] = {}
        self._groups, self._left, self._is_planned = SHARED, 0, False
        self._timer = SaveTimer(settings.checkpoint_seconds)
        self._recorder = Recorder(trials, backend, settings, limits, observers)

    def run(self) -> None:
        """Train until every trial has ended, no more may start, or a stop is requested. Trials still in lanes are saved."""
        settings = self._settings
        words = settings.scoring.scale.words
        lanes = settings.lanes if settings.refills else None
        training = Training(settings.task, settings.total, settings.steps, lanes, self._backend, words)
        tell(self._observers, lambda observer: observer.training_started(training))
        try:
            self._train()
        finally:
            tell(self._observers, lambda observer: observer.training_ended())

    def _train(self) -> None:
        has_programs = self._settings.scoring.scale.words.has_programs
        self._limits.stop.tell(self._backend.stop, lambda: has_programs and self._backend.preparing > 0)
        if not self._limits.stop.is_set():
            self._backend.prepare()
        self._resume()
        while not self._limits.stop.is_set():
            if not self._settings.refills:
                self._record()
            self._fill()
            self._backend.begin()
            self._record()  # where lanes are refilled, while the next segment trains
            if not any(trial.is_in_lane for trial in self._running.values()):
                break
            self._advance()
            self._decide()
            if self._settings.refills and self._timer.is_due():
                self._save()
        self._finish()

    def _finish(self) -> None:
        """Save the trials in lanes. Closed batches stop at the next segment; those that end there are recorded."""
        self._record()
        self._save()
        if not self._settings.refills:
            self._advance()
            self._decide()
            self._record()
        self._trials.requeue(list(self._running))

    def _resume(self) -> None:
        """Restore the saved trials, and let the rest wait."""
        self._shown, restored, waiting, self._left = self._trials.resume(self._backend)
        for _, of_one in itertools.groupby(waiting, lambda trial: self._trials.super_batch(trial.number)):
            self._admit(list(of_one))
        for trial, result in restored:
            if result.number not in self._running:
                self._running[result.number] = RunningTrial(trial)
            self._waiting = [numbers for numbers in self._waiting if result.number not in numbers]
            self._running[result.number].enter()
            self._recorder.useful_segments -= result.segments
            self._trials.start([result.number])
            self._note(result, is_new=False)
        self._decide()

    def _admit(self, trials: Sequence[Trial]) -> None:
        """Queue trials of a super-batch for lanes, in the batches that the backend plans. A trial with invalid values fails."""
        sound = []
        for trial in trials:
            running = self._running[trial.number] = RunningTrial(trial)
            self._show(running)
            try:
                check(trial.config, REFUSED)
                sound.append(trial)
            except UsageError as error:
                self._fail(running, str(error))
        if self._settings.refills:
            self._waiting = sorted([*self._waiting, *((trial.number,) for trial in sound)])
            if sound and self._settings.task == "search" and not self._is_planned:
                self._is_planned = True
                plan = self._backend.plan(sound)
                said = f"{self._which(sound)}{plan.sentence()}, if none is pruned."
                log.log(logging.INFO if plan.programs else logging.DEBUG, "%s", said)
        elif sound:
            plan = self._backend.plan(sound)
            which = self._which(sound) if self._settings.task == "search" else ""
            is_one_of_many = self._settings.overlaps and self._groups > 0
            log.log(
                logging.DEBUG if is_one_of_many or not plan.programs else logging.INFO, "%s%s", which, plan.sentence()
            )
            self._waiting += map(_numbers, plan.batches)

    def _which(self, trials: Sequence[Trial]) -> str:
        """Return the beginning of a sentence about the plan of a super-batch, "" if that is the whole study."""
        if len(trials) == self._settings.total:
            return ""
        return "First super-batch: " if trials[0].number == 0 else "Next super-batch: "

    def _fill(self) -> None:
        """Fill free lanes with successors, next repetitions and waiting trials, and ask for more while there is room."""
        self._copy()
        for running in self._running.values():
            is_due = running.done and not running.is_in_lane and not running.has_failed and running.is_settled
            if is_due and self._limits.may_start() and self._enter([running], len(running.done)):
                running.enter()
        while self._limits.may_start():
            self._enter_waiting()
            if self._waiting or not self._has_room() or self._is_closed():
                return
            self._record()
            if not (asked := self._trials.ask()):
                return
            self._admit(asked)

    def _copy(self) -> None:
        """Replace the trials that have ended by copies."""
        if not self._copies:
            return
        self._record()
        copies, self._copies = self._copies, {}
        successors = self._trials.succeed(copies)
        sources = {trial.number: source for source, trial in successors}
        tell(self._observers, lambda observer: observer.trials_copied(sources))
        for source, trial in successors:
            check(trial.config, REFUSED)
            running = self._running[trial.number] = RunningTrial(trial)
            self._show(running)
            self._backend.copy(source, trial)
            self._started([running])

    def _enter_waiting(self) -> None:
        for numbers in list(self._waiting):
            if not self._has_room():
                return
            group = [self._running[number] for number in numbers]
            if not self._settings.refills and group[0].group == SHARED:
                self._set_group(group)
            if self._enter(group, 0):
                self._waiting.remove(numbers)
                self._started(group)

    def _enter(self, group: Sequence[RunningTrial], repetition: int) -> bool:
        return bool(self._backend.enter([one.trial for one in group], repetition, group[0].group))

    def _started(self, group: Sequence[RunningTrial]) -> None:
        numbers = [running.number for running in group]
        for running in group:
            running.enter()
            self._running[running.number] = self._running.pop(running.number)  # in the order of lanes
        self._trials.start(numbers)
        tell(self._observers, lambda observer: observer.trials_started(numbers))

    def _set_group(self, group: Sequence[RunningTrial]) -> None:
        """Give trials a group of their own."""
        self._groups += 1
        for running in group:
            running.group = self._groups

    def _has_room(self) -> bool:
        """Return whether another trial, or another closed batch, may enter."""
        if not self._settings.refills:
            return len({one.group for one in self._running.values() if one.is_in_lane}) < self._backend.room
        begun = len(self._running) - len(self._waiting) + self._recorder.count
        return begun < self._left and self._backend.occupied < self._settings.lanes

    def _is_closed(self) -> bool:
        """Return whether the current super-batch has to end before the next is asked for."""
        return not self._settings.overlaps and bool(self._running)

    def _advance(self) -> None:
        """Train to the next segment results, and note them."""
        try:
            results, evicted = self._backend.advance()
        except KeyboardInterrupt:
            self._limits.stop.set()
            return
        for result in results:
            self._note(result)
        for some in evicted:
            self._readmit(some)

    def _note(self, result: SegmentResult, is_new: bool = True) -> None:
        """Note the result of a segment, and tell the observers of its steps if it is new."""
        running = self._running_of(result)
        if problem := problem_of(result, self._settings.seeds // self._settings.repetitions):
            self._leave(running)
            self._fail(running, f"the backend returned {problem}")
            return
        trained = running.note(result)
        if is_new:
            tell(self._observers, lambda observer: observer.steps_done(*trained))
        try:
            self._score(running, result)
        except ValueError as error:
            self._leave(running)
            self._fail(running, str(error))
            return
        if not result.is_done and (result.fault_step is None or not self._settings.refills):
            return
        running.has_failed = result.fault_step is not None
        if not running.has_failed:
            running.end_repetition()
        self._leave(running)

    def _running_of(self, result: Any) -> RunningTrial:
        """Return the trial of a result. Raises HyperlaxError if that trial is not in a lane."""
        number = result.number if isinstance(result, SegmentResult) else None
        running = self._running.get(number) if isinstance(number, int) else None
        if running is None or not running.is_in_lane:
            raise HyperlaxError(
                f"the backend returned {result!r:.200}; a SegmentResult of a trial in a lane is needed."
            )
        return running

    def _score(self, running: RunningTrial, result: SegmentResult) -> None:
        """Note the values by which the scheduler decides about a trial.

        In the middle of a later repetition, the values after the one before are repeated.
        Raises ValueError if a value is not finite.
        """
        if not self._scheduler:
            return
        before, columns = running.segments_before(), self._settings.columns
        for segment in range(len(running.shown) - before + 1, result.curve.segments + 1):
            if result.repetition and segment < running.done[0].segments:
                running.shown.append(running.shown[-1])
                continue
            running.shown.append(self._settings.scoring.values(running.so_far(segment), columns))
        self._show(running, is_failed=result.fault_step is not None)

    def _show(self, running: RunningTrial, is_failed: bool = False) -> None:
        """Show a trial to the scheduler. A last row of nan means that the trial failed."""
        rows = [*running.shown, [np.nan] * len(self._settings.columns)] if is_failed else running.shown
        self._shown[running.number] = Shown(_matrix(rows, len(self._settings.columns)), has_ended=False)

    def _decide(self) -> None:
        """End the trials that are stopped or replaced, and those that are done or failed and need no decision."""
        if self._scheduler:
            for number, decision in self._scheduler.decide(self._shown).items():
                self._apply(number, decision)
        for running in list(self._running.values()):
            if running.latest is None or (self._scheduler and not running.is_settled):
                continue
            if running.has_failed:
                self._end(running, "FAIL")
            elif len(running.done) == self._settings.repetitions:
                self._end(running, "COMPLETE")

    def _apply(self, number: int, decision: Decision) -> None:
        if isinstance(decision, CopyFrom):
            self._copies[number] = decision
        running = self._running.get(number)
        if running is None:
            return
        if isinstance(decision, Continue):
            running.settled = self._trials.survived[number] = decision.segment
        elif isinstance(decision, CopyFrom) or decision.segment > len(running.shown):
            self._end(running, "FAIL" if running.has_failed else "COMPLETE", keeps_lane=isinstance(decision, CopyFrom))
        else:
            del running.shown[decision.segment :]
            self._end(running, "PRUNED", decision)

    def _end(self, running: RunningTrial, state: str, stop: Stop | None = None, keeps_lane: bool = False) -> None:
        """End a trial. keeps_lane: its lane stays taken, since a copy replaces it there."""
        assert running.latest is not None
        if stop:
            outcome = running.outcome(state, stop.reason, running.curve_until(stop.segment))
        elif state == "FAIL":
            outcome = running.outcome(state, running.latest.fault, running.latest.curve)
        else:
            outcome = running.outcome(state, "", running.curve())
        if running.is_in_lane and not keeps_lane:
            self._leave(running)
        self._forget(running)
        self._recorder.add(outcome, running.group)

    def _leave(self, running: RunningTrial) -> None:
        if self._settings.refills:
            self._backend.leave(running.number)
        running.leave()

    def _forget(self, running: RunningTrial) -> None:
        del self._running[running.number]
        self._shown[running.number] = Shown(_matrix(running.shown, len(self._settings.columns)), has_ended=True)

    def _fail(self, running: RunningTrial, cause: str, error: Exception | None = None) -> None:
        """Record the failure of a trial that has no outcome."""
        seconds = time.monotonic() - running.began if running.is_in_lane else 0.0
        self._forget(running)
        self._recorder.fail(running, cause, seconds, error)

    def _readmit(self, evicted: Evicted) -> None:
        """Restart trials that lost their lanes. After an error they are split into two batches, until the one at fault is alone."""
        trials, error = [self._running[number] for number in evicted.numbers], evicted.error
        if isinstance(error, self._settings.fatal):
            raise error
        if error and len(trials) == 1:
            self._fail(trials[0], cause_of_error(error), error)
            return
        self._trials.requeue(evicted.numbers)
        middle = len(trials) // 2
        for half in (trials[:middle], trials[middle:]) if error else ():
            self._set_group(half)
        for running in trials:
            running.restart(running.group if error or self._settings.refills else SHARED)
            self._trials.survived.pop(running.number, None)
            self._show(running)
        if error:
            batch = numbered(evicted.numbers)
            log.warning("Batch of %s failed (%s); retrying it as two smaller batches.", batch, cause_of_error(error))
        if self._settings.refills:
            self._waiting = sorted([*self._waiting, *((number,) for number in evicted.numbers)])
        elif error:
            self._waiting[:0] = [evicted.numbers[:middle], evicted.numbers[middle:]]
        else:
            self._waiting[:0] = map(_numbers, self._backend.plan([one.trial for one in trials]).batches)

    def _record(self) -> None:
        self._recorder.flush(sum(len(running.shown) for running in self._running.values()))

    def _save(self) -> None:
        """Save the trials in lanes. After a slow save the next one comes later."""
        with self._timer.saving():
            self._backend.save()


def _numbers(trials: Sequence[Trial]) -> tuple[int, ...]:
    return tuple(trial.number for trial in trials)


def _matrix(rows: Sequence[Sequence[float]], columns: int) -> np.ndarray:
    """Return float64[segments, columns]."""
    return np.array(rows, np.float64).reshape(len(rows), columns)
