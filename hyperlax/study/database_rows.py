"""Trials of a study read from Optuna's tables by SQL. Optuna's storage takes a millisecond a trial, and half a second to import."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec
from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax.study.database_file import connect

NUMBER = "hyperlax:number"
"""The system attribute with the number of a trial that Hyperlax inserted. A copy of its row has another number."""

_ENDS: dict[str, Any] = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_ODD = (
    "intermediate_value_type IS NOT 'FINITE' OR typeof(intermediate_value) NOT IN ('real', 'integer') "
    "OR abs(intermediate_value) >= 1e300"
)
"""Intermediate values that are not finite numbers."""
_DIRECTIONS = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
_TRIALS = "SELECT trial_id, number, state FROM trials WHERE +study_id = ? AND ({0}) ORDER BY number, trial_id"
_ROWS: dict[str, Any] = {
    "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params WHERE {0} ORDER BY +param_id": (
        list[tuple[int, str, float, str]]
    ),
    "SELECT trial_id, key, value_json FROM trial_user_attributes WHERE {0}": list[tuple[int, str, str]],
    "SELECT trial_id, key, value_json FROM trial_system_attributes WHERE {0}": list[tuple[int, str, str]],
    "SELECT trial_id, value, value_type FROM trial_values WHERE {0} ORDER BY +objective": (
        list[tuple[int, float | None, Literal["FINITE", "INF_POS", "INF_NEG"]]]
    ),
    "SELECT trial_id, step, intermediate_value, intermediate_value_type FROM trial_intermediate_values "
    "WHERE ({0}) AND ({1})": list[tuple[int, int, Any, str]],
}
"""Queries about trials, of all studies, and the rows that they give. {0}: of which trials; {1}: which intermediate values.

The plus lets SQLite find a few trials by their keys, instead of reading everything in the order that is asked for.
"""
_ALL = "1"


def own_number(trial: FrozenTrial) -> int | None:
    """Return the number that a trial has in its study's own database; None for one that another program added."""
    return trial.system_attrs.get(NUMBER)


def is_own(trial: FrozenTrial) -> bool:
    """Return whether a trial is the study's own."""
    return own_number(trial) == trial.number


def read_trials(path: Path, study_name: str, objectives: Mapping[str, str]) -> list[FrozenTrial]:
    """Return every trial of a study by number, without times; of its intermediate values only those that are not finite numbers.

    Empty if the file, which `database_file.check` found sound, does not hold the study yet. Writes nothing.

    Args:
      objectives: Name -> "minimize" or "maximize", as study.json has them.

    Raises:
      Exception: of any kind, for content that Optuna does not write.
    """
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")  # all tables as they are at one time
        study = find_study(connection, study_name, objectives)
        return [] if study is None else _read(connection, study, _ALL, _ODD)


def find_study(connection: sqlite3.Connection, study_name: str, objectives: Mapping[str, str]) -> int | None:
    """Return the key of a study; None if the database does not hold it yet. Raises ValueError if it has other directions."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone():
        return None
    study = connection.execute("SELECT study_id FROM studies WHERE study_name = ?", (study_name,)).fetchone()
    if study is None:
        return None
    found = [str(direction).lower() for (direction,) in connection.execute(_DIRECTIONS, study)]
    if found != list(objectives.values()):
        raise ValueError(f"its study has directions {found}, study.json says {dict(objectives)}")
    return study[0]


def read_rows(connection: sqlite3.Connection, study: int, rows: Collection[int], newest: int) -> list[FrozenTrial]:
    """Return trials of a study by number, without times: those with these rows, and those with rows after `newest`."""
    chosen = f"trial_id > {newest} OR trial_id IN ({', '.join(map(str, rows))})"
    return _read(connection, study, chosen if newest >= 0 else _ALL, _ALL)


def _read(connection: sqlite3.Connection, study: int, chosen: str, intermediate: str) -> list[FrozenTrial]:
    """Return trials by number. chosen, intermediate: conditions in SQL. Whole tables are read without an index."""
    trials = connection.execute(_TRIALS.format(chosen), (study,)).fetchall()
    tables = (
        (connection.execute(query.format(chosen, intermediate)).fetchall(), kind) for query, kind in _ROWS.items()
    )
    return _frozen(
        msgspec.convert(trials, list[tuple[int, int, str]]), *(msgspec.convert(rows, kind) for rows, kind in tables)
    )


def _value(text: str) -> Any:
    """Return the value of a JSON text, NaN and Infinity of other programs included."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _frozen(
    trials: list[tuple[int, int, str]],
    params: list[tuple[int, str, float, str]],
    user_attributes: list[tuple[int, str, str]],
    system_attributes: list[tuple[int, str, str]],
    values: list[tuple[int, float | None, str]],
    intermediate: list[tuple[int, int, Any, str]],
) -> list[FrozenTrial]:
    """Return trials from their rows, as Optuna makes them."""
    found = {
        trial: FrozenTrial(number, TrialState[state], None, None, None, {}, {}, {}, {}, {}, trial)
        for trial, number, state in trials
    }
    read = {text: json_to_distribution(text) for text in {text for *_, text in params}}
    for trial, name, value, text in params:
        if one := found.get(trial):
            one.params[name] = read[text].to_external_repr(value)
            one.distributions[name] = read[text]
    for trial, key, text in user_attributes:
        if one := found.get(trial):
            one.user_attrs[key] = _value(text)
    for trial, key, text in system_attributes:
        if one := found.get(trial):
            one.system_attrs[key] = _value(text)
    for trial, value, kind in values:
        if one := found.get(trial):
            one.values = [*(one.values or ()), _ENDS.get(kind, value)]
    for trial, step, value, kind in intermediate:
        if one := found.get(trial):
            one.intermediate_values[step] = _ENDS.get(kind, value)
    return list(found.values())
