"""`--plan-only`: how the next super-batch would be run."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import optuna

from hyperlax.checkpoints import Checkpoints
from hyperlax.config.checks import check_space
from hyperlax.config.first_trials import first_trials
from hyperlax.config.options import SearchOptions
from hyperlax.errors import UsageError
from hyperlax.recipe import Recipe
from hyperlax.study import database
from hyperlax.study import manifest as manifests
from hyperlax.study.course import legal
from hyperlax.study.directory import StudyDirectory, study_directory
from hyperlax.study.launcher import refuse_existing
from hyperlax.study.opening import converse
from hyperlax.study.overlap import overlap_of
from hyperlax.study.refusals import ending_on_refusal
from hyperlax.study.storage import StudyStorage
from hyperlax.study.training import StudyRunner, runner_of_study


def print_plan(
    arguments: SearchOptions, recipe: Recipe, resume_from: Path | None, runner: StudyRunner | None = None
) -> int:
    """Print the plan of the next super-batch in one line, and leave the study as it is.

    Returns 0; UsageError for what cannot run.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(arguments, recipe.space)
    stored = None
    if resume_from is None:
        directory = study_directory(arguments, recipe)
        refuse_existing(directory)
        first = first_trials(arguments, recipe)
    else:
        directory = StudyDirectory(resume_from)
        stored = manifests.read(directory.manifest, recipe)
        first = stored.first_trials
    runner = runner or runner_of_study(arguments, recipe, stored)
    overlap = overlap_of(arguments, stored, directory) if stored else None
    with _ending_on_refusal(directory), tempfile.TemporaryDirectory() as scratch:
        directory.check_database(arguments.study_name)
        copy = Path(scratch) / directory.database.name
        if directory.database.exists():
            database.back_up(directory.database, copy)
        objectives = arguments.objectives
        with closing(StudyStorage(copy, arguments.study_name, objectives)) as storage:
            conversation = converse(storage, directory, arguments, recipe, first, overlap)
            conversation.recover()
            asked = conversation.next_trials(arguments.n_trials)
            trials = [conversation.trial(trial, recipe.config.algorithm) for trial in asked]
    saved = Checkpoints(directory.checkpoints, arguments.checkpoint_seconds).heads()
    sound = []
    for trial in trials:
        with suppress(UsageError):
            sound.append(legal(trial))
    print(runner.plan(sound, saved).sentence() if sound else "Nothing is left to run.")
    return 0


def _ending_on_refusal(directory: StudyDirectory) -> AbstractContextManager[None]:
    return ending_on_refusal(
        directory.database, lambda refusal: f"Nothing was changed. {refusal.remedy}, then plan again."
    )
