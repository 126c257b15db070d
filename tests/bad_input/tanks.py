"""A user's own recipe, with an environment of one's own beside it, which `environments.txt` edits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyperlax.envs import Continuous, Environment, Step, register
from hyperlax.hyperparams import SAC
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import LogUniform


class Tanks(NamedTuple):
    time: jax.Array
    levels: jax.Array


def reset(key):
    levels = jax.random.uniform(key, (2,))
    return Tanks(jnp.int32(0), levels), levels


def step(key, state, action):
    levels = state.levels + action[0]
    ends = state.time == 9
    fresh, _ = reset(key)
    after = jax.tree.map(lambda new, old: jnp.where(ends, new, old), fresh, Tanks(state.time + 1, levels))
    return after, Step(after.levels, levels, -jnp.sum(levels**2), jnp.asarray(False), ends)


def tanks():
    reference = ReferenceReturns(-100.0, 0.0, "chosen")
    return Environment("lab.tanks", 2, Continuous((-1.0,), (1.0,)), 10, reset, step, reference)


register("lab.tanks", tanks)


def get_base_config():
    length = RunLength(1000, 2, 2)
    return ExperimentConfig(SAC(), {"quick": length, "default": length, "long": length})


def get_base_hyperparam_distributions():
    return {"algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-5, 1e-2))}
