"""A session over the lanes of one program: trials enter, train segment by segment, are copied, and leave.

All lanes share the session's count of iterations. Each trial has its own count, and is evaluated by its own schedule. A segment of
the session ends with the segment of a trial that entered at its start. If a trial's iterations do not divide by its segments, one
that entered later may be due one iteration earlier, so a session evaluates at most twice per segment.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperlax.engine import device
from hyperlax.engine.algorithm import TrainingTask
from hyperlax.engine.assignment import LaneAssignment, seconds
from hyperlax.engine.checkpoint import Metadata
from hyperlax.engine.costs import fingerprint
from hyperlax.engine.keys import SEARCH, Stream, continuation_keys, evaluation_keys, training_keys
from hyperlax.engine.lanes import Preparation, Program, of_lane
from hyperlax.engine.segments import Segments, Stopwatch
from hyperlax.trial import SegmentResult, Trial

STATE = "state_"


class LaneSession:
    """Trials in the lanes of one program. Not safe to use from several threads at once."""

    def __init__(
        self,
        task: TrainingTask,
        program: Program,
        *,
        seed: int,
        stream: Stream = SEARCH,
        place: tuple[int, int] = (0, 0),
    ):
        """Make a session without trials.

        Args:
          seed: The study's seed.
          place: Its slot and pool, as in `LaneInterval`.
        """
        self.program, self.place, self._task = program, place, task
        self.segments = Segments.of(task.run_length, program.algorithm.steps_per_iteration)
        self._seed, self._stream = seed, stream
        self._lanes: dict[int, LaneAssignment] = {}
        self._entering: list[int] = []
        self._stacked: tuple[list[Any], Any] = ([], None)
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
        """True if every trial in lanes has spent its budget or stopped being finite."""
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
        """Let the trial of this number continue under another configuration of the same program."""
        self._lanes[self._lane_of(trial.number)].hypers = self._task.lane(trial)

    def branch(self, copies: Sequence[tuple[int, Trial]]) -> None:
        """Replace all trials: lane i continues from the state of trial `copies[i][0]`, as trial `copies[i][1]`.

        A trial that continues in the lane of its source keeps its random numbers; any other gets its own.
        """
        source = np.arange(self.program.lanes, dtype=np.int32)
        source[: len(copies)] = [self._lane_of(number) for number, _ in copies]
        before, self._lanes = self._lanes, {}
        for lane, (_, trial) in enumerate(copies):
            origin, copy = before[int(source[lane])], self._assignment(trial)
            copy.entered, copy.first, copy.points = origin.entered, origin.reached, origin.points[-1:]
            self._lanes[lane] = copy
        if (source != np.arange(self.program.lanes)).any():
            numbers = [assignment.trial.number for assignment in self._filled(self._lanes)]
            keys = self.program.place(continuation_keys(self._seed, numbers, self.program.seeds))
            moved = self.program.place(source)
            self._state = self.watch.time("train", lambda: self.program.branch(self._state, moved, keys))

    def prepare(self, trial: Trial | None = None) -> Preparation:
        """Make the program executable for trials like this one, or those that enter. Return the cost, see `Program.prepare`."""
        if trial is None and not self._entering:
            return Preparation(0.0, [])
        alike = self._assignment(trial) if trial else self._lanes[self._entering[0]]
        began = seconds()
        if not self.program.is_ready:
            self._keys({0: alike})  # its small program is compiled while `Programs.compile` may be at the large ones
        made = self.program.prepare(alike.hypers)
        if made.compilations:
            self.watch.preparation = made._replace(seconds=min(made.seconds, seconds() - began))
        return made

    def advance(self) -> list[SegmentResult]:
        """Train to the end of the segment and evaluate every trial that is due. Return their results so far, by number."""
        began = seconds()
        self.start()
        end = self.segments.end(self._segment + 1)
        due = {lane: a.entered + self.segments.end(a.reached + 1) for lane, a in self._lanes.items()}
        before = self.watch.train
        for stop in sorted({*due.values(), end}):
            self._train_until(stop)
            if lanes := [lane for lane, at in due.items() if at == stop]:
                self._evaluate(lanes)
        ended = seconds()
        for lane, assignment in self._lanes.items():
            assignment.train_seconds += (self.watch.train - before) / len(self._lanes)
            assignment.add_interval(self.place, lane, began, ended)
        self._segment += 1
        self.watch.segments += 1
        return self.results()

    def start(self) -> None:
        """Initialise the trials that have entered, and evaluate them before any training if that is measured."""
        if not self._entering:
            return
        entering = {lane: self._lanes[lane] for lane in self._entering}
        hypers, keys, before = self._hypers(entering), self._keys(entering), self.watch.train
        fresh = self.watch.time("train", lambda: self.program.start(keys, hypers))
        for assignment in entering.values():
            assignment.entered = self._clock
        if self._task.measures:
            for assignment in entering.values():
                assignment.add_start(self.program.seeds)
        else:
            self._score(list(entering), fresh, hypers)
        if self._state is None:
            self._state = fresh
        else:
            which = self._places(entering)
            self._state = self.watch.time("train", lambda: self.program.refill(self._state, which, fresh))
        for assignment in entering.values():
            assignment.train_seconds = (self.watch.train - before) / len(entering)
        self._entering.clear()

    def results(self) -> list[SegmentResult]:
        """Return every trial's results so far, by number."""
        lanes = sorted(self._lanes, key=lambda lane: self._lanes[lane].trial.number)
        steps, episodes = self.segments.steps(), self._task.run_length.num_eval_episodes
        return [self._lanes[lane].result(lane, steps, episodes, self.segments.total_timesteps) for lane in lanes]

    def identity(self, trials: Iterable[Trial]) -> dict[str, Any]:
        """Return everything that decides the bits of these trials here, by name. Call `prepare` first."""
        program = self.program
        parts = (self._task, tuple(trials), program.algorithm, program.lanes, program.seeds, self._seed, self._stream)
        return {**identity_of(*parts), "code": program.code()}

    def save(self) -> tuple[Metadata, dict[str, np.ndarray]]:
        """Return the session between two segments as plain data, which `restore` takes. Only while it holds trials that began."""
        begun = {lane: assignment for lane, assignment in sorted(self._lanes.items()) if assignment.points}
        trials = [assignment.trial for assignment in begun.values()]
        arrays = {f"{STATE}{i:05d}": array for i, array in enumerate(self.program.save(self._state))}
        arrays |= {"clock": np.array([self._segment, self._clock]), "lanes": np.array(list(begun))}
        for assignment in begun.values():
            arrays |= {f"{assignment.trial.number}_{name}": array for name, array in assignment.save().items()}
        numbers = tuple(trial.number for trial in trials)
        return Metadata(numbers, self.identity(trials), self.watch.segments, self.watch.timing()), arrays

    def restore(self, metadata: Metadata, arrays: Mapping[str, np.ndarray], trials: Mapping[int, Trial]) -> None:
        """Continue from a save, with these of its trials. Only in a session without trials, after `prepare`."""
        for number, lane in zip(metadata.trials, arrays["lanes"].tolist(), strict=True):
            if number in trials:
                prefix = f"{number}_"
                own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
                self._lanes[lane] = self._assignment(trials[number])
                self._lanes[lane].restore(own)
        self._segment, self._clock = (int(entry) for entry in arrays["clock"])
        self._state = self.program.restore([arrays[name] for name in sorted(arrays) if name.startswith(STATE)])

    def _train_until(self, stop: int) -> None:
        iterations, clock = stop - self._clock, self._clock
        if iterations > 0:
            hypers, which = self._hypers(self._lanes), self._places(self._lanes)
            train = self.program.train
            self._state = self.watch.time("train", lambda: train(self._state, hypers, clock, iterations, which))
        self._clock = stop

    def _evaluate(self, lanes: list[int]) -> None:
        """Score some lanes at the ends of their segments."""
        self._score(lanes, self._state, self._hypers(self._lanes))
        ending = []
        for lane in lanes:
            assignment = self._lanes[lane]
            iterations = self.segments.end(assignment.reached) - self.segments.end(assignment.reached - 1)
            self.steps += iterations * self.segments.steps_per_iteration * self.program.seeds
            if self._is_done(assignment) and assignment.fault is None:
                ending.append(lane)
        params = self.program.policy_params(self._state) if ending else None
        for lane in ending:
            assignment = self._lanes[lane]
            assignment.policy = self._task.policy(assignment.trial, of_lane(params, lane))

    def _score(self, lanes: list[int], state: Any, hypers: Any) -> None:
        found = self.watch.time("evaluate", lambda: self.program.evaluate(state, hypers, self._episode_keys))
        scores = found if isinstance(found, dict) else found._asdict()
        columns = {name: np.asarray(column) for name, column in scores.items()}
        for lane in lanes:
            self._lanes[lane].points.append({name: column[lane] for name, column in columns.items()})

    def _is_done(self, assignment: LaneAssignment) -> bool:
        return assignment.reached == self.segments.count

    def _assignment(self, trial: Trial, repetition: int = 0) -> LaneAssignment:
        task = self._task
        return LaneAssignment(trial, task.lane(trial), task.measures, task.num_parameters(trial), repetition)

    def _lane_of(self, number: int) -> int:
        return next(lane for lane, assignment in self._lanes.items() if assignment.trial.number == number)

    def _places(self, assignments: Mapping[int, LaneAssignment]) -> Any:
        """Return bool[lanes]: the lanes of these assignments, on the device."""
        return self.program.place(np.isin(np.arange(self.program.lanes), list(assignments)))

    def _filled(self, assignments: Mapping[int, LaneAssignment]) -> list[LaneAssignment]:
        """Return an assignment for every lane. A lane without its own repeats the first and is never read."""
        first = next(iter(assignments.values()))
        return [assignments.get(lane, first) for lane in range(self.program.lanes)]

    def _hypers(self, assignments: Mapping[int, LaneAssignment]) -> Any:
        """Return the hyperparameters as arrays [lanes, ...] on the device, those of the last call if no lane has others now."""
        trees, (before, arrays) = [assignment.hypers for assignment in self._filled(assignments)], self._stacked
        if len(before) != len(trees) or not all(map(operator.is_, before, trees)):
            arrays = stacked(self.program, trees)
            self._stacked = trees, arrays
        return arrays

    def _keys(self, assignments: Mapping[int, LaneAssignment]) -> Any:
        """Return [lanes, seeds]: the keys of each trial's seeds, starting at its first repetition here."""
        filled = self._filled(assignments)
        numbers = [assignment.trial.number for assignment in filled]
        first = [assignment.repetition for assignment in filled]
        return self.program.place(training_keys(self._seed, numbers, self.program.seeds, self._stream, first))


def identity_of(
    task: TrainingTask,
    trials: Sequence[Trial],
    algorithm: Any,
    lanes: int,
    seeds: int,
    seed: int,
    stream: Stream,
) -> dict[str, Any]:
    """Return everything that decides the bits of these trials, except the program's code. seed: the study's."""
    length = task.run_length
    own = [fingerprint(*(leaf.tobytes() for leaf in jax.tree.leaves(task.lane(trial)))) for trial in trials]
    return {
        **device.identity(),
        "program": fingerprint(algorithm, *dict.fromkeys(map(task.program, trials))),
        "lanes": lanes,
        "seeds": seeds,
        "seed": seed,
        "budget": length.total_timesteps,
        "evaluations": length.num_evaluations,
        "episodes": length.num_eval_episodes,
        "hyperparameters": own,
        "stream": list(stream),
    }


def stacked(program: Program, hypers: Sequence[Any]) -> Any:
    """Stack one tree of numpy scalars per lane into arrays [lanes, ...] on the program's device."""
    return program.place(jax.tree.map(lambda *leaves: np.stack(leaves), *hypers))
