"""Configurations that a user gives: samples, the first trials of a study, and that of a single run.

Samples are a CSV with one row per configuration, as a study's `hyperparams.csv`. The others are such a file, or JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperlax.config.kinds import kind_of
from hyperlax.config.option import exponent, flags_of, parted, value_of
from hyperlax.config.options import SearchOptions, SingleOptions
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.fields import apply, dotted, fields_of, full_names, written
from hyperlax.files import CsvError, decode, json_text, read_csv, read_json, unquoted, write_csv
from hyperlax.hyperparams import Config
from hyperlax.metrics import METRICS
from hyperlax.recipe import Recipe
from hyperlax.space import Categorical, Distribution
from hyperlax.trial import MEASURED

_TRIAL = "trial"
_INDEX = ("", "Unnamed: 0")
"""Names that pandas gives the column of a table's index, when it writes it and after it has read it."""
_RESULTS = {
    _TRIAL, "state", "reason", "exec_batch", "batch", "seconds", "steps",
    "seed", "step", *MEASURED, "episodes", "final", "peak",
}  # fmt: skip
"""Columns of a study's trials.csv, summary.csv, curves.csv and confirmation.csv that are neither a metric nor `objective.NAME`."""


def write_samples(path: Path, configurations: Sequence[Config]) -> None:
    """Replace `path`: a header, then the number and every hyperparameter of each configuration."""
    header = (_TRIAL, *dotted(configurations[0]))
    write_csv(path, header, ([number, *dotted(one).values()] for number, one in enumerate(configurations)))


def read_samples(path: Path, base: Config, metrics: Collection[str] = METRICS) -> tuple[Config, ...]:
    """Return the configurations of a file, in the order of its rows.

    A field without a column has its value in `base`. Columns of a study's trials.csv that hold results are ignored, such as those
    of its metrics, and a first column without a name, in which pandas writes the index.

    Raises UsageError, naming file, line and column, for an unknown name, a value that its field does not accept, values that
    do not go together, and a file without rows.
    """
    return tuple(apply(base, row.values, row.where) for row in _read_table(path, base, metrics))


@dataclass(frozen=True)
class _Row:
    """A row of a CSV. where: file and line. trial: its number there, else its place. values: dotted name -> value."""

    where: str
    trial: Any
    values: dict[str, Any]


def _read_table(path: Path, base: Config, metrics: Collection[str]) -> list[_Row]:
    """Return the rows of a CSV of configurations. Raises as `read_samples`, except for values that their fields do not accept."""
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path}: has no rows. Write one per configuration to train.")
    known = fields_of(base)
    results = {*_RESULTS, *metrics} - {*known}
    given = [name for name in rows[0] if name not in results and not name.startswith("objective.")]
    if given and given[0] == next(iter(rows[0])) in _INDEX:
        del given[0]
    if not given and len(rows[0]) > 1:
        raise UsageError(f"{path}: holds results, but no hyperparameters. Give the hyperparams.csv of a batch.")
    columns = {short: name for name, short in full_names({name: name for name in given}, known, str(path)).items()}
    found = []
    for place, row in enumerate(rows):
        where = f"{path}, line {place + 2}"
        for name in columns:
            if not row[name].strip():
                raise UsageError(f"{where}: {name} is empty. Give a value, or drop the column to have the recipe's.")
        texts = {full: row[name].strip() for name, full in columns.items()}
        values = {name: unquoted(text) if known[name].type == "str" else value_of(text) for name, text in texts.items()}
        found.append(_Row(where, value_of(row.get(_TRIAL, str(place))), values))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = read_csv(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8, so it cannot be read as CSV.") from error
    except CsvError as error:
        raise UsageError(f"{path}: {error.finding}") from error
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path}: {error}") from error
    for name in rows[0] if rows and len(rows[0]) == 1 else ():
        if separator := next((mark for mark in (";", "\t", "|") if mark in name), None):
            raise UsageError(f"{path}: its columns are separated by {separator!r}. Separate them by commas.")
    return rows


def first_trials(options: SearchOptions, recipe: Recipe) -> list[dict[str, Any]]:
    """Return searched dotted name -> value of trials 0, 1, ... of a new study, without duplicates.

    The recipe's default configuration is left out if the space does not contain it, see `excluded_default`. Raises UsageError,
    naming file, entry and name, for a file that cannot be read and for a value that the space does not contain.
    """
    base = {name: dotted(recipe.config.algorithm)[name] for name in recipe.space}
    chosen = [base] if options.default_trial and not _outside(base, recipe) else []
    if options.enqueue is not None:
        chosen += _read_first(options.enqueue, base, recipe)
    return list({json.dumps(values): values for values in chosen}.values())


def excluded_default(options: SearchOptions, recipe: Recipe) -> str:
    """Return a sentence if the search space excludes the recipe's default configuration from the first trials, else ""."""
    outside = _outside(dotted(recipe.config.algorithm), recipe) if options.default_trial else []
    if not outside:
        return ""
    start = "The study starts without the recipe's default configuration, which is not in the search space"
    return f"{start}: {'; '.join(outside)}."


def as_text(configurations: Any) -> str:
    """Return one or several configurations as the JSON text that `enqueue` takes. Raises OptionError if JSON cannot hold them."""
    try:
        return json_text(configurations, indent=None).rstrip()
    except (TypeError, ValueError) as error:
        raise OptionError("enqueue", "{enqueue}: cannot be kept as JSON: {0}.", error) from error


