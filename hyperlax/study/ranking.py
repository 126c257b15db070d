"""The winners of a study: its best trial, or its Pareto front."""

from __future__ import annotations

import itertools

import numpy as np

from hyperlax.errors import OptionError
from hyperlax.pareto import non_dominated
from hyperlax.study.record import StudyRecord, TrialRecord


def complete_trials(record: StudyRecord) -> list[TrialRecord]:
    """Return the COMPLETE trials by number. Failed and pruned ones never win and are never plotted."""
    return sorted((trial for trial in record.trials if trial.state == "COMPLETE"), key=lambda trial: trial.number)


def feasible_trials(record: StudyRecord) -> list[TrialRecord]:
    """Return the COMPLETE trials that satisfy the study's constraints, by number: those that can win."""
    return [trial for trial in complete_trials(record) if trial.feasible]


def ranked(record: StudyRecord) -> list[TrialRecord]:
    """Return the trials that can win, best first by the first objective; the lower number first where they tie."""
    trials = feasible_trials(record)
    leading = scores(record, trials)[:, 0]
    return [trials[index] for index in np.argsort(-leading, kind="stable")]


def winners(record: StudyRecord) -> list[TrialRecord]:
    """Return the best trial for one objective, the Pareto front by number for several; empty where no trial can win."""
    return ranked(record)[:1] if len(record.objectives) == 1 else pareto_front(record)


def the_best(record: StudyRecord, asked_by: str) -> TrialRecord:
    """Return the one best trial. Raises OptionError, beginning with `asked_by`, if there is none, or a Pareto front has several."""
    best = winners(record)
    if not best:
        raise OptionError(
            "trial", f"{asked_by} {{0}}: no trial can win yet. Choose one with {{trial}}.", record.directory
        )
    if len(best) > 1:
        numbers = ", ".join(str(trial.number) for trial in best)
        problem = f"{asked_by} {{0}}: the Pareto front has the trials {{1}}. Choose one with {{trial}}."
        raise OptionError("trial", problem, record.directory, numbers)
    return best[0]


def pareto_front(record: StudyRecord) -> list[TrialRecord]:
    """Return the trials that can win and that no other one dominates, by number."""
    trials = feasible_trials(record)
    return list(itertools.compress(trials, non_dominated(scores(record, trials))))


def scores(record: StudyRecord, trials: list[TrialRecord]) -> np.ndarray:
    """Return float64[trials, objectives], larger is better. Raises ValueError if the value of a trial is not finite."""
    signs = np.array([-1.0 if direction == "minimize" else 1.0 for direction in record.objectives.values()])
    rows = [[trial.values[name] for name in record.objectives] for trial in trials]
    found = signs * np.array(rows, dtype=np.float64).reshape(len(trials), len(signs))
    for trial, row in zip(trials, found, strict=True):
        if not np.all(np.isfinite(row)):
            raise ValueError(f"trial {trial.number} is COMPLETE with values {trial.values}; it should be a FAIL.")
    return found
