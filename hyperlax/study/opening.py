"""Who suggests a study's trials, and the conversation with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperlax.config.options import SearchOptions
from hyperlax.recipe import Recipe
from hyperlax.study.conversation import Conversation
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.distributions import SearchSpace
from hyperlax.study.overlap import Overlap
from hyperlax.study.presampled import Presampled, RowByRow
from hyperlax.study.storage import StudyStorage
from hyperlax.study.suggest import Questioner


def questioner_of(
    arguments: SearchOptions, recipe: Recipe, first_trials: Sequence[Mapping[str, Any]]
) -> Questioner | RowByRow:
    """Who suggests a study's trials. first_trials: of its manifest."""
    space = SearchSpace(recipe.space)
    if isinstance(recipe, Presampled):
        return RowByRow(space, recipe.samples, arguments.optuna_study_batch_size)
    return Questioner(
        space=space,
        sampler=arguments.sampler,
        directions=arguments.objective_directions,
        seed=arguments.seed,
        super_batch=arguments.optuna_study_batch_size,
        first_trials=[space.encode(values) for values in first_trials],
    )


def converse(
    storage: StudyStorage,
    directory: StudyDirectory,
    arguments: SearchOptions,
    recipe: Recipe,
    first_trials: Sequence[Mapping[str, Any]],
    overlap: Overlap | None,
) -> Conversation:
    """The conversation of a study. overlap: None where super-batches follow one another."""
    questioner = questioner_of(arguments, recipe, first_trials)
    return Conversation(storage, directory, questioner, tuple(arguments.objectives), arguments.constraints, overlap)
