"""What a search prints when it ends, and its exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from optuna.trial import FrozenTrial

from hyperlax.study.directory import StudyDirectory
from hyperlax.study.manifest import resume_command
from hyperlax.study.pool import INTERRUPTED
from hyperlax.study.storage import StudyStorage


def print_end(
    storage: StudyStorage,
    directory: StudyDirectory,
    objectives: Mapping[str, str],
    *,
    total: int,
    interrupted: bool,
    exhausted: bool,
) -> int:
    """Print how a study ended and return the exit status: 130 if it was interrupted, 1 if no trial succeeded, else 0."""
    states = Counter(trial.state.name for trial in storage.trials() if trial.state.is_finished())
    finished = states.total()
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{finished} trials finished: {by_state}." if finished else "No trial finished.")
    best = storage.best_trials()
    ties = sum(bool(best) and trial.values == best[0].values for trial in storage.trials())
    if exhausted:
        print(f"Every configuration of the search space is used; the study ends before its {total} trials.")
    for line in _best_lines(best, ties, list(objectives)):
        print(line)
    _print_report(directory)
    if finished < total and not exhausted:
        why = "Interrupted" if interrupted else "Out of time"
        print(f"{why} with {total - finished} trials to go. To go on:\n  {resume_command(directory.root)}")
        return INTERRUPTED if interrupted else 0
    if states["COMPLETE"] + states["PRUNED"] == 0:
        print(f"Every trial failed; the reasons are in {directory.root / 'trials.csv'}.")
        return 1
    return 0


def _best_lines(best: list[FrozenTrial], ties: int, objectives: list[str]) -> list[str]:
    if not best:
        return []
    if len(objectives) > 1:
        return [f"Pareto front of {', '.join(objectives)}: {len(best)} trials."]
    return [f"Best: trial {best[0].number}, {objectives[0]} {best[0].value:.6g}{_ties(ties)}."]


def _ties(count: int) -> str:
    """In words, how many trials have the best value; the best of them is the first."""
    return f", the first of {count} trials with that value" if count > 1 else ""


def _print_report(directory: StudyDirectory) -> None:
    """Where the report is and how to train the best again, both as of the last finished super-batch."""
    if directory.report.exists():
        print(f"Report: {directory.report}")
    best = directory.root / "best_optuna_params.json"
    if best.exists():
        entry = json.loads(best.read_text(encoding="utf-8"))
        print(f"Train trial {entry['trial']} again:\n  {entry['command']}")
