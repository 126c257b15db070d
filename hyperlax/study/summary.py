"""The summary that a search prints when it ends, and its exit status."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hyperlax.errors import counted, format_number
from hyperlax.files import decode
from hyperlax.study.directory import BEST_FILE, StudyDirectory
from hyperlax.study.manifest import resume_command
from hyperlax.study.record import StudyRecord
from hyperlax.study.stopping import Limits


def print_end(record: StudyRecord, total: int, limits: Limits, is_exhausted: bool, saved: int) -> int:
    """Print how a study ended and return the exit status: 1 if no trial or too few succeeded, else 0 or that of an interruption.

    saved: how many of the remaining trials are saved in the middle of their training.
    """
    given_up = limits.sentence() if limits.too_many_failed else None
    interrupted = limits.stop.exit_status if limits.stop.is_set() else None
    states, directory = Counter(trial.state for trial in record.trials), StudyDirectory(record.directory)
    del states["RUNNING"]
    finished = states.total()
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{counted(finished, 'trial')} finished: {by_state}." if finished else "No trial finished.")
    if is_exhausted:
        print(f"Every configuration of the search space is used; the study ends before its {counted(total, 'trial')}.")
    print_best(record)
    _print_report(directory)
    left = total - finished
    if left and not is_exhausted:
        command = resume_command(directory.root, **({"max_failure_rate": 1} if given_up else {}))
        print(f"{_why(interrupted, given_up, left, saved)} To resume:\n  {command}")
        return 1 if given_up else interrupted or 0
    if states["COMPLETE"] + states["PRUNED"] == 0:
        print(f"Every trial failed; the reasons are in {directory.root / 'trials.csv'}.")
        return 1
    if given_up:
        print(given_up)
        return 1
    return 0


def _why(interrupted: int | None, given_up: str | None, left: int, saved: int) -> str:
    """Return the reason why trials remain."""
    if given_up:
        return f"{given_up} The study stops with {counted(left, 'trial')} to go."
    midway = f", {saved} of them saved in the middle of training" if saved else ""
    return f"{'Out of time' if interrupted is None else 'Interrupted'} with {counted(left, 'trial')} to go{midway}."


def print_best(record: StudyRecord) -> None:
    """Print the best trial, the size of the Pareto front, or that no trial satisfies the constraints."""
    best, objectives = record.winners, list(record.objectives)
    if not best:
        if record.complete:
            print("No trial satisfies the constraints, so none is the best.")
        return
    if len(objectives) > 1:
        print(f"Pareto front of {', '.join(objectives)}: {counted(len(best), 'trial')}.")
        return
    ties = sum(trial.values == best[0].values for trial in record.feasible)
    print(f"Best: trial {best[0].number}, {objectives[0]} {format_number(best[0].values[objectives[0]])}{_ties(ties)}.")


def _ties(count: int) -> str:
    """Return in words how many trials have the best value. The first of them is the best."""
    return f", the first of {counted(count, 'trial')} with that value" if count > 1 else ""


def _print_report(directory: StudyDirectory) -> None:
    """Print where the report of the last finished super-batch is, and how to train its best again."""
    if directory.report.exists():
        print(f"Report: {directory.report}")
    best = directory.root / BEST_FILE
    if best.exists():
        entry = decode(best, dict[str, Any])
        print(f"Train trial {entry['trial']} again:\n  {entry['command']}")
