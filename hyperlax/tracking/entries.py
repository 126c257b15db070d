"""A study and its trials as MLflow is told of them: plain data, within MLflow's limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.analysis.study_data import MissingFile, readable_curves, timing_of
from hyperlax.analysis.terminal import best_in_words, counts
from hyperlax.config.option import MAY_CHANGE, options_of
from hyperlax.config.options import SearchOptions
from hyperlax.config.stored import MANIFEST
from hyperlax.files import cell
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.directory import (
    BEST_FILE,
    CONFIRMED,
    PARETO_FILE,
    PLOTLY_FILE,
    PLOTS_DIRECTORY,
    REPORT,
    SUCCESS,
    TRIALS,
)
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.study.statistics import in_short

_LONGEST_TAG, _LONGEST_PARAM = 5000, 6000
"""Letters that MLflow keeps of a tag's and of a parameter's value."""
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""A trial's state -> its run's status."""
MARK = "hyperlax.state", "hyperlax.reason", "hyperlax.batch"
"""Tags that change when a trial's result changes: it is run again, or taken out of the ranking."""
TRIAL, _FEASIBLE = "hyperlax.trial", "hyperlax.feasible"
_PAGES = (REPORT, TRIALS, MANIFEST, CONFIRMED, BEST_FILE, PARETO_FILE)


@dataclass(frozen=True)
class Point:
    """A value of a metric. step: environment steps of a trial, finished trials of a study."""

    name: str
    value: float
    step: int


def mark_of(record: StudyRecord, trial: TrialRecord) -> dict[str, str]:
    """Return the tags of `MARK` that a trial has."""
    batch = trial.batch_directory
    relative = "" if batch is None else batch.relative_to(record.directory).as_posix()
    tags = zip(MARK, (trial.state, trial.reason[:_LONGEST_TAG], relative), strict=True)
    return {name: value for name, value in tags if value}


def tags_of(record: StudyRecord, trial: TrialRecord) -> dict[str, str]:
    """Return the tags of a trial's run."""
    feasible = {} if trial.feasible else {_FEASIBLE: "false"}
    return {TRIAL: str(trial.number), **mark_of(record, trial), **feasible}


def params_of(trial: TrialRecord) -> dict[str, str]:
    """Return the parameters of a trial's run."""
    return {name: _text(value) for name, value in trial.params.items()}


def points_of(record: StudyRecord, trial: TrialRecord, curve: LearningCurve | None) -> list[Point]:
    """Return a trial's curve, if there is one, and its metrics, as far as they are finite."""
    last = 0 if curve is None else int(curve.steps[-1])
    summary = [Point(name, value, last) for name, value in trial.metrics.items()]
    return [point for point in [*_curve_points(curve, record.scale.name), *summary] if math.isfinite(point.value)]


def with_curves(trials: Iterable[TrialRecord]) -> Iterator[tuple[TrialRecord, LearningCurve | None]]:
    """Yield each trial with its curve, None if that cannot be read. Consecutive trials of a batch share one read of its file."""
    for _, group in groupby(trials, key=lambda trial: trial.batch_directory):
        mates = list(group)
        curves = readable_curves(mates)
        yield from ((trial, curves.get(trial.number)) for trial in mates)


def times_of(batch: Path | None) -> tuple[int | None, int | None]:
    """Return when a batch began and ended by its files, in milliseconds since 1970. Trials of a batch train together."""
    if batch is None:
        return None, None
    try:
        ended = int((batch / SUCCESS).stat().st_mtime * 1000)
        return ended - int((timing_of(batch)["wall_seconds"] or 0.0) * 1000), ended
    except (OSError, MissingFile):
        return None, None


def study_params(record: StudyRecord) -> dict[str, str]:
    """Return the arguments that cannot change in a study, since MLflow's parameters cannot change either."""
    kind = bool(record.environment), record.scale.words.has_programs
    fixed = {
        f: record.arguments.get(f)
        for f, option in options_of(SearchOptions).items()
        if option.is_kept and not option.has(MAY_CHANGE) and not option.is_foreign(*kind)
    }
    return {name: _text(value) for name, value in fixed.items() if value not in (None, [])}


def standing(record: StudyRecord) -> tuple[dict[str, str], list[Point]]:
    """Return the state of a study: its best trials, its progress, and its command, device and versions.

    It is in tags that replace the former ones, and in points that are written when the tags have changed.
    """
    best = record.winners
    finished = sum(trial.state != "RUNNING" for trial in record.trials)
    how_far = counts(record, int(record.arguments["n_trials"]))
    tags = {
        "mlflow.note.content": f"{record.title}: {how_far}\n\nBest: {best_in_words(record)}",
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
    return {name: value[:_LONGEST_TAG] for name, value in tags.items()}, points


def artifacts(directory: Path) -> list[tuple[Path, str | None]]:
    """Return the existing pages of a study, each with its folder among the artifacts."""
    plots = directory / PLOTS_DIRECTORY
    pages: list[tuple[Path, str | None]] = [(directory / name, None) for name in _PAGES]
    drawn = [(path, PLOTS_DIRECTORY) for path in (plots / PLOTLY_FILE, *sorted(plots.glob("*.html")))]
    return [(path, folder) for path, folder in [*pages, *drawn] if path.is_file()]


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


def _text(value: Any) -> str:
    return cell(value)[:_LONGEST_PARAM]