def _outside(base: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return the recipe's own values that the space does not contain, in words."""
    return [
        f"{name.split('.', 2)[-1]} = {base[name]}, not {_choice(distribution)}"
        for name, distribution in recipe.space.items()
        if not distribution.contains(base[name])
    ]


def _choice(distribution: Distribution) -> str:
    if isinstance(distribution, Categorical):
        return f"among {', '.join(map(str, distribution.values))}"
    return f"in {written(distribution)}"


def _read_first(file: str, base: Mapping[str, Any], recipe: Recipe) -> list[dict[str, Any]]:
    is_text = file.lstrip().startswith(("[", "{"))
    if not is_text and _is_csv(file):
        try:
            rows = _read_table(Path(file), recipe.config.algorithm, kind_of(recipe).table.rows)
            return [_configuration(row.values, row.where, base, recipe) for row in rows]
        except UsageError as error:
            raise OptionError("enqueue", "{enqueue} {0}", error) from error
    place = "" if is_text else f" {file}"
    try:
        found: Any = read_json(file) if is_text else decode(Path(file), object)
    except (ValueError, RecursionError) as error:
        if not is_text:
            raise
        raise OptionError("enqueue", "{enqueue}: cannot be read as JSON: {0}.", error) from error
    entries = found if isinstance(found, list) else [found]
    if not entries:
        problem = "{enqueue}{0}: holds no configuration. Write a list of {1}."
        raise OptionError("enqueue", problem, place, "{name: value}")
    try:
        return [_configuration(entry, f"entry {index}", base, recipe) for index, entry in enumerate(entries)]
    except UsageError as error:
        raise OptionError("enqueue", "{enqueue}{0}: {1}", place, error) from error


def _configuration(entry: Any, where: str, base: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return an entry, completed with the recipe's values."""
    values = entry.get("params", entry) if isinstance(entry, dict) else entry
    if not isinstance(values, dict):
        raise UsageError(f'{where} is {values!r}. Write {{name: value}}, e.g. {{"{next(iter(base))}": ...}}.')
    config, known = dotted(recipe.config.algorithm), fields_of(recipe.config.algorithm)
    values = full_names(values, known, where)
    plain = {name: known[name].plain(exponent(value)) for name, value in values.items()}
    for name, value in plain.items():
        if name not in recipe.space and value != config[name]:
            raise UsageError(
                f"{where}: {name} = {value}, and the recipe does not search it but has it fixed at {config[name]}. Leave it out."
            )
    complete = {name: plain.get(name, base[name]) for name in recipe.space}
    for name, distribution in recipe.space.items():
        if not distribution.contains(complete[name]):
            left_out = "" if name in values else ", the recipe's value for what is left out,"
            raise UsageError(f"{where}: {name} = {complete[name]!r}{left_out} is not in {written(distribution)}.")
    return complete


def configured(options: SingleOptions, recipe: Recipe) -> Config:
    """Return the recipe's configuration, overridden by the values of the params file, then by those of --set."""
    algorithm = recipe.config.algorithm
    if options.params is not None:
        params = _chosen(_read_trials(Path(options.params), recipe), Path(options.params), options.trial)
        algorithm = apply(algorithm, params, options.params)
    elif options.trial is not None:
        problem = "{trial} {0} chooses from a file. Name the file with {params}."
        raise OptionError("trial", problem, options.trial)
    return apply(algorithm, _parse_assignments(options.assignments), flags_of(SingleOptions)("assignments"))


def _is_csv(file: str | Path) -> bool:
    return Path(file).suffix.lower() == ".csv"


def _read_trials(path: Path, recipe: Recipe) -> list[tuple[Any, dict[str, Any]]]:
    """Return number and params of the trials in best_optuna_params.json (one), pareto_front_params.json (a list) or a CSV."""
    if _is_csv(path):
        rows = _read_table(path, recipe.config.algorithm, kind_of(recipe).table.rows)
        return [(row.trial, row.values) for row in rows]
    found: Any = decode(path, object)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("params"), dict) or "trial" not in entry:
            raise UsageError(
                f"{path}: holds no trial with its params. Give a study's best_optuna_params.json "
                "or pareto_front_params.json."
            )
    return [(entry["trial"], entry["params"]) for entry in entries]


def _chosen(entries: Sequence[tuple[Any, dict[str, Any]]], path: Path, trial: int | None) -> dict[str, Any]:
    """Return the params of the trial of that number; None chooses the only one."""
    numbers = ", ".join(str(number) for number, _ in entries) or "none"
    chosen = [params for number, params in entries if trial is None or number == trial]
    if len(chosen) == 1:
        return chosen[0]
    if trial is None:
        problem = "{0}: holds {1} ({2}). Choose one with {trial}."
        raise OptionError("trial", problem, path, counted(len(entries), "trial"), numbers)
    raise UsageError(f"{path}: holds no trial {trial}. It holds {numbers}.")


def _parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return dotted name -> value of `NAME=VALUE` texts. A value that is neither a number nor JSON is a string."""
    values: dict[str, Any] = {}
    for text in assignments:
        name, value = parted(text, "algorithm.hyperparam.gamma=0.98")
        if name in values:
            problem = "{assignments}: {0} is given more than once. Give each name once."
            raise OptionError("assignments", problem, name)
        values[name] = value_of(value)
    return values
