"""Trials of a study read from Optuna's tables by SQL. Optuna's storage takes a millisecond a trial, and half a second to import.

Somebody else may have written the tables, so what they hold is checked.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from optuna.distributions import json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.errors import HyperlaxError, in_one_line
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.study.database_file import Damaged, connect
from hyperlax.study.io_errors import problem_of

NUMBER = "hyperlax:number"
"""The system attribute with the number of a trial that Hyperlax inserted. A copy of its row has another number."""

_ENDS: dict[str, Any] = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_ODD = (
    "intermediate_value_type IS NOT 'FINITE' OR typeof(intermediate_value) NOT IN ('real', 'integer') "
    "OR abs(intermediate_value) >= 1e300"
)
"""Intermediate values that are not finite numbers."""
_DIRECTIONS = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
_ALL = "1"


class _Attributes(msgspec.Struct):
    """The user attributes of a trial that are not metrics."""

    reason: str = ""
    batch: Annotated[str, msgspec.Meta(pattern=r"^optuna_exec_batch_\d+/samples/batch_\d+\Z")] = ""
    exec_batch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    intermediate: list[list[float]] = []
    member: int | None = None
    interval: int | None = None
    parent: Annotated[int, msgspec.Meta(ge=0)] | None = None


def own_number(trial: FrozenTrial) -> int | None:
    """Return the number that a trial has in its study's own database; None for one that another program added."""
    return trial.system_attrs.get(NUMBER)


def is_own(trial: FrozenTrial) -> bool:
    """Return whether a trial is the study's own."""
    return own_number(trial) == trial.number


def given_params(frozen: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that another program gave a trial, those of an enqueued one too."""
    fixed = frozen.system_attrs.get("fixed_params")
    return {**(fixed if isinstance(fixed, dict) else {}), **frozen.params}


@contextmanager
def understanding(path: Path) -> Iterator[None]:
    """Raise Damaged if the block cannot understand what is in a database. Errors of the disk pass."""
    try:
        yield
    except HyperlaxError:
        raise
    except Exception as error:  # Optuna takes what it reads for its own, and raises anything if it is not
        if problem_of(error, path) is not None:
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        said = in_one_line(cause or error)[:200]
        raise Damaged(path, f"Optuna cannot read it: {said}") from error


def read_trials(
    path: Path, options: SearchOptions | PbtOptions, space: SearchSpace, metrics: Collection[str]
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Return a study's own trials by number and the foreign ones, without times. Writes nothing.

    Of their intermediate values only those that are not finite numbers are read. Both lists are empty if the file, which
    `database_file.check` found sound, does not hold the study yet.

    metrics: those that are checked. Raises Damaged if the trials are not what Hyperlax writes.
    """
    if not path.exists():
        return [], []
    with understanding(path), closing(connect(path)) as connection:
        connection.execute("BEGIN")  # all tables as they are at one time
        study = find_study(connection, options.study_name, options.objectives)
        trials = [] if study is None else _read(connection, study, _ALL, _ODD)
        own, foreign = [t for t in trials if is_own(t)], [t for t in trials if not is_own(t)]
        if fault := fault_of_trials(own, space, options.objectives, metrics):
            raise Damaged(path, fault)
    return own, foreign


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


def fault_of_trials(
    trials: Sequence[FrozenTrial], space: SearchSpace, objectives: Collection[str], metrics: Collection[str]
) -> str:
    """Return the first of a study's own trials that Hyperlax did not write like this, and why; "" for none."""
    for number, trial in enumerate(trials):
        if trial.number != number:
            return f"it lacks trial {number}"
        if fault := _fault_of_trial(trial, space, len(objectives), metrics):
            return f"trial {number} {fault}"
    return ""


def _read(connection: sqlite3.Connection, study: int, chosen: str, intermediate: str) -> list[FrozenTrial]:
    """Return trials by number, as Optuna makes them. chosen, intermediate: conditions in SQL.

    Whole tables, with the trials of all studies, are read without an index. The plus lets SQLite find a few trials by their keys,
    instead of reading everything in the order that is asked for.
    """
    distribution_of = cache(json_to_distribution)
    trials = f"SELECT trial_id, number, state FROM trials WHERE +study_id = ? AND ({chosen}) ORDER BY number, trial_id"
    found = {
        row: FrozenTrial(number, TrialState[state], None, None, None, {}, {}, {}, {}, {}, row)
        for row, number, state in msgspec.convert(
            connection.execute(trials, (study,)).fetchall(), list[tuple[int, int, str]]
        )
    }

    def rows(kind: Any, table: str, columns: str, more: str = "") -> Iterator[Any]:
        query = f"SELECT trial_id, {columns} FROM {table} WHERE ({chosen}) {more}"
        read = msgspec.convert(connection.execute(query).fetchall(), list[kind])
        return ((found[row], *values) for row, *values in read if row in found)

    columns = "param_name, param_value, distribution_json"
    for trial, name, value, text in rows(tuple[int, str, float, str], "trial_params", columns, "ORDER BY +param_id"):
        trial.distributions[name] = distribution_of(text)
        trial.params[name] = trial.distributions[name].to_external_repr(value)
    for trial, key, text in rows(tuple[int, str, str], "trial_user_attributes", "key, value_json"):
        trial.user_attrs[key] = _value(text)
    for trial, key, text in rows(tuple[int, str, str], "trial_system_attributes", "key, value_json"):
        trial.system_attrs[key] = _value(text)
    kind = tuple[int, float | None, Literal["FINITE", "INF_POS", "INF_NEG"]]
    for trial, value, end in rows(kind, "trial_values", "value, value_type", "ORDER BY +objective"):
        trial.values = [*(trial.values or ()), _ENDS.get(end, value)]
    columns = "step, intermediate_value, intermediate_value_type"
    kind = tuple[int, int, Any, str]
    for trial, step, value, end in rows(kind, "trial_intermediate_values", columns, f"AND ({intermediate})"):
        trial.intermediate_values[step] = _ENDS.get(end, value)
    return list(found.values())


def _value(text: str) -> Any:
    """Return the value of a JSON text, NaN and Infinity of other programs included."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)


def _fault_of_trial(trial: FrozenTrial, space: SearchSpace, objectives: int, metrics: Collection[str]) -> str:
    attributes = trial.user_attrs
    try:
        known = msgspec.convert(attributes, _Attributes)
    except (msgspec.ValidationError, RecursionError) as error:
        return f"has odd attributes: {error}"
    if known.parent is not None and known.parent >= trial.number:
        return f"continues from trial {known.parent}, which is later"
    if not space.holds(trial.params):
        return "has parameters that study.json does not search"
    odd = [name for name in metrics if name in attributes and not _is_finite(attributes[name])]
    if odd:
        return f"has {odd[0]} {attributes[odd[0]]!r:.50}, which is not a finite number"
    if not attributes.get("batch"):
        return ""  # it did not end, or another program said so, which does not count
    values = trial.values or []
    if trial.state == TrialState.COMPLETE and (len(values) != objectives or not all(map(_is_finite, values))):
        return f"is COMPLETE with the values {values!r:.50}"
    if not all(map(_is_finite, trial.intermediate_values.values())):
        return "has an intermediate value that is not finite"
    violated: Any = trial.constraints
    is_sound = isinstance(violated, Mapping) and all(isinstance(v, Real) for v in violated.values())
    return "" if is_sound else "has odd constraints"


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )
