"""Trains hparam batches: a slot takes one batch at a time, and all slots share the compiled programs."""

from __future__ import annotations

import logging
import queue
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.engine import device
from hyperlax.engine.batch import Assignment, Keeper, Schedule, Stopwatch, schedule_of, train_batch
from hyperlax.engine.compilation import NoRoom, Preparation
from hyperlax.engine.costs import Costs, Load, Run, making_seconds, training_seconds
from hyperlax.engine.identity import identity_of
from hyperlax.engine.keys import SEARCH, Stream
from hyperlax.engine.plan import batches_of, makespan
from hyperlax.engine.pools import LanePools
from hyperlax.engine.registry import Registry
from hyperlax.engine.workload import Workload
from hyperlax.trial import BatchResult, HparamBatch, Plan, Trial

log = logging.getLogger(__name__)


class LaneRunner:
    """A `hyperlax.trial.Runner` over the lanes of compiled programs.

    registry: its programs. packing: how they were chosen, for whoever wants the same again. stream: of random numbers.
    """

    def __init__(
        self,
        workload: Workload,
        registry: Registry,
        *,
        seed: int,
        slot_devices: Sequence[Any],
        costs: Costs | None = None,
        packing: dict[str, Any] | None = None,
        stream: Stream = SEARCH,
    ):
        self.lanes, self.slots = registry.lanes, len(slot_devices)
        first = slot_devices[0]
        self.device = f"{first.device_kind} ({first.platform}), {self.slots} slots"
        self._workload, self._registry, self._packing = workload, registry, packing or {}
        self._seed, self._num_seeds, self._stream = seed, registry.num_seeds, stream
        self._costs = costs or Costs(first.device_kind, first.platform, None)
        self._devices = list(slot_devices)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.slots):
            self._free.put(slot)

    @property
    def packing(self) -> dict[str, Any]:
        """How the programs were chosen, and under "lanes" how many each has run with, by its fingerprint."""
        return {**self._packing, "lanes": self._registry.settled()}

    def plan(self, trials: Sequence[Trial], saved: Sequence[Head] = ()) -> Plan:
        """Partition trials into batches that can each share a program, the longest first.

        Before them come the saved batches that can go on to the same bits; of others the reason is logged.
        """
        kept = list(self._kept(trials, saved))
        taken = {number for batch, _ in kept for number in batch.numbers}
        rest = [trial for trial in trials if trial.number not in taken]
        batches = batches_of(rest, self._workload.program, self._registry.lanes_of, self._workload.effort)
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

    def pools(self, repetitions: int) -> LanePools:
        """The lanes of all slots, for trials that enter and leave while others train; see `hyperlax.pooling.Pools`.

        repetitions: seeds of a trial, of which the programs train as many at once as they have.
        """
        return LanePools(
            self._workload,
            self._registry,
            self._devices,
            seed=self._seed,
            repetitions=repetitions,
            prepared=self._learn_program,
        )

    def _needs(self, batch: HparamBatch) -> tuple[Any, int]:
        """The program of a batch and its lanes."""
        program = self._workload.program(batch.trials[0])
        return program, self._registry.lanes_of(program)

    def _identity(self, batch: HparamBatch, algorithm: Any, lanes: int) -> dict[str, Any]:
        identity = identity_of(
            self._workload, batch.trials, algorithm, lanes=lanes, seeds=self._num_seeds, seed=self._seed
        )
        return {**identity, "stream": list(self._stream)}

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
                    self._registry.shrink(
                        algorithm, lanes, max(1, error.lanes) if isinstance(error, NoRoom) else lanes // 2
                    )
                else:
                    return _with_refused(result, refused)
        finally:
            self._free.put(slot)

    def _run_on(
        self,
        slot: int,
        batch: HparamBatch,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: Checkpoint | None,
    ) -> BatchResult:
        algorithm, lanes = self._needs(batch)
        schedule = schedule_of(self._workload.run_length, algorithm.steps_per_iteration)
        predicted = self._predicted_training(algorithm, lanes, batch) + self._predicted_making(algorithm, lanes)
        program = self._registry.program(algorithm, self._devices[slot], lanes)
        assignment = Assignment(
            program,
            batch.trials,
            tuple(self._workload.lane(trial) for trial in batch.trials),
            tuple(self._workload.num_parameters(trial) for trial in batch.trials),
            self._workload.policy,
            slot,
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
        self._registry.settle(algorithm, lanes)
        self._learn_run(algorithm, lanes, batch, schedule, watch)
        steps = schedule.steps()[watch.segments] * len(batch.trials) * self._num_seeds
        timing = {
            **watch.timing(),
            "steps": steps,
            "steps_per_second": steps / (watch.train + watch.evaluate),
            "peak_memory_bytes": device.peak_memory_bytes(self._devices[slot]),
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
        if self._registry.is_ready(algorithm):
            return 0.0
        return making_seconds(self._costs, self._workload.kind, self._name(algorithm, lanes))

    def _name(self, algorithm: Any, lanes: int) -> str:
        return device.program_name(algorithm, lanes, self._num_seeds)

    def _is_known(self, algorithm: Any) -> bool:
        """Whether the program needs no compiling: it is in this process, or in the persistent cache."""
        return self._registry.is_ready(algorithm) or self._costs.knows(
            self._name(algorithm, self._registry.lanes_of(algorithm))
        )


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
