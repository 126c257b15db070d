"""The files of an hparam batch, written and read back."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import format_exception
from typing import Any

import numpy as np

from hyperlax.errors import UsageError
from hyperlax.fields import dotted
from hyperlax.files import CsvError, durable_together, escaped, read_csv, read_text, write_csv, write_json, write_text
from hyperlax.outputs import moving_outputs
from hyperlax.scale import Scale
from hyperlax.study.directory import (
    CURVES_CSV,
    HYPERPARAMS_CSV,
    INTERMEDIATE_CSV,
    SUCCESS,
    SUMMARY_CSV,
    TIMING_JSON,
)
from hyperlax.trial import (
    STATES,
    TIMELINE,
    BatchResult,
    Curve,
    LaneInterval,
    Outcome,
    Trial,
    TrialResult,
)

_CURVES = ("trial", "seed", "step")
_SUMMARY, _AFTER_METRICS = ("trial", "state", "reason"), ("seconds", "steps")
_MEAN, _EPISODES = "mean", "episodes"
"""First column about returns; a curve with another one there is that of a task."""
_INTERVALS = ("trial", "state", *LaneInterval._fields)
UNKNOWN_AFTER_AN_ERROR = (
    "programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "steps", "steps_per_second",
    "peak_memory_bytes", "lanes", "useful_lane_segments", "predicted_seconds",
)  # fmt: skip


class DamagedBatch(UsageError):
    """Damage to a file of a complete batch that the database does not have yet."""

    def __init__(self, path: Path, finding: str):
        super().__init__(
            f"{finding} The database does not have this batch yet: put the file back, or remove {path.with_name(SUCCESS)}, and "
            "its trials are run again."
        )


def write_batch(
    directory: Path,
    root: Path,
    batch: BatchResult,
    results: Sequence[TrialResult],
    scale: Scale,
    columns: Sequence[str] = (),
) -> None:
    """Write a batch, `success.txt` last.

    root: has the directories with the outputs of its trials. columns: names of their intermediate values, if they have any.
    """
    with durable_together():
        write_tables(directory, batch, results, scale)
        write_csv(directory / TIMELINE, _INTERVALS, _interval_rows(results, batch.outcomes))
        if columns:
            write_csv(
                directory / INTERMEDIATE_CSV, ("trial", "segment", "of", "step", *columns), _intermediate_rows(results)
            )
    with moving_outputs(root, [result.number for result in results], directory):
        mark_complete(directory, results, f", with {INTERMEDIATE_CSV}" if columns else "")


def write_tables(directory: Path, batch: BatchResult, results: Sequence[TrialResult], scale: Scale) -> None:
    """Write the tables and the `timing.json` of a batch. scale: what its trials are measured by."""
    _write_hyperparams(directory / HYPERPARAMS_CSV, [outcome.trial for outcome in batch.outcomes])
    columns, metrics = scale.columns, list(scale.table.rows)
    curves = (row for outcome in batch.outcomes for row in _curve_rows(outcome, columns))
    write_csv(directory / CURVES_CSV, (*_CURVES, *columns), curves)
    write_csv(
        directory / SUMMARY_CSV,
        (*_SUMMARY, *metrics, *_AFTER_METRICS),
        (_summary_row(result, outcome, metrics) for result, outcome in zip(results, batch.outcomes, strict=True)),
    )
    write_json(directory / TIMING_JSON, batch.timing)


def mark_complete(directory: Path, results: Sequence[TrialResult], more: str = "") -> None:
    """Write `success.txt`, after which this batch is never run again. more: words about further files, without numbers."""
    numbers = ", ".join(str(result.number) for result in results)
    write_text(directory / SUCCESS, f"trials {numbers}: complete and on disk{more}\n")


def read_trial_results(directory: Path, needed: Collection[str] = ()) -> list[TrialResult]:
    """Return the results of a complete batch, equal to the bit to those that `write_batch` got.

    needed: the metrics that the file must have; metrics that were added later may be missing. Raises DamagedBatch.
    """
    path = directory / SUMMARY_CSV
    rows = _read_rows(path, ("state", "reason", *needed))
    results = [_read_result(path, number, row) for number, row in rows.items()]
    with _reading(directory / SUCCESS):
        has_them = INTERMEDIATE_CSV in read_text(directory / SUCCESS)
    return _with_intermediate(directory / INTERMEDIATE_CSV, results) if has_them else results


def read_hyperparams(directory: Path, names: Sequence[str]) -> dict[int, dict[str, str]]:
    """Return trial number -> name -> cell of a complete batch. Raises DamagedBatch, also for a name without a column."""
    return _read_rows(directory / HYPERPARAMS_CSV, names)


@dataclass(frozen=True)
class LearningCurve:
    """A trial's evaluations.

    steps: int64[points], of one seed. returns: float64[points, seeds], mean return of each seed, or the leading measure of a task;
    nan where the file lacks it. has_start: whether the first point is before any training. others: as in `Curve`.
    """

    steps: np.ndarray
    returns: np.ndarray
    has_start: bool = True
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    def trained(self) -> LearningCurve:
        """Return it without the point before any training."""
        start = int(self.has_start)
        others = {name: values[start:] for name, values in self.others.items()}
        return LearningCurve(self.steps[start:], self.returns[start:], has_start=False, others=others)


def read_curves(directory: Path, trials: Collection[int]) -> dict[int, LearningCurve]:
    """Return trial number -> its curve from the `curves.csv` of a batch, without the trials that are not in it.

    Raises OSError, KeyError, ValueError or csv.Error if the file is missing or damaged.
    """
    rows: dict[str, list[tuple[int, int, list[float]]]] = {str(number): [] for number in trials}
    names: list[str] = []
    for row in read_csv(directory / CURVES_CSV):
        if row["trial"] in rows:
            names = names or ([_MEAN] if _MEAN in row else list(row)[len(_CURVES) :])
            rows[row["trial"]].append((int(row["seed"]), int(row["step"]), [float(row[name]) for name in names]))
    return {int(number): _curve(points, names) for number, points in rows.items() if points}


def failed(
    trial: Trial,
    cause: str,
    seeds: int,
    wall_seconds: float,
    error: BaseException | None = None,
) -> BatchResult:
    """Return the result of a trial that broke: it is a FAIL, and only the time until then is known.

    error: the exception; its traceback is kept in `timing.json`.
    """
    cause = escaped(cause)
    empty = np.zeros((0, seeds))
    curve = Curve(np.zeros(0, np.int64), empty, empty, empty, empty, empty, 0, 0)
    outcome = Outcome(trial, "FAIL", cause, curve, 0, 0.0, lane=0)
    unknown = dict.fromkeys(UNKNOWN_AFTER_AN_ERROR)
    traceback = escaped("".join(format_exception(error))).splitlines() if error else []
    return BatchResult((outcome,), {**unknown, "wall_seconds": wall_seconds, "error": cause, "traceback": traceback})


def _curve(points: Sequence[tuple[int, int, list[float]]], names: Sequence[str]) -> LearningCurve:
    """Return a curve from the seed, step and values of each point. names: of the values, the leading one first."""
    steps = sorted({step for _, step, _ in points})
    index = {step: number for number, step in enumerate(steps)}
    found = np.full((len(names), len(steps), 1 + max(seed for seed, _, _ in points)), np.nan)
    for seed, step, values in points:
        found[:, index[step], seed] = values
    return LearningCurve(np.array(steps), found[0], names[0] == _MEAN, dict(zip(names[1:], found[1:], strict=True)))


def _write_hyperparams(path: Path, trials: Sequence[Trial]) -> None:
    """Write one row per trial: its number and every hyperparameter, the fixed ones too."""
    names = list(dotted(trials[0].config))
    write_csv(path, ("trial", *names), ([trial.number, *dotted(trial.config).values()] for trial in trials))


def _curve_rows(outcome: Outcome, names: Sequence[str]) -> Iterator[list[Any]]:
    """Yield a row per seed and evaluation. names: see `Scale.columns`."""
    curve = outcome.curve
    columns = [curve.column(name) for name in names if name != _EPISODES]
    episodes = [curve.episodes] if _EPISODES in names else []
    for seed in range(curve.mean.shape[1]):
        for point, step in enumerate(curve.steps):
            measured = [float(column[point, seed]) for column in columns]
            yield [outcome.number, seed, int(step), *measured, *episodes]


def _interval_rows(results: Sequence[TrialResult], outcomes: Sequence[Outcome]) -> Iterator[list[Any]]:
    """Yield one row per trial and lane that it was in, with times to the millisecond."""
    for result, outcome in zip(results, outcomes, strict=True):
        for interval in outcome.intervals:
            rounded = interval._replace(began=round(interval.began, 3), ended=round(interval.ended, 3))
            yield [result.number, result.state, *rounded]


def _intermediate_rows(results: Sequence[TrialResult]) -> Iterator[list[Any]]:
    for result in results:
        for segment, (step, values) in enumerate(result.intermediate.items(), 1):
            yield [result.number, segment, len(result.intermediate), step, *values]


def _summary_row(result: TrialResult, outcome: Outcome, metrics: Sequence[str]) -> list[Any]:
    values = [result.metrics.get(name) for name in metrics]
    steps = int(outcome.curve.steps[-1]) if len(outcome.curve.steps) else 0
    return [result.number, result.state, result.reason, *values, float(outcome.train_seconds), steps]


def trials_of(directory: Path) -> list[int]:
    """Return the trials of a complete batch, which its `success.txt` lists. Raises DamagedBatch."""
    path = directory / SUCCESS
    with _reading(path):
        numbers = [int(number) for number in re.findall(r"\d+", read_text(path))]
    if not numbers:
        raise DamagedBatch(path, f"{path}: names no trial.")
    return numbers


def _read_rows(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Return the rows of a complete batch's file by trial.

    Raises DamagedBatch unless it has these columns, and a row for exactly the trials in `success.txt`.
    """
    with _reading(path):
        rows = read_csv(path)
    expected = trials_of(path.parent)
    lacking = [name for name in ("trial", *columns) if rows and name not in rows[0]]
    if lacking:
        raise DamagedBatch(path, f"{path}: has no column `{lacking[0]}`.")
    found = {row["trial"]: row for row in rows}
    if len(rows) != len(expected) or found.keys() != set(map(str, expected)):
        held, counted = (", ".join(map(str, numbers)) or "none" for numbers in (found, expected))
        raise DamagedBatch(path, f"{path}: holds trials {held}; {SUCCESS} counts {counted}.")
    return {number: found[str(number)] for number in expected}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise DamagedBatch if the block cannot read a file of a complete batch."""
    try:
        yield
    except OSError as error:
        raise DamagedBatch(path, f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DamagedBatch(path, f"{path}: is not UTF-8.") from error
    except CsvError as error:
        raise DamagedBatch(path, f"{path}: {error.finding}") from error
    except (ValueError, OverflowError, csv.Error) as error:
        raise DamagedBatch(path, f"{path}: {error}") from error


def _read_result(path: Path, number: int, row: dict[str, str]) -> TrialResult:
    if row["state"] not in STATES:
        raise DamagedBatch(path, f"{path}: trial {number} has state {row['state']!r}, none of {', '.join(STATES)}.")
    others = {*_SUMMARY, *_AFTER_METRICS}
    metrics = [name for name in row if name not in others] if row["state"] == "COMPLETE" else []
    for name in metrics:
        if not _is_finite(row[name]):
            raise DamagedBatch(path, f"{path}: trial {number} has {name} {row[name]!r}, which is not a finite number.")
    return TrialResult(number, row["state"], row["reason"], {name: float(row[name]) for name in metrics})


def _with_intermediate(path: Path, results: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the results with their values of every segment. The file itself says how many each trial has."""
    found: dict[int, dict[int, tuple[float, ...]]] = {result.number: {} for result in results}
    counted: dict[int, int] = {}
    with _reading(path):
        for row in read_csv(path):
            names = ("trial", "segment", "of", "step")
            number, segment, counted[number], step = (int(row.pop(name, "")) for name in names)
            values = tuple(map(float, row.values()))
            if number not in found or segment != len(found[number]) + 1 or not all(map(math.isfinite, values)):
                raise ValueError(f"is not whole at segment {segment} of trial {number}")
            found[number][step] = values
        for result in results:
            if len(found[result.number]) != counted.get(result.number, 0) or (
                result.state != "FAIL" and not found[result.number]
            ):
                raise ValueError(f"is not whole for trial {result.number}")
    return [replace(result, intermediate=found[result.number]) for result in results]


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
