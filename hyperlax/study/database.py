"""Optuna's SQLite file of a study: what Optuna and its dashboard open. A projection of the journal and the batches on disk.

A trial is WAITING from the moment it is asked, RUNNING while its batch trains, then COMPLETE, PRUNED or FAIL. Its metrics are user
attributes of their own names. Rows are written directly, many trials in one transaction: Optuna's own storage opens a transaction
for each attribute of a trial, about 3 ms, and asking it takes 28 to 58 ms of CPU a trial. What the tables hold afterwards is the
same. The layout is Optuna 5's, which `database_file` checks.

Other programs may add rows. These are foreign: they stay behind the study's own, so that they do not change its numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.constraints import parse_constraint, violations
from hyperlax.files import refuse_moved, replacing
from hyperlax.samplers.base import AskedTrial
from hyperlax.samplers.in_memory import CONSTRAINTS
from hyperlax.study.database_file import PATIENCE, connect
from hyperlax.study.database_rows import NUMBER, find_study, is_own, read_rows
from hyperlax.trial import TrialResult

_METRIC_NAMES = "study:metric_names"
"""The system attribute of a study with the names of its objectives."""
TAKEN_OVER = "hyperlax:taken_over"
"""The system attribute of a trial that began as a foreign one: the key of its row then."""


class StudyDatabase:
    """One study in one SQLite file, held open by one process. Close it when done."""

    def __init__(self, path: Path, study_name: str, objectives: Mapping[str, str], constraints: Sequence[str] = ()):
        """Open the study of that name, or create it. objectives: name -> "minimize" or "maximize".

        Raises ValueError if the file, which `check` found sound, holds a study of that name with other directions.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if not path.exists() or path.stat().st_size == 0:
            with replacing(path) as temporary:  # Optuna makes its tables one by one; here all of them appear together
                _add_study(temporary, study_name, objectives)
        with closing(connect(path)) as connection:
            found = find_study(connection, study_name, objectives)
        if found is None:
            found = _add_study(path, study_name, objectives)
        self._study_id, self._objectives, self._constraints = found, dict(objectives), tuple(constraints)
        self._path, self._connection, self._version = path, connect(path), -1
        self._own: dict[int, FrozenTrial] = {}  # by number
        self._foreign: dict[int, FrozenTrial] = {}  # by the key of its row
        self._unfinished: set[int] = set()
        self._newest_row, self._changed_rows = -1, set[int]()

    @property
    def needed(self) -> set[str]:
        """Metrics that a COMPLETE trial must have."""
        return {*self._objectives, *(parse_constraint(text)[0] for text in self._constraints)}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Set the study's user attributes and the names of its objectives, where they differ."""
        wanted = {
            "study_user_attributes": attributes,
            "study_system_attributes": {_METRIC_NAMES: list(self._objectives)},
        }
        for table, own in wanted.items():
            rows = self._connection.execute(
                f"SELECT key, value_json FROM {table} WHERE study_id = ?", (self._study_id,)
            )
            known = dict(rows.fetchall())
            changed = {key: value for key, value in own.items() if known.get(key) != json.dumps(value)}
            if changed:
                with self._transaction() as cursor:
                    _insert_attributes(cursor, table, self._study_id, changed)

    def trials(self) -> list[FrozenTrial]:
        """Return the study's own trials by number, without times. Do not modify them."""
        self._catch_up()
        return list(self._own.values())

    def unfinished(self) -> list[int]:
        """Return the numbers of the study's own trials that have not ended."""
        self._catch_up()
        return sorted(self._unfinished)

    def foreign(self) -> list[FrozenTrial]:
        """Return the trials that other programs added, by their present number. Do not modify them."""
        self._catch_up()
        return self._in_order()

    def insert(self, trials: Sequence[AskedTrial], distributions: Mapping[str, BaseDistribution]) -> None:
        """Add WAITING trials under the next numbers, all of them or none. Foreign ones move behind them.

        A trial that is `TAKEN_OVER` gets the row of the foreign one, if that still waits.
        """
        texts = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
        with self._transaction() as cursor:
            self._read_changed()
            own, foreign = len(self._own), {trial._trial_id: trial.state.name for trial in self._in_order()}
            self._changed_rows |= foreign.keys()
            for number, trial in enumerate(trials, own):
                row = self._make_row(cursor, number, trial.system_attrs.get(TAKEN_OVER, -1), foreign)
                self._changed_rows.add(row)
                cursor.executemany(
                    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                    [
                        (row, name, distributions[name].to_internal_repr(value), texts[name])
                        for name, value in trial.params.items()
                    ],
                )
                _insert_attributes(cursor, "trial_user_attributes", row, trial.user_attrs)
                _insert_attributes(cursor, "trial_system_attributes", row, {**trial.system_attrs, NUMBER: number})
            behind = enumerate(foreign, own + len(trials))
            cursor.executemany("UPDATE trials SET number = ? WHERE trial_id = ?", list(behind))

    def start(self, numbers: Iterable[int]) -> None:
        """Set WAITING trials to RUNNING, from now."""
        now = _now()
        self._update("state = 'RUNNING', datetime_start = ?", [(now, number) for number in numbers])

    def requeue(self, numbers: Iterable[int]) -> None:
        """Set RUNNING trials to WAITING, to be run again."""
        self._update("state = 'WAITING'", [(number,) for number in numbers])

    def finish(self, results: Sequence[TrialResult], batch: str) -> None:
        """Write the results of trials of a batch, all of them or none.

        Optuna demands a start time. A trial that ran before a repair has none here, and gets that of its end. Raises ValueError
        for a value that is not finite, since Optuna would take an infinite one for the best.
        """
        for result in results:
            if not all(map(math.isfinite, self._values(result))):
                raise ValueError(
                    f"trial {result.number} is {result.state} and needs finite values, got {self._values(result)}"
                )
        now = _now()
        with self._transaction() as cursor:
            for result in results:
                self._finish_one(cursor, result, batch, now)

    def requeue_ended(self, numbers: Iterable[int]) -> None:
        """Set trials that have ended to WAITING, without the record of their end."""
        with self._transaction() as cursor:
            for number in numbers:
                row = (self._row(cursor, number),)
                cursor.execute(
                    "DELETE FROM trial_user_attributes WHERE trial_id = ? AND key IN ('reason', 'batch', 'intermediate')",
                    row,
                )
                _delete_results(cursor, row[0])
                cursor.execute(
                    "UPDATE trials SET state = 'WAITING', datetime_start = NULL, datetime_complete = NULL WHERE trial_id = ?",
                    row,
                )

    def invalidate(self, reasons: Mapping[int, str]) -> None:
        """Set COMPLETE trials to FAIL, which takes them out of every ranking. Metrics stay as user attributes.

        reasons: number -> reason.
        """
        with self._transaction() as cursor:
            for number, reason in reasons.items():
                row = self._row(cursor, number)
                cursor.execute("DELETE FROM trial_values WHERE trial_id = ?", (row,))
                _insert_attributes(cursor, "trial_user_attributes", row, {"reason": reason})
                cursor.execute("UPDATE trials SET state = 'FAIL' WHERE trial_id = ?", (row,))

    def _finish_one(self, cursor: Any, result: TrialResult, batch: str, now: str) -> None:
        """Write the result of a trial. It replaces one that another program told."""
        row, values = self._row(cursor, result.number), self._values(result)
        _delete_results(cursor, row)
        _insert_attributes(cursor, "trial_user_attributes", row, _attributes_of(result, batch))
        if values and self._constraints:
            violated = {CONSTRAINTS: violations(self._constraints, result.metrics)}
            _insert_attributes(cursor, "trial_system_attributes", row, violated)
        cursor.executemany(
            "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
            [(row, objective, value) for objective, value in enumerate(values)],
        )
        cursor.executemany(
            "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
            "VALUES (?, ?, ?, 'FINITE')",
            [(row, step, values[0]) for step, values in result.intermediate.items()],
        )
        cursor.execute(
            "UPDATE trials SET state = ?, datetime_start = COALESCE(datetime_start, ?), datetime_complete = ? "
            "WHERE trial_id = ?",
            (result.state, now, now, row),
        )

    def _values(self, result: TrialResult) -> list[float]:
        """Return a value per objective for COMPLETE, else none."""
        return [result.metrics[name] for name in self._objectives] if result.state == TrialState.COMPLETE.name else []

    def _make_row(self, cursor: Any, number: int, taken_over: int, foreign: dict[int, str]) -> int:
        """Return the key of the row of a new trial: a foreign one that waits, which is taken out of `foreign`, or a new one."""
        if foreign.get(taken_over) == TrialState.WAITING.name:
            del foreign[taken_over]
            cursor.execute("UPDATE trials SET number = ? WHERE trial_id = ?", (number, taken_over))
            cursor.execute("DELETE FROM trial_params WHERE trial_id = ?", (taken_over,))
            return taken_over
        cursor.execute(
            "INSERT INTO trials (number, study_id, state) VALUES (?, ?, 'WAITING')", (number, self._study_id)
        )
        return cursor.lastrowid

    def _in_order(self) -> list[FrozenTrial]:
        return sorted(self._foreign.values(), key=lambda trial: trial.number)

    def _catch_up(self) -> None:
        self._connection.execute("BEGIN")  # all tables as they are at one time
        try:
            self._read_changed()
        finally:
            self._connection.rollback()

    def _read_changed(self) -> None:
        """Read the trials that were added or may have changed since the last call, and no others: the cost does not grow.

        Changes by other programs to trials that have ended are not seen. To be called in a transaction.
        """
        ((version,),) = self._connection.execute("PRAGMA data_version")
        if version != self._version:  # another connection has written
            self._version = version
            self._changed_rows |= {self._own[number]._trial_id for number in self._unfinished}
            self._changed_rows |= {row for row, trial in self._foreign.items() if not trial.state.is_finished()}
        elif not self._changed_rows:
            return
        for trial in read_rows(self._connection, self._study_id, self._changed_rows, self._newest_row):
            self._keep(trial)
        self._changed_rows = set()

    def _keep(self, trial: FrozenTrial) -> None:
        """Keep a trial that was read. Raises ValueError if the study has another trial of its own with that number."""
        self._newest_row = max(self._newest_row, trial._trial_id)
        self._foreign.pop(trial._trial_id, None)
        if not is_own(trial):
            self._foreign[trial._trial_id] = trial
            return
        if self._own.setdefault(trial.number, trial)._trial_id != trial._trial_id:
            raise ValueError(f"it has trial {trial.number} twice")
        self._own[trial.number] = trial
        (self._unfinished.discard if trial.state.is_finished() else self._unfinished.add)(trial.number)

    def _row(self, cursor: Any, number: int) -> int:
        """Return the key of the row of a trial that is about to be changed. SQLite would have to look at every trial for it."""
        if number in self._own:
            row = self._own[number]._trial_id
        else:
            query = "SELECT trial_id FROM trials WHERE study_id = ? AND number = ?"
            ((row,),) = cursor.execute(query, (self._study_id, number))
        self._changed_rows.add(row)
        return row

    def _update(self, change: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Change trials that have not ended. rows: the values of the change, then the number of the trial."""
        with self._transaction() as cursor:
            cursor.executemany(
                f"UPDATE trials SET {change} WHERE trial_id = ? AND state IN ('WAITING', 'RUNNING')",
                [(*values, self._row(cursor, number)) for *values, number in rows],
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Yield a cursor. Its changes are committed at the end, or rolled back if the block raises.

        The lock is taken at once: SQLite refuses a transaction that reads first and then writes while another one writes.
        Raises OSError, before anything is written, if the study is not this process's any more: see `refuse_moved`.
        """
        refuse_moved(self._path)
        try:
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise


def url_of(path: Path) -> str:
    """Return the database's address as Optuna takes it, whatever characters the path has."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def reading_only(database: Path) -> RDBStorage:
    """Return a study's database opened read-only: SQLite refuses to write it. It was checked before."""
    engine = {"creator": lambda: connect(database, mode="ro", check_same_thread=False)}
    return RDBStorage(url_of(database), engine_kwargs=engine, skip_table_creation=True)


def read_finished(path: Path, study_name: str) -> tuple[dict[str, Any], list[FrozenTrial]]:
    """Return the user attributes of a study, and its own trials that have ended, by number. Writes nothing."""
    storage = reading_only(path)
    try:
        study = optuna.load_study(study_name=study_name, storage=storage)
        trials = [
            t
            for t in study.get_trials(deepcopy=False)
            if is_own(t) and t.state.is_finished() and "batch" in t.user_attrs
        ]
        return study.user_attrs, trials
    finally:
        _close(storage)


def _add_study(path: Path, study_name: str, objectives: Mapping[str, str]) -> int:
    """Add a study without trials to a database, with Optuna's tables if it has none. Return its key."""
    engine = {"connect_args": {"timeout": PATIENCE}}
    rdb = RDBStorage(url_of(path), engine_kwargs=engine, skip_compatibility_check=True)
    directions = [StudyDirection[name.upper()] for name in objectives.values()]
    try:
        return optuna.create_study(study_name=study_name, storage=rdb, directions=directions)._study_id
    finally:
        _close(rdb)


def _close(rdb: RDBStorage) -> None:
    rdb.remove_session()
    rdb.engine.dispose()


def _delete_results(cursor: Any, row: int) -> None:
    """Delete the values of a trial."""
    for table in ("trial_values", "trial_intermediate_values"):
        cursor.execute(f"DELETE FROM {table} WHERE trial_id = ?", (row,))


def _insert_attributes(cursor: Any, table: str, row: int, attributes: Mapping[str, Any]) -> None:
    """Write attributes of a trial, or of a study. row: its key."""
    owner = table.partition("_")[0]
    cursor.executemany(
        f"INSERT OR REPLACE INTO {table} ({owner}_id, key, value_json) VALUES (?, ?, ?)",
        [(row, key, json.dumps(value)) for key, value in attributes.items()],
    )


def _attributes_of(result: TrialResult, batch: str) -> dict[str, Any]:
    """Return the user attributes that a trial gets when it ends."""
    attributes: dict[str, Any] = {**result.metrics, "batch": batch}
    if result.reason:
        attributes["reason"] = result.reason
    rows = [list(values) for values in result.intermediate.values()]
    if rows and len(rows[0]) > 1:
        attributes["intermediate"] = rows
    return attributes


def _now() -> str:
    """Return the time as Optuna keeps it in SQLite: UTC without a zone, which it turns into local time when it reads."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(" ", timespec="microseconds")
