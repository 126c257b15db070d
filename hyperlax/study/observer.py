"""The observer protocol: who is told how a study goes. Progress, pages and MLflow are observers; a study knows no more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperlax.study.batch_files import TrialEnd
from hyperlax.study.record import StudyRecord


class Observer:
    """Is told how a study goes, on the thread of the study's loop. Every method does nothing unless it is overridden.

    snapshot: gives the study as it is now; call it only where it is needed, it is not cheap.
    """

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        """The study starts, or continues, with what it holds."""

    def trials_started(self, numbers: list[int]) -> None:
        """Trials begin to train."""

    def steps_done(self, steps: int) -> None:
        """So many environment steps were done since the last call, over all trials and seeds."""

    def trials_ended(self, ends: list[TrialEnd]) -> None:
        """Trials of one batch ended; their files and the database have them."""

    def super_batch_ended(self, record: StudyRecord, directory: Path) -> None:
        """A super-batch is complete. record: the study as of then. directory: the super-batch's `analysis` directory."""

    def study_ended(self, snapshot: Callable[[], StudyRecord], status: int) -> None:
        """The study ends in this process, with this exit status."""

    def close(self) -> None:
        """Let go of threads and files; also after an exception."""
