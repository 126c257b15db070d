"""Evaluation of a policy on whole episodes, side by side, that training never sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.envs import Environment


class Evaluation(NamedTuple):
    """Undiscounted returns over the episodes of one evaluation of one seed of one lane."""

    mean: Array  # float32[]
    std: Array  # float32[], population standard deviation
    min: Array  # float32[]
    max: Array  # float32[]
    length: Array  # float32[], mean steps an episode
    finite: Array  # bool[], no nan and no inf in the returns and in the trained parameters


def _all_finite(tree: Any) -> Array:
    """Return bool[]: whether every number in the tree's floating-point leaves is finite."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.isfinite(jnp.concatenate(leaves)))


def evaluate(
    environment: Environment, act: Callable[[Array, Array], Array], key: Array, episodes: int, trained: Any
) -> Evaluation:
    """Play episodes at once, each until its first end.

    Args:
      act: (observations float32[episodes, obs], key) -> actions [episodes, ...].
      episodes: Number of episodes.
      trained: Parameters to check for nan and inf.
    """
    keys = jax.random.split(key, 2 * episodes + 1)
    reset_keys, step_keys, act_key = keys[:episodes], keys[episodes:-1], keys[-1]
    state, observation = jax.vmap(environment.reset)(reset_keys)

    def playing(carry: tuple) -> Array:
        time, _, _, alive, _, _ = carry
        return (time < environment.max_episode_steps) & jnp.any(alive)

    def play(carry: tuple) -> tuple:
        time, state, observation, alive, total, length = carry
        action = act(observation, jax.random.fold_in(act_key, time))
        now = jax.vmap(jax.random.fold_in, (0, None))(step_keys, time)
        state, step = jax.vmap(environment.step)(now, state, action)
        total = total + jnp.where(alive, step.reward, 0.0)
        length = length + alive
        alive = alive & ~(step.terminated | step.truncated)
        return time + 1, state, step.observation, alive, total, length

    start = (
        jnp.int32(0),
        state,
        observation,
        jnp.ones(episodes, bool),
        jnp.zeros(episodes),
        jnp.zeros(episodes, jnp.int32),
    )
    *_, total, length = jax.lax.while_loop(playing, play, start)
    return Evaluation(
        mean=jnp.mean(total),
        std=jnp.std(total),
        min=jnp.min(total),
        max=jnp.max(total),
        length=jnp.mean(length.astype(jnp.float32)),
        finite=_all_finite((total, trained)),
    )
