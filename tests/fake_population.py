"""A population without jax: each member climbs by a gain that follows from its hyperparameters, a seed by a little less."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from hyperlax.agent import Policy
from hyperlax.backends.former import Measured
from hyperlax.recipe import dotted
from hyperlax.trial import MEASURED, Trial

STEPS_PER_INTERVAL = 100


@dataclass
class FakePopulation:
    """fail: (interval, member) whose returns are nan. after: called with the number of an interval once it is trained."""

    members: int
    intervals: int
    seeds: int = 2
    device: str = "fake"
    fail: frozenset[tuple[int, int]] = frozenset()
    after: Callable[[int], None] = lambda interval: None
    machine: str = "this one"
    trained: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = np.zeros((self.members, self.seeds))

    @property
    def steps(self) -> list[int]:
        return [STEPS_PER_INTERVAL * i for i in range(self.intervals + 1)]

    def num_parameters(self) -> int:
        return 100

    def begin(self) -> Measured:
        self.x = np.linspace(-1200, -1190, self.members * self.seeds).reshape(self.members, self.seeds)
        return self._measured()

    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured:
        self.x = self.x[np.asarray(source)] + np.array([[gain(trial, interval)] for trial in trials])
        for failed, member in self.fail:
            if failed == interval:
                self.x[member] = np.nan
        self.trained.append(interval)
        self.after(interval)
        return self._measured()

    def policy(self, member: int) -> Policy:
        return Policy({}, {"score": self.x[member]})

    def identity(self) -> dict[str, Any]:
        return {"machine": self.machine}

    def save(self) -> dict[str, np.ndarray]:
        return {"lanes_00000": self.x}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.x = arrays["lanes_00000"]

    def _measured(self) -> Measured:
        point = {name: self.x.copy() for name in MEASURED} | {"finite": np.isfinite(self.x)}
        names = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
        timing = dict.fromkeys((*names, "steps_per_second", "useful_lane_segments"), 0)
        return Measured(point, {**timing, "peak_memory_bytes": None, "lanes": self.members, "predicted_seconds": None})


def gain(trial: Trial, interval: int) -> float:
    """From 0 to 100, of every hyperparameter and of nothing else but the interval."""
    text = json.dumps([interval, dotted(trial.algorithm)], sort_keys=True)
    return 100 * int.from_bytes(sha256(text.encode()).digest()[:4], "big") / 2**32
