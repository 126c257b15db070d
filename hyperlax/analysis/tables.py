"""A study's results for other programs: the best trial or Pareto front, `trials.csv` and tables beside it, and exports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperlax.analysis.sensitivity import COLUMNS, Effect, effect_rows
from hyperlax.config.option import shell_command
from hyperlax.errors import OptionError
from hyperlax.files import cell, csv_text, cut, quoted, remove, replacing, write_csv, write_json, write_text
from hyperlax.scale import Scale
from hyperlax.study.directory import BEST_FILE, PARETO_FILE
from hyperlax.study.manifest import train_command
from hyperlax.study.record import Confirmation, StudyRecord, TrialRecord
from hyperlax.study.statistics import compared

_RERUN_ARGUMENTS = ("total_timesteps", "num_evaluations", "num_eval_episodes", "num_seeds", "seed", "aggregate")
EXTENSIONS = {"csv": "csv", "json": "json", "parquet": "parquet", "optuna-journal": "journal.log"}
_LONGEST_STEM = 200
"""Maximum number of bytes of a study's name in the file name of its export."""
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
"""Characters that some system's file names cannot hold."""


def write_best(record: StudyRecord, into: Path) -> None:
    """Write `best_optuna_params.json` or `pareto_front_params.json` into a directory.

    If no trial can win, no file is written, and one of an earlier run is removed.
    """
    path, trials = into / best_file(record), record.winners
    if not trials:
        remove(path)
        return
    entries = [_entry(record, trial, path) for trial in trials]
    write_json(path, entries if len(record.objectives) > 1 else entries[0])


def best_file(record: StudyRecord) -> str:
    """Return the name of the file with a study's best."""
    return PARETO_FILE if len(record.objectives) > 1 else BEST_FILE


def _entry(record: StudyRecord, trial: TrialRecord, path: Path) -> dict[str, Any]:
    """Return one trial in the form of the best file at `path`."""
    return {
        "trial": trial.number,
        "values": {name: trial.values[name] for name in record.objectives},
        "params": trial.params,
        "metrics": trial.metrics,
        "command": rerun_command(record, trial, path),
    }


def rerun_command(record: StudyRecord, trial: TrialRecord, path: Path) -> str:
    """Return the shell command that trains a trial again from the best file at `path`.

    For a population the command replays the path to its best trial. A task is trained from the study's directory, but that of a
    flow only by its own program.

    Raises:
      KeyError: the study's arguments lack a run length or a seed.
    """
    if record.lineage:
        return record.lineage.replay
    if not record.environment:
        is_of_a_flow = record.command.startswith("python ")
        return record.command if is_of_a_flow else train_command(record.directory, trial.number)
    options = {
        "algo-and-network-config": record.arguments.get("algo_and_network_config", record.recipe),
        "env-config": record.arguments.get("env_config", record.environment),
        "params": path,
    }
    if len(record.objectives) > 1:
        options["trial"] = trial.number
    options |= {name.replace("_", "-"): record.arguments[name] for name in _RERUN_ARGUMENTS}
    return shell_command("run-single-hp", *(word for name, value in options.items() for word in (f"--{name}", value)))


def write_trials(record: StudyRecord, path: Path) -> None:
    """Write every trial by number, those of other programs with the state FOREIGN.

    Columns: trial, state, reason, exec_batch, batch (its directory's name), `objective.<name>` as told to Optuna, every
    metric, every searched hyperparameter. Values that a trial does not have are left empty. An apostrophe stands before a text
    that a spreadsheet would take for a formula.
    """
    header, params = tuple(_header(record)), searched_names(record)
    for trial in record.rows:
        if header not in trial.csv_rows:
            trial.csv_rows[header] = csv_text([list(map(quoted, _row(record, trial, params)))])
    write_text(path, csv_text([list(map(quoted, header))]) + "".join(trial.csv_rows[header] for trial in record.rows))


def trial_rows(record: StudyRecord) -> tuple[list[str], list[list[Any]]]:
    """Return the header and rows of `write_trials`."""
    params = searched_names(record)
    return _header(record), [_row(record, trial, params) for trial in record.rows]


def _header(record: StudyRecord) -> list[str]:
    first = ["trial", "state", "reason", "exec_batch", "batch", *(f"objective.{name}" for name in record.objectives)]
    return [*first, *_metrics(record), *searched_names(record)]


def write_confirmation(confirmation: Confirmation | None, scale: Scale, path: Path) -> None:
    """Write one row per configuration and seed; remove the file if nothing is confirmed.

    Columns: trial (its number, or `default`), seed, final, peak, the compared metric if it is another one, and a task's measures.
    """
    if confirmation is None:
        remove(path)
        return
    columns = {"final": "final_performance", "peak": "peak_performance"}
    columns |= {name: name for name in compared(confirmation, scale) if name not in columns.values()}
    rows = [
        [ours.label, seed, *(ours.per_seed[name][seed] for name in columns.values())]
        for ours in confirmation.complete
        for seed in range(confirmation.seeds)
    ]
    write_csv(path, ["trial", "seed", *columns], rows)


def write_sensitivity(effects: Mapping[str, Sequence[Effect]], path: Path) -> None:
    """Write one row per objective and hyperparameter of a sensitivity study; no file for another study."""
    if effects:
        write_csv(path, list(COLUMNS), effect_rows(effects))


def searched_names(record: StudyRecord) -> list[str]:
    """Return the search space's dotted names in its order, then any other name that a trial has."""
    names: dict[str, Any] = dict.fromkeys(record.space)
    for trial in record.trials:
        names |= trial.params
    return list(names)


def _metrics(record: StudyRecord) -> list[str]:
    """Return every metric that a trial can have."""
    return list(record.scale.table.rows)


def _row(record: StudyRecord, trial: TrialRecord, params: list[str]) -> list[Any]:
    batch = trial.batch_directory.name if trial.batch_directory else None
    row: list[Any] = [trial.number, trial.state, trial.reason, trial.exec_batch, batch]
    row += [trial.values.get(name) for name in record.objectives]
    row += [trial.metrics.get(name) for name in _metrics(record)]
    row += [trial.params.get(name) for name in params]
    return row


def default_path(record: StudyRecord, kind: str) -> str:
    """Return the default path of an export, in the working directory."""
    return f"{cut(_NOT_IN_FILE_NAMES.sub('_', record.study_name), _LONGEST_STEM)}.{EXTENSIONS[kind]}"


def write_export(record: StudyRecord, kind: str, path: Path) -> None:
    """Write every trial, the unfinished ones too.

    csv, parquet: the columns of `trials.csv`. json: a list of objects, one a trial, values as they are.

    Raises:
      UsageError: parquet without pyarrow.
    """
    if kind == "csv":
        write_trials(record, path)
    elif kind == "json":
        write_json(path, [_as_json(trial) for trial in record.rows])
    else:
        _write_parquet(record, path)


def _as_json(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "feasible": trial.feasible,
        "values": trial.values,
        "params": trial.params,
        "metrics": trial.metrics,
        "batch": str(trial.batch_directory) if trial.batch_directory else None,
    }


def _write_parquet(record: StudyRecord, path: Path) -> None:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError("format", '{format} parquet needs pyarrow: pip install "hyperlax[parquet]"') from error
    header, rows = trial_rows(record)
    columns = {name: [_lists_as_text(row[place]) for row in rows] for place, name in enumerate(header)}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def _lists_as_text(value: Any) -> Any:
    """Write lists as their JSON text, as in `trials.csv`: a column has one type."""
    return cell(value) if isinstance(value, list) else value
