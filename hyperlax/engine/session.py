"""The lanes of one program as a session: trials enter, train segment by segment, are copied, and leave.

All lanes share the session's clock of iterations, each trial has its own: it is evaluated when its own schedule says so. A segment
of the session ends where one of a trial that entered at its start would end. Where the iterations of a trial do not divide by its
segments, a trial that entered later is due there or one iteration before, so a session evaluates at most twice a segment.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from hyperlax.agent import Policy
from hyperlax.engine import device
from hyperlax.engine.algorithm import TrainingTask
from hyperlax.engine.checkpoint import Metadata
from hyperlax.engine.costs import fingerprint
from hyperlax.engine.keys import SEARCH, Stream, continuation_keys, evaluation_keys, training_keys
from hyperlax.engine.lanes import Preparation, Program, of_lane
from hyperlax.errors import UsageError
from hyperlax.recipe import RunLength
from hyperlax.trial import MEASURED, Curve, LaneInterval, SegmentResult, Trial

SCORES = (*MEASURED, "finite")
STATE, INTERVALS = "lanes_", "intervals"

PROCESS = round(time.time(), 3)
"""When this process began to count its seconds, in seconds since 1970."""
_ZERO = time.perf_counter()


@dataclass(frozen=True)
class Segments:
    """The parts of a training between two evaluations, equal to within one iteration."""

    total_timesteps: int
    count: int
    steps_per_iteration: int

    @classmethod
    def of(cls, run_length: RunLength, steps_per_iteration: int) -> Segments:
        """Return the segments of a program's training.

        Raises:
          UsageError: the budget has fewer iterations than evaluations.
        """
        segments = cls(run_length.total_timesteps, run_length.num_evaluations, steps_per_iteration)
        if not all(segments.iterations()):
            raise UsageError(
                f"a budget of {run_length.total_timesteps} steps holds {sum(segments.iterations())} rollouts of "
                f"{steps_per_iteration} steps (total_num_envs x rollout_length), too few for {run_length.num_evaluations} "
                f"evaluations. Raise --total-timesteps to at least {run_length.num_evaluations * steps_per_iteration}, "
                "lower --num-evaluations, or make rollouts shorter."
            )
        return segments

    def end(self, segment: int) -> int:
        """Return the iterations until the end of a segment, counted from 1. All of them are the fewest that reach the budget."""
        total = -(-self.total_timesteps // self.steps_per_iteration)
        return total * segment // self.count

    def iterations(self) -> list[int]:
        """Return the iterations of each segment."""
        return [after - before for before, after in itertools.pairwise(map(self.end, range(self.count + 1)))]

    def steps(self) -> list[int]:
        """Return the environment steps of one seed at each evaluation, the one before training included."""
        return (np.cumsum([0, *self.iterations()]) * self.steps_per_iteration).tolist()


@dataclass
class Stopwatch:
    """Seconds spent in each part of a session, and how many of its segments are done.

    preparation: of this process; earlier: what a saved session had cost until then, see `Metadata.timing`.
    """

    preparation: Preparation = field(default_factory=lambda: Preparation(0.0, []))
    train: float = 0.0
    evaluate: float = 0.0
    segments: int = 0
    earlier: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def timing(self) -> dict[str, float]:
        """Return what the session has cost so far, by the names of `timing.json`."""
        before = self.earlier
        return {
            "programs_compiled": before.get("programs_compiled", 0) + int(not self.preparation.cached),
            "compile_seconds": before.get("compile_seconds", 0.0) + self.preparation.seconds,
            "train_seconds": self.train,
            "evaluate_seconds": self.evaluate,
            "wall_seconds": before.get("wall_seconds", 0.0) + time.perf_counter() - self.began,
        }

    def resume(self, metadata: Metadata) -> None:
        """Add what a saved session had cost."""
        self.earlier, self.segments = metadata.timing, metadata.segments
        self.train, self.evaluate = metadata.timing["train_seconds"], metadata.timing["evaluate_seconds"]

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Do the work, wait for its result, and add its seconds to the part."""
        began = time.perf_counter()
        result = jax.block_until_ready(work())
        setattr(self, part, getattr(self, part) + time.perf_counter() - began)
        return result


