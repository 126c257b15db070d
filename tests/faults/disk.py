"""A disk that refuses one write, or every write of a kind: of a file, a directory, a lock or SQLite."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from sqlite3 import dbapi2
from typing import Any, cast

import pytest

from hyperlax.errors import HyperlaxError
from tests.study_cases import Case

SYSTEM = ("fsync", "replace", "mkdir", "pwrite")
"""The calls of `os` by which Hyperlax writes; what a file was given reaches the disk in `fsync`."""
REASONS = ("No space left on device", "database or disk is full")


@dataclass
class Disk:
    """refuses: the number of the one write that fails, from 1, or a word that all that fail have. writes: all so far, in words."""

    refuses: int | str
    writes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has_room(self, what: str) -> bool:
        """Whether the write that is asked for may happen."""
        with self.lock:
            self.writes.append(what)
            return self.refuses not in what if isinstance(self.refuses, str) else len(self.writes) != self.refuses


@contextmanager
def writing_to(disk: Disk) -> Iterator[Disk]:
    """Every write of this process asks the disk first."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SYSTEM:
            patch.setattr(os, name, _asking(disk, name, getattr(os, name)))
        connect, connection = sqlite3.connect, _asking_sqlite(disk)
        for module in (sqlite3, dbapi2):
            patch.setattr(module, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=connection))
        yield disk


@contextmanager
def pages_at_most(count: int) -> Iterator[None]:
    """No database of this process grows beyond so many pages of 4 KiB: SQLite's own way to meet a full disk."""
    connect = sqlite3.connect

    def connect_to_little(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA max_page_count = {count}")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite3, dbapi2):
            patch.setattr(module, "connect", connect_to_little)
        yield


def _asking(disk: Disk, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def asks(*args: Any, **kwargs: Any) -> Any:
        changes_nothing = name == "mkdir" and os.path.exists(args[0])
        if not changes_nothing and not disk.has_room(f"{name} {args[0]}"):
            raise OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC), *(path for path in args[:1] if not isinstance(path, int))
            )
        return call(*args, **kwargs)

    return asks


def _asking_sqlite(disk: Disk) -> type[sqlite3.Connection]:
    def ask(what: str) -> None:
        if not disk.has_room(f"sqlite {what}"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if sql.lstrip().startswith("CREATE TABLE"):
                cast(Connection, self.connection).asks_for_tables()
            return super().execute(sql, parameters)

    class Connection(sqlite3.Connection):
        has_tables = False

        def asks_for_tables(self) -> None:
            """For its first table only: all are made in a row, in a file that is not the study's yet."""
            if not self.has_tables:
                self.has_tables = True
                ask("CREATE TABLE")

        def cursor(self, factory: Any = None) -> Any:
            return super().cursor(Cursor)

        def commit(self) -> None:
            if self.in_transaction:
                ask("commit")
            super().commit()

        def backup(self, target: sqlite3.Connection, **options: Any) -> None:
            ask("backup")
            super().backup(target, **options)

    return Connection


def files(case: Case) -> set[str]:
    return {str(path.relative_to(case.root)) for path in case.root.rglob("*")}


def check_refusal(case: Case, refused: HyperlaxError) -> None:
    """One sentence that names a file, and nothing half-written on the disk."""
    assert refused.exit_code == 1
    assert str(refused).startswith(str(case.root)) and any(f": {reason}. " in str(refused) for reason in REASONS)
    assert not [path for path in files(case) if ".tmp" in path]


def refuse_each_write(
    new_case: Callable[[int], Case],
    run: Callable[[Case], int],
    again: Callable[[Case, HyperlaxError], int],
    check: Callable[[Case], None],
    every: int,
) -> int:
    """Run a command once for each of its writes, the one that finds no room, and then again; how many writes there were.

    every: 1 for all writes, n for the first of n.
    """
    refuses = 1
    while True:
        case = new_case(refuses)
        with writing_to(Disk(refuses)) as disk:
            try:
                run(case)
            except HyperlaxError as error:
                refused = error
            else:
                assert len(disk.writes) < refuses, f"{disk.writes[refuses - 1]} was refused, and nobody said so"
                return len(disk.writes)
        check_refusal(case, refused)
        assert again(case, refused) == 0
        check(case)
        refuses += every
