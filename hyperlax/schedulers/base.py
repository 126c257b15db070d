"""The scheduler protocol: which trials continue. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Shown:
    """The results of a trial so far.

    Args:
      values: float64[segments, columns], the values that decide at the end of every segment: the objectives, then the tie-breaker.
        A last row that begins with nan marks a trial that failed in that segment.
      has_ended: Whether the trial has its outcome. It is taken as it is and nothing is decided about it. A trial that is done or
        has failed, but waits to be judged by what it has shown, has not ended.
    """

    values: np.ndarray
    has_ended: bool


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
    """Decides from curves and trial numbers alone, never from speed, lanes or interruptions: a pure function of what was shown.

    An implementation may remember what it decided, so that it need not decide it again; whoever asks a new one with the same
    `shown` gets the same decisions.
    """

    def decide(self, shown: Mapping[int, Shown]) -> dict[int, Decision]:
        """Return the decision for each trial that waits for one and can be decided by now. A trial that is missing waits.

        shown: every trial of the study so far, by number, in their order.
        """
        ...
