"""One hparam batch from its start to its outcomes."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from hyperlax.agent import Policy
from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.engine.compilation import Preparation
from hyperlax.engine.keys import SEARCH, Stream, evaluation_keys, training_keys
from hyperlax.engine.lanes import Program, of_lane
from hyperlax.errors import UsageError
from hyperlax.recipe import RunLength
from hyperlax.stays import PROCESS, Stay, extended, from_array, seconds, to_array
from hyperlax.trial import MEASURED, NOT_FINITE, Curve, Interrupted, Outcome, Trial

log = logging.getLogger(__name__)

SCORES = (*MEASURED, "finite")
STAYS = "stays"


@dataclass(frozen=True)
class Schedule:
    """When a batch evaluates: after each of `segments` parts of the training, equal to within one iteration."""

    total_timesteps: int
    segments: int
    steps_per_iteration: int

    def end(self, segment: int) -> int:
        """Iterations until the end of a segment, counted from 1. All of them are the fewest that reach the budget."""
        total = -(-self.total_timesteps // self.steps_per_iteration)
        return total * segment // self.segments

    def iterations(self) -> list[int]:
        """Iterations of each segment."""
        return [after - before for before, after in itertools.pairwise(map(self.end, range(self.segments + 1)))]

    def steps(self) -> list[int]:
        """Environment steps of one seed at each evaluation, the one before training included."""
        return (np.cumsum([0, *self.iterations()]) * self.steps_per_iteration).tolist()


def schedule_of(run_length: RunLength, steps_per_iteration: int) -> Schedule:
    """The schedule of a program.

    Raises:
      UsageError: the budget has fewer iterations than evaluations.
    """
    schedule = Schedule(run_length.total_timesteps, run_length.num_evaluations, steps_per_iteration)
    if not all(schedule.iterations()):
        raise UsageError(
            f"a budget of {run_length.total_timesteps} steps holds {sum(schedule.iterations())} rollouts of "
            f"{steps_per_iteration} steps (total_num_envs x rollout_length), too few for {run_length.num_evaluations} "
            f"evaluations. Raise --total-timesteps to at least {run_length.num_evaluations * steps_per_iteration}, lower "
            "--num-evaluations, or make rollouts shorter."
        )
    return schedule


@dataclass
class Stopwatch:
    """Seconds spent in each part of a batch, and how many of its segments are done.

    preparation: of this process; earlier: what a saved batch had cost until then, see `Head.timing`. stays: of lane 0; its mates
    were in their lanes at the same times.
    """

    preparation: Preparation
    train: float = 0.0
    evaluate: float = 0.0
    segments: int = 0
    earlier: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    stays: tuple[Stay, ...] = ()

    def timing(self) -> dict[str, float]:
        """What the batch has cost so far."""
        before = self.earlier
        return {
            "programs_compiled": before.get("programs_compiled", 0) + int(not self.preparation.cached),
            "compile_seconds": before.get("compile_seconds", 0.0) + self.preparation.seconds,
            "train_seconds": self.train,
            "evaluate_seconds": self.evaluate,
            "wall_seconds": before.get("wall_seconds", 0.0) + time.perf_counter() - self.began,
        }

    def resume(self, head: Head) -> None:
        """Go on from what a saved batch had cost."""
        self.earlier, self.segments = head.timing, head.segments
        self.train, self.evaluate = head.timing["train_seconds"], head.timing["evaluate_seconds"]

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Do the work, wait for its result, and add its seconds to the part."""
        began = time.perf_counter()
        result = jax.block_until_ready(work())
        setattr(self, part, getattr(self, part) + time.perf_counter() - began)
        return result


