"""Distributions over discrete and continuous actions, given a network's output."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.envs import Continuous

_LOG_2PI = 1.8378770664093453


def chosen(values: Array, action: Array) -> Array:
    """Return the actions' own values: float32[..., actions], int32[...] -> float32[...]. Its gradient needs no scatter."""
    mine = action[..., None] == jnp.arange(values.shape[-1])
    return jnp.sum(jnp.where(mine, values, 0.0), axis=-1)


def categorical_log_prob(logits: Array, action: Array) -> Array:
    """Return log p(action): logits float32[..., actions], action int32[...] -> float32[...]."""
    return chosen(jax.nn.log_softmax(logits), action)


def categorical_entropy(logits: Array) -> Array:
    """Return -sum p log p: float32[..., actions] -> float32[...]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def gaussian_log_prob(mean: Array, log_std: Array, x: Array) -> Array:
    """Return log N(x; mean, std) summed over the last axis: float32[..., action] -> float32[...]."""
    z = (x - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * (z**2 + _LOG_2PI) - log_std, axis=-1)


def gaussian_entropy(log_std: Array) -> Array:
    """Return the entropy of a diagonal normal: float32[..., action] -> float32[...]."""
    return jnp.sum(log_std + 0.5 * (1.0 + _LOG_2PI), axis=-1)


class Bounds(NamedTuple):
    """A box of actions as midpoint and half-width, float32[action] each: the affine map from [-1, 1]."""

    middle: Array
    half: Array

    @classmethod
    def of(cls, space: Continuous) -> Bounds:
        low, high = jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32)
        return cls((high + low) / 2, (high - low) / 2)

    def scale(self, unit: Array) -> Array:
        """Map [-1, 1] to the environment's box."""
        return self.middle + self.half * unit


def squashed_log_prob(mean: Array, log_std: Array, raw: Array, half: Array) -> Array:
    """Return the log density of a = middle + half * tanh(raw), raw ~ N(mean, std), in the units of a.

    log N(raw) - sum log(half (1 - tanh^2 raw)), Haarnoja et al. (2018b), eq. 26, with the rescaling's Jacobian; 1 - tanh^2 is
    written 4 / (e^x + e^-x)^2 in logarithms, which does not underflow.
    """
    log_slope = 2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))
    return gaussian_log_prob(mean, log_std, raw) - jnp.sum(log_slope + jnp.log(half), axis=-1)
