"""A study and its trials as MLflow is told of them: plain data, within MLflow's limits."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.analysis.study_data import MissingFile, read_curves
from hyperlax.analysis.terminal import best_in_words, counts
from hyperlax.config.option import MAY_CHANGE, options_of
from hyperlax.config.options import SearchOptions
from hyperlax.config.stored import MANIFEST
from hyperlax.errors import UsageError
from hyperlax.files import cell, decode
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.directory import (
    BEST_FILE,
    CONFIRMED,
    PARETO_FILE,
    PLOTLY_FILE,
    PLOTS_DIRECTORY,
    REPORT,
    SUCCESS,
    TIMING_JSON,
    TRIALS,
)
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.study.statistics import in_short

LONGEST_TAG, _LONGEST_PARAM = 5000, 6000
"""Letters that MLflow keeps of a tag's and of a parameter's value."""
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""A trial's state -> its run's status."""
STATE, REASON, BATCH = "hyperlax.state", "hyperlax.reason", "hyperlax.batch"
TRIAL, _FEASIBLE = "hyperlax.trial", "hyperlax.feasible"
DESCRIPTION = "mlflow.note.content"
PAGES = (REPORT, TRIALS, MANIFEST, CONFIRMED, BEST_FILE, PARETO_FILE)


@dataclass(frozen=True)
class Point:
    """A value of a metric. step: environment steps of a trial, finished trials of a study."""

    name: str
    value: float
    step: int


@dataclass(frozen=True)
class TrialEntry:
    """The data of an ended trial for MLflow. began, ended: milliseconds since 1970, None if not known."""

    number: int
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Point]
    began: int | None
    ended: int | None


@dataclass(frozen=True)
class Standing:
    """The state of a study: tags that replace the former ones, and points that are written when the tags have changed."""

    tags: dict[str, str]
    points: list[Point]


def mark_of(record: StudyRecord, trial: TrialRecord) -> dict[str, str]:
    """Return the tags that change when a trial's result changes: it is run again, or taken out of the ranking."""
    batch = trial.batch_directory
    relative = "" if batch is None else batch.relative_to(record.directory).as_posix()
    tags = {STATE: trial.state, REASON: trial.reason[:LONGEST_TAG], BATCH: relative}
    return {name: value for name, value in tags.items() if value}


def trial_entry(record: StudyRecord, trial: TrialRecord, curve: LearningCurve | None) -> TrialEntry:
    """Return the entry of a trial that has ended, with its curve if there is one."""
    began, ended = _times(trial.batch_directory)
    tags = {TRIAL: str(trial.number), **mark_of(record, trial)}
    if not trial.feasible:
        tags[_FEASIBLE] = "false"
    last = 0 if curve is None else int(curve.steps[-1])
    summary = [Point(name, value, last) for name, value in trial.metrics.items()]
    return TrialEntry(
        number=trial.number,
        status=_STATUS[trial.state],
        params={name: _text(value) for name, value in trial.params.items()},
        tags=tags,
        points=[point for point in [*_curve_points(curve, record.scale.name), *summary] if math.isfinite(point.value)],
        began=began,
        ended=ended,
    )


def with_curves(trials: Iterable[TrialRecord]) -> Iterator[tuple[TrialRecord, LearningCurve | None]]:
    """Yield each trial with its curve, None if that cannot be read. Consecutive trials of a batch share one read of its file."""
    for batch, group in groupby(trials, key=lambda trial: trial.batch_directory):
        mates = list(group)
        curves = {} if batch is None else _curves(mates) or {k: v for mate in mates for k, v in _curves([mate]).items()}
        yield from ((trial, curves.get(trial.number)) for trial in mates)


