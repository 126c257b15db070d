"""Programs of the algorithms: from a trial's configuration to its program, its lane there, and the policy that it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hyperlax import envs
from hyperlax.agent import Policy
from hyperlax.algorithms import normalizer
from hyperlax.algorithms.lane import Lane, PolicyParams, as_scalars
from hyperlax.algorithms.padding import (
    Padding,
    largest,
    padding_of,
    sample_of_space,
    structure_of,
    structure_of_space,
    with_any_activation,
)
from hyperlax.algorithms.registry import is_shipped, shape_class
from hyperlax.envs import Discrete, Environment
from hyperlax.errors import UsageError
from hyperlax.hyperparams import AlgorithmConfig, Config, Torso, of_algorithm
from hyperlax.networks.architecture import architecture
from hyperlax.networks.masked import LAYER_NORM_EPSILON
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial


class AlgorithmTask:
    """The training task of one recipe on one environment with one budget, the same for all trials of a study.

    A trial runs in the cheapest program that it fits into. A trial that fits into none runs in a program of its exact size. Trials
    with the same static hyperparameters and padding share a program, in every super-batch. In every program, replay rings are as
    long as the longest of the space.

    Args:
      base: The recipe's default configuration.
      space: The search space.
      environment: Its name.
      run_length: The budget of a trial.
      paddings: The sizes of the programs; None for one program into which every trial of the space fits.
      others: Configurations that are trained too, though the space may not contain them.
      exact_sizes: Lanes compute at their own layer sizes, which needs programs whose lanes train one after another. None: on a CPU.
    """

    measures: tuple[str, ...] = ()

    def __init__(
        self,
        base: AlgorithmConfig,
        space: Mapping[str, Distribution],
        environment: str,
        run_length: RunLength,
        paddings: Sequence[Padding] | None = None,
        others: Sequence[AlgorithmConfig] = (),
        exact_sizes: bool | None = None,
    ):
        self.environment = envs.make(environment)
        self.run_length, self._base, self._space = run_length, base, space
        self._is_shipped = is_shipped(base)
        self.exact_sizes = jax.default_backend() == "cpu" if exact_sizes is None else exact_sizes
        self.kind = f"{type(base).__name__} {self.environment.name}"
        actions = "discrete" if isinstance(self.environment.action, Discrete) else "continuous"
        if actions not in base.action_kinds:
            raise UsageError(f"{type(base).__name__} cannot act in {environment}, whose actions are {actions}.")
        buffers = [getattr(config.hyperparam, "total_buffer_size", 0) for config in others]
        self._capacity = min(max(largest(base, space, "total_buffer_size"), *buffers, 0), run_length.total_timesteps)
        self._longest_iteration = largest(base, space, "total_num_envs") * largest(base, space, "rollout_length")
        if paddings is None:
            paddings = [padding_of(structure_of_space(base, space), self.exact_sizes)]
        self._paddings = sorted(paddings, key=self.size)

    def padded(self, paddings: Sequence[Padding], others: Sequence[Config] = ()) -> AlgorithmTask:
        """Return the same task with programs of these sizes. others: as for a new one."""
        known = list(map(of_algorithm, others))
        own = (self._base, self._space, self.environment.name, self.run_length)
        return AlgorithmTask(*own, paddings, known, self.exact_sizes)

    def sample(self, size: int) -> list[AlgorithmConfig]:
        """Return configurations that differ in what decides a program's sizes and cost, see `sample_of_space`."""
        return sample_of_space(self._base, self._space, size)

    def structure(self) -> Any:
        """Return the sizes that the space needs."""
        return structure_of_space(self._base, self._space)

    def group(self, config: AlgorithmConfig, whole: Any) -> Any:
        """Return the structure of a configuration, and what else a program of its sizes can hold of the `whole` space."""
        return with_any_activation(structure_of(config), whole)

    def padding(self, structure: Any) -> Padding:
        """Return the sizes of the smallest program into which every trial of a structure fits."""
        return padding_of(structure, self.exact_sizes)

    def stored_padding(self, stored: Mapping[str, Any]) -> Padding:
        """Return a padding that study.json stores. Raise UsageError if it is malformed."""
        return Padding.from_json(stored)

    @property
    def is_shipped(self) -> bool:
        """True if algorithm and environment belong to this package, so that its version says what they compute."""
        return self._is_shipped and envs.is_shipped(self.environment.name)

    def shape(self, config: AlgorithmConfig, padding: Padding) -> Any:
        """Return the program of a configuration's static hyperparameters at these sizes."""
        shape = shape_class(config)
        known = {
            **vars(config.hyperparam),
            **padding.fields(),
            "environment": self.environment,
            "replay_capacity": self._capacity,
            "num_eval_episodes": self.run_length.num_eval_episodes,
        }
        return shape(**{field.name: known[field.name] for field in dataclasses.fields(shape)})

    def program(self, trial: Trial) -> Any:
        """Return the `Shape` of the program that this trial needs, equal for trials that can share one."""
        return self.shape(of_algorithm(trial.config), self._padding(trial))

    def lane(self, trial: Trial) -> Lane:
        """Return the trial's own numbers: a tree of numpy scalars and small arrays."""
        config = of_algorithm(trial.config)
        networks = {
            name: architecture(getattr(config.network, name).pre_torso, shape)
            for name, shape in self._padding(trial).networks
        }
        budget: Any = np.float32(self.run_length.total_timesteps)
        return Lane(as_scalars(config.hyperparam), networks, budget)

    def size(self, padding: Padding) -> float:
        """Return the multiplications of one iteration of the default in a program of these sizes, to compare programs."""
        return self.shape(self._base, padding).flops(1.0)

    def flops(self, config: AlgorithmConfig, padding: Padding) -> float:
        """Return the multiplications of one iteration of one seed in the program of these sizes."""
        return self.shape(config, padding.at_size_of(config)).flops(float(config.hyperparam.epochs))

    def flops_of(self, trial: Trial) -> float:
        """Return the multiplications of one iteration of one seed of the trial, in its program."""
        return self.flops(of_algorithm(trial.config), self._padding(trial))

    def longest_iteration(self) -> int:
        """Return the environment steps of one seed in the longest iteration that any trial may have."""
        return self._longest_iteration

    def num_parameters(self, trial: Trial) -> int:
        """Return the trainable scalars of the policy network that acts, at the trial's own size."""
        return self.program(trial).num_parameters(_policy_torso(of_algorithm(trial.config)))

    def policy(self, trial: Trial, params: PolicyParams) -> Policy:
        """Return the policy of the trial's lane, at the trial's own size. params: numpy [seeds, ...]."""
        return _policy(of_algorithm(trial.config), self.environment, params)

    def _padding(self, trial: Trial) -> Padding:
        structure = structure_of(of_algorithm(trial.config))
        fitting = (padding for padding in self._paddings if padding.holds(structure))
        return next(fitting, None) or padding_of(structure, self.exact_sizes)


