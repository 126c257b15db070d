"""A study with the contents of its batches' files: the trials of each lane over time, and their cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hyperlax.analysis.curves import reading
from hyperlax.files import convert, read_csv
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TIMELINE

_SUMMED = ("compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
"""Entries of a batch's `timing.json` that are summed over the study."""


@dataclass(frozen=True)
class Bar:
    """A trial's time in a lane. state: how the trial ended. began, ended: seconds of the study's training."""

    trial: int
    state: str
    slot: int
    pool: int
    lane: int
    began: float
    ended: float


@dataclass(frozen=True)
class Timeline:
    """All bars of a study on one axis, in order of time.

    starts: positions at which a process began to train, the first at 0. unknown: number of batches without times.
    """

    bars: list[Bar]
    starts: list[float]
    unknown: int

    @property
    def seconds(self) -> float | None:
        """Seconds from the first lane's start to the last one's end, summed over processes; None if not known."""
        return None if self.unknown or not self.bars else max(bar.ended for bar in self.bars)


@dataclass(frozen=True)
class Cost:
    """Sums over the batches on disk with a known cost, None if there are none; memory is the largest of any batch.

    broken: number of batches that raised; only their time from start to end is known. duration: seconds in which the study
    trained, counting parallel batches once; None if any batch has no times.
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
        """Environment steps per second of training; None if no training time is known."""
        return self.steps / self.train_seconds if self.steps is not None and self.train_seconds else None


class StudyData:
    """A record and the contents of its batches' files. Each file is read at most once, when it is first needed."""

    def __init__(self, record: StudyRecord):
        self.record = record

    @cached_property
    def timeline(self) -> Timeline:
        """Times in lanes. The axis of each process begins where the one before ended.

        Raises:
          MissingFile: a `timeline.csv` is damaged; one that is gone only counts as unknown.
        """
        paths = [directory / TIMELINE for directory in self._batches]
        known = [path for path in paths if path.exists()]
        by_process: dict[float, list[Bar]] = {}
        for path in known:
            with reading(path):
                for row in read_csv(path):
                    bar = _bar(row)
                    by_process.setdefault(float(row["process"]), []).append(bar)
        starts: list[float] = []
        bars: list[Bar] = []
        end = 0.0
        for _, own in sorted(by_process.items()):
            shift = end - min(bar.began for bar in own)
            starts.append(end)
            bars += [replace(bar, began=bar.began + shift, ended=bar.ended + shift) for bar in own]
            end = max(bar.ended for bar in bars)
        in_order = sorted(bars, key=lambda bar: (bar.began, bar.slot, bar.pool, bar.lane))
        return Timeline(in_order, starts, len(paths) - len(known))

    @cached_property
    def cost(self) -> Cost:
        """The summed cost of the batches of the study's trials, from their `timing.json`.

        Raises:
          MissingFile: a file is gone or damaged.
        """
        timings = [_timing(directory / "timing.json") for directory in self._batches]
        memory = [timing["peak_memory_bytes"] for timing in timings if timing["peak_memory_bytes"] is not None]
        return Cost(
            batches=len(timings),
            broken=sum(timing["train_seconds"] is None for timing in timings),
            **{name: _known_sum(timings, name) for name in _SUMMED},
            peak_memory_bytes=max(memory) if memory else None,
            duration=self.timeline.seconds,
        )

    @cached_property
    def _batches(self) -> list[Path]:
        return sorted({trial.batch_directory for trial in self.record.trials if trial.batch_directory})


def _bar(row: dict[str, str]) -> Bar:
    slot, pool, lane = (int(row[name]) for name in ("slot", "pool", "lane"))
    return Bar(int(row["trial"]), row["state"], slot, pool, lane, float(row["began"]), float(row["ended"]))


def _timing(path: Path) -> dict[str, Any]:
    """Return the entries of a `timing.json` that are summed. Raise MissingFile if it lacks one."""
    with reading(path):
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = {name: stored[name] for name in (*_SUMMED, "peak_memory_bytes")}
        return convert(known, dict[str, int | float | None], str(path))


def _known_sum(timings: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Return the sum of the known values; None if there are batches but no value is known."""
    known = [timing[key] for timing in timings if timing[key] is not None]
    return sum(known) if known or not timings else None
