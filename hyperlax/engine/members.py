"""A population in one compiled program, a member a lane, advanced an interval at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperlax.agent import Policy
from hyperlax.engine import device
from hyperlax.engine.batch import SCORES, Assignment, Stopwatch, schedule_of
from hyperlax.engine.compilation import Preparation
from hyperlax.engine.costs import fingerprint
from hyperlax.engine.keys import continuation_keys, evaluation_keys, training_keys
from hyperlax.engine.lanes import Program, of_lane
from hyperlax.engine.population import Measured, Point
from hyperlax.engine.workload import Workload
from hyperlax.trial import Trial


class Members:
    """The lanes of one program, whose trials share its static hyperparameters.

    A trial is one member over one interval; its number is interval * members + member. Members that are never replaced train to
    the bit as a batch of the first interval's trials would. MemoryError where the program does not fit.
    """

    def __init__(self, workload: Workload, trials: Sequence[Trial], *, seed: int, num_seeds: int, slot: Any):
        """Of the first interval's trials."""
        self._workload, self._seed = workload, seed
        self._algorithm: Any = workload.program(trials[0])
        self.schedule = schedule_of(workload.run_length, self._algorithm.steps_per_iteration)
        self._program = Program(self._algorithm, len(trials), num_seeds, slot)
        self._first, self._slot = tuple(trials), slot
        self._lanes: Any = None
        self._made: Preparation | None = None
        self._uncounted = True

    @property
    def device(self) -> str:
        """The device in words."""
        return f"{self._slot.device_kind} ({self._slot.platform})"

    @property
    def steps(self) -> list[int]:
        """Environment steps of one seed at the beginning and after each interval."""
        return self.schedule.steps()

    @property
    def episodes(self) -> int:
        """Of each evaluation of one seed."""
        return self._workload.run_length.num_eval_episodes

    def num_parameters(self) -> int:
        """Trainable scalars of what acts, the same for all members."""
        return self._workload.num_parameters(self._first[0])

    def begin(self) -> Measured:
        """Initialise every member and evaluate it before any training."""
        watch = self._watch()
        hypers = self._hypers(self._first)
        keys = self._program.place(training_keys(self._seed, self._numbers(), self._program.seeds))
        self._lanes = self._guarded(lambda: watch.time("train", lambda: self._program.start(keys, hypers)))
        return Measured(self._evaluate(hypers, watch), self._timing(watch, 0))

    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured:
        """Train through an interval, each member from where member `source` is, under its own trial's hyperparameters."""
        watch = self._watch()
        hypers, moved = self._hypers(trials), np.asarray(source, np.int32)
        if (moved != np.arange(len(moved))).any():
            numbers = [trial.number for trial in trials]
            keys = self._program.place(continuation_keys(self._seed, numbers, self._program.seeds))
            self._lanes = self._guarded(lambda: self._program.branch(self._lanes, self._program.place(moved), keys))
        iterations = self.schedule.iterations()
        tick, count = sum(iterations[:interval]), iterations[interval]
        self._lanes = self._guarded(
            lambda: watch.time("train", lambda: self._program.train(self._lanes, hypers, tick, count))
        )
        steps = count * self.schedule.steps_per_iteration * len(trials) * self._program.seeds
        return Measured(self._evaluate(hypers, watch), self._timing(watch, steps))

    def identity(self) -> dict[str, Any]:
        """All that decides the members' bits but their hyperparameters, by name; see `hyperlax.checkpoints.Head`."""
        self._prepare()
        length = self._workload.run_length
        return {
            **device.identity(),
            "program": fingerprint(self._algorithm),
            "code": self._program.code(),
            "lanes": self._program.lanes,
            "seeds": self._program.seeds,
            "seed": self._seed,
            "budget": length.total_timesteps,
            "evaluations": length.num_evaluations,
            "episodes": length.num_eval_episodes,
        }

    def policy(self, member: int) -> Policy:
        """What a member has become so far."""
        return self._workload.policy(self._first[member], of_lane(self._program.acting(self._lanes), member))

    def save(self) -> dict[str, np.ndarray]:
        """The members' training state by name, which `restore` takes."""
        return {f"lanes_{place:05d}": array for place, array in enumerate(self._program.save(self._lanes))}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what members of the same identity saved; arrays of other names are left alone."""
        self._prepare()
        self._lanes = self._program.restore([arrays[name] for name in sorted(arrays) if name.startswith("lanes_")])

    def _watch(self) -> Stopwatch:
        """Runs from now on. What making the program cost counts in the first."""
        began = time.perf_counter()
        made = self._prepare()
        counted, self._uncounted = (made if self._uncounted else Preparation(0.0, [])), False
        return Stopwatch(counted, began=began)

    def _prepare(self) -> Preparation:
        made = self._made
        if made is None:
            keys = self._program.place(training_keys(self._seed, self._numbers(), self._program.seeds))
            hypers = self._hypers(self._first)
            made = self._made = self._guarded(lambda: self._program.prepare(keys, hypers, self._episodes()))
        return made

    def _hypers(self, trials: Sequence[Trial]) -> Any:
        return self._assignment(trials).hypers()

    def _numbers(self) -> list[int]:
        return self._assignment(self._first).numbers()

    def _assignment(self, trials: Sequence[Trial]) -> Assignment:
        return Assignment(self._program, tuple(trials), tuple(map(self._workload.lane, trials)), ())

    def _episodes(self) -> Any:
        return self._program.place(evaluation_keys(self._seed, self._program.seeds))

    def _evaluate(self, hypers: Any, watch: Stopwatch) -> Point:
        scores = self._guarded(
            lambda: watch.time("evaluate", lambda: self._program.evaluate(self._lanes, hypers, self._episodes()))
        )
        return {name: np.asarray(getattr(scores, name)) for name in SCORES}

    def _timing(self, watch: Stopwatch, steps: int) -> dict[str, Any]:
        return {
            **watch.timing(),
            "steps": steps,
            "steps_per_second": steps / (watch.train + watch.evaluate),
            "peak_memory_bytes": device.peak_memory_bytes(self._slot),
            "lanes": self._program.lanes,
            "useful_lane_segments": self._program.lanes if steps else 0,
            "predicted_seconds": None,
        }

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What the work gives, the device's memory running out as MemoryError."""
        try:
            return jax.block_until_ready(work())
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            raise MemoryError(f"no memory for {self._program.lanes} members at once") from error
