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
        """Return the state before training."""
        ...

    def step(self, state: Any, lane: Any, iteration: Array) -> Any:
        """Train one iteration. `iteration` int32[] counts the program's iterations, the same in all lanes."""
        ...

    def flops(self, num_updates: float) -> float:
        """Return the multiplications of one `step` of one seed, about. num_updates: turns of the lane's inner loop."""
        ...

    def evaluate(self, state: Any, lane: Any, key: Array) -> Any:
        """Return scores: a tuple of arrays, one of them `finite` bool[]."""
        ...

    def policy_params(self, state: Any) -> Any:
        """Return the part of a state that acts. It only selects: here the arrays have the leading axes of all lanes and seeds."""
        ...

    def reset(self, old: Any, fresh: Any) -> Any:
        """Return the state of a lane that one trial left and another enters: `fresh`, except for memory worth keeping."""
        ...

    def with_key(self, state: Any, key: Array) -> Any:
        """Return the same state, whose random numbers follow from `key` from here on."""
        ...


class TrainingTask(Protocol):
    """The way from a trial to a program and a lane of it."""

    run_length: RunLength

    @property
    def kind(self) -> str:
        """What is trained, for the memory of costs: an algorithm and an environment."""
        ...

    def program(self, trial: Trial) -> Algorithm:
        """Return the algorithm to compile, equal for trials that can share a program."""
        ...

    def lane(self, trial: Trial) -> Any:
        """Return the trial's own numbers, a tree of numpy scalars and arrays of one structure for all trials of a program."""
        ...

    def num_updates(self, trial: Trial) -> float:
        """Return how many turns of the inner loop the trial asks for. A batch makes as many as its longest trial."""
        ...

    def num_parameters(self, trial: Trial) -> int:
        """Return how many trainable scalars act."""
        ...

    def policy(self, trial: Trial, params: Any) -> Policy:
        """Return the policy of the trial's lane, of `Program.policy_params`: its arrays have the leading axis [seeds]."""
        ...