def study_params(record: StudyRecord) -> dict[str, str]:
    """Return the arguments that cannot change in a study, since MLflow's parameters cannot change either."""
    kind = bool(record.environment), record.scale.words.has_programs
    fixed = {
        f: record.arguments.get(f)
        for f, option in options_of(SearchOptions).items()
        if option.is_kept and not option.has(MAY_CHANGE) and not option.is_foreign(*kind)
    }
    return {name: _text(value) for name, value in fixed.items() if value not in (None, [])}


def standing(record: StudyRecord) -> Standing:
    """Return the state of a study: its best trials, its progress, and its command, device and versions."""
    best = record.winners
    finished = sum(trial.state != "RUNNING" for trial in record.trials)
    how_far = counts(record, int(record.arguments["n_trials"]))
    tags = {
        DESCRIPTION: f"{record.title}: {how_far}\n\nBest: {best_in_words(record)}",
        "hyperlax.trials": how_far,
        "hyperlax.directory": str(record.directory.absolute()),
        "hyperlax.command": record.command,
        "hyperlax.device": record.device,
        **{f"hyperlax.version.{package}": version for package, version in record.versions.items()},
    }
    points = []
    if best and len(record.objectives) == 1:
        tags["best_trial"] = str(best[0].number)
        tags |= {f"best.{name}": _text(value) for name, value in best[0].params.items()}
    elif best:
        tags["pareto_front"] = ", ".join(str(trial.number) for trial in best)
    for name, direction in record.objectives.items():
        values = [trial.values[name] for trial in best]
        if values:
            points.append(Point(f"best_{name}", max(values) if direction == "maximize" else min(values), finished))
    if record.confirmation and (winner := record.confirmation.best):
        metric = record.confirmation.metric
        tags["confirmed"] = " ".join(in_short(record.confirmation))
        points.append(Point(f"confirmed_{metric}", float(np.mean(winner.per_seed[metric])), finished))
    return Standing({name: value[:LONGEST_TAG] for name, value in tags.items()}, points)


def artifacts(directory: Path) -> list[tuple[Path, str | None]]:
    """Return the existing pages of a study, each with its folder among the artifacts."""
    plots = directory / PLOTS_DIRECTORY
    pages: list[tuple[Path, str | None]] = [(directory / name, None) for name in PAGES]
    drawn = [(path, PLOTS_DIRECTORY) for path in (plots / PLOTLY_FILE, *sorted(plots.glob("*.html")))]
    return [(path, folder) for path, folder in [*pages, *drawn] if path.is_file()]


def in_chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the items in chunks of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _curves(trials: Sequence[TrialRecord]) -> Mapping[int, LearningCurve]:
    try:
        return read_curves(trials)
    except (MissingFile, ValueError, KeyError, csv.Error):  # gone, damaged, or of a trial that failed at once
        return {}


def _curve_points(curve: LearningCurve | None, name: str) -> Iterator[Point]:
    """Yield the mean over seeds and, if there are several, the lowest and the highest. name: what the curve shows, in a word."""
    if curve is None:
        return
    shown = {f"{name}_mean": np.mean}
    if curve.returns.shape[1] > 1:
        shown |= {f"{name}_min": np.min, f"{name}_max": np.max}
    for name, over_seeds in shown.items():
        for step, value in zip(curve.steps, over_seeds(curve.returns, axis=1), strict=True):
            yield Point(name, float(value), int(step))


@dataclass(frozen=True)
class _Timing:
    """The entry of a batch's `timing.json` that is used here."""

    wall_seconds: float | None


def _times(batch: Path | None) -> tuple[int | None, int | None]:
    """Return when a batch began and ended, from its files. Trials of a batch train together."""
    if batch is None:
        return None, None
    try:
        ended = int((batch / SUCCESS).stat().st_mtime * 1000)
        seconds = decode(batch / TIMING_JSON, _Timing).wall_seconds
        return ended - int((seconds or 0.0) * 1000), ended
    except (OSError, UsageError):
        return None, None


def _text(value: Any) -> str:
    return cell(value)[:_LONGEST_PARAM]
