"""`trials.csv`: a row a trial of the whole study. `confirmation.csv`: a row a seed of those that were confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperlax.files import write_csv
from hyperlax.metrics import METRICS
from hyperlax.study.record import Confirmation, StudyRecord, TrialRecord
from hyperlax.study.verdict import complete


def write_trials(record: StudyRecord, path: Path) -> None:
    """Write every trial by number.

    Columns: trial, state, reason, exec_batch, batch (its directory's name), `objective.<name>` as told to Optuna, every
    metric, every searched hyperparameter. What a trial does not have is left empty.
    """
    write_csv(path, *trial_rows(record))


def trial_rows(record: StudyRecord) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of `write_trials`."""
    params = searched_names(record)
    header = ["trial", "state", "reason", "exec_batch", "batch"]
    header += [f"objective.{name}" for name in record.objectives] + list(METRICS) + params
    trials = sorted(record.trials, key=lambda trial: trial.number)
    return header, [_row(record, trial, params) for trial in trials]


def write_confirmation(confirmation: Confirmation | None, path: Path) -> None:
    """Write a row a configuration and seed, or remove the file where nothing is confirmed.

    Columns: trial (its number, or `default`), seed, final, peak, and the metric that is compared where it is neither.
    """
    if confirmation is None:
        path.unlink(missing_ok=True)
        return
    columns = {"final": "final_performance", "peak": "peak_performance"}
    if confirmation.metric not in columns.values():
        columns[confirmation.metric] = confirmation.metric
    rows = [
        [ours.label, seed, *(ours.per_seed[name][seed] for name in columns.values())]
        for ours in complete(confirmation)
        for seed in range(confirmation.seeds)
    ]
    write_csv(path, ["trial", "seed", *columns], rows)


def searched_names(record: StudyRecord) -> list[str]:
    """The search space's dotted names in its order, then any other name that a trial carries."""
    names = dict.fromkeys(record.space)
    for trial in record.trials:
        names.update(dict.fromkeys(trial.params))
    return list(names)


def _row(record: StudyRecord, trial: TrialRecord, params: list[str]) -> list[Any]:
    batch = trial.batch_directory.name if trial.batch_directory else None
    row: list[Any] = [trial.number, trial.state, trial.reason, trial.exec_batch, batch]
    row += [trial.values.get(name) for name in record.objectives]
    row += [trial.metrics.get(name) for name in METRICS]
    row += [trial.params.get(name) for name in params]
    return row
