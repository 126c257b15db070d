"""Trains hparam batches: a slot takes one batch at a time, and all slots share the compiled programs."""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax

from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.engine import device
from hyperlax.engine.batch import Assignment, Keeper, Schedule, Stopwatch, train_batch
from hyperlax.engine.costs import Costs, Load, Run, fingerprint, making_seconds, training_seconds
from hyperlax.engine.keys import SEARCH, Stream
from hyperlax.engine.lanes import NoRoom, Preparation, Program
from hyperlax.engine.plan import batches_of, makespan
from hyperlax.engine.workload import Workload
from hyperlax.errors import UsageError
from hyperlax.recipe import RunLength
from hyperlax.trial import BatchResult, HparamBatch, Plan, Trial

log = logging.getLogger(__name__)


class LaneRunner:
    """A `hyperlax.trial.Runner` over the lanes of compiled programs.

    lanes: the most lanes of any program. lanes_of: how many each program is given, at first. room: bytes that a program may
    take on a device, where it is to be given fewer lanes if it needs more. packing: how the programs were chosen, for whoever
    wants the same again. lanes_before: fingerprint of a program -> the lanes it has run with, which it is given without asking.
    stream: of random numbers.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        seed: int,
        num_seeds: int,
        lanes: int,
        slot_devices: Sequence[Any],
        lanes_of: Callable[[Any], int] | None = None,
        room: Callable[[Any], int | None] | None = None,
        lanes_before: Mapping[str, int] | None = None,
        costs: Costs | None = None,
        packing: dict[str, Any] | None = None,
        stream: Stream = SEARCH,
    ):
        self.lanes, self.slots = lanes, len(slot_devices)
        first = slot_devices[0]
        self.device = f"{first.device_kind} ({first.platform}), {self.slots} slots"
        self._packing, self._settled = packing or {}, dict(lanes_before or {})
        self._workload, self._seed, self._num_seeds, self._stream = workload, seed, num_seeds, stream
        self._costs = costs or Costs(first.device_kind, first.platform, None)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for slot in slot_devices:
            self._free.put(slot)
        self._room, self._first_lanes = room, lanes_of or (lambda algorithm: lanes)
        self._lanes: dict[Hashable, int] = {}
        self._programs: dict[tuple[Hashable, Any, int], Program] = {}
        self._lock = threading.Lock()

    @property
    def packing(self) -> dict[str, Any]:
        """How the programs were chosen, and under "lanes" how many each has run with, by its fingerprint."""
        with self._lock:
            return {**self._packing, "lanes": dict(self._settled)}

    def plan(self, trials: Sequence[Trial], saved: Sequence[Head] = ()) -> Plan:
        """Partition trials into batches that can each share a program, the longest first.

        Before them come the saved batches that can go on to the same bits; of others the reason is logged.
        """
        kept = list(self._kept(trials, saved))
        taken = {number for batch, _ in kept for number in batch.numbers}
        rest = [trial for trial in trials if trial.number not in taken]
        batches = batches_of(rest, self._workload.program, self._lanes_of, self._workload.effort)
        expected = [(self._predicted_training(*self._needs(batch), batch), batch) for batch in batches]
        expected.sort(key=lambda pair: -pair[0])
        whole = self._workload.run_length.num_evaluations
        going_on = [
            (self._predicted_training(*self._needs(batch), batch) * (1 - head.segments / whole), batch)
            for batch, head in kept
        ]
        durations, made = [], set[Any]()
        for seconds, batch in (ordered := [*going_on, *expected]):
            program, lanes = self._needs(batch)
            durations.append(seconds + (0.0 if program in made else self._predicted_making(program, lanes)))
            made.add(program)
        known = sum(map(self._is_known, made))
        return Plan(tuple(batch for _, batch in ordered), len(made), known, makespan(durations, self.slots))

    def _kept(self, trials: Sequence[Trial], saved: Sequence[Head]) -> Iterator[tuple[HparamBatch, Head]]:
        """The saved batches of these trials that can go on."""
        by_number = {trial.number: trial for trial in trials}
        for head in saved:
            if not set(head.trials) <= by_number.keys():
                continue
            batch = HparamBatch(tuple(by_number[number] for number in head.trials))
            if head.goes_on(self._identity(batch, *self._needs(batch))):
                yield batch, head

    def _needs(self, batch: HparamBatch) -> tuple[Any, int]:
        """The program of a batch and its lanes."""
        program = self._workload.program(batch.trials[0])
        return program, self._lanes_of(program)

    def _identity(self, batch: HparamBatch, algorithm: Any, lanes: int) -> dict[str, Any]:
        """All that decides a batch's bits, by name; see `Head`."""
        length = self._workload.run_length
        own = [leaf.tobytes() for trial in batch.trials for leaf in jax.tree.leaves(self._workload.lane(trial))]
        return {
            **device.identity(),
            "program": fingerprint(algorithm, *map(self._workload.program, batch.trials)),
            "lanes": lanes,
            "seeds": self._num_seeds,
            "seed": self._seed,
            "stream": list(self._stream),
            "budget": length.total_timesteps,
            "evaluations": length.num_evaluations,
            "episodes": length.num_eval_episodes,
            "hyperparameters": fingerprint(*own),
        }

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: Checkpoint | None = None,
    ) -> BatchResult:
        """Train a batch to its end on the next free slot; see `hyperlax.trial.Runner`.

        Where the device has not the memory for as many lanes, the program is given as many as fit, or half, from then on. What
        does not fit into the lanes that are left is for the caller to halve: MemoryError.
        """
        slot, refused = self._free.get(), []
        try:
            while True:
                algorithm, lanes = self._needs(batch)
                if lanes < len(batch.trials):
                    raise MemoryError(f"no memory for more than {lanes} trials at once")
                try:
                    result = self._run_on(slot, batch, should_stop, report, checkpoint)
                except Exception as error:
                    if not device.is_out_of_memory(error):
                        raise
                    traceback.clear_frames(error.__traceback__)  # they hold the arrays that filled the memory
                    if lanes == 1:
                        raise MemoryError(f"no memory for one trial: {' '.join(str(error).split())}") from error
                    refused += [error.preparation] if isinstance(error, NoRoom) else []
                    self._shrink(algorithm, lanes, max(1, error.lanes) if isinstance(error, NoRoom) else lanes // 2)
                else:
                    return _with_refused(result, refused)
        finally:
            self._free.put(slot)

    def _run_on(
        self,
        slot: Any,
        batch: HparamBatch,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: Checkpoint | None,
    ) -> BatchResult:
        algorithm, lanes = self._needs(batch)
        schedule = schedule_of(self._workload.run_length, algorithm.steps_per_iteration)
        predicted = self._predicted_training(algorithm, lanes, batch) + self._predicted_making(algorithm, lanes)
        program = self._program(algorithm, slot, lanes)
        assignment = Assignment(
            program,
            batch.trials,
            tuple(self._workload.lane(trial) for trial in batch.trials),
            tuple(self._workload.num_parameters(trial) for trial in batch.trials),
        )
        outcomes, watch = train_batch(
            assignment,
            schedule,
            seed=self._seed,
            episodes=self._workload.run_length.num_eval_episodes,
            should_stop=should_stop,
            report=report,
            prepared=lambda made: self._learn_program(algorithm, lanes, made),
            stream=self._stream,
            keeper=Keeper(checkpoint, batch.numbers, self._identity(batch, algorithm, lanes)) if checkpoint else None,
        )
        with self._lock:
            self._settled[fingerprint(algorithm)] = lanes
        self._learn_run(algorithm, lanes, batch, schedule, watch)
        steps = schedule.steps()[watch.segments] * len(batch.trials) * self._num_seeds
        timing = {
            **watch.timing(),
            "steps": steps,
            "steps_per_second": steps / (watch.train + watch.evaluate),
            "peak_memory_bytes": device.peak_memory_bytes(slot),
            "lanes": lanes,
            "useful_lane_segments": _useful_lane_segments(outcomes),
            "predicted_seconds": predicted,
        }
        return BatchResult(tuple(outcomes), timing)

    def _learn_program(self, algorithm: Any, lanes: int, made: Preparation) -> None:
        """Remember what compiling or loading cost."""
        if made.compilations:
            self._costs.learn_program(self._workload.kind, self._name(algorithm, lanes), made.seconds, made.cached)

    def _learn_run(self, algorithm: Any, lanes: int, batch: HparamBatch, schedule: Schedule, watch: Stopwatch) -> None:
        """Remember what this batch cost."""
        iterations = sum(schedule.iterations()[: watch.segments])
        runs = lanes * self._num_seeds
        episodes = (watch.segments + 1) * runs * self._workload.run_length.num_eval_episodes
        self._costs.learn_run(
            Run(
                self._workload.kind,
                self._load(algorithm, lanes, batch),
                watch.train / iterations,
                watch.evaluate / episodes,
            )
        )

    def _load(self, algorithm: Any, lanes: int, batch: HparamBatch) -> Load:
        work = algorithm.work(max(map(self._workload.effort, batch.trials)))
        return Load(lanes * self._num_seeds, algorithm.steps_per_iteration, work)

    def _predicted_training(self, algorithm: Any, lanes: int, batch: HparamBatch) -> float:
        load = self._load(algorithm, lanes, batch)
        return training_seconds(self._costs, self._workload.kind, load, self._workload.run_length)

    def _predicted_making(self, algorithm: Any, lanes: int) -> float:
        if self._is_ready(algorithm):
            return 0.0
        return making_seconds(self._costs, self._workload.kind, self._name(algorithm, lanes))

    def _name(self, algorithm: Any, lanes: int) -> str:
        return device.program_name(algorithm, lanes, self._num_seeds)

    def _is_ready(self, algorithm: Hashable) -> bool:
        with self._lock:
            return any(known == algorithm and program.is_ready for (known, *_), program in self._programs.items())

    def _is_known(self, algorithm: Any) -> bool:
        """Whether the program needs no compiling: it is in this process, or in the persistent cache."""
        return self._is_ready(algorithm) or self._costs.knows(self._name(algorithm, self._lanes_of(algorithm)))

    def _lanes_of(self, algorithm: Any) -> int:
        with self._lock:
            if algorithm not in self._lanes:
                first = min(self.lanes, self._first_lanes(algorithm))
                self._lanes[algorithm] = self._settled.get(fingerprint(algorithm), first)
            return self._lanes[algorithm]

    def _shrink(self, algorithm: Hashable, lanes: int, fewer: int) -> None:
        """Give the program `fewer` than `lanes`, and forget the larger one, unless another slot did so already."""
        with self._lock:
            if self._lanes[algorithm] == lanes:
                self._lanes[algorithm] = fewer
                self._programs = {key: program for key, program in self._programs.items() if key[0] != algorithm}
                log.warning("No memory for %d trials at once: %d from now on.", lanes, fewer)

    def _program(self, algorithm: Hashable, slot: Any, lanes: int) -> Program:
        with self._lock:
            key = (algorithm, slot, lanes)
            if key not in self._programs:
                room = None if fingerprint(algorithm) in self._settled else self._room
                self._programs[key] = Program(algorithm, lanes, self._num_seeds, slot, room)
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


def _with_refused(result: BatchResult, refused: Sequence[Preparation]) -> BatchResult:
    """A result that also counts the programs that were compiled before its own and did not fit."""
    seconds = sum(made.seconds for made in refused)
    timing = {
        **result.timing,
        "programs_compiled": result.timing["programs_compiled"] + sum(not made.cached for made in refused),
        "compile_seconds": result.timing["compile_seconds"] + seconds,
        "wall_seconds": result.timing["wall_seconds"] + seconds,
    }
    return BatchResult(result.outcomes, timing)


def _useful_lane_segments(outcomes: Sequence[Any]) -> int:
    """Segments that ended in a score which somebody keeps."""
    return sum(max(len(outcome.curve.steps) - 1, 0) for outcome in outcomes)
