"""`hyperlax repair`: a study's database built again, from its backup and from the batches on disk."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import optuna

from hyperlax.arguments import StudyArguments
from hyperlax.recipe import Recipe
from hyperlax.study import database
from hyperlax.study import manifest as manifests
from hyperlax.study.conversation import Conversation
from hyperlax.study.directory import StudyDirectory, check_writable, only_one_process
from hyperlax.study.loop import questioner_of
from hyperlax.study.refusals import ending_on_refusal, run_again
from hyperlax.study.storage import StudyStorage

COMPANIONS = ("", "-journal", "-wal", "-shm")
"""SQLite's files beside a database; one left beside another database would be taken for its own."""


def repair(arguments: StudyArguments, recipe: Recipe, root: Path) -> int:
    """Replace a damaged database, keep the damaged one, and say what was restored. Returns 0.

    Trials are told from their batches; those whose batch is not on disk are trained again by the next resume. UsageError for what
    is no study of Hyperlax; HyperlaxError if the batches do not belong to this study's seed and space.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directory = StudyDirectory(root)
    manifests.check_unchanged(directory.manifest, manifests.read(directory.manifest), recipe)
    objectives = arguments.objectives
    with ending_on_refusal(directory.database, run_again), only_one_process(root):
        check_writable(directory)
        try:
            database.check(directory.database, arguments.study_name, bool(directory.complete_batches()))
        except database.Damaged as error:
            print(error.finding)
        else:
            print(f"{directory.database} is sound; nothing to repair.")
            return 0
        kept = _set_aside(directory.database)
        if kept:
            print(f"It is kept as {kept}.")
        source = _restore(directory, arguments.study_name)
        with closing(StudyStorage(directory.database, arguments.study_name, objectives)) as storage:
            conversation = Conversation(storage, directory, questioner_of(arguments, recipe), tuple(objectives))
            before = conversation.finished()
            told = conversation.rebuild(recipe.config.algorithm)
            left = len(conversation.trials()) - conversation.finished()
        print(f"Restored {before} finished trials from {source} and {told} from the batches; {left} wait to be run.")
        print(f"To go on:\n  {manifests.resume_command(root)}")
        return 0


def _set_aside(path: Path) -> Path | None:
    """Rename a database and its companions to the first free `.damaged` name; None if there is none."""
    number = 0
    while (kept := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    for companion in COMPANIONS:
        file = path.with_name(path.name + companion)
        if file.exists():
            os.replace(file, kept.with_name(kept.name + companion))
    return kept if kept.exists() else None


def _restore(directory: StudyDirectory, study_name: str) -> str:
    """Put the backup in the database's place if it is sound; in words, what the database is now."""
    try:
        database.check(directory.backup, study_name, has_batches=True)
    except database.Damaged:
        return "no backup"
    database.back_up(directory.backup, directory.database)
    return f"{directory.backup.name}"