@dataclass
class _Assignment:
    """A trial in a lane.

    hypers: its tree of numpy scalars. repetition: the first of its seeds that it trains there. entered: the session's clock at
    the start of its training, or of the training that it was copied from; first: the segment at which it began.
    points: its evaluations, [seeds] each. policy: after its last segment.
    """

    trial: Trial
    hypers: Any
    num_parameters: int
    repetition: int = 0
    entered: int = 0
    first: int = 0
    points: list[dict[str, np.ndarray]] = field(default_factory=list)
    train_seconds: float = 0.0
    intervals: tuple[LaneInterval, ...] = ()
    policy: Policy | None = None

    @property
    def segments(self) -> int:
        return len(self.points) - 1

    @property
    def fault(self) -> int | None:
        """The first evaluation at which a seed was not finite."""
        return next((i for i, point in enumerate(self.points) if not point["finite"].all()), None)


class LaneSession:
    """Trials in the lanes of one program. Not safe to use from several threads at once."""

    def __init__(
        self,
        task: TrainingTask,
        program: Program,
        *,
        seed: int,
        repetitions: int | None = None,
        stream: Stream = SEARCH,
        place: tuple[int, int] = (0, 0),
    ):
        """Make a session without trials.

        Args:
          seed: The study's.
          repetitions: Seeds of a trial, of which the program trains as many at once as it has.
          place: A `LaneInterval`'s slot and session.
        """
        self.program, self.place, self._task = program, place, task
        self.segments = Segments.of(task.run_length, program.algorithm.steps_per_iteration)
        self._seed, self._stream, self._repetitions = seed, stream, repetitions or program.seeds
        self._lanes: dict[int, _Assignment] = {}
        self._entering: list[int] = []
        self._state: Any = None
        self._segment = self._clock = 0
        self._episode_keys = program.place(evaluation_keys(seed, program.seeds, stream))
        self.watch = Stopwatch()
        self.steps = 0

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        return len(self._lanes)

    @property
    def trials(self) -> list[Trial]:
        """The trials in lanes."""
        return [assignment.trial for assignment in tuple(self._lanes.values())]

    @property
    def begun(self) -> list[Trial]:
        """The trials in lanes that have been evaluated at least once."""
        return [assignment.trial for assignment in self._lanes.values() if assignment.points]

    @property
    def is_over(self) -> bool:
        """Whether every trial in lanes has spent its budget or stopped being finite."""
        return all(self._is_done(a) or a.fault is not None for a in self._lanes.values())

    def enter(self, trial: Trial, repetition: int = 0) -> None:
        """Put a trial into the first free lane. It begins with the next segment."""
        lane = next(lane for lane in range(self.program.lanes) if lane not in self._lanes)
        self._lanes[lane] = self._assignment(trial, repetition)
        self._entering.append(lane)

    def leave(self, number: int) -> None:
        """Free the lane of a trial."""
        lane = self._lane_of(number)
        del self._lanes[lane]
        if lane in self._entering:
            self._entering.remove(lane)

    def reconfigure(self, trial: Trial) -> None:
        """Let the trial of this number train on under another configuration of the same program."""
        self._lanes[self._lane_of(trial.number)].hypers = self._task.lane(trial)

    def branch(self, copies: Sequence[tuple[int, Trial]]) -> None:
        """Replace all trials: lane i continues from the state of trial `copies[i][0]`, as trial `copies[i][1]`.

        A trial that continues in the lane of its source keeps its random numbers; any other gets its own.
        """
        source = np.arange(self.program.lanes, dtype=np.int32)
        source[: len(copies)] = [self._lane_of(number) for number, _ in copies]
        before, self._lanes = self._lanes, {}
        for lane, (_, trial) in enumerate(copies):
            origin, copy = before[int(source[lane])], self._assignment(trial, 0)
            copy.entered, copy.first, copy.points = origin.entered, origin.first + origin.segments, origin.points[-1:]
            self._lanes[lane] = copy
        if (source != np.arange(self.program.lanes)).any():
            numbers = [assignment.trial.number for assignment in self._filled(self._lanes)]
            keys = self.program.place(continuation_keys(self._seed, numbers, self.program.seeds))
            moved = self.program.place(source)
            self._state = self.watch.time("train", lambda: self.program.branch(self._state, moved, keys))

    def prepare(self, trial: Trial | None = None) -> Preparation:
        """Make the program executable for trials like this one, or those that enter. Return what this very call made."""
        if trial is None and not self._entering:
            return Preparation(0.0, [])
        alike = {0: self._assignment(trial, 0) if trial else self._lanes[self._entering[0]]}
        made = self.program.prepare(self._keys(alike), self._hypers(alike), self._episode_keys)
        if made.compilations:
            self.watch.preparation = made
        return made

    def advance(self) -> list[SegmentResult]:
        """Train to the end of the segment and evaluate every trial that is due. Return where each stands then, by number."""
        began = seconds()
        self.start()
        end = self.segments.end(self._segment + 1)
        due = {lane: a.entered + self.segments.end(a.first + a.segments + 1) for lane, a in self._lanes.items()}
        before = self.watch.train
        for stop in sorted({*due.values(), end}):
            self._train_until(stop)
            if lanes := [lane for lane, at in due.items() if at == stop]:
                self._evaluate(lanes)
        ended = seconds()
        for lane, assignment in self._lanes.items():
            assignment.train_seconds += (self.watch.train - before) / len(self._lanes)
            interval = LaneInterval(*self.place, lane, PROCESS, began, ended)
            assignment.intervals = _extended(assignment.intervals, interval)
        self._segment += 1
        self.watch.segments += 1
        return self.standings()

    def start(self) -> None:
        """Initialise the trials that have entered, and evaluate them before any training."""
        if not self._entering:
            return
        entering = {lane: self._lanes[lane] for lane in self._entering}
        hypers, keys, before = self._hypers(entering), self._keys(entering), self.watch.train
        fresh = self.watch.time("train", lambda: self.program.start(keys, hypers))
        for assignment in entering.values():
            assignment.entered = self._clock
        self._score(list(entering), fresh, hypers)
        if self._state is None:
            self._state = fresh
        else:
            which = self.program.place(np.isin(np.arange(self.program.lanes), self._entering))
            self._state = self.watch.time("train", lambda: self.program.refill(self._state, which, fresh))
        for assignment in entering.values():
            assignment.train_seconds = (self.watch.train - before) / len(entering)
        self._entering.clear()

    def standings(self) -> list[SegmentResult]:
        """Return where every trial stands, by number."""
        lanes = sorted(self._lanes, key=lambda lane: self._lanes[lane].trial.number)
        return [self._result(lane, self._lanes[lane]) for lane in lanes]

    def identity(self, trials: Iterable[Trial]) -> dict[str, Any]:
        """Return all that decides the bits of these trials here, by name. Only after `prepare`."""
        program = self.program
        parts = (self._task, tuple(trials), program.algorithm, program.lanes, program.seeds, self._seed, self._stream)
        return {**identity_of(*parts), "code": program.code()}

    def save(self) -> tuple[Metadata, dict[str, np.ndarray]]:
        """Return the session between two segments as plain data, which `restore` takes. Only while it holds trials that began."""
        begun = {lane: a for lane, a in sorted(self._lanes.items()) if a.points}
        arrays = {f"{STATE}{i:05d}": array for i, array in enumerate(self.program.save(self._state))}
        arrays["clock"] = np.array([self._segment, self._clock])
        rows = [[a.trial.number, lane, a.repetition, a.entered, a.first] for lane, a in begun.items()]
        arrays["trials"] = np.array(rows, np.int64)
        arrays["train_seconds"] = np.array([a.train_seconds for a in begun.values()])
        for number, assignment in ((a.trial.number, a) for a in begun.values()):
            for name in SCORES:
                arrays[f"{number}_{name}"] = np.stack([point[name] for point in assignment.points])
            arrays[f"{number}_{INTERVALS}"] = intervals_to_array(assignment.intervals)
        trials = [assignment.trial for assignment in begun.values()]
        numbers = tuple(trial.number for trial in trials)
        return Metadata(numbers, self.identity(trials), self.watch.segments, self.watch.timing()), arrays

    def restore(self, arrays: Mapping[str, np.ndarray], trials: Mapping[int, Trial]) -> None:
        """Continue from what was saved, with these of its trials. Only in a session without trials, after `prepare`."""
        rows = [[int(entry) for entry in row] for row in arrays["trials"]]
        for (number, lane, repetition, entered, first), spent in zip(rows, arrays["train_seconds"], strict=True):
            if number not in trials:
                continue
            assignment = self._assignment(trials[number], repetition)
            assignment.entered, assignment.first, assignment.train_seconds = entered, first, float(spent)
            columns = [arrays[f"{number}_{name}"] for name in SCORES]
            assignment.points = [dict(zip(SCORES, point, strict=True)) for point in zip(*columns, strict=True)]
            assignment.intervals = intervals_from_array(arrays[f"{number}_{INTERVALS}"])
            self._lanes[lane] = assignment
        self._segment, self._clock = (int(entry) for entry in arrays["clock"])
        self._state = self.program.restore([arrays[name] for name in sorted(arrays) if name.startswith(STATE)])

    def _train_until(self, stop: int) -> None:
        iterations, clock = stop - self._clock, self._clock
        if iterations > 0:
            hypers = self._hypers(self._lanes)
            self._state = self.watch.time("train", lambda: self.program.train(self._state, hypers, clock, iterations))
        self._clock = stop

    def _evaluate(self, lanes: list[int]) -> None:
        """Score some lanes at the ends of their segments."""
        self._score(lanes, self._state, self._hypers(self._lanes))
        ending = []
        for lane in lanes:
            assignment = self._lanes[lane]
            done = assignment.first + assignment.segments
            iterations = self.segments.end(done) - self.segments.end(done - 1)
            self.steps += iterations * self.segments.steps_per_iteration * self.program.seeds
            if self._is_done(assignment) and assignment.fault is None:
                ending.append(assignment)
        if ending:
            acting = self.program.acting(self._state)
            by_trial = {id(assignment): lane for lane, assignment in self._lanes.items()}
            for assignment in ending:
                assignment.policy = self._task.policy(assignment.trial, of_lane(acting, by_trial[id(assignment)]))

    def _score(self, lanes: list[int], state: Any, hypers: Any) -> None:
        found = self.watch.time("evaluate", lambda: self.program.evaluate(state, hypers, self._episode_keys))
        columns = {name: np.asarray(getattr(found, name)) for name in SCORES}
        for lane in lanes:
            self._lanes[lane].points.append({name: column[lane] for name, column in columns.items()})

    def _is_done(self, assignment: _Assignment) -> bool:
        return assignment.first + assignment.segments == self.segments.count

    def _assignment(self, trial: Trial, repetition: int) -> _Assignment:
        return _Assignment(trial, self._task.lane(trial), self._task.num_parameters(trial), repetition)

    def _lane_of(self, number: int) -> int:
        return next(lane for lane, assignment in self._lanes.items() if assignment.trial.number == number)

    def _filled(self, assignments: Mapping[int, _Assignment]) -> list[_Assignment]:
        """One for every lane; a lane without its own repeats the first and is never read."""
        first = next(iter(assignments.values()))
        return [assignments.get(lane, first) for lane in range(self.program.lanes)]

    def _hypers(self, assignments: Mapping[int, _Assignment]) -> Any:
        return stacked(self.program, [assignment.hypers for assignment in self._filled(assignments)])

    def _keys(self, assignments: Mapping[int, _Assignment]) -> Any:
        """[lanes, seeds], of a trial's repetitions from the one that it trains."""
        filled = self._filled(assignments)
        numbers = [assignment.trial.number for assignment in filled]
        keys = training_keys(self._seed, numbers, self._repetitions, self._stream)
        seeds = np.array([a.repetition for a in filled])[:, None] + np.arange(self.program.seeds)
        return self.program.place(keys[np.arange(self.program.lanes)[:, None], seeds])

    def _result(self, lane: int, assignment: _Assignment) -> SegmentResult:
        fault, steps = assignment.fault, self.segments.steps()[assignment.first :]
        points = assignment.points[:fault]
        columns = {
            name: np.array([point[name] for point in points], np.float64).reshape(len(points), self.program.seeds)
            for name in MEASURED
        }
        return SegmentResult(
            number=assignment.trial.number,
            repetition=assignment.repetition,
            segments=assignment.segments,
            curve=Curve(
                steps=np.asarray(steps[: len(points)], np.int64),
                episodes=self._task.run_length.num_eval_episodes,
                budget=self.segments.total_timesteps,
                **columns,
            ),
            fault_step=None if fault is None else steps[fault],
            is_done=self._is_done(assignment),
            lane=lane,
            num_parameters=assignment.num_parameters,
            train_seconds=assignment.train_seconds,
            policy=assignment.policy,
            intervals=assignment.intervals,
        )


