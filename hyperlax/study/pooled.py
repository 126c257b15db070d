"""Training where lanes are refilled: a trial that has ended makes room for the next, in this super-batch or the one after."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from hyperlax.arguments import StudyArguments
from hyperlax.checkpoints import Checkpoints
from hyperlax.errors import UsageError
from hyperlax.metrics import ReferenceReturns, compute
from hyperlax.pooling import OPEN, SUMMED, Advance, Dropped, Pools
from hyperlax.schedulers.base import Continue, Decision, Scheduler, Shown, Stop
from hyperlax.schedulers.registry import PRUNERS, PruningOptions
from hyperlax.study.batch_files import failed_batch
from hyperlax.study.course import Course, first_points, legal
from hyperlax.study.endings import Endings
from hyperlax.study.progress import AtWork, Progress
from hyperlax.study.reasons import cause_of_error
from hyperlax.study.state import StudyState
from hyperlax.trial import NOT_FINITE, BatchResult, Curve, HparamBatch, Outcome

log = logging.getLogger(__name__)


def pruner_of(arguments: StudyArguments) -> Scheduler:
    """Make the scheduler of a study."""
    options = PruningOptions(
        list(arguments.judged.values()),
        len(arguments.objectives),
        arguments.num_evaluations,
        arguments.pruner_min_segments,
        arguments.pruner_reduction_factor,
        arguments.pruner_percentile,
        seeds_in_turn(arguments),
    )
    return PRUNERS[arguments.pruner].make(options)


def seeds_in_turn(arguments: StudyArguments) -> int:
    """Return how many training runs of a trial follow one another."""
    return arguments.num_seeds if arguments.seed_schedule == "racing" else 1


class Standings:
    """What the trials of a study have shown so far, and what a scheduler decided about them."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler
        self._shown: dict[int, Shown] = {}
        self._decided: dict[int, Decision] = {}

    def expect(self, trial: int) -> None:
        """Add a trial that has shown nothing yet, or restart one."""
        self._shown[trial] = Shown(np.empty((0, 0)), False)
        self._decided.pop(trial, None)

    def report(self, trial: int, values: Sequence[float]) -> None:
        """Add what a trial shows at the end of its next segment."""
        before, row = self._shown[trial].values, np.array([values], np.float64)
        self._shown[trial] = Shown(np.vstack([before, row]) if len(before) else row, False)

    def end(self, trial: int, segments: int | None = None) -> None:
        """Note that a trial shows nothing more. segments: that count, by default all."""
        self._shown[trial] = Shown(self._shown[trial].values[:segments], True)

    def lasted(self, trial: int) -> int:
        """Return how many segments of a trial are settled."""
        if self._shown[trial].has_ended:
            return len(self._shown[trial].values)
        decision = self._decided.get(trial)
        return decision.segment if isinstance(decision, Continue | Stop) else 0

    def has_ended(self, trial: int) -> bool:
        return self._shown[trial].has_ended

    def is_settled(self, trial: int) -> bool:
        """Return whether nothing that a trial has shown waits for a decision."""
        return self.lasted(trial) == len(self._shown[trial].values)

    def settle(self) -> dict[int, Stop]:
        """Decide all that can be decided by now. Return the trials that stop, which have ended by that."""
        self._decided = self._scheduler.decide(self._shown)
        stopped = {number: stop for number, stop in self._decided.items() if isinstance(stop, Stop)}
        for number, stop in stopped.items():
            self.end(number, stop.segment)
        return stopped


