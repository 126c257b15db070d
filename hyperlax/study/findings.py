"""What a study has found as of its last finished super-batch, handed to the analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial

from hyperlax.arguments import StudyArguments
from hyperlax.envs import canonical
from hyperlax.pbt_arguments import PopulationArguments
from hyperlax.recipe import Recipe
from hyperlax.study.confirmation import confirmation_of
from hyperlax.study.conversation import Conversation
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.manifest import Manifest
from hyperlax.study.record import StudyRecord
from hyperlax.study.storage import importances

Analyse = Callable[[StudyRecord, Path], None]
"""Writes the analysis of a study into a super-batch's `analysis` directory and at the study's root."""


def finished_super_batches(conversation: Conversation, super_batch: int) -> int:
    """How many super-batches there are before the first that has an unfinished trial."""
    trials = conversation.trials()
    unfinished = [trial.number for trial in trials if not trial.state.is_finished()]
    return unfinished[0] // super_batch if unfinished else -(-len(trials) // super_batch)


def settled_trials(conversation: Conversation, super_batch: int) -> int:
    """How many trials the finished super-batches have; the last one may be filled up when a study goes on."""
    return min(finished_super_batches(conversation, super_batch) * super_batch, len(conversation.trials()))


def prepare(
    analyse: Analyse,
    arguments: StudyArguments,
    recipe: Recipe,
    manifest: Manifest,
    directory: StudyDirectory,
    conversation: Conversation,
) -> Iterator[Callable[[], None]]:
    """The analysis as of the last super-batch that was ever finished, to be called, after those before it that are missing.

    That of a super-batch knows nothing of later trials. Where trials are run again, the last one shows them as running.
    """
    width = arguments.optuna_study_batch_size
    finished = finished_super_batches(conversation, width)
    last = max(finished, directory.analysed()) - 1
    for number in range(last + 1):
        if number == last or (number < finished and not directory.has_analysis(number)):
            trials = conversation.trials()[: (number + 1) * width]
            record = record_of(arguments, recipe, manifest, directory, conversation, trials)
            yield partial(analyse, record, directory.analysis(number))


def record_of(
    arguments: StudyArguments | PopulationArguments,
    recipe: Recipe,
    manifest: Manifest,
    directory: StudyDirectory,
    conversation: Conversation,
    trials: Sequence[FrozenTrial],
) -> StudyRecord:
    """A study as of some trials, the first of all that there are."""
    record = StudyRecord(
        directory=directory.root,
        study_name=arguments.study_name,
        recipe=recipe.name,
        environment=canonical(arguments.env_config),
        objectives=arguments.objectives,
        arguments=manifest.arguments,
        command=manifest.command,
        versions=manifest.versions,
        device=manifest.device,
        space=manifest.space,
        reference=manifest.reference,
        trials=[conversation.record(trial) for trial in trials],
        importances=importances(trials, arguments.objectives),
        base=manifest.recipe["config"],
    )
    if not arguments.confirm_top:
        return record
    return replace(record, confirmation=confirmation_of(record, recipe.config.algorithm))
