"""What the engine can train."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from jax import Array


class Algorithm(Hashable, Protocol):
    """What the engine can train: pure functions of one seed of one lane."""

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one `step`."""
        ...

    def init(self, key: Array, lane: Any) -> Any:
        """The state before training."""
        ...

    def step(self, state: Any, lane: Any, tick: Array) -> Any:
        """One iteration of training. `tick` int32[] counts the program's iterations, the same in all lanes."""
        ...

    def work(self, effort: float) -> float:
        """Multiplications of one `step` of one seed, about, where the lane makes `effort` turns of its inner loop."""
        ...

    def evaluate(self, state: Any, lane: Any, key: Array) -> Any:
        """Scores: a tuple of arrays, one of them `finite` bool[]."""
        ...

    def acting(self, state: Any) -> Any:
        """The part of a state that acts."""
        ...

    def renew(self, old: Any, fresh: Any) -> Any:
        """The state of a lane that another trial left and a new one enters: `fresh`, but for memory worth keeping."""
        ...

    def rekey(self, state: Any, key: Array) -> Any:
        """The same state, whose random numbers follow from `key` from here on."""
        ...
