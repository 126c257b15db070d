"""Content of the files of a study's batches: learning curves, the trials of each lane over time, and their cost."""

from __future__ import annotations

import csv
import itertools
import logging
import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperlax.analysis.sensitivity import Effect, is_sensitivity, sensitivity
from hyperlax.errors import HyperlaxError, in_one_line
from hyperlax.files import CsvError, convert, read_csv, read_json, read_text
from hyperlax.study import batch_files
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.directory import CURVES_CSV, TIMING_JSON
from hyperlax.study.record import Run, StudyRecord, TrialRecord
from hyperlax.trial import TIMELINE, WHERE

_log = logging.getLogger(__name__)
MOST_DRAWN = 1000
"""Most trials that a plot draws as points, and that the report's table has: more cover each other, and slow a browser down."""
BEST_DRAWN = 100
_MOST_KEPT = 1 << 16
"""Files of batches that are kept in memory: a study's pages are written again after every super-batch."""
_LATEST_SECONDS = 1e11
"""Upper bound of plausible times, in seconds since 1970."""
_SUMMED = ("compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
"""Entries of a batch's `timing.json` that are summed over the study."""


class MissingFile(HyperlaxError):
    """A batch's file that cannot be read, and why. The batch's entries in the database are still valid."""


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
        wanted.setdefault(trial.batch_directory, []).append(trial.number)
    curves: dict[int, LearningCurve] = {}
    for batch, numbers in wanted.items():
        path = batch / CURVES_CSV
        with reading(path):
            found = batch_files.read_curves(batch, numbers)
        if lost := [number for number in numbers if number not in found]:
            raise MissingFile(f"{path}: holds nothing of trial {lost[0]}.")
        curves |= found
    return curves


def readable_curves(trials: Iterable[TrialRecord]) -> dict[int, LearningCurve]:
    """Return the curves of those trials whose files can be read."""
    trials = list(trials)
    half = len(trials) // 2
    try:
        return read_curves(trials)
    except MissingFile:
        return readable_curves(trials[:half]) | readable_curves(trials[half:]) if half else {}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise MissingFile if the block fails to read `path` or to understand its content."""
    try:
        yield
    except OSError as error:
        raise MissingFile(f"{path}: {error.strerror}.") from error
    except KeyError as error:
        raise MissingFile(f"{path}: is damaged (lacks {error}).") from error
    except (ValueError, TypeError, OverflowError, RecursionError, csv.Error) as error:
        why = in_one_line(error.finding if isinstance(error, CsvError) else error).removesuffix(".")
        raise MissingFile(f"{path}: is damaged ({why}).") from error


@cache
def warn_once(text: str) -> None:
    """Log a warning the first time in a process: pages are written again after every super-batch."""
    _log.warning("%s", text)


@dataclass(frozen=True)
class Bar:
    """A trial's time in a lane, of an agent if that is not "". state: how the trial ended. began, ended: seconds of training."""

    trial: int
    state: str
    slot: int
    pool: int
    lane: int
    began: float
    ended: float
    agent: str


@dataclass(frozen=True)
class Timeline:
    """All bars of a study on one axis, in order of time.

    starts: positions at which a process began to train after all before it had ended, the first at 0.
    unknown: number of batches without times. times: when each bar began and ended, in seconds since 1970.
    """

    bars: list[Bar]
    starts: list[float]
    unknown: int
    times: list[tuple[float, float]]

    @property
    def seconds(self) -> float | None:
        """Seconds from the first lane's start to the last one's end, without the time between processes; None if not known."""
        return None if self.unknown or not self.bars else max(bar.ended for bar in self.bars)


@dataclass(frozen=True)
class Cost:
    """Sums over the batches on disk with a known cost, None if there are none; memory is the largest of any batch.

    broken: number of batches that raised; only their time from start to end is known. duration: seconds in which the study
    trained, counting parallel batches once; None if any batch has no times. elapsed: seconds from the start of each run to its
    last result, with everything between; None if any of that is not known.
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
    elapsed: float | None

    @property
    def steps_per_train_second(self) -> float | None:
        """Environment steps per second of training; None if no training time is known."""
        return self.steps / self.train_seconds if self.steps is not None and self.train_seconds else None


class AgentShare(NamedTuple):
    """What an agent has trained of a study. train_seconds: those in which any of its lanes trained."""

    agent: str
    host: str
    device: str
    batches: int
    trials: int
    train_seconds: float


class StudyData:
    """A record and the contents of its batches' files. Each file is read at most once, when it is first needed."""

    def __init__(self, record: StudyRecord):
        self.record = record

    @cached_property
    def drawn(self) -> list[TrialRecord]:
        """The COMPLETE trials that plots draw as points, by number: all, or of too many the best, and others evenly spaced."""
        trials = self.record.complete
        if len(trials) <= MOST_DRAWN:
            return trials
        best = {trial.number for trial in self.record.best_first()[:BEST_DRAWN]}
        others = [trial for trial in trials if trial.number not in best]
        places = np.linspace(0, len(others) - 1, MOST_DRAWN - len(best)).astype(int)
        numbers = best.union(others[place].number for place in places)
        return [trial for trial in trials if trial.number in numbers]

    @cached_property
    def timeline(self) -> Timeline:
        """Times in lanes, by one clock. A process that begins after all before it have ended begins where they ended.

        Raises:
          MissingFile: a `timeline.csv` is damaged; one that is gone only counts as unknown.
        """
        found = [_intervals(directory / TIMELINE, stamp(directory / TIMELINE)) for directory in self._batches]
        runs = _starts(self.record.runs)
        # an agent waits between two runs, as if it were another process
        by_process: dict[tuple[float, int], list[Bar]] = {}
        times: list[tuple[float, float]] = []
        for bar, process in itertools.chain.from_iterable(filter(None, found)):
            times.append((process + bar.began, process + bar.ended))
            by_process.setdefault((process, bisect(runs, times[-1][0])), []).append(bar)
        starts: list[float] = []
        bars: list[Bar] = []
        zero, end = 0.0, 0.0  # of the axis, and of the bars on it
        firsts = [(process + min(bar.began for bar in own), process, own) for (process, _), own in by_process.items()]
        for began, process, own in sorted(firsts, key=lambda first: first[0]):
            if not bars or began - zero > end:
                zero = began - end
                starts.append(end)
            shift = process - zero
            bars += [replace(bar, began=bar.began + shift, ended=bar.ended + shift) for bar in own]
            end = max(end, *(bar.ended + shift for bar in own))
        in_order = sorted(bars, key=lambda bar: (bar.began, bar.agent, bar.slot, bar.pool, bar.lane))
        return Timeline(in_order, starts, found.count(None), times)

    @cached_property
    def cost(self) -> Cost:
        """The summed cost of the batches of the study's trials, from their `timing.json`.

        Raises:
          MissingFile: a file is gone or damaged.
        """
        timings = list(self._timings.values())
        memory = [timing["peak_memory_bytes"] for timing in timings if timing["peak_memory_bytes"] is not None]
        return Cost(
            batches=len(timings),
            broken=sum(timing["train_seconds"] is None for timing in timings),
            **{name: _known_sum(timings, name) for name in _SUMMED},
            peak_memory_bytes=max(memory) if memory else None,
            duration=self.timeline.seconds,
            elapsed=_elapsed(self.record.runs, self.timeline),
        )

    @cached_property
    def sensitivity(self) -> dict[str, list[Effect]]:
        """Objective -> the effects on it, of a sensitivity study; empty for another. A trial without its files has no result."""
        if not is_sensitivity(self.record):
            return {}
        return sensitivity(self.record, readable_curves(self.record.complete))

    @cached_property
    def agents(self) -> list[AgentShare]:
        """What each agent has trained of the batches that ended well, [] for a study without agents.

        Raises:
          MissingFile: a `timing.json` is gone, or that or a `timeline.csv` is damaged.
        """
        where: dict[str, tuple[str, str]] = {}
        for timing in self._timings.values():
            agents, hosts, devices = (timing[name].split("; ") for name in WHERE)
            where |= dict(zip(agents, zip(hosts, devices, strict=False), strict=False))
        batch_of = {trial.number: trial.batch_directory for trial in self.record.trials}
        bars: dict[str, list[Bar]] = {}
        for bar in self.timeline.bars:
            bars.setdefault(bar.agent, []).append(bar)
        bars.pop("", None)
        return [
            AgentShare(
                agent,
                *where.get(agent, ("", "")),
                batches=len({batch_of[bar.trial] for bar in own}),
                trials=len({bar.trial for bar in own}),
                train_seconds=_covered(own),
            )
            for agent, own in sorted(bars.items())
        ]

    @cached_property
    def _timings(self) -> dict[Path, dict[str, Any]]:
        return {batch: timing_of(batch) for batch in self._batches}

    @cached_property
    def _batches(self) -> list[Path]:
        return sorted({trial.batch_directory for trial in self.record.trials if trial.batch_directory})


def stamp(path: Path) -> tuple[int, int] | None:
    """Return the time of a file's last change and its size; None if it is gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


@lru_cache(_MOST_KEPT)
def _intervals(path: Path, at: tuple[int, int] | None) -> list[tuple[Bar, float]] | None:
    """Return bar and process of each row of a `timeline.csv`; None if it is gone. at: its stamp, since it is read once."""
    if at is None:
        return None
    with reading(path):
        return [(_bar(row), float(row["process"])) for row in read_csv(path)]


def _bar(row: dict[str, str]) -> Bar:
    slot, pool, lane = (int(row[name]) for name in ("slot", "pool", "lane"))
    began, ended = float(row["began"]), float(row["ended"])
    if not all(abs(time) < _LATEST_SECONDS for time in (began, ended, float(row["process"]))):
        raise ValueError(f"a trial was in its lane from {began} to {ended}")
    return Bar(int(row["trial"]), row["state"], slot, pool, lane, began, ended, row["agent"])


def _covered(bars: Sequence[Bar]) -> float:
    """Return the seconds in which any of some bars lasts. bars: in the order in which they begin."""
    seconds = end = 0.0
    for bar in bars:
        seconds += max(0.0, bar.ended - max(end, bar.began))
        end = max(end, bar.ended)
    return seconds


def _starts(runs: Sequence[Run]) -> list[float]:
    """Return when each run began, in seconds since 1970."""
    return [datetime.fromisoformat(run["began"]).timestamp() for run in runs]


def _elapsed(runs: Sequence[Run], timeline: Timeline) -> float | None:
    """Return the seconds from the start of each run to the last training before the next run, summed; None if not known.

    Nor is it known if training lasted longer: then the clocks of agents differ from this process's.
    """
    if not runs or timeline.seconds is None:
        return None
    starts, seconds = _starts(runs), 0.0
    for start, following in itertools.pairwise([*starts, math.inf]):
        ends = (min(ended, following) for began, ended in timeline.times if began < following and ended > start)
        seconds += max((end - start for end in ends), default=0.0)
    return seconds if seconds >= timeline.seconds else None


def timing_of(batch: Path) -> dict[str, Any]:
    """Return the entries of a batch's `timing.json` that are summed, and where it trained.

    Raises MissingFile if it cannot be read, or lacks one that is summed.
    """
    return _timing(batch / TIMING_JSON, stamp(batch / TIMING_JSON))


@lru_cache(_MOST_KEPT)
def _timing(path: Path, at: tuple[int, int] | None) -> dict[str, Any]:
    """Return what `timing_of` does. at: as in `_intervals`."""
    with reading(path):
        stored = read_json(read_text(path))
        known = {name: stored[name] for name in (*_SUMMED, "peak_memory_bytes")}
        where = {name: str(stored.get(name) or "") for name in WHERE}
        return {**where, **convert(known, dict[str, int | float | None], str(path))}


def _known_sum(timings: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Return the sum of the known values; None if there are batches but no value is known."""
    known = [timing[key] for timing in timings if timing[key] is not None]
    return sum(known) if known or not timings else None
