"""The scheduler protocol: which trials continue. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Shown:
    """What a trial has shown so far.

    values: float64[segments, columns], at the end of every segment the values that decide: the objectives, then the tie-breaker.
    nan marks a trial that failed. has_ended: it will show nothing more.
    """

    values: np.ndarray
    has_ended: bool


@dataclass(frozen=True)
class Continue:
    """The trial goes on; `segment` and all before it are settled."""

    segment: int


@dataclass(frozen=True)
class Stop:
    """The trial is pruned after `segment`; what it showed later does not count. reason: one line for the user."""

    segment: int
    reason: str


@dataclass(frozen=True)
class CopyFrom:
    """The trial's training ends here; its successor continues from the state of trial `source` under `params`."""

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
