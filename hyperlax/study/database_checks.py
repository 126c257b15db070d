"""The faults of a database that somebody else may have written, each as a few words: of its files, its tables and its trials."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any

import msgspec
from optuna.trial import FrozenTrial, TrialState

from hyperlax.files import TO_READ, open_regular
from hyperlax.samplers.distributions import SearchSpace

_COMPANIONS = ("", "-journal", "-wal", "-shm")
_NAMES_ANOTHER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
"""The last bytes of a journal that names another one. SQLite would remove that, wherever it is."""
_PLAIN = re.compile(r"CREATE (TABLE|INDEX|UNIQUE INDEX) ")


class _Attributes(msgspec.Struct):
    """The user attributes of a trial that are not metrics."""

    reason: str = ""
    batch: Annotated[str, msgspec.Meta(pattern=r"^optuna_exec_batch_\d+/samples/batch_\d+\Z")] = ""
    exec_batch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    intermediate: list[list[float]] = []
    member: int | None = None
    interval: int | None = None
    parent: Annotated[int, msgspec.Meta(ge=0)] | None = None


def fault_of_files(path: Path) -> str:
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


def fault_of_tables(connection: sqlite3.Connection) -> str:
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


def fault_of_trials(
    trials: Sequence[FrozenTrial], space: SearchSpace, objectives: Collection[str], metrics: Collection[str]
) -> str:
    """Return the first of a study's own trials that Hyperlax did not write like this, and why; "" for none."""
    for number, trial in enumerate(trials):
        if trial.number != number:
            return f"it lacks trial {number}"
        fault = _fault_of_trial(trial, space, len(objectives), metrics)
        if fault:
            return f"trial {number} {fault}"
    return ""


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
    return (
        ""
        if isinstance(violated, Mapping) and all(isinstance(v, Real) for v in violated.values())
        else "has odd constraints"
    )


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )
