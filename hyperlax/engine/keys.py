"""Where randomness comes from: the study's seed, the trial's number and the seed's index, never the lane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Stream(NamedTuple):
    """Random numbers of their own for training and for the episodes of evaluations; no two streams share any."""

    training: int
    evaluation: int


SEARCH = Stream(0, 1)
CONFIRMATION = Stream(2, 3)


def pin_generator() -> None:
    """Counter-based threefry, whose draws of a wider array begin with those of a narrower one; padding relies on it."""
    jax.config.update("jax_threefry_partitionable", True)
    jax.config.update("jax_default_prng_impl", "threefry2x32")


def training_keys(study_seed: int, numbers: Sequence[int], seeds: int, stream: Stream = SEARCH) -> Array:
    """[len(numbers), seeds]: the key of trial `number`, repetition `seed`."""
    return _training_keys(study_seed, jnp.asarray(numbers, jnp.uint32), seeds, stream.training)


@partial(jax.jit, static_argnums=2)
def _training_keys(study_seed: int, numbers: Array, seeds: int, stream: int) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), stream)

    def key(number: Array, seed: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(root, number), seed)

    over_seeds = jax.vmap(key, in_axes=(None, 0))
    return jax.vmap(over_seeds, in_axes=(0, None))(numbers, jnp.arange(seeds))


def evaluation_keys(study_seed: int, seeds: int, stream: Stream = SEARCH) -> Array:
    """[seeds]: the episodes on which every trial of the study is evaluated, at every evaluation."""
    return _evaluation_keys(study_seed, seeds, stream.evaluation)


@partial(jax.jit, static_argnums=1)
def _evaluation_keys(study_seed: int, seeds: int, stream: int) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), stream)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.arange(seeds))
