"""Errors of the disk: no space, no permission, a lock. They are reported in one sentence instead of a traceback.

A broken pipe is not one of them: it is not about a file of the study, and nobody is left to read the sentence.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from optuna.exceptions import StorageInternalError

from hyperlax.errors import HyperlaxError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_LOCKED_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORBIDDEN_SQLITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_DAMAGED_SQLITE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FREE_SPACE, _FIX = "Free some space", "Fix this"


class _Problem(NamedTuple):
    """An error of the disk in words. place: the file. remedy: an imperative. is_forbidden: whether a permission is missing."""

    place: str
    reason: str
    remedy: str
    is_forbidden: bool


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's code of an error without its upper, detail bits; SQLITE_ERROR if Python found the error."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error of reading a database is about its content, not about space, permissions or locks."""
    return primary_code(error) not in (sqlite3.SQLITE_FULL, *_LOCKED_SQLITE, *_FORBIDDEN_SQLITE)


def problem_of(error: BaseException, database: Path) -> _Problem | None:
    """Return the problem of the disk that an exception reports, None if it reports none. database: the file of SQLite errors."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(wrapped := getattr(error, "orig", None), sqlite3.Error):  # in sqlalchemy's, which need not be loaded
        error = wrapped
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        place = "The output" if error.filename is None else str(error.filename)
        remedy = _FREE_SPACE if error.errno in FULL else _FIX
        return _Problem(place, error.strerror or str(error), remedy, error.errno in _FORBIDDEN)
    if isinstance(error, sqlite3.DatabaseError):
        return _of_sqlite(error, database)
    return None


def run_again(remedy: str) -> str:
    """Return the advice to run the same command again."""
    return f"{remedy}, then run the command again."


@contextmanager
def ending_on_io_error(database: Path, what_next: Callable[[str], str] = run_again) -> Iterator[None]:
    """Raise HyperlaxError for a disk error in the block: where, why and what next. Other errors pass.

    database: the file of SQLite errors. what_next: returns advice in whole sentences from the remedy, which is an imperative.
    """
    try:
        yield
    except Exception as error:
        problem = problem_of(error, database)
        if problem is None:
            raise
        raise HyperlaxError(f"{problem.place}: {problem.reason}. {what_next(problem.remedy)}") from error


@contextmanager
def refusing_forbidden(path: Path) -> Iterator[None]:
    """Raise UsageError if the block may not write `path`, before it has written anything of it. Other errors pass."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        problem = problem_of(error, path)
        if problem is None or not problem.is_forbidden:
            raise
        raise UsageError(
            f"{path}: cannot be opened for writing ({problem.reason}). Make it writable, or use another directory."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let the block write a file that a command was asked for.

    Raises UsageError if it may not be written, HyperlaxError for other errors of the disk.
    """
    with ending_on_io_error(path), refusing_forbidden(path):
        yield


def _of_sqlite(error: sqlite3.DatabaseError, database: Path) -> _Problem | None:
    """Return the problem that an error of SQLite reports; None if SQL or its caller is wrong, not the file or the disk."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL:
        remedy = _FREE_SPACE
    elif code in _LOCKED_SQLITE:
        remedy = "Close the program that holds it"
    elif code in (*_FORBIDDEN_SQLITE, *_DAMAGED_SQLITE):
        remedy = _FIX
    else:
        return None
    return _Problem(str(database), str(error), remedy, code in _FORBIDDEN_SQLITE)
