"""From a trial's configuration to the program it runs in and the lane it is there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperlax import envs
from hyperlax.algorithms import dqn, ppo, sac
from hyperlax.algorithms.lane import Lane, as_scalars
from hyperlax.envs import Discrete
from hyperlax.errors import UsageError
from hyperlax.hyperparams import DQN, PPO, SAC, AlgorithmConfig, Torso, rules
from hyperlax.networks.architecture import architecture, count_parameters, torso_shape
from hyperlax.recipe import RunLength, apply
from hyperlax.space import Categorical, Distribution
from hyperlax.trial import Trial

SHAPES: dict[type, Any] = {PPO: ppo.Shape, SAC: sac.Shape, DQN: dqn.Shape}
NETWORK = "algorithm.network."


class Workload:
    """One recipe on one environment, for one budget: what is the same for all trials of a study.

    Networks and replay rings are padded to the largest that the search space can ask for, so that all trials with the same
    static hyperparameters share one program, in every super-batch.
    """

    def __init__(
        self, base: AlgorithmConfig, space: Mapping[str, Distribution], environment: str, run_length: RunLength
    ):
        self.environment = envs.make(environment)
        self.run_length = run_length
        kind = "discrete" if isinstance(self.environment.action, Discrete) else "continuous"
        if kind not in base.action_kinds:
            raise UsageError(f"{type(base).__name__} cannot act in {environment}, whose actions are {kind}.")
        self._networks = {name: torso_shape(_possible_torsos(base, space, name)) for name in _network_names(base)}
        self._capacity = min(_largest(base, space, "total_buffer_size"), run_length.total_timesteps)
        self._longest_iteration = _largest(base, space, "total_num_envs") * _largest(base, space, "rollout_length")

    def program(self, trial: Trial) -> Any:
        """The `Shape` of the program that this trial needs: equal for trials that can share one."""
        shape = SHAPES[type(trial.algorithm)]
        known = {
            **dataclasses.asdict(trial.algorithm.hyperparam),
            **self._networks,
            "environment": self.environment,
            "replay_capacity": self._capacity,
            "num_eval_episodes": self.run_length.num_eval_episodes,
        }
        return shape(**{field.name: known[field.name] for field in dataclasses.fields(shape)})

    def lane(self, trial: Trial) -> Lane:
        """What is the trial's own: a tree of numpy scalars and small arrays."""
        config: Any = trial.algorithm
        networks = {
            name: architecture(getattr(config.network, name).pre_torso, shape) for name, shape in self._networks.items()
        }
        budget: Any = np.float32(self.run_length.total_timesteps)
        return Lane(as_scalars(config.hyperparam), networks, budget)

    def longest_iteration(self) -> int:
        """Environment steps of one seed in the longest iteration that any trial may have."""
        return self._longest_iteration

    def num_parameters(self, trial: Trial) -> int:
        """Trainable scalars of the policy network that acts, at the trial's own size."""
        config, action = trial.algorithm, self.environment.action
        actions = action.n if isinstance(action, Discrete) else len(action.low)
        torso = (config.network.critic_network if isinstance(config, DQN) else config.network.actor_network).pre_torso
        outputs = 2 * actions if isinstance(config, SAC) else actions
        state_independent_std = actions if isinstance(config, PPO) and not isinstance(action, Discrete) else 0
        return count_parameters(torso, self.environment.observation_size, outputs) + state_independent_std


def _network_names(base: AlgorithmConfig) -> list[str]:
    return [field.name for field in dataclasses.fields(base.network)]


def _choices(space: Mapping[str, Distribution], name: str, default: Any) -> list[Any]:
    distribution: Any = space.get(name)
    return [default] if distribution is None else list(distribution.values)


def _possible_torsos(base: AlgorithmConfig, space: Mapping[str, Distribution], network: str) -> list[Torso]:
    prefix = f"{NETWORK}{network}.pre_torso."
    default = getattr(base.network, network).pre_torso
    fields = [field.name for field in dataclasses.fields(Torso)]
    choices = [_choices(space, prefix + field, getattr(default, field)) for field in fields]
    return [
        getattr(
            apply(base, dict(zip([prefix + f for f in fields], chosen, strict=True)), "search space").network, network
        ).pre_torso
        for chosen in itertools.product(*choices)
    ]


def _largest(base: AlgorithmConfig, space: Mapping[str, Distribution], field: str) -> int:
    """The largest value an integer hyperparameter can take; 0 if the algorithm has none of that name."""
    if field not in rules(type(base.hyperparam)):
        return 0
    distribution: Any = space.get(f"algorithm.hyperparam.{field}")
    if distribution is None:
        return getattr(base.hyperparam, field)
    return int(max(distribution.values) if isinstance(distribution, Categorical) else distribution.bounds()[1])
