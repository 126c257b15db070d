"""The observer protocol: who is told how a study goes. Progress, pages and MLflow are observers; a study knows no more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hyperlax.backends.base import Backend
from hyperlax.study.batch_files import TrialResult
from hyperlax.study.record import StudyRecord


@dataclass(frozen=True)
class Training:
    """What is about to train.

    Args:
      task: "search" or "confirmation".
      total: Finished trials that it ends with; those that the study holds by now count too.
      steps: Environment steps that are left, over all trials and seeds; None where trials may stop early.
      lanes: The most trials that train at once; None where trials train in closed batches.
      backend: Says at any time how many lanes are occupied, and how many of them wait for a program.
    """

    task: str
    total: int
    steps: int | None
    lanes: int | None
    backend: Backend


class Observer:
    """Is told how a study goes, on the thread of the study's loop. Every method does nothing unless it is overridden.

    snapshot: gives the study as it is now; call it only where it is needed, it is not cheap.
    """

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        """The study starts, or continues, with what it holds."""

    def training_started(self, training: Training) -> None:
        """The search trains from here on; after it the confirmation, where there is one."""

    def trials_started(self, numbers: list[int]) -> None:
        """Trials begin to train."""

    def steps_done(self, steps: int) -> None:
        """Environment steps were done since the last call, over all trials and seeds."""

    def trials_ended(self, ends: list[TrialResult]) -> None:
        """Trials of one batch ended; their files and the database have them."""

    def training_ended(self) -> None:
        """Nothing trains any more, for whatever reason."""

    def super_batch_ended(self, record: StudyRecord, directory: Path | None) -> None:
        """A super-batch is complete. record: the study as of then.

        directory: the super-batch's `analysis` directory; None of a population, whose intervals have none.
        """

    def training_written(self) -> None:
        """What was found is about to be printed: finish what you write in the background. May raise what went wrong there."""

    def study_ended(self, snapshot: Callable[[], StudyRecord], status: int) -> None:
        """The study ends in this process, with this exit status."""

    def close(self) -> None:
        """Let go of threads and files; also after an exception."""


class Pages(Observer):
    """Writes pages in a thread of its own, so that training does not wait for them.

    What a writing raises, the next call raises. write: gets what `Observer.super_batch_ended` gets.
    """

    def __init__(self, write: Callable[[StudyRecord, Path | None], None]):
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._last: Future[None] | None = None

    def super_batch_ended(self, record: StudyRecord, directory: Path | None) -> None:
        self.training_written()
        self._last = self._thread.submit(self._write, record, directory)

    def training_written(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        self._thread.shutdown()


def tell(observers: Iterable[Observer], call: Callable[[Observer], None]) -> None:
    """Tell several observers, one after another."""
    for observer in observers:
        call(observer)
