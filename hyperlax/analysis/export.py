"""A study's trials for other programs: CSV, JSON, Parquet, or a journal that Optuna opens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hyperlax.analysis.tables import trial_rows, write_trials
from hyperlax.errors import OptionError
from hyperlax.files import cell, cut, replacing, write_json
from hyperlax.study.record import StudyRecord, TrialRecord

EXTENSIONS = {"csv": "csv", "json": "json", "parquet": "parquet", "optuna-journal": "journal.log"}
_LONGEST_STEM = 200
"""Maximum number of bytes of a study's name in the file name of its export."""
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
"""Characters that some system's file names cannot hold."""


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
        write_json(path, [_entry(trial) for trial in sorted(record.trials, key=lambda trial: trial.number)])
    else:
        _write_parquet(record, path)


def _entry(trial: TrialRecord) -> dict[str, Any]:
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
    columns = {name: [_plain(row[place]) for row in rows] for place, name in enumerate(header)}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def _plain(value: Any) -> Any:
    """Write lists as their JSON text, as in `trials.csv`: a column has one type."""
    return cell(value) if isinstance(value, list) else value
