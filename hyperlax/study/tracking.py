"""A tracker beside a study: what is committed here is written there as well, and nothing that goes wrong there matters here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Protocol

from hyperlax.study.findings import Analyse
from hyperlax.study.manifest import resume_command
from hyperlax.study.record import StudyRecord

log = logging.getLogger(__name__)

FAILED = 1
PATIENCE_SECONDS = 2.0
LONGEST_FAULT = 300


class Tracker(Protocol):
    """Writes studies somewhere else. Whatever it raises is logged, and it is asked again later. name: of that place."""

    name: str

    def follow(self, record: StudyRecord) -> None:
        """Write every trial that has ended and is not written yet, and how the study stands."""
        ...

    def end(self, record: StudyRecord, status: int) -> None:
        """The same for the last time in this process, which ends with this exit status."""
        ...


class Tracking:
    """Has a tracker follow a study in a thread of its own: neither its faults nor its waiting cost a trial. Close it when done.

    tracker: None where the study is not tracked. root: the study's directory.
    """

    def __init__(self, tracker: Tracker | None, root: Path):
        self._tracker, self._root = tracker, root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._newest: deque[StudyRecord] = deque(maxlen=1)
        self._last: StudyRecord | None = None
        self._said = ""

    def after(self, analyse: Analyse) -> Analyse:
        """The analysis, with the tracker following whenever its pages are written."""
        if self._tracker is None:
            return analyse

        def both(record: StudyRecord, directory: Path) -> None:
            analyse(record, directory)
            self.follow(lambda: record)

        return both

    def follow(self, look: Callable[[], StudyRecord]) -> None:
        """Have the tracker catch up with the study as it is now, without waiting. Of several records only the newest is written."""
        if self._tracker is None:
            return
        self._last = look()
        self._newest.append(self._last)
        self._thread.submit(self._catch_up, self._tracker)

    def end(self, look: Callable[[], StudyRecord], status: int) -> None:
        """Have the tracker catch up with a study that ends with this exit status, and wait for it."""
        if self._tracker is None:
            return
        record, self._last = look(), None
        self._wait(self._thread.submit(self._write, partial(self._tracker.end, record, status), self._at_resume()))

    def close(self) -> None:
        """Let go of the thread. A study that broke off is written as failed, as it was last seen."""
        if self._tracker is not None and self._last is not None:
            work = partial(self._tracker.end, self._last, FAILED)
            self._wait(self._thread.submit(self._write, work, self._at_resume()))
        self._thread.shutdown()

    def _catch_up(self, tracker: Tracker) -> None:
        if self._newest:
            self._write(partial(tracker.follow, self._newest.pop()), "What is missing is written with the next one.")

    def _write(self, work: Callable[[], None], later: str) -> None:
        """Do it, or say in one line why it could not be done; the same fault again is not news."""
        try:
            work()
            self._said = ""
        except Exception as error:  # a tracker may raise anything, and none of it is the study's fault
            assert self._tracker is not None
            log.debug("The fault in full:", exc_info=True)
            fault = f"{self._tracker.name} could not be written: {_in_one_line(error)} The study is not affected. {later}"
            if fault != self._said:
                log.warning("%s", fault)
            self._said = fault

    def _at_resume(self) -> str:
        return f"What is missing is written when it goes on: {resume_command(self._root)}"

    def _wait(self, future: Future[None]) -> None:
        assert self._tracker is not None
        if not wait([future], PATIENCE_SECONDS).done:
            log.info("Waiting for %s.", self._tracker.name)
        future.result()


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "it gave no reason"
    shown = text if len(text) <= LONGEST_FAULT else f"{text[:LONGEST_FAULT]}..."
    return f"{type(error).__name__}: {shown}" + ("" if shown.endswith(".") else ".")
