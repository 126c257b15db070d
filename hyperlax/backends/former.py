"""DELETE THIS MODULE WITH THE FORMER LOOPS: what `study/loop`, `pooled`, `confirming`, `single` and `population` call, on backends.

Imports no jax by itself.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from hyperlax.agent import Policy
from hyperlax.backends.base import SHARED, EngineConfig, Evicted
from hyperlax.engine.checkpoint import CheckpointFile, CheckpointManager, Metadata
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import NOT_FINITE, BatchResult, HparamBatch, Interrupted, Outcome, Plan, SegmentResult, Trial

if TYPE_CHECKING:
    from hyperlax.backends.closed import ClosedBatches
    from hyperlax.backends.lanes import LanesBackend
    from hyperlax.backends.open import OpenLanes

COSTS = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
SUMMED = (*COSTS, "lane_segments")


Point = dict[str, np.ndarray]
"""One evaluation: the columns of a curve and `finite` bool, [members, seeds] each."""


class Measured(NamedTuple):
    """An evaluation and what it cost, in the words of `timing.json`."""

    point: Point
    timing: dict[str, Any]


class Population(Protocol):
    """Members that train an interval at a time: `SessionMembers`, or what stands for them in a test."""

    @property
    def device(self) -> str: ...
    @property
    def steps(self) -> list[int]: ...
    def num_parameters(self) -> int: ...
    def begin(self) -> Measured: ...
    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured: ...
    def policy(self, member: int) -> Policy: ...
    def identity(self) -> dict[str, Any]: ...
    def save(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class Runner(Protocol):
    """Trains hparam batches. `run` may be called from `slots` threads at once."""

    slots: int

    def plan(self, trials: Sequence[Trial], saved: Sequence[Metadata] = ()) -> Plan: ...

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: CheckpointFile | None = None,
    ) -> BatchResult: ...


class Pools(Protocol):
    """The lanes of all slots, for trials that enter and leave between segments."""

    @property
    def occupied(self) -> int: ...
    @property
    def preparing(self) -> int: ...
    def enter(self, trial: Trial, repetition: int = 0, cohort: int = SHARED) -> bool: ...
    def leave(self, number: int) -> None: ...
    def begin(self) -> None: ...
    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]: ...
    def save(self, checkpoints: CheckpointManager) -> None: ...
    def restore(
        self, checkpoints: CheckpointManager, trials: Mapping[int, Trial], unfinished: Collection[int]
    ) -> Sequence[SegmentResult]: ...
    def timing(self) -> dict[str, Any]: ...


class BackendRunner:
    """A `Runner` over a backend."""

    def __init__(self, backend: LanesBackend):
        self.backend: Any = backend
        self.lanes, self.slots, self.device = backend.lanes, backend.slots, backend.device
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.slots):
            self._free.put(slot)

    @property
    def packing(self) -> Mapping[str, Any]:
        return self.backend.packing

    def plan(self, trials: Sequence[Trial], saved: Sequence[Metadata] = ()) -> Plan:
        self.backend._checkpoints = SimpleNamespace(batches=lambda: saved)
        try:
            return self.backend.plan(trials)
        finally:
            self.backend._checkpoints = None

    def pools(self, repetitions: int) -> BackendPools:
        return BackendPools(self.backend)

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: CheckpointFile | None = None,
    ) -> BatchResult:
        backend: ClosedBatches = self.backend
        slot = self._free.get()
        try:
            job = backend._batch(batch.trials, SHARED)
            job.slot, job.checkpoint, job.should_stop = slot, checkpoint, should_stop
            while True:
                try:
                    return self._trained(job, report)
                except Exception as error:
                    final = None if isinstance(error, Interrupted) else backend._error_of(job, error)
                    if final is error or isinstance(error, Interrupted):
                        raise
                    if final is not None:
                        raise final from error
        finally:
            self._free.put(slot)

    def _trained(self, job: Any, report: Callable[[int], None]) -> BatchResult:
        results: dict[int, SegmentResult] = {}
        told = None
        for shown, _ in self.backend._train(job):
            if told is None:
                report(0)
            steps, done = job.session.segments.steps(), shown[0].segments
            report((steps[done] - steps[done - 1]) * len(shown) * job.session.program.seeds)
            told, results = done, {result.number: result for result in shown}
        if not all(result.is_done for result in results.values()):
            raise Interrupted
        return BatchResult(tuple(outcome_of(results[number]) for number in job.numbers), job.timing)


def outcome_of(result: SegmentResult) -> Outcome:
    failed = result.fault_step is not None
    return Outcome(
        number=result.number,
        state="FAIL" if failed else "COMPLETE",
        reason=NOT_FINITE if failed else "",
        curve=result.curve,
        num_parameters=result.num_parameters,
        train_seconds=result.train_seconds,
        lane=result.lane,
        fault_step=result.fault_step,
        intervals=result.intervals,
        policy=result.policy,
    )


class BackendPools:
    """`Pools` over a backend."""

    def __init__(self, backend: OpenLanes):
        self._backend: Any = backend

    @property
    def occupied(self) -> int:
        return self._backend.occupied

    @property
    def preparing(self) -> int:
        return self._backend.preparing

    def enter(self, trial: Trial, repetition: int = 0, cohort: int = SHARED) -> bool:
        return bool(self._backend.enter([trial], repetition, cohort))

    def leave(self, number: int) -> None:
        self._backend.leave(number)

    def begin(self) -> None:
        self._backend.begin()

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        return self._backend.advance()

    def save(self, checkpoints: CheckpointManager) -> None:
        self._backend._checkpoints = checkpoints
        self._backend.save()

    def restore(
        self, checkpoints: CheckpointManager, trials: Mapping[int, Trial], unfinished: Collection[int]
    ) -> Sequence[SegmentResult]:
        self._backend._checkpoints = checkpoints
        return self._backend.restore(trials, unfinished)

    def timing(self) -> dict[str, Any]:
        backend = self._backend
        told = dict(backend._told)
        rest = {name: backend.timing(())[name] for name in ("peak_memory_bytes", "lanes")}
        backend._told = told
        return {**backend.spent(), **rest}

    def close(self) -> None:
        self._backend.close()


class SessionMembers:
    """A `Population` over a session."""

    def __init__(self, backend: LanesBackend, trials: Sequence[Trial]):
        self._backend: Any = backend
        self._first, self.device = tuple(trials), backend.device.rpartition(",")[0]
        self.steps = backend.steps(trials[0])
        algorithm = self._backend._task.program(trials[0])
        self._session = self._backend._session(algorithm, 0, len(trials))
        self._numbers = [trial.number for trial in trials]
        self._before: dict[str, float] = {}
        self._results: Sequence[SegmentResult] = ()

    def num_parameters(self) -> int:
        return self._backend._task.num_parameters(self._first[0])

    def begin(self) -> Measured:
        for trial in self._first:
            self._session.enter(trial)
        self._guarded(self._session.prepare)
        self._guarded(self._session.start)
        return self._measured(0)

    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured:
        steps = self._session.steps
        if interval:
            copies = [(self._numbers[origin], trial) for origin, trial in zip(source, trials, strict=True)]
            self._guarded(lambda: self._session.branch(copies))
        self._numbers = [trial.number for trial in trials]
        self._results = self._guarded(self._session.advance)
        return self._measured(self._session.steps - steps)

    def identity(self) -> dict[str, Any]:
        self._guarded(lambda: self._session.prepare(self._first[0]))
        identity = self._session.identity(self._first)
        del identity["hyperparameters"]
        return identity

    def policy(self, member: int) -> Any:
        return self._results[member].policy

    def save(self) -> dict[str, np.ndarray]:
        return {**self._session.save()[1], "numbers": np.array(self._numbers)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._guarded(lambda: self._session.prepare(self._first[0]))
        self._numbers = [int(number) for number in arrays["numbers"]]
        size = len(self._first)
        metadata = Metadata(tuple(self._numbers), {}, 0, {})
        self._session.restore(metadata, arrays, {n: Trial(n, self._first[n % size].algorithm) for n in self._numbers})
        self._results = self._session.standings()

    def _measured(self, steps: int) -> Measured:
        assignments = [self._session._lanes[lane] for lane in range(len(self._first))]
        point: Point = {name: np.stack([a.points[-1][name] for a in assignments]) for name in assignments[0].points[-1]}
        now = self._session.watch.timing()
        timing = {name: value - self._before.get(name, 0) for name, value in now.items()}
        self._before = now
        trained = timing["train_seconds"] + timing["evaluate_seconds"]
        rest = self._backend.timing(())
        return Measured(
            point,
            {
                **timing,
                "steps": steps,
                "steps_per_second": steps / trained,
                "peak_memory_bytes": rest["peak_memory_bytes"],
                "lanes": len(self._first),
                "useful_lane_segments": len(self._first) if steps else 0,
                "predicted_seconds": None,
            },
        )

    def _guarded(self, work: Callable[[], Any]) -> Any:
        from hyperlax.engine import device

        try:
            return work()
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            raise MemoryError(f"no memory for {len(self._first)} members at once") from error


def make_members(
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    trials: Sequence[Trial],
    *,
    environment: str,
    run_length: RunLength,
    seed: int,
    num_seeds: int,
    compilation_cache: bool,
) -> SessionMembers:
    from hyperlax.backends.local import make_backend

    config = EngineConfig(
        base=base,
        space=space,
        environment=environment,
        run_length=run_length,
        seed=seed,
        num_seeds=num_seeds,
        num_trials=len(trials),
        super_batch=len(trials),
        lanes=len(trials),
        packing="pad",
        compilation_cache=compilation_cache,
        kind="population",
    )
    return SessionMembers(make_backend(config), trials)
