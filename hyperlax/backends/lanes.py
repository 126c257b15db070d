"""Trials in lanes of compiled JAX programs on this machine: the common part of closed batches and of refilled lanes.

Everything that the caller sees happens in its own thread. One thread per slot only trains sessions, and sends their results to
the caller's thread through a queue.
"""

from __future__ import annotations

import queue
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from hyperlax.backends.base import Backend, Evicted
from hyperlax.engine import device
from hyperlax.engine.algorithm import TrainingTask
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.engine.costs import Costs, Load, Run, making_seconds, training_seconds
from hyperlax.engine.keys import SEARCH, Stream
from hyperlax.engine.lanes import NoRoom
from hyperlax.engine.packing import batches_of, makespan
from hyperlax.engine.programs import Programs
from hyperlax.engine.segments import Segments
from hyperlax.engine.session import LaneSession, identity_of
from hyperlax.errors import counted, in_one_line
from hyperlax.trial import Plan, SegmentResult, Trial


@dataclass(eq=False)
class Lanes:
    """The lanes of a program on a slot. Their `session` and the `numbers` of their trials depend on the kind of backend.

    training: its thread's current work. is_broken: whether that raised. leaving: trials whose results are not reported any more.
    """

    algorithm: Any
    slot: int
    training: Future[None] | None = None
    is_broken: bool = False
    leaving: set[int] = field(default_factory=set)


class _Event(NamedTuple):
    """The end of a segment. lanes: None only wakes `advance`. is_last: whether the thread has released the lanes."""

    lanes: Any
    results: Sequence[SegmentResult]
    error: BaseException | None
    is_last: bool