@dataclass
class Scores:
    """What a batch's evaluations have shown so far, of the lanes that hold trials."""

    points: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, scores: Any, trials: int) -> None:
        self.points.append({name: np.asarray(getattr(scores, name))[:trials] for name in SCORES})

    def save(self) -> dict[str, np.ndarray]:
        """As plain arrays, which `restore` takes."""
        return {name: np.stack([values[name] for values in self.points]) for name in SCORES}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what was saved."""
        columns = [arrays[name] for name in SCORES]
        self.points = [dict(zip(SCORES, rows, strict=True)) for rows in zip(*columns, strict=True)]

    def first_fault(self, lane: int) -> int | None:
        """The first evaluation at which a seed of the lane was not finite."""
        for point, values in enumerate(self.points):
            if not values["finite"][lane].all():
                return point
        return None

    def curve(self, lane: int, schedule: Schedule, points: int, episodes: int) -> Curve:
        """The lane's first `points` evaluations."""
        columns = {
            name: np.stack([values[name][lane] for values in self.points[:points]]).astype(np.float64)
            if points
            else np.zeros((0, self.points[0]["mean"].shape[1]))
            for name in MEASURED
        }
        steps = np.asarray(schedule.steps()[:points], np.int64)
        return Curve(steps=steps, episodes=episodes, budget=schedule.total_timesteps, **columns)


@dataclass(frozen=True)
class Assignment:
    """Trials in the lanes of a program; lanes beyond them repeat the first trial and are never read. slot: its index."""

    program: Program
    trials: tuple[Trial, ...]
    lanes: tuple[Any, ...]  # the trials' own trees of numpy scalars
    num_parameters: tuple[int, ...]
    policy: Callable[[Trial, Any], Policy] | None = None  # see `Workload.policy`
    slot: int = 0

    def hypers(self) -> Any:
        """[lanes]-leading arrays on the program's device. ValueError for more trials than lanes."""
        if len(self.lanes) > self.program.lanes:
            raise ValueError(f"{len(self.lanes)} trials do not fit into {self.program.lanes} lanes")
        filled = [*self.lanes, *[self.lanes[0]] * (self.program.lanes - len(self.lanes))]
        return self.program.place(jax.tree.map(lambda *leaves: np.stack(leaves), *filled))

    def numbers(self) -> list[int]:
        """The trial number of every lane."""
        own = [trial.number for trial in self.trials]
        return [*own, *[own[0]] * (self.program.lanes - len(own))]


def train_batch(
    assignment: Assignment,
    schedule: Schedule,
    *,
    seed: int,
    episodes: int,
    should_stop: Callable[[], bool],
    report: Callable[[int], None],
    prepared: Callable[[Preparation], None] = lambda made: None,
    keeper: Keeper | None = None,
    stream: Stream = SEARCH,
) -> tuple[list[Outcome], Stopwatch]:
    """Train every trial to its budget, evaluating between segments, from where `keeper` left it.

    A trial whose parameters or returns stop being finite is FAIL from there on; its mates do not notice. When none is left
    the batch ends. `prepared` is called when the program is executable.

    Raises:
      Interrupted: `should_stop` said so after a segment that was not the last; `keeper` has it by then.
    """
    program, trials = assignment.program, len(assignment.trials)
    hypers = assignment.hypers()
    keys = program.place(training_keys(seed, assignment.numbers(), program.seeds, stream))
    episode_keys = program.place(evaluation_keys(seed, program.seeds, stream))
    began = time.perf_counter()
    watch, scores = Stopwatch(program.prepare(keys, hypers, episode_keys), began=began), Scores()
    prepared(watch.preparation)
    report(0)
    lanes = keeper.load(program, scores, watch) if keeper else None
    entered = seconds()
    if lanes is not None:
        log.info("Trials %s go on from step %d.", _listed(assignment.trials), schedule.steps()[watch.segments])
    else:
        lanes = watch.time("train", lambda: program.start(keys, hypers))
        scores.add(watch.time("evaluate", lambda: program.evaluate(lanes, hypers, episode_keys)), trials)
    segments = schedule.iterations()
    for iterations in segments[watch.segments :]:
        tick = sum(segments[: watch.segments])
        lanes = watch.time("train", lambda: program.train(lanes, hypers, tick, iterations))  # noqa: B023
        scores.add(watch.time("evaluate", lambda: program.evaluate(lanes, hypers, episode_keys)), trials)  # noqa: B023
        watch.segments += 1
        watch.stays = extended(watch.stays, Stay(assignment.slot, 0, 0, PROCESS, entered, seconds()))
        report(iterations * schedule.steps_per_iteration * trials * program.seeds)
        if all(scores.first_fault(lane) is not None for lane in range(trials)):
            break
        if watch.segments < schedule.segments:
            _pause(should_stop(), keeper, program, lanes, scores, watch)
    outcomes = [_outcome(assignment, lane, scores, schedule, episodes, watch) for lane in range(trials)]
    return _with_policies(outcomes, assignment, lanes), watch