def _policy_torso(config: AlgorithmConfig) -> Torso:
    """Return the torso of the network that acts."""
    return getattr(config.network, config.policy_network).pre_torso


def _policy(config: AlgorithmConfig, environment: Environment, params: PolicyParams) -> Policy:
    """Return the policy in a lane's padded arrays, numpy [seeds, ...], without their dead entries.

    It acts greedily or by the mean, as in an evaluation, but without the random actions that some algorithms take there.
    """
    torso, parameters = _policy_torso(config), params.network
    arrays: dict[str, np.ndarray] = {}
    live = environment.observation_size
    for layer, width in enumerate(torso.layer_sizes):
        dense = parameters["torso"][f"dense_{layer}"]
        arrays[f"dense_{layer}.kernel"] = dense["kernel"][:, :live, :width]
        arrays[f"dense_{layer}.bias"] = dense["bias"][:, :width]
        if torso.use_layer_norm:
            norm = parameters["torso"][f"norm_{layer}"]
            arrays |= {f"norm_{layer}.{name}": norm[name][:, :width] for name in ("scale", "bias")}
        live = width
    action = environment.action
    outputs = action.n if isinstance(action, Discrete) else action.size
    arrays["head.kernel"] = parameters["head"]["kernel"][:, :live, :outputs]
    arrays["head.bias"] = parameters["head"]["bias"][:, :outputs]
    if config.hyperparam.normalize_observations:
        arrays["observation.mean"] = np.asarray(params.statistics.mean)
        arrays["observation.variance"] = np.asarray(params.statistics.variance)
    description = {
        "algorithm": type(config).__name__,
        "environment": environment.name,
        "observation_size": environment.observation_size,
        "action": {"n": action.n} if isinstance(action, Discrete) else {"low": action.low, "high": action.high},
        "activation": torso.activation,
        "output": "argmax" if isinstance(action, Discrete) else shape_class(config).continuous_output,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "observation_clip": normalizer.CLIP,
        "observation_epsilon": normalizer.EPSILON,
    }
    return Policy(description, {name: np.array(array, np.float32) for name, array in arrays.items()})
