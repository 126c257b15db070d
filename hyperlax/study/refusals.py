"""What the system refuses a study: room, leave to write, a lock. Said in one sentence instead of a traceback.

A reader of the output who has left is no refusal: no file of the study is concerned, and nobody hears a sentence.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

from hyperlax.errors import HyperlaxError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_LOCKED_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_FORBIDDEN_SQLITE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_DAMAGED_SQLITE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True)
class Refusal:
    """place: the file that it is about. reason: the system's words. remedy: what a user does about it, an imperative."""

    place: str
    reason: str
    remedy: str
    forbidden: bool


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without the details of its upper bits; SQLITE_ERROR for one that Python found."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error of reading a database speaks of its content, and not of room, leave or locks."""
    return primary_code(error) not in (sqlite3.SQLITE_FULL, *_LOCKED_SQLITE, *_FORBIDDEN_SQLITE)


def refusal_of(error: BaseException, database: Path) -> Refusal | None:
    """What the system refused, if that is what an exception says. database: the file that one of SQLite is about."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, sqlite3.DatabaseError):
        return _of_sqlite(error, database)
    return None


@contextmanager
def ending_on_refusal(database: Path, what_next: Callable[[Refusal], str]) -> Iterator[None]:
    """Raise HyperlaxError for what the system refuses in the block: where, why and what next. Anything else passes."""
    try:
        yield
    except Exception as error:
        refusal = refusal_of(error, database)
        if refusal is None:
            raise
        raise HyperlaxError(f"{refusal.place}: {refusal.reason}. {what_next(refusal)}") from error


def run_again(refusal: Refusal) -> str:
    """What next, of a command that can simply be given again."""
    return f"{refusal.remedy}, then run the command again."


@contextmanager
def refusing_what_is_forbidden(path: Path) -> Iterator[None]:
    """Raise UsageError if the block may not write `path`, of which it has written nothing yet. Anything else passes."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        refusal = refusal_of(error, path)
        if refusal is None or not refusal.forbidden:
            raise
        raise UsageError(
            f"{path}: cannot be opened for writing ({refusal.reason}). Make it writable, or use another directory."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write a file that a command was asked for: UsageError if it may not, HyperlaxError for what else the system refuses."""
    with ending_on_refusal(path, run_again), refusing_what_is_forbidden(path):
        yield


def _of_the_system(error: OSError) -> Refusal:
    place = "The output" if error.filename is None else str(error.filename)
    remedy = _FREE_SPACE if error.errno in FULL else _PUT_RIGHT
    return Refusal(place, error.strerror or str(error), remedy, error.errno in _FORBIDDEN)


def _of_sqlite(error: sqlite3.DatabaseError, database: Path) -> Refusal | None:
    """None where SQL or its caller is wrong, not the file or the disk."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL:
        remedy = _FREE_SPACE
    elif code in _LOCKED_SQLITE:
        remedy = "Close the program that holds it"
    elif code in (*_FORBIDDEN_SQLITE, *_DAMAGED_SQLITE):
        remedy = _PUT_RIGHT
    else:
        return None
    return Refusal(str(database), str(error), remedy, code in _FORBIDDEN_SQLITE)


_FREE_SPACE = "Free some space"
_PUT_RIGHT = "Put that right"
