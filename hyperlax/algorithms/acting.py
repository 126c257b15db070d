"""The policy of a training state, cut to its own size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hyperlax.agent import Policy
from hyperlax.algorithms import normalizer
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.envs import Discrete, Environment
from hyperlax.hyperparams import DQN, PPO, AlgorithmConfig, Torso
from hyperlax.networks.masked import LAYER_NORM_EPSILON


class Acting(NamedTuple):
    """The part of a training state that acts: the parameters of a masked network and the statistics that normalize observations."""

    network: Any
    statistics: ObservationStatistics


def acting_torso(config: AlgorithmConfig) -> Torso:
    """Return the torso of the network that acts."""
    network: Any = config.network
    return (network.critic_network if isinstance(config, DQN) else network.actor_network).pre_torso


def policy_of(config: AlgorithmConfig, environment: Environment, acting: Acting) -> Policy:
    """Return the policy in a lane's padded arrays, numpy [seeds, ...], without their dead entries.

    It acts as in an evaluation: greedily, or by the mean; a DQN without its evaluation_epsilon.
    """
    torso, parameters = acting_torso(config), acting.network["params"]
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
    hyperparam: Any = config.hyperparam
    if hyperparam.normalize_observations:
        arrays["observation.mean"] = np.asarray(acting.statistics.mean)
        arrays["observation.variance"] = np.asarray(acting.statistics.variance)
    description = {
        "algorithm": type(config).__name__,
        "environment": environment.name,
        "observation_size": environment.observation_size,
        "action": {"n": action.n} if isinstance(action, Discrete) else {"low": action.low, "high": action.high},
        "activation": torso.activation,
        "output": "argmax" if isinstance(action, Discrete) else "clip" if isinstance(config, PPO) else "tanh",
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "observation_clip": normalizer.CLIP,
        "observation_epsilon": normalizer.EPSILON,
    }
    return Policy(description, {name: np.array(array, np.float32) for name, array in arrays.items()})