def _with_policies(outcomes: list[Outcome], assignment: Assignment, lanes: Any) -> list[Outcome]:
    """The outcomes, those that are COMPLETE with what their trials became."""
    policy = assignment.policy
    if policy is None or all(outcome.state != "COMPLETE" for outcome in outcomes):
        return outcomes
    acting = assignment.program.acting(lanes)
    return [
        replace(outcome, policy=policy(trial, of_lane(acting, lane))) if outcome.state == "COMPLETE" else outcome
        for lane, (trial, outcome) in enumerate(zip(assignment.trials, outcomes, strict=True))
    ]


@dataclass(frozen=True)
class Keeper:
    """Keeps one batch in its checkpoint. identity: see `Head`, all but the program's code, known when that is lowered."""

    checkpoint: Checkpoint
    trials: tuple[int, ...]
    identity: dict[str, Any]

    def load(self, program: Program, scores: Scores, watch: Stopwatch) -> Any:
        """The lanes that were saved, with `scores` and `watch` as they were then; None where none can go on here."""
        found = self.checkpoint.load()
        if found is None or found[0].trials != self.trials or not found[0].goes_on(self._identity_with(program)):
            return None
        head, arrays = found
        watch.resume(head)
        watch.stays = from_array(arrays[STAYS]) if STAYS in arrays else ()
        scores.restore(arrays)
        return program.restore([arrays[name] for name in sorted(arrays) if name.startswith("lanes_")])

    def save(self, program: Program, lanes: Any, scores: Scores, watch: Stopwatch) -> None:
        state = {f"lanes_{place:05d}": array for place, array in enumerate(program.save(lanes))}
        head = Head(self.trials, self._identity_with(program), watch.segments, watch.timing())
        self.checkpoint.save(head, {**scores.save(), **state, STAYS: to_array(watch.stays)})

    def _identity_with(self, program: Program) -> dict[str, Any]:
        return {**self.identity, "code": program.code()}


def _listed(trials: Sequence[Trial]) -> str:
    return ", ".join(str(trial.number) for trial in trials)


def _pause(stop: bool, keeper: Keeper | None, program: Program, lanes: Any, scores: Scores, watch: Stopwatch) -> None:
    """Between two segments: save the batch if that is due, end it if it shall `stop`."""
    if keeper and (stop or keeper.checkpoint.is_due()):
        keeper.save(program, lanes, scores, watch)
    if stop:
        raise Interrupted


def _outcome(
    assignment: Assignment, lane: int, scores: Scores, schedule: Schedule, episodes: int, watch: Stopwatch
) -> Outcome:
    fault, steps = scores.first_fault(lane), schedule.steps()
    points = len(scores.points) if fault is None else fault
    return Outcome(
        number=assignment.trials[lane].number,
        state="COMPLETE" if fault is None else "FAIL",
        reason="" if fault is None else NOT_FINITE,
        curve=scores.curve(lane, schedule, points, episodes),
        num_parameters=assignment.num_parameters[lane],
        train_seconds=watch.train / len(assignment.trials),
        lane=lane,
        fault_step=None if fault is None else steps[fault],
        stays=tuple(stay._replace(lane=lane) for stay in watch.stays),
    )
