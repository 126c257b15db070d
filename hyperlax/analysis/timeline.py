"""What each lane trained when, read back from the `timeline.csv` of the batches and put on one axis."""

from __future__ import annotations

from dataclasses import dataclass

from hyperlax.analysis.lost import reading
from hyperlax.files import read_csv
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TIMELINE


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
    """bars: in the order of time. starts: where on the axis a process began to train, the first at 0. unknown: batches that do
    not say when their trials trained.
    """

    bars: list[Bar]
    starts: list[float]
    unknown: int

    @property
    def seconds(self) -> float | None:
        """From the first lane's start to the last one's end, summed over processes; None where that is not known."""
        return None if self.unknown or not self.bars else max(bar.ended for bar in self.bars)


def timeline_of(record: StudyRecord) -> Timeline:
    """The time of each process begins where the one before ended: what lies between was not spent on the study.

    Batches of a Hyperlax that did not note times yet, and those whose files are gone, are counted only.

    Raises:
      LostFile: a file is not what was written.
    """
    rows: list[tuple[float, Bar]] = []
    unknown = 0
    for directory in sorted({trial.batch_directory for trial in record.trials if trial.batch_directory}):
        path = directory / TIMELINE
        if not path.exists():
            unknown += 1
            continue
        with reading(path):
            rows += [_bar(row) for row in read_csv(path)]
    starts: list[float] = []
    bars: list[Bar] = []
    end = 0.0
    for process in sorted({process for process, _ in rows}):
        own = [bar for of, bar in rows if of == process]
        shift = end - min(bar.began for bar in own)
        starts.append(end)
        bars += [_shifted(bar, shift) for bar in own]
        end = max(bar.ended for bar in bars)
    return Timeline(sorted(bars, key=lambda bar: (bar.began, bar.slot, bar.pool, bar.lane)), starts, unknown)


def _bar(row: dict[str, str]) -> tuple[float, Bar]:
    """A row, and the process that it was in."""
    slot, pool, lane = (int(row[name]) for name in ("slot", "pool", "lane"))
    times = float(row["began"]), float(row["ended"])
    return float(row["process"]), Bar(int(row["trial"]), row["state"], slot, pool, lane, *times)


def _shifted(bar: Bar, seconds: float) -> Bar:
    return Bar(bar.trial, bar.state, bar.slot, bar.pool, bar.lane, bar.began + seconds, bar.ended + seconds)
