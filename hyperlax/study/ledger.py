"""Writes many trials into Optuna's SQLite tables in one transaction.

Optuna's own storage opens one transaction per attribute of a trial, about 3 ms each, and asks for every row before it writes it.
What stands in the tables afterwards is the same; plain Optuna reads it. The layout is that of `database.SCHEMA`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage

CONSTRAINTS = "constraints"
"""The trial's system attribute in which Optuna keeps what `constraints_func` gave."""


@dataclass(frozen=True)
class Ending:
    """How a trial ended. values: one per objective for COMPLETE, else empty. attributes: become its user attributes.

    constraints: a number per constraint, at most 0 where the trial satisfies it; empty where there are none. intermediate: the
    leading objective after each of its segments, of a study that prunes; Optuna's steps are the segments from 1.
    """

    number: int
    state: str
    values: Sequence[float]
    attributes: Mapping[str, Any]
    constraints: Sequence[float] = ()
    intermediate: Sequence[float] = ()


@dataclass(frozen=True)
class Entry:
    """A trial as it was asked. params: as Optuna keeps them."""

    params: Mapping[str, Any]
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any]


class Ledger:
    """One study in the file behind an RDBStorage."""

    def __init__(self, rdb: RDBStorage, study_id: int):
        self._engine, self._study_id = rdb.engine, study_id

    def record(self, entries: Iterable[Entry], distributions: Mapping[str, BaseDistribution]) -> None:
        """Add WAITING trials under the next numbers."""
        texts = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
        with self._transaction() as cursor:
            ((number,),) = cursor.execute("SELECT COUNT(*) FROM trials WHERE study_id = ?", (self._study_id,))
            for number, entry in enumerate(entries, number):  # noqa: B020
                cursor.execute(
                    "INSERT INTO trials (number, study_id, state) VALUES (?, ?, 'WAITING')", (number, self._study_id)
                )
                trial = cursor.lastrowid
                cursor.executemany(
                    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                    [
                        (trial, name, distributions[name].to_internal_repr(value), texts[name])
                        for name, value in entry.params.items()
                    ],
                )
                _insert_attributes(cursor, "trial_user_attributes", trial, entry.user_attrs)
                _insert_attributes(cursor, "trial_system_attributes", trial, entry.system_attrs)

    def start(self, numbers: Iterable[int]) -> None:
        """WAITING -> RUNNING, from now."""
        now = _now()
        self._update("state = 'RUNNING', datetime_start = ?", [(now, number) for number in numbers])

    def wait(self, numbers: Iterable[int]) -> None:
        """RUNNING -> WAITING, for trials that are to be run again."""
        self._update("state = 'WAITING'", [(number,) for number in numbers])

    def finish(self, endings: Iterable[Ending]) -> None:
        """Tell how trials ended: attributes, values and state of all of them together, or nothing.

        One that never started here, since it ran before a repair, starts as it ends: Optuna demands a start.
        """
        now = _now()
        with self._transaction() as cursor:
            for ending in endings:
                trial = self._trial(cursor, ending.number)
                _insert_attributes(cursor, "trial_user_attributes", trial, ending.attributes)
                if ending.constraints:
                    _insert_attributes(
                        cursor, "trial_system_attributes", trial, {CONSTRAINTS: list(ending.constraints)}
                    )
                cursor.executemany(
                    "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
                    [(trial, objective, value) for objective, value in enumerate(ending.values)],
                )
                cursor.executemany(
                    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
                    "VALUES (?, ?, ?, 'FINITE')",
                    [(trial, segment, value) for segment, value in enumerate(ending.intermediate, 1)],
                )
                cursor.execute(
                    "UPDATE trials SET state = ?, datetime_start = COALESCE(datetime_start, ?), datetime_complete = ? "
                    "WHERE trial_id = ?",
                    (ending.state, now, now, trial),
                )

    def wait_again(self, numbers: Iterable[int]) -> None:
        """FAIL -> WAITING, without what was told of them."""
        with self._transaction() as cursor:
            for number in numbers:
                trial = self._trial(cursor, number)
                cursor.execute(
                    "DELETE FROM trial_user_attributes WHERE trial_id = ? AND key IN ('reason', 'batch', 'intermediate')",
                    (trial,),
                )
                cursor.execute("DELETE FROM trial_intermediate_values WHERE trial_id = ?", (trial,))
                cursor.execute(
                    "UPDATE trials SET state = 'WAITING', datetime_start = NULL, datetime_complete = NULL "
                    "WHERE trial_id = ?",
                    (trial,),
                )

    def invalidate(self, reasons: Mapping[int, str]) -> None:
        """COMPLETE -> FAIL, by number, with the reason; the metrics stay as attributes."""
        with self._transaction() as cursor:
            for number, reason in reasons.items():
                trial = self._trial(cursor, number)
                cursor.execute("DELETE FROM trial_values WHERE trial_id = ?", (trial,))
                _insert_attributes(cursor, "trial_user_attributes", trial, {"reason": reason})
                cursor.execute("UPDATE trials SET state = 'FAIL' WHERE trial_id = ?", (trial,))

    def _trial(self, cursor: Any, number: int) -> int:
        """The key of a trial's row."""
        ((trial,),) = cursor.execute(
            "SELECT trial_id FROM trials WHERE study_id = ? AND number = ?", (self._study_id, number)
        )
        return trial

    def _update(self, change: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._transaction() as cursor:
            cursor.executemany(
                f"UPDATE trials SET {change} WHERE study_id = {int(self._study_id)} AND number = ? "
                "AND state IN ('WAITING', 'RUNNING')",
                rows,
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor; what it wrote is committed at the end, or rolled back if the block raises.

        The lock is had at once: a transaction that first reads and then writes is refused, not kept waiting, if another writes.
        """
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.close()


def _insert_attributes(cursor: Any, table: str, trial: int, attributes: Mapping[str, Any]) -> None:
    cursor.executemany(
        f"INSERT OR REPLACE INTO {table} (trial_id, key, value_json) VALUES (?, ?, ?)",
        [(trial, key, json.dumps(value)) for key, value in attributes.items()],
    )


def _now() -> str:
    """Now as Optuna keeps it in SQLite: UTC without a zone, which it turns into local time when it reads."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(" ", timespec="microseconds")
