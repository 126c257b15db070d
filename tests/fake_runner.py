"""A runner without jax: a curve computed from the hyperparameters in microseconds, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hyperlax.engine.checkpoint import CheckpointFile, Metadata
from hyperlax.recipe import dotted
from hyperlax.trial import BatchResult, Curve, HparamBatch, Interrupted, LaneInterval, Outcome, Plan, Trial
from tests.fake_pools import FakePools

POINTS = 5
STEPS_PER_POINT = 100


@dataclass
class FakeRunner:
    """fail: trial -> reason; infinite: trials whose curve has inf; raises: trial -> what its batch raises, once per entry.

    gives: trial -> what its batch gives, made of what it should. saves: every batch saves itself before it does anything else.
    after_batch, after_segment: called with how many there were.
    """

    lanes: int = 3
    slots: int = 1
    num_seeds: int = 2
    device: str = "fake"
    packing: dict[str, Any] = field(default_factory=dict)
    fail: dict[int, str] = field(default_factory=dict)
    infinite: set[int] = field(default_factory=set)
    raises: dict[int, BaseException] = field(default_factory=dict)
    gives: dict[int, Callable[[BatchResult], Any]] = field(default_factory=dict)
    saves: bool = False
    after_batch: Callable[[int], None] = lambda count: None
    after_segment: Callable[[int], None] = lambda count: None
    racing: bool = False
    trained: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    batches: int = 0

    def plan(self, trials: Sequence[Trial], saved: Sequence[Metadata] = ()) -> Plan:
        """As many batches of `lanes` trials as it takes."""
        batches = tuple(HparamBatch(tuple(trials[i : i + self.lanes])) for i in range(0, len(trials), self.lanes))
        return Plan(batches, 1, 1, None)

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: CheckpointFile | None = None,
    ) -> BatchResult:
        """Train, or do what the fields say."""
        if self.saves and checkpoint:
            checkpoint.save(Metadata(batch.numbers, {}, 1, {}), {"state": np.zeros(1)})
        for trial in batch.trials:
            if trial.number in self.raises:
                raise self.raises[trial.number]
        if should_stop():
            raise Interrupted
        report(POINTS * STEPS_PER_POINT * len(batch.trials) * self.num_seeds)
        outcomes = tuple(self._outcome(trial, lane) for lane, trial in enumerate(batch.trials))
        with self.lock:
            self.trained += [trial.number for trial in batch.trials]
            self.batches += 1
            self.after_batch(self.batches)
        result = BatchResult(outcomes, _timing(self.lanes))
        wrong = [self.gives[trial.number] for trial in batch.trials if trial.number in self.gives]
        return wrong[0](result) if wrong else result

    def pools(self, repetitions: int) -> FakePools:
        """As many lanes as all slots have; racing: a trial's seeds train one after another."""

        def whole(trial: Trial) -> Curve:
            return curve_of(trial, repetitions)

        seeds = 1 if self.racing else repetitions
        return FakePools(self.lanes * self.slots, seeds, whole, self.raises, self.fail, self.after_segment)

    def _outcome(self, trial: Trial, lane: int) -> Outcome:
        curve = curve_of(trial, self.num_seeds)
        if trial.number in self.infinite:
            curve = replace(curve, mean=np.where(curve.steps[:, None] > 300, np.inf, curve.mean))
        reason = self.fail.get(trial.number, "")
        state, fault_step = ("FAIL", STEPS_PER_POINT * POINTS) if reason else ("COMPLETE", None)
        intervals = (LaneInterval(0, 0, lane, 1000.0, float(self.batches), self.batches + 1.0),)
        return Outcome(trial.number, state, reason, curve, 100 + trial.number % 7, 0.25, lane, fault_step, intervals)


def curve_of(trial: Trial, num_seeds: int) -> Curve:
    """Rising returns between pendulum's lo and hi that depend on every hyperparameter, the seed and nothing else."""
    text = json.dumps(dotted(trial.algorithm), sort_keys=True)
    gain = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    steps = np.arange(POINTS + 1, dtype=np.int64) * STEPS_PER_POINT
    rise = np.linspace(0, 1, POINTS + 1)[:, None] * np.linspace(0.9, 1.0, num_seeds)[None, :]
    mean = -1200.0 + 1000.0 * gain * rise
    spread = np.full_like(mean, 10.0)
    return Curve(steps, mean, spread, mean - spread, mean + spread, np.full_like(mean, 200.0), 4, steps[-1])


def _timing(lanes: int) -> dict[str, float | None]:
    names = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
    rest = ("steps_per_second", "useful_lane_segments", "predicted_seconds")
    return {**dict.fromkeys((*names, *rest), 0), "peak_memory_bytes": None, "lanes": lanes}
