"""The sources of the loop's trials, and how they train."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hyperlax.backends.base import Backend
from hyperlax.schedulers.base import CopyFrom, Shown
from hyperlax.study.batch_files import Scoring
from hyperlax.trial import BatchResult, SegmentResult, Trial, TrialResult

REFUSED = "refused"
"""Begins the reason of a trial with invalid values."""


class Resumed(NamedTuple):
    """The point where training continues.

    shown: every trial so far. restored: the trials that the backend has put back into lanes, with their latest results. waiting:
    those that wait for a lane. left: trials that may still begin, the waiting ones among them.
    """

    shown: dict[int, Shown]
    restored: list[tuple[Trial, SegmentResult]]
    waiting: list[Trial]
    left: int


class Trials(Protocol):
    """The source of the loop's trials, which also records their results.

    survived: trial -> segments after which it was not stopped. The loop keeps it up to date for the sampler.
    """

    survived: dict[int, int]

    def resume(self, backend: Backend) -> Resumed:
        """Return where training continues, after the backend has restored the trials that it saved."""
        ...

    def ask(self) -> list[Trial]:
        """Return the next trials to train, of one super-batch; empty if none can be asked now."""
        ...

    def start(self, numbers: Collection[int]) -> None:
        """Note that trials train."""
        ...

    def requeue(self, numbers: Collection[int]) -> None:
        """Note that trials wait again."""
        ...

    def succeed(self, copies: Mapping[int, CopyFrom]) -> list[tuple[int, Trial]]:
        """Return the successors of trials that ended by `CopyFrom`, each after the trial that it continues from."""
        ...

    def record(self, result: BatchResult) -> list[TrialResult]:
        """Record results of one super-batch, the files first."""
        ...

    def super_batch(self, number: int) -> int:
        """Return the super-batch of a trial."""
        ...


@dataclass(frozen=True)
class Settings:
    """The settings of how trials train.

    Args:
      scoring: Computes metrics from outcomes.
      seeds: Number of seeds of a trial.
      repetitions: How many times a trial trains, one repetition after another; above 1 if seeds race.
      columns: The metrics that the scheduler decides by.
      refills: Whether trials enter and leave lanes one by one. Otherwise they train in closed batches, and a super-batch is asked
        for once the one before has ended.
      lanes: The most trials in lanes at once, if lanes are refilled.
      checkpoint_seconds: Minimum seconds between two saves of refilled lanes; 0 saves after every advance. The backend saves
        closed batches.
      fatal: Errors of a program that end the run. After any other error its trials are retried, until the one at fault fails.
    """

    scoring: Scoring
    seeds: int
    repetitions: int = 1
    columns: tuple[str, ...] = ()
    refills: bool = False
    lanes: int = 1
    checkpoint_seconds: float = 60.0
    fatal: tuple[type[Exception], ...] = ()


class FixedTrials:
    """Trials that are known beforehand and are not kept in a database.

    write: writes the files of a batch and returns its results.
    """

    def __init__(self, trials: Sequence[Trial], write: Callable[[BatchResult], list[TrialResult]]):
        self._trials, self._write, self.survived = list(trials), write, dict[int, int]()

    def resume(self, backend: Backend) -> Resumed:
        """Return that no trial has begun. A backend of closed batches finds its saved batches by itself."""
        return Resumed({}, [], [], len(self._trials))

    def ask(self) -> list[Trial]:
        """Return all trials, once."""
        trials, self._trials = self._trials, []
        return trials

    def start(self, numbers: Collection[int]) -> None:
        """Do nothing: it is not used which trials train."""

    def requeue(self, numbers: Collection[int]) -> None:
        """Do nothing: it is not used which trials wait."""

    def succeed(self, copies: Mapping[int, CopyFrom]) -> list[tuple[int, Trial]]:
        """Refuse copies: all trials are known."""
        raise NotImplementedError

    def record(self, result: BatchResult) -> list[TrialResult]:
        """Write a batch."""
        return self._write(result)

    def super_batch(self, number: int) -> int:
        """Return the one super-batch."""
        return 0
