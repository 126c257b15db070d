"""The scheduler protocol: decisions about which trials continue. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Shown:
    """The results of a trial so far.

    Args:
      values: float64[segments, columns], the values that decide at the end of every segment: the objectives, then the tie-breaker.
        A last row that begins with nan marks a trial that failed in that segment.
      has_ended: Whether the trial's outcome is final, so that nothing is decided about it. A trial that has finished or failed,
        but still waits for decisions on its segments, has not ended.
    """

    values: np.ndarray
    has_ended: bool

    @cached_property
    def has_failed(self) -> bool:
        """True if the trial failed in its last segment."""
        return len(self.values) > 0 and bool(np.isnan(self.values[-1, 0]))

    @cached_property
    def length(self) -> int:
        """Number of segments that the trial has finished without failing."""
        return len(self.values) - self.has_failed


@dataclass(frozen=True)
class Continue:
    """Decision that a trial continues: `segment`, counted from 1, and all before it are settled; later ones still wait."""

    segment: int


@dataclass(frozen=True)
class Stop:
    """Decision that a trial stops after `segment`, counted from 1. Later results do not count. reason: one line for the user."""

    segment: int
    reason: str


@dataclass(frozen=True)
class CopyFrom:
    """Decision that a trial ends here: its successor continues from the state of trial `source` under `params`."""

    source: int
    params: Mapping[str, Any]


Decision = Continue | Stop | CopyFrom


class Scheduler(Protocol):
    """A pure function from learning curves and trial numbers to decisions. Speed, lanes and interruptions do not matter.

    An implementation may cache its decisions. A new instance makes the same decisions from the same `shown`.
    """

    def decide(self, shown: Mapping[int, Shown]) -> dict[int, Decision]:
        """Return a decision for each waiting trial that can be decided now. Trials missing from the result keep waiting.

        shown: every trial of the study so far, in order of number.
        """
        ...
