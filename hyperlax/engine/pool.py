"""The lanes of one program as a pool that trials enter and leave between segments.

All lanes share the program's clock of iterations, each trial has its own: it is evaluated when its own schedule says so. A segment
of the pool ends where one of a trial that entered at the pool's start would end. Where the iterations of a trial do not divide by
its segments, a trial that entered later is due there or one iteration before, so a pool evaluates at most twice a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from hyperlax.agent import Policy
from hyperlax.engine.batch import SCORES, STAYS, Schedule, Scores, Stopwatch
from hyperlax.engine.compilation import Preparation
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Program, of_lane
from hyperlax.pooling import Advance
from hyperlax.stays import PROCESS, Stay, extended, from_array, seconds, to_array
from hyperlax.trial import Trial

LANES = "lanes_"


@dataclass
class Occupant:
    """A trial in a lane. values: its tree of numpy scalars. repetition: of its seeds, the first that it trains there.

    entered: the pool's clock as it came. scores, stays: so far. train_seconds: its share of the pool's. policy: after its last
    segment.
    """

    trial: Trial
    values: Any
    num_parameters: int
    repetition: int
    entered: int = 0
    scores: Scores = field(default_factory=Scores)
    train_seconds: float = 0.0
    policy: Policy | None = None
    stays: tuple[Stay, ...] = ()

    @property
    def segments(self) -> int:
        """How many it has done."""
        return len(self.scores.points) - 1


class Pool:
    """Trials in the lanes of one program. Not safe to use from several threads at once."""

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        policy: Callable[[Trial, Any], Policy],
        *,
        seed: int,
        episodes: int,
        repetitions: int,
        place: tuple[int, int] = (0, 0),
    ):
        """policy: see `Workload.policy`. repetitions: seeds of a trial, of which the program trains as many at once as it has.

        place: a `Stay`'s slot and pool.
        """
        self.program, self.schedule, self.place, self._policy = program, schedule, place, policy
        self._seed, self._episodes, self._repetitions = seed, episodes, repetitions
        self._occupants: dict[int, Occupant] = {}
        self._entering: set[int] = set()
        self._lanes: Any = None
        self._segment = self._clock = 0
        self._episode_keys = program.place(evaluation_keys(seed, program.seeds))
        self.watch = Stopwatch(Preparation(0.0, []))
        self.steps = 0

    @property
    def free(self) -> int:
        """Lanes that no trial occupies."""
        return self.program.lanes - self.occupied

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        return len(self._occupants)

    @property
    def trials(self) -> list[Trial]:
        """Those in its lanes."""
        return [occupant.trial for occupant in self._occupants.values()]

    @property
    def begun(self) -> list[Trial]:
        """Those in its lanes that have done a segment or more."""
        return [occupant.trial for lane, occupant in self._occupants.items() if lane not in self._entering]

    def enter(self, occupant: Occupant) -> None:
        """Put a trial into a free lane. It begins with the next segment."""
        lane = next(lane for lane in range(self.program.lanes) if lane not in self._occupants)
        self._occupants[lane] = occupant
        self._entering.add(lane)

    def leave(self, number: int) -> None:
        """Free the lane of a trial."""
        lane = self._lane_of(number)
        del self._occupants[lane]
        self._entering.discard(lane)

    def advance(self) -> list[Advance]:
        """Train to the end of the pool's segment and evaluate every trial that is due; where each stands then, by number."""
        if self._entering:
            self.prepare(self._occupants[min(self._entering)])
        began = seconds()
        self._take_in()
        end = self.schedule.end(self._segment + 1)
        due = {lane: self._due(occupant) for lane, occupant in self._occupants.items()}
        before = self.watch.train
        for stop in sorted({*due.values(), end}):
            self._train_until(stop)
            if lanes := [lane for lane, at in due.items() if at == stop]:
                self._evaluate(lanes)
                self.steps += sum(self._last_steps(self._occupants[lane].segments) for lane in lanes)
        ended = seconds()
        for lane, occupant in self._occupants.items():
            occupant.train_seconds += (self.watch.train - before) / len(self._occupants)
            occupant.stays = extended(occupant.stays, Stay(*self.place, lane, PROCESS, began, ended))
        self._segment += 1
        self.watch.segments += 1
        return self.standings()

    def standings(self) -> list[Advance]:
        """Where every trial stands, by number."""
        lanes = sorted(self._occupants, key=lambda lane: self._occupants[lane].trial.number)
        return [self._advance_of(lane, self._occupants[lane]) for lane in lanes]

    def save(self) -> dict[str, np.ndarray]:
        """The pool between two segments as plain arrays, which `restore` takes. Only while it holds trials that have begun."""
        begun = {lane: o for lane, o in self._occupants.items() if lane not in self._entering}
        arrays = {f"{LANES}{place:05d}": array for place, array in enumerate(self.program.save(self._lanes))}
        arrays["clock"] = np.array([self._segment, self._clock])
        arrays["occupants"] = np.array(
            [[o.trial.number, lane, o.repetition, o.entered] for lane, o in begun.items()], np.int64
        ).reshape(-1, 4)
        arrays["train_seconds"] = np.array([o.train_seconds for o in begun.values()])
        for occupant in begun.values():
            for name, column in occupant.scores.save().items():
                arrays[f"{occupant.trial.number}_{name}"] = column
            arrays[f"{occupant.trial.number}_{STAYS}"] = to_array(occupant.stays)
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray], known: Mapping[int, Occupant]) -> None:
        """Go on from what was saved, with those of its trials that are `known`. Only in a new pool, after `prepare`."""
        rows = [[int(entry) for entry in row] for row in arrays["occupants"]]
        for (number, lane, repetition, entered), spent in zip(rows, arrays["train_seconds"], strict=True):
            if number in known:
                occupant = known[number]
                occupant.repetition, occupant.entered, occupant.train_seconds = repetition, entered, float(spent)
                occupant.scores.restore({name: arrays[f"{number}_{name}"] for name in SCORES})
                if (stays := arrays.get(f"{number}_{STAYS}")) is not None:
                    occupant.stays = from_array(stays)
                self._occupants[lane] = occupant
        self._segment, self._clock = (int(entry) for entry in arrays["clock"])
        self._lanes = self.program.restore([arrays[name] for name in sorted(arrays) if name.startswith(LANES)])

    def _take_in(self) -> None:
        """Start the trials that have entered, and evaluate them before any training."""
        if not self._entering:
            return
        entering = {lane: self._occupants[lane] for lane in self._entering}
        hypers = self._hypers(entering)
        fresh = self.watch.time("train", lambda: self.program.start(self._keys(entering), hypers))
        for lane in self._entering:
            self._occupants[lane].entered = self._clock
        self._evaluate(list(entering), fresh, hypers)
        if self._lanes is None:
            self._lanes = fresh
        else:
            which = np.isin(np.arange(self.program.lanes), list(self._entering))
            self._lanes = self.watch.time(
                "train", lambda: self.program.refill(self._lanes, self.program.place(which), fresh)
            )
        self._entering.clear()

    def prepare(self, occupant: Occupant) -> None:
        """Have the program made executable for trials like this one."""
        alone = {0: occupant}
        made = self.program.prepare(self._keys(alone), self._hypers(alone), self._episode_keys)
        if made.compilations:
            self.watch.preparation = made

    def _train_until(self, stop: int) -> None:
        iterations = stop - self._clock
        if iterations > 0:
            hypers = self._hypers(self._occupants)
            self._lanes = self.watch.time(
                "train", lambda: self.program.train(self._lanes, hypers, self._clock, iterations)
            )
        self._clock = stop

    def _evaluate(self, lanes: list[int], state: Any = None, hypers: Any = None) -> None:
        """Score some lanes: of the pool, or of another state."""
        if state is None:
            state, hypers = self._lanes, self._hypers(self._occupants)
        found = self.watch.time("evaluate", lambda: self.program.evaluate(state, hypers, self._episode_keys))
        columns = {name: np.asarray(getattr(found, name)) for name in SCORES}
        for lane in lanes:
            self._occupants[lane].scores.points.append(
                {name: column[lane : lane + 1] for name, column in columns.items()}
            )
        if ending := [lane for lane in lanes if self._occupants[lane].segments == self.schedule.segments]:
            acting = self.program.acting(state)
            for lane in ending:
                occupant = self._occupants[lane]
                occupant.policy = self._policy(occupant.trial, of_lane(acting, lane))

    def _due(self, occupant: Occupant) -> int:
        """The pool's clock at the end of the occupant's next segment."""
        return occupant.entered + self.schedule.end(occupant.segments + 1)

    def _last_steps(self, segment: int) -> int:
        """Environment steps of all seeds of a trial in one of its segments."""
        iterations = self.schedule.end(segment) - self.schedule.end(segment - 1)
        return iterations * self.schedule.steps_per_iteration * self.program.seeds

    def _hypers(self, occupants: Mapping[int, Occupant]) -> Any:
        """[lanes]-leading arrays; a lane without occupant repeats the first that has one."""
        first = next(iter(occupants.values()))
        filled = [occupants.get(lane, first).values for lane in range(self.program.lanes)]
        return self.program.place(jax.tree.map(lambda *leaves: np.stack(leaves), *filled))

    def _keys(self, occupants: Mapping[int, Occupant]) -> Any:
        """[lanes, seeds], of a trial's repetitions from the one that it trains."""
        first = next(iter(occupants.values()))
        filled = [occupants.get(lane, first) for lane in range(self.program.lanes)]
        keys = training_keys(self._seed, [occupant.trial.number for occupant in filled], self._repetitions)
        seeds = np.array([o.repetition for o in filled])[:, None] + np.arange(self.program.seeds)
        return self.program.place(keys[np.arange(self.program.lanes)[:, None], seeds])

    def _lane_of(self, number: int) -> int:
        return next(lane for lane, occupant in self._occupants.items() if occupant.trial.number == number)

    def _advance_of(self, lane: int, occupant: Occupant) -> Advance:
        fault = occupant.scores.first_fault(0)
        points = len(occupant.scores.points) if fault is None else fault
        return Advance(
            number=occupant.trial.number,
            repetition=occupant.repetition,
            segments=occupant.segments,
            curve=occupant.scores.curve(0, self.schedule, points, self._episodes),
            fault_step=None if fault is None else self.schedule.steps()[fault],
            lane=lane,
            num_parameters=occupant.num_parameters,
            train_seconds=occupant.train_seconds,
            policy=occupant.policy,
            stays=occupant.stays,
        )