def identity_of(
    task: TrainingTask,
    trials: Sequence[Trial],
    algorithm: Any,
    lanes: int,
    seeds: int,
    seed: int,
    stream: Stream,
) -> dict[str, Any]:
    """Return all but the program's code that decides the bits of these trials in so many lanes and seeds. seed: the study's."""
    length = task.run_length
    own = [leaf.tobytes() for trial in trials for leaf in jax.tree.leaves(task.lane(trial))]
    return {
        **device.identity(),
        "program": fingerprint(algorithm, *map(task.program, trials)),
        "lanes": lanes,
        "seeds": seeds,
        "seed": seed,
        "budget": length.total_timesteps,
        "evaluations": length.num_evaluations,
        "episodes": length.num_eval_episodes,
        "hyperparameters": fingerprint(*own),
        "stream": list(stream),
    }


def stacked(program: Program, hypers: Sequence[Any]) -> Any:
    """Return [lanes]-leading arrays on the program's device, of one tree of numpy scalars a lane."""
    return program.place(jax.tree.map(lambda *leaves: np.stack(leaves), *hypers))


def seconds() -> float:
    """Return the seconds since this process began to count; never less than before, whatever happens to the clock on the wall."""
    return time.perf_counter() - _ZERO


def intervals_to_array(intervals: Sequence[LaneInterval]) -> np.ndarray:
    """Return float64[intervals, 6], which `intervals_from_array` takes."""
    return np.array(intervals, np.float64).reshape(-1, len(LaneInterval._fields))


def intervals_from_array(array: np.ndarray) -> tuple[LaneInterval, ...]:
    """Return what `intervals_to_array` took."""
    rows = array.tolist()
    return tuple(LaneInterval(int(slot), int(pool), int(lane), *times) for slot, pool, lane, *times in rows)


def _extended(intervals: tuple[LaneInterval, ...], interval: LaneInterval) -> tuple[LaneInterval, ...]:
    """Return them with one more. If that continues the last one in its lane and process, the last one gets longer instead.

    >>> first = LaneInterval(0, 0, 3, 100.0, 1.0, 2.0)
    >>> [(interval.began, interval.ended) for interval in _extended((first,), first._replace(began=2.0, ended=5.0))]
    [(1.0, 5.0)]
    >>> [(interval.lane, interval.ended) for interval in _extended((first,), first._replace(lane=4))]
    [(3, 2.0), (4, 2.0)]
    """
    if intervals and intervals[-1][:4] == interval[:4]:
        return (*intervals[:-1], intervals[-1]._replace(ended=interval.ended))
    return (*intervals, interval)
