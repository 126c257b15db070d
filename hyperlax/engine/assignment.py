"""A trial in a lane: its results there, and when it was there. Numpy only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperlax.agent import Policy
from hyperlax.trial import MEASURED, NOT_FINITE, Curve, LaneInterval, SegmentResult, Trial

FINITE = "finite"
"""The score that says whether an evaluation is sound."""
_SCORE = "score."

PROCESS = round(time.time(), 3)
"""Time at which this process began to count its seconds, in seconds since 1970."""
_ZERO = time.perf_counter()


@dataclass
class LaneAssignment:
    """A trial in a lane.

    Args:
      hypers: The trial's tree of numpy scalars.
      measures: As in `TrainingTask`.
      repetition: The first of its seeds that train there.
      entered: The session's clock at the start of its training, or of the training that it was copied from.
      first: The segment of the budget at which it began; above 0 for a copy.
      points: Its evaluations, [seeds] each: scores by name. The first is before training, or where the copy was made.
      policy: Its policy after its last segment.
    """

    trial: Trial
    hypers: Any
    measures: tuple[str, ...]
    num_parameters: int
    repetition: int = 0
    entered: int = 0
    first: int = 0
    points: list[dict[str, np.ndarray]] = field(default_factory=list)
    train_seconds: float = 0.0
    intervals: tuple[LaneInterval, ...] = ()
    policy: Policy | None = None

    @property
    def segments(self) -> int:
        """Segments done in this lane."""
        return len(self.points) - 1

    @property
    def reached(self) -> int:
        """Segments of the budget that are done, including those before it was copied."""
        return self.first + self.segments

    @property
    def fault(self) -> int | None:
        """The first evaluation at which a seed was not finite."""
        return next((i for i, point in enumerate(self.points) if not point[FINITE].all()), None)

    def add_start(self, seeds: int) -> None:
        """Add the point before training of a task, which measures nothing there."""
        blank = dict.fromkeys(self.measures, np.full(seeds, np.nan))
        self.points.append({**blank, FINITE: np.ones(seeds, np.bool_)})

    def add_interval(self, place: tuple[int, int], lane: int, began: float, ended: float) -> None:
        """Add an interval of time in a lane. place: a `LaneInterval`'s slot and pool."""
        self.intervals = _extended(self.intervals, LaneInterval(*place, lane, PROCESS, began, ended))

    def result(self, lane: int, steps: Sequence[int], episodes: int, budget: int) -> SegmentResult:
        """Return the trial's results so far. steps: of one seed at each evaluation of a whole training."""
        fault, own = self.fault, steps[self.first :]
        return SegmentResult(
            number=self.trial.number,
            repetition=self.repetition,
            segments=self.segments,
            curve=self._curve(self.points[:fault], own, episodes, budget),
            fault_step=None if fault is None else own[fault],
            is_done=self.reached == len(steps) - 1,
            lane=lane,
            num_parameters=self.num_parameters,
            train_seconds=self.train_seconds,
            policy=self.policy,
            intervals=self.intervals,
            fault=NOT_FINITE if fault is None or not self.measures else self._cause(self.points[fault]),
        )

    def _curve(
        self, points: Sequence[Mapping[str, np.ndarray]], steps: Sequence[int], episodes: int, budget: int
    ) -> Curve:
        """Return the curve of these points. steps: at each of them, or more."""
        start = 1 if self.measures else 0
        columns: dict[str, Any] = {
            name: np.array([point[name] for point in points[start:]], np.float64).reshape(
                -1, len(self.points[0][FINITE])
            )
            for name in self.measures or MEASURED
        }
        at = np.asarray(steps[start : len(points)], np.int64)
        if self.measures:
            return Curve.of_measures(at, columns, budget)
        return Curve(at, episodes=episodes, budget=budget, **columns)

    def _cause(self, point: Mapping[str, np.ndarray]) -> str:
        """Return which measure is not finite."""
        values = ((name, value) for name in self.measures for value in point[name])
        return next(f"{name} is {value}" for name, value in values if not np.isfinite(value))

    def save(self) -> dict[str, np.ndarray]:
        """Return the data that `restore` takes."""
        return {
            "place": np.array([self.repetition, self.entered, self.first], np.int64),
            "train_seconds": np.array(self.train_seconds),
            "intervals": intervals_to_array(self.intervals),
            **{_SCORE + name: np.stack([point[name] for point in self.points]) for name in self.points[0]},
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from the data that `save` returned."""
        self.repetition, self.entered, self.first = (int(entry) for entry in arrays["place"])
        self.train_seconds = float(arrays["train_seconds"])
        self.intervals = intervals_from_array(arrays["intervals"])
        columns = {name.removeprefix(_SCORE): array for name, array in arrays.items() if name.startswith(_SCORE)}
        self.points = [dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)]


def seconds() -> float:
    """Return the seconds since this process began to count. They never decrease, even if the system clock is changed."""
    return time.perf_counter() - _ZERO


def intervals_to_array(intervals: Sequence[LaneInterval]) -> np.ndarray:
    """Return float64[intervals, 6], which `intervals_from_array` takes. It lacks the agents."""
    return np.array([one[:6] for one in intervals], np.float64).reshape(-1, 6)


def intervals_from_array(array: np.ndarray) -> tuple[LaneInterval, ...]:
    """Return the intervals that `intervals_to_array` took, without their agents."""
    rows = array.tolist()
    return tuple(LaneInterval(int(slot), int(pool), int(lane), *times) for slot, pool, lane, *times in rows)


def _extended(intervals: tuple[LaneInterval, ...], interval: LaneInterval) -> tuple[LaneInterval, ...]:
    """Return the intervals with one more. If it continues the last one in its lane and process, extend the last one instead.

    >>> first = LaneInterval(0, 0, 3, 100.0, 1.0, 2.0)
    >>> [(interval.began, interval.ended) for interval in _extended((first,), first._replace(began=2.0, ended=5.0))]
    [(1.0, 5.0)]
    >>> [(interval.lane, interval.ended) for interval in _extended((first,), first._replace(lane=4))]
    [(3, 2.0), (4, 2.0)]
    """
    if intervals and intervals[-1][:4] == interval[:4]:
        return (*intervals[:-1], intervals[-1]._replace(ended=interval.ended))
    return (*intervals, interval)