class PooledTraining:
    """Trains what is missing of a study, from where it was left.

    lanes: how many trials are in lanes at once, at most. asked: called before trials of a new super-batch start; changed: when
    trials have ended.
    """

    def __init__(
        self,
        arguments: StudyArguments,
        reference: ReferenceReturns,
        *,
        state: StudyState,
        endings: Endings,
        standings: Standings,
        pools: Pools,
        checkpoints: Checkpoints,
        progress: Progress,
        lanes: int,
        asked: Callable[[], None],
        changed: Callable[[], None],
    ):
        self._arguments, self._reference = arguments, reference
        self._state, self._endings = state, endings
        self._standings, self._pools, self._checkpoints = standings, pools, checkpoints
        self._progress, self._lanes, self._asked, self._changed = progress, lanes, asked, changed
        self._segments, self._in_turn = arguments.num_evaluations, seeds_in_turn(arguments)
        self._judged = list(arguments.judged)
        self._courses: dict[int, Course] = {}
        self._waiting: list[int] = []
        self._ended: list[tuple[Course, Outcome]] = []
        self._cohorts, self._finished = OPEN, 0
        self._timed, self._useful, self._steps = pools.timing(), 0, 0

    def run(self, should_stop: Callable[[], bool], may_start: Callable[[], bool]) -> None:
        """Go on until every trial has ended, no more may start, or it shall stop; then what is in lanes is saved."""
        self._progress.ask(self._at_work)
        self._recall()
        while not should_stop():
            self._fill(may_start)
            self._pools.begin()
            self._flush()
            if not self._pools.occupied:
                break
            advances, dropped = self._pools.advance()
            for advance in advances:
                self._take(advance)
            for drop in dropped:
                self._pick_up(drop)
            self._settle()
            self._count_steps()
            if self._checkpoints.are_pools_due():
                self._pools.save(self._checkpoints)
        self._flush()
        self._pools.save(self._checkpoints)
        self._state.requeue(self._courses)

    def _recall(self) -> None:
        """Know what trials showed before this process, and go on with those whose lanes were saved."""
        trials = self._state.trials()
        for trial in trials:
            self._standings.expect(trial.number)
            if trial.state.is_finished():
                for values in shown_by(trial, len(self._judged)):
                    self._standings.report(trial.number, values)
                self._standings.end(trial.number)
        self._finished = sum(trial.state.is_finished() for trial in trials)
        self._await([trial for trial in trials if not trial.state.is_finished()])
        asked = {trial.number: self._state.trial(trial) for trial in trials}
        for advance in self._pools.restore(self._checkpoints, asked, self._waiting[: max(0, self._room())]):
            if advance.repetition:
                self._pools.leave(advance.number)
                continue
            self._waiting.remove(advance.number)
            self._courses[advance.number].in_lane = True
            self._useful -= advance.segments
            self._state.start([advance.number])
            self._take(advance)
        self._settle()

    def _await(self, asked: Sequence[FrozenTrial]) -> None:
        """Let trials wait for lanes. One whose values its recipe's fields refuse is FAIL."""
        for frozen in asked:
            trial = self._state.trial(frozen)
            self._standings.expect(trial.number)
            try:
                self._courses[trial.number] = Course(legal(trial))
                self._waiting.append(trial.number)
            except UsageError as error:
                self._fail(Course(trial), str(error))

    def _fill(self, may_start: Callable[[], bool]) -> None:
        """Put waiting trials into free lanes, asking for more while none waits."""
        for course in self._courses.values():
            if may_start() and course.done and not course.in_lane and self._is_to_repeat(course):
                course.in_lane = self._pools.enter(course.trial, len(course.done), course.cohort)
        while may_start():
            for number in list(self._waiting):
                course = self._courses[number]
                if self._room() <= 0 or self._pools.occupied >= self._lanes:
                    return
                if self._pools.enter(course.trial, 0, course.cohort):
                    course.in_lane = True
                    self._waiting.remove(number)
                    self._state.start([number])
            if self._waiting or self._pools.occupied >= self._lanes:
                break
            self._flush()
            more = self._state.ask_more(self._arguments.n_trials)
            if not more:
                break
            self._asked()
            self._await(more)

    def _room(self) -> int:
        """How many more trials may begin, so that the study ends with as many as it shall."""
        begun = self._finished + len(self._ended) + len(self._courses) - len(self._waiting)
        return self._arguments.n_trials - begun

    def _is_to_repeat(self, course: Course) -> bool:
        is_over = course.has_failed or len(course.done) == self._in_turn
        return not is_over and self._standings.is_settled(course.trial.number)

    def _take(self, advance: Advance) -> None:
        """Note what a trial has shown."""
        course, number = self._courses[advance.number], advance.number
        course.latest = advance
        for segment in range(len(course.shown) - self._before(advance) + 1, len(advance.curve.steps)):
            course.shown.append(self._values(course, advance, segment))
            self._standings.report(number, course.shown[-1])
        if advance.fault_step is not None:
            course.has_failed = True
            self._leave(course)
        elif advance.segments == self._segments:
            course.done.append(advance.curve)
            course.policies += [advance.policy] if advance.policy else []
            self._leave(course)

    def _before(self, advance: Advance) -> int:
        """Segments of the repetitions before the present one."""
        return advance.repetition * self._segments

    def _values(self, course: Course, advance: Advance, segment: int) -> list[float]:
        """By what it is judged after a segment of the present repetition; in the midst of a later one, those of the ones before."""
        if advance.repetition and segment < self._segments:
            return course.shown[-1]
        together = Course(course.trial, done=[*course.done, first_points(advance.curve, segment + 1)], latest=advance)
        metrics = compute(
            together.outcome("COMPLETE", "", together.curve()), self._reference, self._arguments.aggregate
        )
        return [metrics[name] for name in self._judged]

    def _settle(self) -> None:
        """End those that are pruned, and those that have failed or are complete and have no verdict to fear."""
        for number, stop in self._standings.settle().items():
            course = self._courses[number]
            del course.shown[stop.segment :]
            self._end(course, course.outcome("PRUNED", stop.reason, self._until(course, stop)))
        for course in list(self._courses.values()):
            if not self._standings.is_settled(course.trial.number) or course.latest is None:
                continue
            if course.has_failed:
                curve = course.latest.curve
                self._end(course, course.outcome("FAIL", NOT_FINITE, curve))
            elif len(course.done) == self._in_turn:
                self._end(course, course.outcome("COMPLETE", "", course.curve()))

    def _until(self, course: Course, stop: Stop) -> Curve:
        """The curve of a trial until it was pruned."""
        return course.curve(stop.segment + 1 if stop.segment < self._segments else None)

    def _end(self, course: Course, outcome: Outcome) -> None:
        if not self._standings.has_ended(course.trial.number):
            self._standings.end(course.trial.number)
        if course.in_lane:
            self._leave(course)
        del self._courses[course.trial.number]
        self._ended.append((course, outcome))

    def _leave(self, course: Course) -> None:
        assert course.latest is not None
        self._pools.leave(course.trial.number)
        course.stays_before, course.seconds_before = course.stays, course.seconds_before + course.latest.train_seconds
        course.in_lane = False

    def _pick_up(self, drop: Dropped) -> None:
        """Have trials that lost their lanes begin anew: where something raised, in halves, so that in the end one is at fault."""
        courses = [self._courses[number] for number in drop.numbers]
        if drop.error and len(courses) == 1:
            del self._courses[drop.numbers[0]]
            self._fail(courses[0], cause_of_error(drop.error), drop.error)
            return
        if drop.error:
            numbers, cause = ", ".join(map(str, drop.numbers)), cause_of_error(drop.error)
            log.warning("The lanes of trials %s broke (%s). They begin anew in halves.", numbers, cause)
        for place, course in enumerate(courses):
            course.begin_anew()
            self._standings.expect(course.trial.number)
            course.cohort = self._cohorts + 1 + (2 * place >= len(courses)) if drop.error else course.cohort
        self._cohorts += 2
        self._waiting = sorted({*self._waiting, *drop.numbers})
        self._state.requeue(drop.numbers)

    def _fail(self, course: Course, cause: str, error: Exception | None = None) -> None:
        """A trial without an outcome."""
        batch, number = HparamBatch((course.trial,)), course.trial.number
        self._standings.end(number)
        result = failed_batch(batch, cause, self._arguments.num_seeds, 0.0, error)
        self._endings.finish(batch, result, self._super_batch(number), {number: course.shown})
        self._finished += 1

    def _flush(self) -> None:
        """Write those that have ended, those of a super-batch together, and tell."""
        ended, self._ended = self._ended, []
        for super_batch in sorted({self._super_batch(course.trial.number) for course, _ in ended}):
            some = [pair for pair in ended if self._super_batch(pair[0].trial.number) == super_batch]
            some.sort(key=lambda pair: pair[0].trial.number)
            batch = HparamBatch(tuple(course.trial for course, _ in some))
            outcomes = tuple(outcome for _, outcome in some)
            shown = {course.trial.number: course.shown for course, _ in some}
            self._endings.finish(batch, BatchResult(outcomes, self._timing(shown)), super_batch, shown)
            self._finished += len(outcomes)
        if ended:
            self._changed()

    def _count_steps(self) -> None:
        steps = self._pools.timing()["steps"]
        self._progress.stepped(steps - self._steps)
        self._steps = steps

    def _at_work(self) -> AtWork:
        preparing = self._pools.preparing
        return AtWork(max(0, self._pools.occupied - preparing), preparing, self._lanes)

    def _super_batch(self, number: int) -> int:
        return number // self._arguments.optuna_study_batch_size

    def _timing(self, shown: Mapping[int, Sequence[Any]]) -> dict[str, Any]:
        """What it has cost since the last batch, and the share of lane-segments of this process that ended in a score to keep."""
        now, before = self._pools.timing(), self._timed
        spent = {name: now[name] - before[name] for name in SUMMED}
        kept = sum(map(len, shown.values()))
        self._timed, self._useful = now, self._useful + kept
        in_lanes = sum(len(course.shown) for course in self._courses.values())
        seconds = spent["train_seconds"] + spent["evaluate_seconds"]
        return {
            **spent,
            "steps_per_second": spent["steps"] / seconds if seconds else 0.0,
            "peak_memory_bytes": now["peak_memory_bytes"],
            "lanes": now["lanes"],
            "useful_lane_segments": kept,
            "useful_share": (self._useful + in_lanes) / now["lane_segments"] if now["lane_segments"] else 0.0,
            "predicted_seconds": None,
        }


def shown_by(trial: FrozenTrial, judged: int) -> list[list[float]]:
    """So many values by which a trial that has ended was judged after each of its segments."""
    if "intermediate" in trial.user_attrs:
        return trial.user_attrs["intermediate"]
    unknown = [math.nan] * (judged - 1)
    return [[trial.intermediate_values[segment], *unknown] for segment in sorted(trial.intermediate_values)]
