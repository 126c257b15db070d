"""What a search prints when it ends, and its exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from hyperlax.study.database import is_feasible
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.manifest import resume_command
from hyperlax.study.state import StudyState


def print_end(
    state: StudyState,
    directory: StudyDirectory,
    objectives: Mapping[str, str],
    *,
    total: int,
    interrupted: int | None,
    given_up: str | None,
    exhausted: bool,
    saved: int,
) -> int:
    """Print how a study ended and return the exit status: 1 if no trial or too few succeeded, else 0.

    interrupted: the exit status for that, where it was. given_up: that too many trials failed, where they did.
    saved: how many of the trials that are left are saved in the middle of their training.
    """
    states = Counter(trial.state.name for trial in state.trials() if trial.state.is_finished())
    finished = states.total()
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{finished} trials finished: {by_state}." if finished else "No trial finished.")
    if exhausted:
        print(f"Every configuration of the search space is used; the study ends before its {total} trials.")
    print_best(state, objectives)
    _print_report(directory)
    left = total - finished
    if left and not exhausted:
        command = resume_command(directory.root) + (" --max-failure-rate 1" if given_up else "")
        print(f"{_why(interrupted, given_up, left, saved)} To go on:\n  {command}")
        return 1 if given_up else interrupted or 0
    if states["COMPLETE"] + states["PRUNED"] == 0:
        print(f"Every trial failed; the reasons are in {directory.root / 'trials.csv'}.")
        return 1
    if given_up:
        print(given_up)
        return 1
    return 0


def _why(interrupted: int | None, given_up: str | None, left: int, saved: int) -> str:
    """Why trials are left."""
    if given_up:
        return f"{given_up} The study gives up with {left} trials to go."
    midway = f", {saved} of them saved in the middle of their training" if saved else ""
    return f"{'Out of time' if interrupted is None else 'Interrupted'} with {left} trials to go{midway}."


def print_best(state: StudyState, objectives: Mapping[str, str]) -> None:
    """Print the best trial, or how large the Pareto front is; if no COMPLETE trial satisfies the constraints, that."""
    best = state.best_trials()
    if not best:
        if any(trial.state.name == "COMPLETE" for trial in state.trials()):
            print("No trial satisfies the constraints, so none is the best.")
        return
    if len(objectives) > 1:
        print(f"Pareto front of {', '.join(objectives)}: {len(best)} trial{'' if len(best) == 1 else 's'}.")
        return
    ties = sum(trial.values == best[0].values and is_feasible(trial) for trial in state.trials())
    print(f"Best: trial {best[0].number}, {next(iter(objectives))} {best[0].value:.6g}{_ties(ties)}.")


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
