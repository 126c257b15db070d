"""The five files of an hparam batch, written and read back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.files import read_csv, write_csv, write_json, write_text
from hyperlax.metrics import METRICS, ReferenceReturns, compute
from hyperlax.recipe import dotted
from hyperlax.study.directory import SUCCESS
from hyperlax.trial import BatchResult, Curve, HparamBatch, Outcome

CURVES = ("trial", "seed", "step", "mean", "std", "min", "max", "length", "episodes")
SUMMARY = ("trial", "state", "reason", *METRICS, "seconds", "steps")
UNKNOWN_AFTER_AN_ERROR = (
    "programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "steps", "steps_per_second",
    "peak_memory_bytes", "lanes", "useful_lane_segments", "predicted_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class TrialEnd:
    """What Optuna is told of a trial. metrics: all of them for COMPLETE, else empty."""

    number: int
    state: str
    reason: str
    metrics: dict[str, float]


def write_batch(
    directory: Path, batch: HparamBatch, result: BatchResult, reference: ReferenceReturns
) -> list[TrialEnd]:
    """Write a batch, `success.txt` last, and say how its trials ended."""
    ends = write_tables(directory, batch, result, reference)
    mark_complete(directory, ends)
    return ends


def write_tables(
    directory: Path, batch: HparamBatch, result: BatchResult, reference: ReferenceReturns
) -> list[TrialEnd]:
    """Write what a batch gave and say how its trials ended.

    A trial that claims to be COMPLETE without finite metrics is a FAIL from here on.
    """
    ends = [judge(outcome, reference) for outcome in result.outcomes]
    write_hyperparams(directory / "hyperparams.csv", batch)
    write_csv(directory / "curves.csv", CURVES, (row for outcome in result.outcomes for row in _curve_rows(outcome)))
    write_csv(
        directory / "summary.csv",
        SUMMARY,
        (_summary_row(end, outcome) for end, outcome in zip(ends, result.outcomes, strict=True)),
    )
    write_json(directory / "timing.json", result.timing)
    return ends


def mark_complete(directory: Path, ends: list[TrialEnd]) -> None:
    """Write `success.txt`: from now on this batch is never run again."""
    numbers = ", ".join(str(end.number) for end in ends)
    write_text(directory / SUCCESS, f"trials {numbers}: complete and on disk\n")


def judge(outcome: Outcome, reference: ReferenceReturns) -> TrialEnd:
    """An outcome with its metrics, a FAIL with the reason where those cannot be computed."""
    if outcome.state != "COMPLETE":
        return TrialEnd(outcome.number, outcome.state, outcome.reason, {})
    try:
        return TrialEnd(outcome.number, outcome.state, "", compute(outcome, reference))
    except ValueError as error:
        return TrialEnd(outcome.number, "FAIL", str(error), {})


def read_ends(directory: Path) -> list[TrialEnd]:
    """How the trials of a complete batch ended, to the last bit as `write_batch` said."""
    return [
        TrialEnd(int(row["trial"]), row["state"], row["reason"], _read_metrics(row))
        for row in read_csv(directory / "summary.csv")
    ]


def failed_batch(batch: HparamBatch, reason: str, seeds: int, wall_seconds: float) -> BatchResult:
    """The result of a batch that raised: every trial FAIL, nothing known but the time until then."""
    empty = np.zeros((0, seeds))
    curve = Curve(np.zeros(0, np.int64), empty, empty, empty, empty, empty, 0, 0)
    outcomes = tuple(Outcome(trial.number, "FAIL", reason, curve, 0, 0.0) for trial in batch.trials)
    unknown = dict.fromkeys(UNKNOWN_AFTER_AN_ERROR)
    return BatchResult(outcomes, {**unknown, "wall_seconds": wall_seconds, "error": reason})


def write_hyperparams(path: Path, batch: HparamBatch) -> None:
    """A row a trial: its number and every hyperparameter, the fixed ones too."""
    names = list(dotted(batch.trials[0].algorithm))
    write_csv(path, ("trial", *names), ([trial.number, *dotted(trial.algorithm).values()] for trial in batch.trials))


def _curve_rows(outcome: Outcome) -> Iterator[list[Any]]:
    curve = outcome.curve
    for seed in range(curve.mean.shape[1]):
        columns = (curve.mean, curve.std, curve.min, curve.max, curve.length)
        for point, step in enumerate(curve.steps):
            measured = [float(column[point, seed]) for column in columns]
            yield [outcome.number, seed, int(step), *measured, curve.episodes]


def _summary_row(end: TrialEnd, outcome: Outcome) -> list[Any]:
    metrics = [end.metrics.get(name) for name in METRICS]
    steps = int(outcome.curve.steps[-1]) if len(outcome.curve.steps) else 0
    return [end.number, end.state, end.reason, *metrics, float(outcome.train_seconds), steps]


def _read_metrics(row: dict[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in METRICS} if row["state"] == "COMPLETE" else {}
