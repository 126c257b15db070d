"""The SQLite file as a file: is it whole, whose is it, and a copy for the day when it is not."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hyperlax.errors import UsageError
from hyperlax.files import replacing
from hyperlax.study.refusals import is_damage, primary_code, refusing_what_is_forbidden

SCHEMA = 12
"""`schema_version` of Optuna's tables that Hyperlax writes: Optuna 5."""

PATIENCE = 60.0
"""Seconds to wait for a lock that another program holds: whoever reads holds one while he reads."""


class Damaged(UsageError):
    """The file is no whole SQLite database. finding: which file, and why, without the advice; path: the file."""

    def __init__(self, path: Path, why: str, advice: str | None = None):
        self.path, self.why = path, why
        self.finding = f"{path}: is damaged ({why})."
        rebuild = f"`hyperlax repair {path.parent}` rebuilds it from its backup and the batches on disk."
        super().__init__(f"{self.finding} {advice or rebuild}")


def check(path: Path, study_name: str, has_batches: bool) -> None:
    """Refuse a file that is damaged, of another layout, or of another study. One that is missing or empty is a study's beginning.

    has_batches: batches of the study are on disk, so that this is not its beginning.

    Raises:
      Damaged: it is no whole SQLite database, or the study in it is gone.
      UsageError: it cannot be opened; its tables are not Optuna's, are of another version, or hold other studies only.
    """
    tables, schema, studies = _content(path) if path.exists() else (set(), None, [])
    if any(not table.startswith(_OPTUNA) for table in tables) and "studies" not in tables:
        raise UsageError(
            f"{path}: is no database of Optuna, it has the tables {', '.join(sorted(tables)[:5])}. {_ELSEWHERE}"
        )
    if schema not in (None, SCHEMA):
        raise UsageError(
            f"{path}: its tables have layout {schema}, this version of Hyperlax writes layout {SCHEMA}. "
            "Use the versions of Hyperlax and Optuna that study.json names."
        )
    if studies and study_name not in studies:
        raise UsageError(f"{path}: holds the study {', '.join(studies)}, not {study_name} of study.json. {_ELSEWHERE}")
    if has_batches and not studies:
        raise Damaged(path, "it holds no study, though batches are on disk" if path.exists() else "it is gone")


@dataclass(frozen=True)
class Told:
    """What a database says of its trials. asked: numbers of all; finished: of those that have ended; batches: that they name."""

    asked: set[int]
    finished: set[int]
    batches: set[str]


def told(path: Path, study_name: str) -> Told:
    """Of a study's trials; nothing where there is no study yet. For a file that `check` found sound."""
    if not path.exists() or "trials" not in _content(path)[0]:
        return Told(set(), set(), set())
    with closing(_open(path)) as connection:
        rows = connection.execute(
            "SELECT number, state, value_json FROM trials JOIN studies USING (study_id) LEFT JOIN trial_user_attributes "
            "ON trial_user_attributes.trial_id = trials.trial_id AND key = 'batch' WHERE study_name = ?",
            (study_name,),
        ).fetchall()
    finished = {number for number, state, _ in rows if state not in ("WAITING", "RUNNING")}
    return Told({number for number, *_ in rows}, finished, {json.loads(batch) for *_, batch in rows if batch})


def check_writable(path: Path) -> None:
    """UsageError for a database that is there and that this process may not change. Whether it is whole is `check`'s question."""
    if not path.exists():
        return
    try:
        with refusing_what_is_forbidden(path), closing(_open(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            ((version,),) = connection.execute("PRAGMA user_version")
            connection.execute(
                f"PRAGMA user_version = {version}"
            )  # SQLite begins on a read-only file as if it could write
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


def back_up(path: Path, to: Path) -> None:
    """Replace `to` by a copy of the database as of now, atomically. OSError, naming `to`, if there is no room for it."""
    with replacing(to) as temporary, closing(_open(path)) as source, closing(sqlite3.connect(temporary)) as target:
        try:
            source.backup(target)
        except sqlite3.OperationalError as error:
            if primary_code(error) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


_OPTUNA = ("stud", "trial", "version_info", "alembic_version")
_ELSEWHERE = "Put the study's own database back, or choose another --output-root."


def _content(path: Path) -> tuple[set[str], int | None, list[str]]:
    """Names of the tables, version of the layout and names of the studies, as far as they are there."""
    try:
        with refusing_what_is_forbidden(path), closing(_open(path)) as connection:
            complaints = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
            if complaints != ["ok"]:
                raise Damaged(path, complaints[0].splitlines()[-1])
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = connection.execute("SELECT schema_version FROM version_info") if "version_info" in tables else []
            schema = next((row[0] for row in versions), None)
            named = connection.execute("SELECT study_name FROM studies") if "studies" in tables else []
            return tables, schema, [row[0] for row in named]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise Damaged(path, str(error)) from error
        raise


def _open(path: Path) -> sqlite3.Connection:
    """For reading; a journal that a killed process left is rolled back, which needs leave to write."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)
