"""The winner of a study, or its Pareto front, and how to run it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hyperlax.files import write_json
from hyperlax.study.ranking import winners
from hyperlax.study.record import StudyRecord, TrialRecord

BEST_FILE = "best_optuna_params.json"
PARETO_FILE = "pareto_front_params.json"

RERUN_ARGUMENTS = ("total_timesteps", "num_evaluations", "num_eval_episodes", "num_seeds", "seed", "aggregate")


def write_best(record: StudyRecord, into: Path) -> None:
    """Write `best_optuna_params.json` or `pareto_front_params.json` into a directory.

    Where no trial can win there is no file, and one of an earlier run is removed.
    """
    several = len(record.objectives) > 1
    path = into / (PARETO_FILE if several else BEST_FILE)
    trials = winners(record)
    if not trials:
        path.unlink(missing_ok=True)
        return
    entries = [entry(record, trial, path) for trial in trials]
    write_json(path, entries if several else entries[0])


def entry(record: StudyRecord, trial: TrialRecord, path: Path) -> dict[str, Any]:
    """One trial in the form of the best file at `path`."""
    return {
        "trial": trial.number,
        "values": {name: trial.values[name] for name in record.objectives},
        "params": trial.params,
        "metrics": trial.metrics,
        "command": rerun_command(record, trial, path),
    }


def rerun_command(record: StudyRecord, trial: TrialRecord, path: Path) -> str:
    """The shell command that trains a trial again from the best file at `path`; of a population, the best path to its end.

    Raises KeyError when the study's arguments lack a run length or a seed.
    """
    if record.lineage:
        return record.lineage.replay
    words = ["hyperlax", "run-single-hp"]
    words += ["--algo-and-network-config", str(record.arguments.get("algo_and_network_config", record.recipe))]
    words += ["--env-config", str(record.arguments.get("env_config", record.environment))]
    words += ["--params", str(path)]
    if len(record.objectives) > 1:
        words += ["--trial", str(trial.number)]
    for name in RERUN_ARGUMENTS:
        words += [f"--{name.replace('_', '-')}", str(record.arguments[name])]
    return shlex.join(words)
