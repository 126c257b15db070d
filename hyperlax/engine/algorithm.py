"""What the engine asks of whoever knows what is trained."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from jax import Array

from hyperlax.agent import Policy
from hyperlax.recipe import RunLength
from hyperlax.trial import Trial


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


class TrainingTask(Protocol):
    """The way from a trial to a program and a lane of it."""

    run_length: RunLength

    @property
    def kind(self) -> str:
        """What is trained, for the memory of costs: an algorithm and an environment."""
        ...

    def program(self, trial: Trial) -> Algorithm:
        """The algorithm to compile; equal for trials that can share a program."""
        ...

    def lane(self, trial: Trial) -> Any:
        """The trial's own numbers, a tree of numpy scalars and arrays of one structure for all trials of a program."""
        ...

    def effort(self, trial: Trial) -> float:
        """Turns of the inner loop that the trial asks for: a batch makes as many as its most laborious trial."""
        ...

    def num_parameters(self, trial: Trial) -> int:
        """Trainable scalars of what acts."""
        ...

    def policy(self, trial: Trial, acting: Any) -> Policy:
        """What acts of the trial's lane, from `Program.acting`: its arrays have the leading axis [seeds]."""
        ...
