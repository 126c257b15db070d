"""Trials of a study, read from Optuna's tables by SQL. Optuna's own storage takes a millisecond a trial, half a second to start."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec
from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax.study.database_file import connect

NUMBER = "hyperlax:number"
"""The system attribute with the number of a trial that Hyperlax inserted. A copy of its row has another number."""

_ENDS = {"INF_POS": math.inf, "INF_NEG": -math.inf}
_ODD = (
    "intermediate_value_type IS NOT 'FINITE' OR typeof(intermediate_value) NOT IN ('real', 'integer') "
    "OR abs(intermediate_value) >= 1e300"
)
"""Intermediate values that are not finite numbers."""
_DIRECTIONS = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
_TRIALS = "SELECT trial_id, number, state FROM trials WHERE study_id = ? ORDER BY number, trial_id"
_ROWS: dict[str, Any] = {
    "SELECT trial_id, param_name, param_value, distribution_json FROM trial_params ORDER BY param_id": (
        list[tuple[int, str, float, str]]
    ),
    "SELECT trial_id, key, value_json FROM trial_user_attributes": list[tuple[int, str, str]],
    "SELECT trial_id, key, value_json FROM trial_system_attributes": list[tuple[int, str, str]],
    "SELECT trial_id, value, value_type FROM trial_values ORDER BY objective": (
        list[tuple[int, float | None, Literal["FINITE", "INF_POS", "INF_NEG"]]]
    ),
    f"SELECT trial_id, step FROM trial_intermediate_values WHERE {_ODD}": list[tuple[int, Any]],
}
"""Queries about the trials of all studies, and the rows that they give. They read whole tables, without an index."""


def own_number(trial: FrozenTrial) -> int | None:
    """Return the number that a trial has in its study's own database; None for one that another program added."""
    return trial.system_attrs.get(NUMBER)


def is_own(trial: FrozenTrial) -> bool:
    """Return whether a trial is the study's own."""
    return own_number(trial) == trial.number


def read_trials(path: Path, study_name: str, objectives: Mapping[str, str]) -> list[FrozenTrial]:
    """Return every trial of a study by number, without times; of its intermediate values only those that are not finite numbers.

    Empty if the file, which `database_file.check` found sound, does not hold the study yet. Writes nothing. Raises an exception of
    any kind for content that Optuna does not write.

    Args:
      objectives: Name -> "minimize" or "maximize", as study.json has them.
    """
    with closing(connect(path)) as connection:
        connection.execute("BEGIN")  # all tables as they are at one time
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone():
            return []
        study = connection.execute("SELECT study_id FROM studies WHERE study_name = ?", (study_name,)).fetchone()
        if study is None:
            return []
        ends = connection.execute(_DIRECTIONS, study).fetchall()
        trials = msgspec.convert(connection.execute(_TRIALS, study).fetchall(), list[tuple[int, int, str]])
        tables = [msgspec.convert(connection.execute(query).fetchall(), kind) for query, kind in _ROWS.items()]
    found = [str(direction).lower() for (direction,) in ends]
    if found != list(objectives.values()):
        raise ValueError(f"its study has directions {found}, study.json says {dict(objectives)}")
    return _frozen(trials, *tables)


def _frozen(
    trials: list[tuple[int, int, str]],
    params: list[tuple[int, str, float, str]],
    user_attributes: list[tuple[int, str, str]],
    system_attributes: list[tuple[int, str, str]],
    values: list[tuple[int, float | None, str]],
    odd: list[tuple[int, Any]],
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
            one.user_attrs[key] = json.loads(text)
    for trial, key, text in system_attributes:
        if one := found.get(trial):
            one.system_attrs[key] = json.loads(text)
    for trial, value, kind in values:
        if one := found.get(trial):
            one.values = [*(one.values or ()), _ENDS.get(kind, value)]
    for trial, step in odd:
        if one := found.get(trial):
            one.intermediate_values[step] = math.nan
    return list(found.values())
