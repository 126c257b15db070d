"""A replay buffer whose lanes share one write position but not one capacity.

All lanes write at the same place of a ring as long as the program's, so that the write stays an in-place slice update under
vmap. A lane's own capacity is how far back it looks: it samples from its newest `size <= capacity` rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Replay(NamedTuple):
    """Transitions, one packed row each."""

    rows: Array  # float32[ring, row], the program's ring, in rows of a multiple of one rollout
    size: Array  # int32[], how many of the newest rows belong to this lane


class Transition(NamedTuple):
    """One environment step; the next observation is that of the same episode also where the episode ended."""

    observation: Array  # float32[..., obs]
    action: Array  # float32[..., action]
    reward: Array  # float32[...]
    continues: Array  # float32[...], 0 where the episode terminated, 1 where it continued or was truncated
    next_observation: Array  # float32[..., obs]


def ring_length(capacity: int, rollout: int) -> int:
    """Return the length of the shortest ring that holds `capacity` rows and is a whole number of rollouts."""
    return -(-capacity // rollout) * rollout


def empty(ring: int, observation_size: int, action_size: int) -> Replay:
    """Return an empty buffer."""
    return Replay(jnp.zeros((ring, 2 * observation_size + action_size + 2)), jnp.int32(0))


def pack(transition: Transition) -> Array:
    """Pack transitions [n, ...] into rows, float32[n, row]."""
    observation, action, reward, continues, next_observation = transition
    return jnp.concatenate([observation, action, reward[:, None], continues[:, None], next_observation], axis=1)


def unpack(rows: Array, observation_size: int, action_size: int) -> Transition:
    """Return the transitions in rows: the inverse of `pack`."""
    ends = [observation_size, observation_size + action_size, observation_size + action_size + 1]
    observation, action, reward, continues_next = jnp.split(rows, ends, axis=1)
    return Transition(observation, action, reward[:, 0], continues_next[:, 0], continues_next[:, 1:])


def _position(iteration: Array, rollout: int, ring: int) -> Array:
    return jax.lax.rem(iteration, jnp.int32(ring // rollout)) * rollout


def write(replay: Replay, rows: Array, iteration: Array, capacity: Array | int) -> Replay:
    """Write one rollout, float32[n, row], oldest first, at the place of the program's iteration.

    iteration: int32[], the same for all lanes. capacity: int32[], this lane's own.
    """
    ring, n = replay.rows.shape[0], rows.shape[0]
    position = _position(iteration, n, ring)
    updated = jax.lax.dynamic_update_slice_in_dim(replay.rows, rows, position, axis=0)
    return Replay(updated, jnp.minimum(replay.size + n, jnp.minimum(capacity, ring)))


def sample(replay: Replay, key: Array, batch: int, rollout: int, iteration: Array) -> Array:
    """Sample rows of the lane, float32[batch, row], uniformly with replacement, after the write of this iteration.

    The first n rows of a larger batch are those of a batch of n, as with every draw of `engine.keys`' generator.
    """
    ring = replay.rows.shape[0]
    newest = _position(iteration, rollout, ring) + rollout - 1
    age = jax.random.randint(key, (batch,), 0, replay.size)
    return replay.rows[jnp.mod(newest - age, ring)]
