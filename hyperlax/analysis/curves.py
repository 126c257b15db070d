"""Learning curves and costs, read back from the files of the batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.analysis.lost import LostFile, reading
from hyperlax.analysis.timeline import timeline_of
from hyperlax.files import convert, read_csv
from hyperlax.study.record import StudyRecord, TrialRecord

SUMMED = ("compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
"""What of a batch's `timing.json` a study's cost is the sum of."""


@dataclass(frozen=True)
class LearningCurve:
    """steps: int64[points], environment steps; returns: float64[points, seeds], mean return of each seed."""

    steps: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True)
class Cost:
    """Sums over the batches on disk that know what they cost, None where none does; memory is the largest of any batch.

    broken: batches that raised: of those only the time from start to end is known. duration: seconds in which the study trained,
    side by side counted once; None where the batches do not say when they trained.
    """

    batches: int
    broken: int
    compile_seconds: float | None
    train_seconds: float | None
    evaluate_seconds: float | None
    wall_seconds: float | None
    steps: int | None
    peak_memory_bytes: int | None
    duration: float | None

    @property
    def steps_per_train_second(self) -> float | None:
        """Environment steps per second of training; None where nothing is known to have been trained."""
        return self.steps / self.train_seconds if self.steps is not None and self.train_seconds else None


def read_curves(trials: Iterable[TrialRecord]) -> dict[int, LearningCurve]:
    """Trial number -> its curve from `curves.csv`; each file is read once.

    Raises:
      LostFile: a file is gone or damaged, or there is nothing of a trial on disk, as of one that failed at once.
    """
    wanted: dict[Path, list[int]] = {}
    for trial in trials:
        if trial.batch_directory is None:
            raise LostFile(f"trial {trial.number} is {trial.state} but has no batch directory to read its curve from.")
        wanted.setdefault(trial.batch_directory / "curves.csv", []).append(trial.number)
    curves: dict[int, LearningCurve] = {}
    for path, numbers in wanted.items():
        with reading(path):
            rows = read_csv(path)
            own = {number: [row for row in rows if row["trial"] == str(number)] for number in numbers}
            lost = [number for number in numbers if not own[number]]
            if lost:
                raise LostFile(f"{path}: holds nothing of trial {lost[0]}.")
            curves |= {number: _curve(own[number]) for number in numbers}
    return curves


def total_cost(record: StudyRecord) -> Cost:
    """The cost of every batch that a trial of the study belongs to, from its `timing.json`.

    Raises:
      LostFile: one is gone or damaged.
    """
    directories = sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})
    timings = [_timing(directory / "timing.json") for directory in directories]
    memory = [timing["peak_memory_bytes"] for timing in timings if timing["peak_memory_bytes"] is not None]
    return Cost(
        batches=len(timings),
        broken=sum(timing["train_seconds"] is None for timing in timings),
        **{name: _known_sum(timings, name) for name in SUMMED},
        peak_memory_bytes=max(memory) if memory else None,
        duration=timeline_of(record).seconds,
    )


def _timing(path: Path) -> dict[str, Any]:
    """What is summed of a `timing.json`, null as None. LostFile if it does not hold that."""
    with reading(path):
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = {name: stored[name] for name in (*SUMMED, "peak_memory_bytes")}
        return convert(known, dict[str, int | float | None], str(path))


def _curve(rows: list[dict[str, str]]) -> LearningCurve:
    steps = sorted({int(row["step"]) for row in rows})
    seeds = sorted({int(row["seed"]) for row in rows})
    returns = np.full((len(steps), len(seeds)), np.nan)
    for row in rows:
        returns[steps.index(int(row["step"])), seeds.index(int(row["seed"]))] = float(row["mean"])
    return LearningCurve(steps=np.array(steps), returns=returns)


def _known_sum(timings: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The sum over the batches that know it, one that raised having null; None where there are batches and none knows it."""
    known = [timing[key] for timing in timings if timing[key] is not None]
    return sum(known) if known or not timings else None
