"""Random keys from the study's seed, the trial's number and the seed's index, never from the lane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def training_keys(
    study_seed: int, numbers: Sequence[int], seeds: int, stream: Stream = SEARCH, first: Sequence[int] = ()
) -> Array:
    """Return [len(numbers), seeds]: the keys of trial `number`, repetitions `first`, 0 by default, and those after it."""
    return _keys_of_trials(study_seed, stream.training, numbers, first, seeds)


def continuation_keys(study_seed: int, numbers: Sequence[int], seeds: int) -> Array:
    """Return [len(numbers), seeds]: the keys with which trial `number` continues from a copy of another's state."""
    return _keys_of_trials(study_seed, _CONTINUATION, numbers, (), seeds)


def _keys_of_trials(study_seed: int, purpose: int, numbers: Sequence[int], first: Sequence[int], seeds: int) -> Array:
    repetitions = np.asarray(first or [0] * len(numbers), np.uint32)[:, None] + np.arange(seeds, dtype=np.uint32)
    return _fold(study_seed, purpose, np.asarray(numbers, np.uint32), repetitions)


@jax.jit
def _fold(study_seed: int, purpose: int, numbers: Array, repetitions: Array) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), purpose)
    of_trials = jax.vmap(jax.random.fold_in, (None, 0))(root, numbers)
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(of_trials, repetitions)


def evaluation_keys(study_seed: int, seeds: int, stream: Stream = SEARCH) -> Array:
    """Return [seeds]: the keys of the episodes on which every trial of the study is evaluated, at every evaluation."""
    return _evaluation_keys(study_seed, seeds, stream.evaluation)


@partial(jax.jit, static_argnums=1)
def _evaluation_keys(study_seed: int, seeds: int, stream: int) -> Array:
    root = jax.random.fold_in(jax.random.key(study_seed), stream)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.arange(seeds))
