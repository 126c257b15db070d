"""The SQLite file of a study's database: whether it is whole, of this study and may be changed, and its backup. Without Optuna.

Somebody else may have written it, so it is looked at before SQLite opens it, and again before anything but its schema is read.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from hyperlax.config.option import shell_command
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import TO_READ, open_regular, replacing
from hyperlax.study.io_errors import is_damage, primary_code, refusing_forbidden

_SCHEMA = 12
"""`schema_version` of Optuna's tables that Hyperlax writes: Optuna 5."""
PATIENCE = 60.0
"""Seconds to wait for a lock that another program holds: a reader holds one while it reads."""
_OPTUNA = ("stud", "trial", "version_info", "alembic_version")
_COMPANIONS = ("", "-journal", "-wal", "-shm")
_NAMES_ANOTHER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""The last bytes of a journal that names another one. SQLite would remove that, wherever it is."""
_PLAIN = re.compile(r"CREATE (TABLE|INDEX|UNIQUE INDEX) ")
_ELSEWHERE = "Put the study's own database back, or choose another {output_root}."


class Damaged(UsageError):
    """Damage: the file is not a whole SQLite database. why: "" if it is missing. finding: file and problem, without the advice."""

    def __init__(self, path: Path, why: str):
        self.finding = f"{path}: is damaged ({why})." if why else f"{path}: is missing."
        rebuild = f"`{shell_command('repair', path.parent)}` rebuilds it from its backup and the batches on disk."
        super().__init__(f"{self.finding} {rebuild}")


def check(path: Path, study_name: str, has_batches: bool) -> None:
    """Raise an error for a file that is damaged, of another layout, or of another study.

    A missing or empty file is accepted for a new study. has_batches: batches are on disk, so the study is not new.

    Raises:
      Damaged: The file is not a whole SQLite database, or its study is gone.
      UsageError: It cannot be opened, or its tables are not Optuna's, have another version, or hold only other studies.
    """
    tables, schema, studies = _content(path) if path.exists() else (set(), None, [])
    if any(not table.startswith(_OPTUNA) for table in tables) and "studies" not in tables:
        problem = f"{{0}}: is not a database of Optuna, it has the tables {{1}}. {_ELSEWHERE}"
        raise OptionError("output_root", problem, path, ", ".join(sorted(tables)[:5]))
    if schema not in (None, _SCHEMA):
        raise UsageError(
            f"{path}: its tables have layout {schema}, this version of Hyperlax writes layout {_SCHEMA}. "
            "Use the versions of Hyperlax and Optuna that study.json names."
        )
    if studies and study_name not in studies:
        problem = f"{{0}}: holds the study {{1}}, not {{2}} of study.json. {_ELSEWHERE}"
        raise OptionError("output_root", problem, path, ", ".join(studies), study_name)
    if has_batches and not studies:
        raise Damaged(path, "it holds no study, though batches are on disk" if path.exists() else "")


def check_writable(path: Path) -> None:
    """Raise UsageError if the database exists and this process may not change it. `check` looks for damage."""
    if not path.exists():
        return
    try:
        with refusing_forbidden(path), closing(connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            ((version,),) = connection.execute("PRAGMA user_version")
            # SQLite begins on a read-only file as if it could write
            connection.execute(f"PRAGMA user_version = {version}")
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


def back_up(path: Path, to: Path) -> None:
    """Replace `to` by a copy of the current database, atomically. Raises OSError, naming `to`, if the disk is full."""
    with replacing(to) as temporary, closing(connect(path)) as source, closing(sqlite3.connect(temporary)) as target:
        try:
            source.backup(target)
        except sqlite3.OperationalError as error:
            if primary_code(error) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def _content(path: Path) -> tuple[set[str], int | None, list[str]]:
    """Return the names of the tables, the version of the layout and the names of the studies, as far as they exist."""
    try:
        with refusing_forbidden(path), closing(connect(path)) as connection:
            if fault := _fault_of_tables(connection):
                raise Damaged(path, fault)
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


def connect(path: Path, mode: str = "rw", check_same_thread: bool = True) -> sqlite3.Connection:
    """Open for reading. A journal left by a killed process is rolled back, which needs write permission, unless mode is "ro"."""
    if fault := _fault_of_files(path):
        raise Damaged(path, fault)
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, check_same_thread=check_same_thread)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _fault_of_files(path: Path) -> str:
    """Return why SQLite should not open a database or what lies beside it; "" if it can."""
    for companion in _COMPANIONS:
        file = path.with_name(path.name + companion)
        try:
            with open_regular(file, TO_READ) as opened:
                if companion == "-journal" and opened.seek(0, 2) >= len(_NAMES_ANOTHER):
                    opened.seek(-len(_NAMES_ANOTHER), 2)
                    if opened.read() == _NAMES_ANOTHER:
                        return f"{file.name} names another file, which SQLite would remove"
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.filename is None or not file.is_file() or file.is_symlink():
                return f"{file.name}: {error.strerror}"
    return ""


def _fault_of_tables(connection: sqlite3.Connection) -> str:
    """Return what a database has besides plain tables, which would run as it is read or written; "" for nothing."""
    tables = []
    for kind, name, text in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind not in ("table", "index") or not _PLAIN.match(str(text or "CREATE INDEX ")):
            return f"it has the {kind} {name}; Optuna has plain tables only"
        tables += [name] if kind == "table" else []
    for table in tables:
        quoted = str(table).replace('"', '""')
        computed = [name for _, name, *_, hidden in connection.execute(f'PRAGMA table_xinfo("{quoted}")') if hidden]
        if computed:
            return f"its table {table} computes the column {computed[0]}; Optuna's store them all"
    return ""
