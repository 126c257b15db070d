"""From a trial's configuration to the program it runs in and the lane it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperlax import envs
from hyperlax.agent import Policy
from hyperlax.algorithms import dqn, ppo, sac
from hyperlax.algorithms.acting import Acting, acting_torso, policy_of
from hyperlax.algorithms.lane import Lane, as_scalars
from hyperlax.algorithms.padding import Padding, padding_of, structure_of
from hyperlax.algorithms.possible import largest, structure_of_space
from hyperlax.envs import Discrete
from hyperlax.errors import UsageError
from hyperlax.hyperparams import DQN, PPO, SAC, AlgorithmConfig
from hyperlax.networks.architecture import architecture, count_parameters
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial

SHAPES: dict[type, Any] = {PPO: ppo.Shape, SAC: sac.Shape, DQN: dqn.Shape}


class Workload:
    """One recipe on one environment, for one budget: what is the same for all trials of a study.

    paddings: the sizes of its programs; None for one that holds all that the search space can ask for. A trial runs in the
    cheapest that holds it, one that fits nowhere in a program of its exact size. Replay rings are as long as the space's longest
    in every program. Trials with the same static hyperparameters and padding share a program, in every super-batch.
    others: configurations that are trained too, though the space may not contain them.
    """

    def __init__(
        self,
        base: AlgorithmConfig,
        space: Mapping[str, Distribution],
        environment: str,
        run_length: RunLength,
        paddings: Sequence[Padding] | None = None,
        others: Sequence[AlgorithmConfig] = (),
    ):
        self.environment = envs.make(environment)
        self.run_length = run_length
        self.kind = f"{type(base).__name__} {self.environment.name}"
        actions = "discrete" if isinstance(self.environment.action, Discrete) else "continuous"
        if actions not in base.action_kinds:
            raise UsageError(f"{type(base).__name__} cannot act in {environment}, whose actions are {actions}.")
        buffers = [getattr(config.hyperparam, "total_buffer_size", 0) for config in others]
        self._capacity = min(max(largest(base, space, "total_buffer_size"), *buffers, 0), run_length.total_timesteps)
        self._longest_iteration = largest(base, space, "total_num_envs") * largest(base, space, "rollout_length")
        if paddings is None:
            paddings = [padding_of(structure_of_space(base, space))]
        self._paddings = sorted(paddings, key=lambda padding: self.shape(base, padding).flops(1.0))

    def shape(self, config: AlgorithmConfig, padding: Padding) -> Any:
        """The program of a configuration's static hyperparameters at these sizes."""
        shape = SHAPES[type(config)]
        known = {
            **vars(config.hyperparam),
            **padding.fields(),
            "environment": self.environment,
            "replay_capacity": self._capacity,
            "num_eval_episodes": self.run_length.num_eval_episodes,
        }
        return shape(**{field.name: known[field.name] for field in dataclasses.fields(shape)})

    def program(self, trial: Trial) -> Any:
        """The `Shape` of the program that this trial needs: equal for trials that can share one."""
        return self.shape(trial.algorithm, self._padding(trial))

    def lane(self, trial: Trial) -> Lane:
        """What is the trial's own: a tree of numpy scalars and small arrays."""
        config: Any = trial.algorithm
        networks = {
            name: architecture(getattr(config.network, name).pre_torso, shape)
            for name, shape in self._padding(trial).networks
        }
        budget: Any = np.float32(self.run_length.total_timesteps)
        return Lane(as_scalars(config.hyperparam), networks, budget)

    def num_updates(self, trial: Trial) -> float:
        """The trial's `epochs`."""
        return float(trial.algorithm.hyperparam.epochs)

    def longest_iteration(self) -> int:
        """Environment steps of one seed in the longest iteration that any trial may have."""
        return self._longest_iteration

    def num_parameters(self, trial: Trial) -> int:
        """Trainable scalars of the policy network that acts, at the trial's own size."""
        config, action = trial.algorithm, self.environment.action
        actions = action.n if isinstance(action, Discrete) else len(action.low)
        outputs = 2 * actions if isinstance(config, SAC) else actions
        state_independent_std = actions if isinstance(config, PPO) and not isinstance(action, Discrete) else 0
        return (
            count_parameters(acting_torso(config), self.environment.observation_size, outputs) + state_independent_std
        )

    def policy(self, trial: Trial, acting: Acting) -> Policy:
        """What `acting` [seeds, ...] of the trial's lane does, at the trial's own size."""
        return policy_of(trial.algorithm, self.environment, acting)

    def _padding(self, trial: Trial) -> Padding:
        structure = structure_of(trial.algorithm)
        fitting = (padding for padding in self._paddings if padding.holds(structure))
        return next(fitting, None) or padding_of(structure)
