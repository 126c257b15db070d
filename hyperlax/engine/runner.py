"""Trains hparam batches: a slot takes one batch at a time, and all slots share the compiled programs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from hyperlax.engine import device
from hyperlax.engine.batch import Assignment, Schedule, train_batch
from hyperlax.engine.lanes import Program
from hyperlax.engine.plan import plan
from hyperlax.errors import UsageError
from hyperlax.recipe import RunLength
from hyperlax.trial import BatchResult, HparamBatch, Trial


class Workload(Protocol):
    """What the runner asks of whoever knows what is trained."""

    run_length: RunLength

    def program(self, trial: Trial) -> Hashable:
        """The algorithm to compile; equal for trials that can share a program."""
        ...

    def lane(self, trial: Trial) -> Any:
        """The trial's own numbers, a tree of numpy scalars and arrays of one structure for all trials of a program."""
        ...

    def num_parameters(self, trial: Trial) -> int:
        """Trainable scalars of what acts."""
        ...


class LaneRunner:
    """A `hyperlax.trial.Runner` over the lanes of compiled programs."""

    def __init__(self, workload: Workload, *, seed: int, num_seeds: int, lanes: int, slot_devices: Sequence[Any]):
        self.lanes, self.slots = lanes, len(slot_devices)
        self.device = f"{slot_devices[0].device_kind} ({slot_devices[0].platform}), {self.slots} slots"
        self._workload, self._seed, self._num_seeds = workload, seed, num_seeds
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for slot in slot_devices:
            self._free.put(slot)
        self._programs: dict[tuple[Hashable, Any], Program] = {}
        self._seconds_per_segment: dict[tuple[Hashable, Any], float] = {}
        self._lock = threading.Lock()

    def plan(self, trials: Sequence[Trial]) -> list[HparamBatch]:
        """Partition trials into batches that can each share a program."""
        return plan(trials, self._workload.program, self.lanes)

    def run(self, batch: HparamBatch, *, should_stop: Callable[[], bool], report: Callable[[int], None]) -> BatchResult:
        """Train a batch to its end on the next free slot; see `hyperlax.trial.Runner`."""
        slot = self._free.get()
        try:
            return self._run_on(slot, batch, should_stop, report)
        finally:
            self._free.put(slot)

    def _run_on(
        self, slot: Any, batch: HparamBatch, should_stop: Callable[[], bool], report: Callable[[int], None]
    ) -> BatchResult:
        began = time.perf_counter()
        algorithm: Any = self._workload.program(batch.trials[0])
        schedule = schedule_of(self._workload.run_length, algorithm.steps_per_iteration)
        program = self._program(algorithm, slot)
        assignment = Assignment(
            program,
            batch.trials,
            tuple(self._workload.lane(trial) for trial in batch.trials),
            tuple(self._workload.num_parameters(trial) for trial in batch.trials),
        )
        predicted = self._seconds_per_segment.get((algorithm, slot))
        outcomes, watch = train_batch(
            assignment,
            schedule,
            seed=self._seed,
            episodes=self._workload.run_length.num_eval_episodes,
            should_stop=should_stop,
            report=report,
        )
        wall = time.perf_counter() - began
        self._seconds_per_segment[(algorithm, slot)] = (watch.train + watch.evaluate) / watch.segments
        steps = schedule.steps()[watch.segments] * len(batch.trials) * self._num_seeds
        timing = {
            "programs_compiled": len(watch.compilations),
            "compile_seconds": watch.compile,
            "train_seconds": watch.train,
            "evaluate_seconds": watch.evaluate,
            "wall_seconds": wall,
            "steps": steps,
            "steps_per_second": steps / (watch.train + watch.evaluate),
            "peak_memory_bytes": device.peak_memory_bytes(slot),
            "lanes": self.lanes,
            "useful_lane_segments": _useful_lane_segments(outcomes),
            "predicted_seconds": None if predicted is None else predicted * schedule.segments,
        }
        return BatchResult(tuple(outcomes), timing)

    def _program(self, algorithm: Hashable, slot: Any) -> Program:
        with self._lock:
            key = (algorithm, slot)
            if key not in self._programs:
                self._programs[key] = Program(algorithm, self.lanes, self._num_seeds, slot)
            return self._programs[key]


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


def _useful_lane_segments(outcomes: Sequence[Any]) -> int:
    """Segments that ended in a score which somebody keeps."""
    return sum(max(len(outcome.curve.steps) - 1, 0) for outcome in outcomes)
