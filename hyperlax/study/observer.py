"""The observer protocol, by which a study reports its progress. Progress, pages and MLflow are observers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hyperlax.backends.base import Backend
from hyperlax.metrics import OF_RETURNS
from hyperlax.scale import Words
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TrialResult

_MOST_WAITING = 16
"""Super-batches whose pages may wait to be written; each keeps a record of the whole study in memory."""


@dataclass(frozen=True)
class Training:
    """The training that is about to start.

    Args:
      task: "search", "population", "confirmation" or "single".
      total: Number of finished trials at its end, including those that the study holds already.
      steps: Environment steps that remain, over all trials and seeds; None if trials may stop early.
      lanes: The most trials that train at once; None if trials train in closed batches.
      backend: Knows at any time how many lanes are occupied, and how many of them wait for a program.
      words: How to speak of it.
    """

    task: str
    total: int
    steps: int | None
    lanes: int | None
    backend: Backend
    words: Words = OF_RETURNS


class Observer:
    """An observer of a study. Its methods are called on the thread of the study's loop, and do nothing unless overridden.

    snapshot: returns the study as it is now. It is not cheap, so call it only if needed.
    """

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        """Called when the study starts or continues."""

    def training_started(self, training: Training) -> None:
        """Called before the trials train, and again before the confirmation trains."""

    def trials_started(self, numbers: list[int]) -> None:
        """Called when trials begin to train."""

    def trials_copied(self, sources: Mapping[int, int]) -> None:
        """Called when members of a population begin an interval. sources: trial -> the trial from whose state it continues."""

    def steps_done(self, steps: int, seconds: float, before: int = 0) -> None:
        """Called after a trial has trained. steps: environment steps since the last call for it, over its seeds.

        seconds: how long they took, 0 if not known. before: further steps, which an earlier process did.
        """

    def trials_ended(self, results: list[TrialResult]) -> None:
        """Called when trials of one batch have ended and are in their files and in the database."""

    def training_ended(self) -> None:
        """Called when training ends, for any reason."""

    def super_batch_ended(self, record: StudyRecord, directory: Path | None) -> None:
        """Called when a super-batch is complete. record: the study at that time.

        directory: the super-batch's `analysis` directory; None for a population, whose intervals have none.
        """

    def training_written(self) -> None:
        """Called before the results are printed: finish writing in the background. May raise an error of that writing."""

    def study_ended(self, snapshot: Callable[[], StudyRecord], status: int) -> None:
        """Called when the study ends in this process, with this exit status."""

    def close(self) -> None:
        """Release threads and files; also called after an exception."""


class Pages(Observer):
    """A writer of pages in a separate thread, so that training does not wait for them.

    An error of writing is raised by the next call. write: has the arguments of `Observer.super_batch_ended`, and last whether the
    record is the latest, which the pages at the study's root show.
    """

    def __init__(self, write: Callable[[StudyRecord, Path | None, bool], None]):
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._writing = deque[Future[None]]()

    def super_batch_ended(self, record: StudyRecord, directory: Path | None) -> None:
        while self._writing and (self._writing[0].done() or len(self._writing) == _MOST_WAITING):
            self._writing.popleft().result()
        self._latest = record
        self._writing.append(self._thread.submit(self._write_one, record, directory))

    def training_written(self) -> None:
        while self._writing:
            self._writing.popleft().result()

    def close(self) -> None:
        self._thread.shutdown()

    def _write_one(self, record: StudyRecord, directory: Path | None) -> None:
        self._write(record, directory, record is self._latest)


def tell(observers: Iterable[Observer], call: Callable[[Observer], None]) -> None:
    """Call each of several observers in turn."""
    for observer in observers:
        call(observer)
