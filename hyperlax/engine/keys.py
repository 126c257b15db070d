"""Random keys from the study's seed, the trial's number and the seed's index, never from the lane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Stream(NamedTuple):
    """A stream of random numbers for training and for evaluation episodes; no two streams share any."""

    training: int
    evaluation: int


SEARCH = Stream(0, 1)
CONFIRMATION = Stream(2, 3)
_CONTINUATION = 4
"""Mark of keys of training that continues from a copy of another trial's state."""


def pin_generator() -> None:
    """Use counter-based threefry, whose draws of a wider array begin with those of a narrower one; padding relies on it."""
    jax.config.update("jax_threefry_partitionable", True)
    jax.config.update("jax_default_prng_impl", "threefry2x32")


def training_keys(study_seed: int, numbers: Sequence[int], seeds: int, stream: Stream = SEARCH) -> Array:
    """Return [len(numbers), seeds]: the key of trial `number`, repetition `seed`."""
    return _keys_of_trials(study_seed, stream.training, jnp.asarray(numbers, jnp.uint32), seeds)


def continuation_keys(study_seed: int, numbers: Sequence[int], seeds: int) -> Array:
    """Return [len(numbers), seeds]: the keys with which trial `number` continues from a copy of another's state."""
    return _keys_of_trials(study_seed, _CONTINUATION, jnp.asarray(numbers, jnp.uint32), seeds)


@partial(jax.jit, static_argnums=3)
def _keys_of_trials(study_seed: int, purpose: int, numbers: Array, seeds: int) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), purpose)

    def key(number: Array, seed: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(root, number), seed)

    over_seeds = jax.vmap(key, in_axes=(None, 0))
    return jax.vmap(over_seeds, in_axes=(0, None))(numbers, jnp.arange(seeds))


def evaluation_keys(study_seed: int, seeds: int, stream: Stream = SEARCH) -> Array:
    """Return [seeds]: the keys of the episodes on which every trial of the study is evaluated, at every evaluation."""
    return _evaluation_keys(study_seed, seeds, stream.evaluation)


@partial(jax.jit, static_argnums=1)
def _evaluation_keys(study_seed: int, seeds: int, stream: int) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), stream)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.arange(seeds))
