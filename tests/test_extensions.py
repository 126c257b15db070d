"""What a user adds from outside runs through `run_study`: a backend that trains in worker processes, and a scheduler."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.backends.base import SHARED, Backend, EngineConfig, Evicted
from hyperlax.hyperparams import of_algorithm
from hyperlax.schedulers.base import Continue, Decision, Shown, Stop
from hyperlax.schedulers.registry import PRUNERS
from hyperlax.space import LogUniform
from hyperlax.trial import Curve, Plan, SegmentResult, Trial
from tests.study_cases import Case

LR = "algorithm.hyperparam.actor_lr"


class Processes(Backend):
    """Trains each trial in a worker process: its return is the logarithm of its learning rate."""

    device, lanes, slots, packing = "two processes", 1, 2, dict[str, Any]()

    def __init__(self, config: EngineConfig, checkpoints: Any):
        self._config = config
        self._pool = ProcessPoolExecutor(self.slots, multiprocessing.get_context("spawn"))
        self._running: dict[Future[float], Trial] = {}

    @property
    def occupied(self) -> int:
        return len(self._running)

    def plan(self, trials: Sequence[Trial]) -> Plan:
        return Plan(tuple((trial,) for trial in trials), 1, 1, None)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        for trial in trials:
            hyperparam: Any = of_algorithm(trial.config).hyperparam
            self._running[self._pool.submit(math.log10, hyperparam.actor_lr)] = trial
        return [trial.number for trial in trials]

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        results, evicted = [], []
        for future in wait(self._running, return_when=FIRST_COMPLETED).done if self._running else ():
            number, error = self._running.pop(future).number, future.exception()
            if isinstance(error, Exception):
                evicted.append(Evicted((number,), error))
            else:
                results.append(SegmentResult(number, 0, 1, self._curve(future.result()), None, True, None, 1, 0.0))
        return results, evicted

    def _curve(self, value: float) -> Curve:
        column = np.array([[-10.0] * self._config.num_seeds, [value] * self._config.num_seeds])
        return Curve(np.array([0, 500]), column, column, column, column, column, 1, 500)

    def save(self) -> None:
        self._running.clear()

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        return {"steps": 500 * len(numbers)}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def test_a_backend_of_worker_processes_trains_a_study(tmp_path: Path) -> None:
    case = Case(tmp_path, {LR: LogUniform(domain=(1e-5, 1e-2))}, n_trials=8, optuna_study_batch_size=4)
    assert case.start(Processes) == 0
    trials = case.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 8
    assert [trial.values[0] for trial in trials] == [math.log10(trial.params[LR]) for trial in trials]
    assert {trial.user_attrs["num_parameters"] for trial in trials} == {1}
    assert case.resume(Processes, n_trials=10) == 0
    assert case.states() == ["COMPLETE"] * 10


class StopsOdd:
    """Stops trials of odd number after their second segment."""

    def decide(self, shown: Mapping[int, Shown]) -> dict[int, Decision]:
        decisions: dict[int, Decision] = {}
        for number, trial in shown.items():
            if not trial.has_ended and len(trial.values):
                is_odd = number % 2 and len(trial.values) >= 2
                decisions[number] = Stop(2, "its number is odd") if is_odd else Continue(len(trial.values))
        return decisions


def test_a_scheduler_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRUNERS, "odd", lambda options: StopsOdd())
    case = Case(tmp_path, pruner="odd")
    assert case.start() == 0
    assert case.states() == ["COMPLETE", "PRUNED"] * 6
    stopped = [trial for trial in case.study().trials if trial.number % 2]
    assert {len(trial.intermediate_values) for trial in stopped} == {2}
    assert {trial.user_attrs["reason"] for trial in stopped} == {"its number is odd"}
