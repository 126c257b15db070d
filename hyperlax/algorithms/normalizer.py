"""A running mean and variance of the observations that training has seen."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

CLIP = 10.0
EPSILON = 1e-8


class ObservationStatistics(NamedTuple):
    """Moments of `count` observations; before the first they are those of a standard normal."""

    mean: Array  # float32[obs]
    variance: Array  # float32[obs]
    count: Array  # int32[]


def fresh(observation_size: int) -> ObservationStatistics:
    """Return the statistics before any observation."""
    return ObservationStatistics(jnp.zeros(observation_size), jnp.ones(observation_size), jnp.int32(0))


def observe(statistics: ObservationStatistics, batch: Array) -> ObservationStatistics:
    """Add `batch` `[n, obs]`, combining the moments of the two sets (Chan, Golub & LeVeque, 1983)."""
    n = batch.shape[0]
    before = statistics.count.astype(jnp.float32)
    count = before + n
    batch_mean = jnp.mean(batch, axis=0)
    delta = batch_mean - statistics.mean
    squares = statistics.variance * before + jnp.var(batch, axis=0) * n + delta**2 * before * n / count
    return ObservationStatistics(statistics.mean + delta * n / count, squares / count, statistics.count + n)


def normalize(statistics: ObservationStatistics, observation: Array, enabled: Array | bool) -> Array:
    """Standardize `[..., obs]`, clipped at ten standard deviations. Lanes that are not `enabled` are unchanged."""
    standardized = (observation - statistics.mean) / jnp.sqrt(statistics.variance + EPSILON)
    return jnp.where(enabled, jnp.clip(standardized, -CLIP, CLIP), observation)
