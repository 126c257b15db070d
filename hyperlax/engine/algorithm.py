"""The interfaces of the engine to algorithms and training tasks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from jax import Array

from hyperlax.agent import Policy
from hyperlax.recipe import RunLength
from hyperlax.trial import Trial


class Algorithm(Hashable, Protocol):
    """The interface that the engine trains: pure functions of one seed of one lane."""

    @property
    def steps_per_iteration(self) -> int:
        """Steps of the budget that one `step` takes: environment steps, for RL."""
        ...

    def init(self, key: Array, lane: Any) -> Any:
        """Return the state before training."""
        ...

    def step(self, state: Any, lane: Any, iteration: Array) -> Any:
        """Train one iteration. `iteration` int32[] counts the program's iterations, the same in all lanes."""
        ...

    def evaluate(self, state: Any, lane: Any, key: Array) -> Any:
        """Return scores, as a named tuple or a dictionary: `finite`, which is bool[], and `TrainingTask.measures`."""
        ...

    def policy_params(self, state: Any) -> Any:
        """Return the policy's part of a state. It must only select: arrays have the leading axes of all lanes and seeds here.

        An empty tree where nothing is to be kept.
        """
        ...

    def reset(self, old: Any, fresh: Any) -> Any:
        """Return the state of a lane that a new trial takes over: `fresh`, except for buffers worth reusing."""
        ...

    def with_key(self, state: Any, key: Array) -> Any:
        """Return the same state with its random numbers following from `key` from now on."""
        ...


class TrainingTask(Protocol):
    """The mapping from a trial to its program and to its lane's inputs.

    measures: Names of the measures that an evaluation returns, the leading one first; empty for returns of episodes, which have
    the columns of `MEASURED` and are evaluated before training, too.
    """

    run_length: RunLength
    measures: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Key of the cost records, such as the names of the algorithm and the environment."""
        ...

    def program(self, trial: Trial) -> Algorithm:
        """Return the algorithm to compile, equal for trials that can share a program."""
        ...

    def lane(self, trial: Trial) -> Any:
        """Return the trial's own numbers: a tree of numpy scalars and arrays, of equal structure for all trials of a program."""
        ...

    def flops_of(self, trial: Trial) -> float:
        """Return the multiplications of one iteration of one seed of the trial. A batch is predicted by its longest trial."""
        ...

    def num_parameters(self, trial: Trial) -> int:
        """Return the number of trainable scalars of the policy; 0 without one."""
        ...

    def policy(self, trial: Trial, params: Any) -> Policy | None:
        """Return the policy of the trial's lane, None without one. params: of `Program.policy_params`, with the axis [seeds]."""
        ...
