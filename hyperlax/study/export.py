"""A study as a journal file of Optuna's, which `optuna.storages.JournalStorage` opens anywhere."""

from __future__ import annotations

import tempfile
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from hyperlax.errors import UsageError
from hyperlax.files import replacing
from hyperlax.study import database
from hyperlax.study.database import url_of
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.refusals import ending_on_refusal, run_again


def write_journal(root: Path, path: Path, study_name: str) -> None:
    """Copy the study in a directory, which `open_study` could read, into a new journal under the same name.

    UsageError if it has no database yet.
    """
    directory = StudyDirectory(root)
    if not directory.database.exists():
        raise UsageError(f"export {root}: has no database yet. It is there as soon as the search has begun.")
    with tempfile.TemporaryDirectory() as scratch, replacing(path) as temporary:
        copy = Path(scratch) / directory.database.name
        with ending_on_refusal(directory.database, run_again):
            database.back_up(directory.database, copy)
        journal = optuna.storages.JournalStorage(JournalFileBackend(str(temporary)))
        optuna.copy_study(from_study_name=study_name, from_storage=url_of(copy), to_storage=journal)