class LanesBackend(Backend, ABC):
    """A backend over the lanes of compiled programs. Its two kinds are in `closed` and `open`."""

    def __init__(
        self,
        task: TrainingTask,
        programs: Programs,
        *,
        seed: int,
        slot_devices: Sequence[Any],
        costs: Costs | None = None,
        packing: Mapping[str, Any] | None = None,
        stream: Stream = SEARCH,
        checkpoints: CheckpointManager | None = None,
        sure: Mapping[Any, Any] = MappingProxyType({}),
    ):
        """Make a backend without trials.

        Args:
          programs: Its programs.
          costs: Costs of earlier runs on this machine.
          packing: Choice of the programs.
          stream: The random numbers of training and evaluation.
          checkpoints: Saves trials in the middle of their training; None saves nothing.
          sure: The program that every trial of a new study needs -> the hyperparameters of one of its lanes; empty if there are
            several.
        """
        first = slot_devices[0]
        self.lanes, self.slots = programs.lanes, len(slot_devices)
        kind = first.device_kind if first.device_kind == first.platform else f"{first.device_kind} ({first.platform})"
        devices = len(set(slot_devices))
        several = [counted(devices, "device")] if devices > 1 else []
        self.device = ", ".join([kind, *several, counted(self.slots, "slot")])
        self._task, self._programs, self._packing = task, programs, dict(packing or {})
        self._seed, self.stream = seed, stream
        self._costs = costs or Costs(first.device_kind, first.platform, None)
        self._devices, self._checkpoints, self._sure = list(slot_devices), checkpoints, sure
        self._used: list[Any] = []
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(self.slots, thread_name_prefix="slot")

    @property
    def packing(self) -> dict[str, Any]:
        """Choice of the programs, and under "lanes" how many lanes each has run with, by its fingerprint."""
        return {**self._packing, "lanes": self._programs.settled()}

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        return sum(len(lanes.numbers) for lanes in tuple(self._used))

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is still being compiled."""
        sessions = [(lanes, lanes.session) for lanes in tuple(self._used)]
        return sum(len(lanes.numbers) for lanes, s in sessions if s is None or not s.program.is_ready)

    def prepare(self) -> None:
        """Begin to compile the program that every trial needs, for the first device: one trial uses no other."""
        for program, lane in self._sure.items():
            self._programs.compile(program, lane, self._devices[0])

    def wake(self) -> None:
        """Let `advance` return soon."""
        self._events.put(_Event(None, (), None, False))

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Block until at least one trial has new results. Return the new results of all trials, by number.

        Return no results if nothing trains.
        """
        results: list[SegmentResult] = []
        evicted: list[Evicted] = []
        while True:
            self.begin()
            happened = list(self._happened())
            for event in happened:
                if event.lanes is None:
                    continue
                if event.is_last:
                    event.lanes.training = None
                if event.error is None:
                    results += self._take(event)
                elif isinstance(event.error, Exception):
                    evicted += self._drop(event.lanes, event.error)
                else:
                    raise event.error
            if not happened or any(event.error is None for event in happened) or evicted:
                numbered = [eviction for eviction in evicted if eviction.numbers]
                return sorted(results, key=lambda result: result.number), numbered

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Partition trials into batches that can each share a program, the longest first.

        Saved batches that can continue to the same bits come first. For other saved batches the reason is logged.
        """
        saved = list(self._saved(trials))
        taken = {trial.number for batch, _ in saved for trial in batch}
        rest = [trial for trial in trials if trial.number not in taken]
        batches = batches_of(rest, self._task.program, self._programs.lanes_of, self._task.flops_of)
        expected = [(self._predicted_training(batch), batch) for batch in batches]
        expected.sort(key=lambda pair: -pair[0])
        whole = self._task.run_length.num_evaluations
        continued = [
            (self._predicted_training(batch) * (1 - metadata.segments / whole), batch) for batch, metadata in saved
        ]
        durations, made = [], set[Any]()
        for seconds, batch in (ordered := [*continued, *expected]):
            program, lanes = self._needs(batch)
            durations.append(seconds + (0.0 if program in made else self._predicted_making(program, lanes)))
            made.add(program)
        known = sum(map(self._is_known, made))
        is_rough = not self._costs.has_runs(self._task.kind)
        return Plan(tuple(batch for _, batch in ordered), len(made), known, makespan(durations, self.slots), is_rough)

    def steps(self, trial: Trial) -> list[int]:
        """Return the environment steps of one seed at each evaluation of a trial, the one before training included."""
        return Segments.of(self._task.run_length, self._task.program(trial).steps_per_iteration).steps()

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown()

    @abstractmethod
    def _train(self, lanes: Any) -> Iterator[tuple[Sequence[SegmentResult], bool]]:
        """Train in the slot's thread. Yield the trials' results after each segment, and whether it is the last."""

    @abstractmethod
    def _take(self, event: _Event) -> Sequence[SegmentResult]:
        """Handle the end of a segment. Return the results to report."""

    @abstractmethod
    def _drop(self, lanes: Any, error: Exception) -> Sequence[Evicted]:
        """Drop lanes whose program raised. Return the evictions to report."""

    def _happened(self) -> Iterator[_Event]:
        """Wait for an event, unless none can come, and yield all available ones."""
        if self._events.empty() and not any(lanes.training for lanes in self._used):
            return
        yield self._events.get()
        while not self._events.empty():
            yield self._events.get()

    def _start(self, lanes: Lanes) -> None:
        lanes.training = self._threads.submit(self._work, lanes)

    def _work(self, lanes: Lanes) -> None:
        try:
            for results, is_last in self._train(lanes):
                self._events.put(_Event(lanes, results, None, is_last))
        except BaseException as error:
            lanes.is_broken = True
            self._events.put(_Event(lanes, (), error, True))

    def _wait(self) -> None:
        wait([lanes.training for lanes in self._used if lanes.training is not None])

    def _session(self, algorithm: Any, slot: int, lanes: int, index: int = 0) -> LaneSession:
        return LaneSession(
            self._task,
            self._programs.program(algorithm, self._devices[slot], lanes),
            seed=self._seed,
            stream=self.stream,
            place=(slot, index),
        )

    def _prepare(self, session: LaneSession) -> None:
        """Make a session's program executable, and record how long that took."""
        made, program = session.prepare(), session.program
        if made.compilations:
            name = self._name(program.algorithm, program.lanes)
            self._costs.learn_program(self._task.kind, name, made.seconds, made.cached)

    def _shrink(self, algorithm: Any, lanes: int, error: Exception) -> bool:
        """Give a program that ran out of memory fewer lanes: as many as fit, or half. Return whether it can have fewer."""
        traceback.clear_frames(error.__traceback__)  # they hold the arrays that filled the memory
        if not device.is_out_of_memory(error) or lanes == 1:
            return False
        self._programs.shrink(algorithm, lanes, max(1, error.lanes) if isinstance(error, NoRoom) else lanes // 2)
        return True

    def _saved(self, trials: Sequence[Trial]) -> Iterator[tuple[tuple[Trial, ...], Metadata]]:
        """Yield the saved batches of these trials that can continue."""
        by_number = {trial.number: trial for trial in trials}
        for metadata in self._checkpoints.batches() if self._checkpoints else ():
            if not set(metadata.trials) <= by_number.keys():
                continue
            batch = tuple(by_number[number] for number in metadata.trials)
            parts = (*self._needs(batch), self._programs.num_seeds, self._seed, self.stream)
            if metadata.is_compatible(identity_of(self._task, batch, *parts)):
                yield batch, metadata

    def _needs(self, batch: Sequence[Trial]) -> tuple[Any, int]:
        """Return the program of a batch and its number of lanes."""
        program = self._task.program(batch[0])
        return program, self._programs.lanes_of(program)

    def _learn_run(self, session: LaneSession, trials: Sequence[Trial]) -> None:
        """Record the cost of a batch."""
        program, watch = session.program, session.watch
        iterations = session.segments.end(watch.segments)
        episodes = (watch.segments + 1) * program.lanes * program.seeds * self._task.run_length.num_eval_episodes
        load = self._load(program.algorithm, program.lanes, trials)
        self._costs.learn_run(Run(self._task.kind, load, watch.train / iterations, watch.evaluate / episodes))

    def _load(self, algorithm: Any, lanes: int, trials: Sequence[Trial]) -> Load:
        flops = max(map(self._task.flops_of, trials))
        return Load(lanes * self._programs.num_seeds, algorithm.steps_per_iteration, flops)

    def _predicted_training(self, batch: Sequence[Trial]) -> float:
        load = self._load(*self._needs(batch), batch)
        return training_seconds(self._costs, self._task.kind, load, self._task.run_length)

    def _predicted_making(self, algorithm: Any, lanes: int) -> float:
        if self._programs.is_ready(algorithm):
            return 0.0
        return making_seconds(self._costs, self._task.kind, self._name(algorithm, lanes))

    def _name(self, algorithm: Any, lanes: int) -> str:
        return device.program_name(algorithm, lanes, self._programs.num_seeds)

    def _is_known(self, algorithm: Any) -> bool:
        """Return whether the program is compiled already, in this process or in the persistent cache."""
        return self._programs.is_ready(algorithm) or self._costs.knows(
            self._name(algorithm, self._programs.lanes_of(algorithm))
        )


def final_error(error: Exception) -> Exception:
    """Return the error of a program that cannot have fewer lanes. One without memory says that a trial alone does not fit."""
    if not device.is_out_of_memory(error):
        return error
    short = MemoryError(f"not enough memory for one trial: {in_one_line(error)}")
    short.__cause__ = error
    return short
