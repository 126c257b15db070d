"""Every (trial, seed) pair is a run of its own: its key, its initial weights and its curve are nobody else's."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from hyperlax.backends import local
from hyperlax.engine.keys import CONFIRMATION, SEARCH, Stream, continuation_keys, evaluation_keys, training_keys
from hyperlax.study.confirmation_run import confirmation_config
from hyperlax.study.search import search_config
from hyperlax.trial import Trial
from tests.small import BASES, SEEDS, train
from tests.study_cases import MIXED, arguments_of, recipe_of

CASE = "sac"


def words(keys: jax.Array) -> list[tuple[int, ...]]:
    """The words of some keys, one tuple a key."""
    data = np.asarray(jax.random.key_data(keys))
    return [tuple(key) for key in data.reshape(-1, data.shape[-1]).tolist()]


def keys_of(stream: Stream, study_seed: int) -> list[tuple[int, ...]]:
    """Of 200 trials of 20 seeds, and of their evaluations."""
    training = training_keys(study_seed, range(200), 20, stream)
    return words(training) + words(evaluation_keys(study_seed, 20, stream))


@pytest.mark.parametrize("study_seed", [0, 1, 2**31 - 1])
def test_no_two_runs_of_a_study_its_copies_and_its_confirmation_share_a_key(study_seed):
    keys = keys_of(SEARCH, study_seed) + keys_of(CONFIRMATION, study_seed)
    keys += words(continuation_keys(study_seed, range(200), 20))
    assert len(keys) == 3 * 200 * 20 + 2 * 20 == len(set(keys))


def test_a_trials_keys_know_nothing_of_its_lane_nor_of_how_many_seeds_there_are():
    few, many = training_keys(7, [5, 9], 2), training_keys(7, [9, 3, 5], 4)
    assert words(few) == words(many[2, :2]) + words(many[0, :2])


def test_two_seeds_of_a_trial_begin_with_other_weights_and_learn_other_curves():
    initial, _ = train(CASE, [Trial(4, BASES[CASE])], segments=())[4]
    _, scores = train(CASE, [Trial(4, BASES[CASE])])[4]
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(initial) if "kernel" in jax.tree_util.keystr(path)]
    drawn = [kernel for kernel in kernels if kernel.any()]  # the others are Adam's moments
    assert SEEDS == 2 and drawn
    assert all(not np.array_equal(kernel[0], kernel[1]) for kernel in drawn)
    assert all(score.mean[0] != score.mean[1] for score in scores)


def test_a_confirmation_is_made_with_a_stream_of_its_own():
    arguments, recipe = arguments_of(Path()), recipe_of(MIXED)
    search = local.make_backend(search_config(arguments, recipe, None))
    trial = Trial(0, recipe.config.algorithm)
    confirmation = local.make_backend(confirmation_config(arguments, recipe, search.packing, [trial]))
    assert (search.stream, confirmation.stream) == (SEARCH, CONFIRMATION)
