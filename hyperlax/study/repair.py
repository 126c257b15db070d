"""`hyperlax repair`: a study's database built again, from its backup and from the batches on disk."""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import AbstractContextManager, closing
from pathlib import Path

import optuna

from hyperlax.config.checks import check_space
from hyperlax.config.options import SearchOptions
from hyperlax.files import replacing
from hyperlax.recipe import Recipe
from hyperlax.study import database
from hyperlax.study import manifest as manifests
from hyperlax.study.directory import StudyDirectory, only_one_process
from hyperlax.study.opening import converse
from hyperlax.study.overlap import overlap_of
from hyperlax.study.refusals import ending_on_refusal
from hyperlax.study.storage import StudyStorage
from hyperlax.study.untold import untold_trials

COMPANIONS = ("-journal", "-wal", "-shm")
"""SQLite's files beside a database; one left beside another database would be taken for its own."""


def repair(arguments: SearchOptions, recipe: Recipe, root: Path) -> int:
    """Replace a damaged database, keep the damaged one, and say what was restored. Returns 0.

    Trials are told from their batches; those whose batch is not on disk are trained again by the next resume. UsageError for what
    is no study of Hyperlax or for a batch that is damaged too; HyperlaxError if the batches do not belong to this study's seed and
    space. The damaged database stays where it is until the new one is whole.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(arguments, recipe.space)
    directory = StudyDirectory(root)
    manifest = manifests.read(directory.manifest, recipe)
    overlap = overlap_of(arguments, manifest, directory)
    objectives = arguments.objectives
    with _ending_on_refusal(directory), only_one_process(root):
        try:
            directory.check_database(arguments.study_name)
        except database.Damaged as error:
            print(error.finding)
        else:
            told = database.told(directory.database, arguments.study_name)
            on_disk = untold_trials(directory, told.batches)
            unknown = min(on_disk.keys() - told.asked, default=None)
            if unknown is None:
                print(f"{directory.database} is sound; nothing to repair.")
                return 0
            print(f"{directory.database}: does not know trial {unknown}, which is in {on_disk[unknown]}.")
        with replacing(directory.database) as rebuilt:
            source = _restore(directory.backup, rebuilt, arguments.study_name)
            with closing(StudyStorage(rebuilt, arguments.study_name, objectives)) as storage:
                conversation = converse(storage, directory, arguments, recipe, manifest.first_trials, overlap)
                before = conversation.finished()
                told = conversation.rebuild(recipe.config.algorithm)
                finished = conversation.finished()
                left = len(conversation.trials()) - finished
            kept = _keep(directory.database)
        if kept:
            print(f"It is kept as {kept}.")
        print(f"Restored {before} finished trials from {source} and {told} from the batches; {left} wait to be run.")
        if finished < arguments.n_trials:
            print(f"To go on:\n  {manifests.resume_command(root)}")
        return 0


def _keep(path: Path) -> Path | None:
    """Copy a database that is about to be replaced to the first free `.damaged` name; None if there is none.

    Its companions are moved: beside another database SQLite would take them for that one's.
    """
    number = 0
    while (kept := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    for companion in COMPANIONS:
        file = path.with_name(path.name + companion)
        if file.exists():
            os.replace(file, kept.with_name(kept.name + companion))
    if not path.exists():
        return None
    with replacing(kept) as copy:
        shutil.copyfile(path, copy)
    return kept


def _restore(backup: Path, to: Path, study_name: str) -> str:
    """Copy the backup if it is sound; in words, what the copy is of."""
    try:
        database.check(backup, study_name, has_batches=True)
    except database.Damaged:
        return "no backup"
    database.back_up(backup, to)
    return backup.name


def _ending_on_refusal(directory: StudyDirectory) -> AbstractContextManager[None]:
    """HyperlaxError where the disk is full or a file cannot be read or written: a repair is done at its end or not at all."""
    again = shlex.join(["hyperlax", "repair", str(directory.root)])
    return ending_on_refusal(
        directory.database, lambda refusal: f"Nothing is lost. {refusal.remedy}, then repair again:\n  {again}"
    )
