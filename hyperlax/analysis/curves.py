"""Learning curves, read back from the files of the batches, and what to do about files that are missing or damaged."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hyperlax.errors import HyperlaxError
from hyperlax.files import read_csv
from hyperlax.study.record import TrialRecord

_log = logging.getLogger(__name__)


class MissingFile(HyperlaxError):
    """A batch's file that cannot be read, and why. The batch's entries in the database are still valid."""


@dataclass(frozen=True)
class LearningCurve:
    """A trial's evaluations. steps: int64[points], environment steps; returns: float64[points, seeds], mean return of each seed."""

    steps: np.ndarray
    returns: np.ndarray


def read_curves(trials: Iterable[TrialRecord]) -> dict[int, LearningCurve]:
    """Return trial number -> its curve from `curves.csv`. Each file is read once.

    Raises:
      MissingFile: a file is gone or damaged, or a trial has no file, e.g. because it failed at once.
    """
    wanted: dict[Path, list[int]] = {}
    for trial in trials:
        if trial.batch_directory is None:
            raise MissingFile(
                f"trial {trial.number} is {trial.state} but has no batch directory to read its curve from."
            )
        wanted.setdefault(trial.batch_directory / "curves.csv", []).append(trial.number)
    curves: dict[int, LearningCurve] = {}
    for path, numbers in wanted.items():
        with reading(path):
            rows = read_csv(path)
            own = {number: [row for row in rows if row["trial"] == str(number)] for number in numbers}
            lost = [number for number in numbers if not own[number]]
            if lost:
                raise MissingFile(f"{path}: holds nothing of trial {lost[0]}.")
            curves |= {number: _curve(own[number]) for number in numbers}
    return curves


def readable_curves(trials: Iterable[TrialRecord]) -> dict[int, LearningCurve]:
    """Return the curves of those trials whose files can be read."""
    curves: dict[int, LearningCurve] = {}
    for trial in trials:
        try:
            curves |= read_curves([trial])
        except MissingFile:
            continue
    return curves


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise MissingFile if the block fails to read `path` or to understand its content."""
    try:
        yield
    except OSError as error:
        raise MissingFile(f"{path}: {error.strerror}.") from error
    except KeyError as error:
        raise MissingFile(f"{path}: is damaged (lacks {error}).") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        why = " ".join(str(error).split()).removeprefix(f"{path}, ").removesuffix(".")
        raise MissingFile(f"{path}: is damaged ({why}).") from error


@cache
def warn_once(text: str) -> None:
    """Log a warning the first time in a process: pages are written again after every super-batch."""
    _log.warning("%s", text)


def _curve(rows: list[dict[str, str]]) -> LearningCurve:
    steps = sorted({int(row["step"]) for row in rows})
    seeds = sorted({int(row["seed"]) for row in rows})
    returns = np.full((len(steps), len(seeds)), np.nan)
    for row in rows:
        returns[steps.index(int(row["step"])), seeds.index(int(row["seed"]))] = float(row["mean"])
    return LearningCurve(steps=np.array(steps), returns=returns)
