"""The algorithms: a row each. Importing this does not import jax.

To add one, write its two classes and add its row:

- Its configuration, a frozen dataclass on `AlgorithmConfig` with defaults for all fields, the network that acts and its warm-up.
  Some hyperparameters have a meaning of their own outside the algorithm. Every algorithm has `total_num_envs` and `rollout_length`
  (static), `epochs` (turns of the inner loop) and `normalize_observations`. Those that need them have `num_minibatches`,
  `total_batch_size` and `total_buffer_size`.
- Its program, a frozen dataclass named `Shape` in the module of the row: what the engine asks of it (`engine.algorithm.Algorithm`)
  and what `algorithms.program` reads. Its fields are filled by name: hyperparameters, networks, `environment`, `replay_capacity`,
  `num_eval_episodes`, and the sizes of `Padding.fields`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hyperlax.hyperparams import DQN, PPO, SAC, AlgorithmConfig

ALGORITHMS: dict[type[AlgorithmConfig], str] = {
    PPO: "hyperlax.algorithms.ppo",
    SAC: "hyperlax.algorithms.sac",
    DQN: "hyperlax.algorithms.dqn",
}
"""Configuration -> the module of its program, which is imported when it is trained."""


def shape_class(config: AlgorithmConfig) -> Any:
    """Return the `Shape` class of a configuration's algorithm."""
    return import_module(ALGORITHMS[type(config)]).Shape


def is_shipped(config: AlgorithmConfig) -> bool:
    """Return whether a configuration's algorithm belongs to this package."""
    own = __name__.partition(".")[0]
    return all(name.partition(".")[0] == own for name in (type(config).__module__, ALGORITHMS[type(config)]))
