"""A tracker beside a study: what is committed here is written there as well, and nothing that goes wrong there matters here."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from hyperlax.study.manifest import resume_command
from hyperlax.study.observer import Observer
from hyperlax.study.record import StudyRecord

log = logging.getLogger(__name__)

FAILED = 1
SILENT_SECONDS = 2.0
"""So long a study waits at its end for its tracker without saying so."""
LONGEST_SECONDS = 300.0
"""So long it waits at most: MLflow tries for an hour to reach a database that is away."""
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


class Tracking(Observer):
    """Has a tracker follow a study in a thread of its own: neither its faults nor its waiting cost a trial. Close it when done.

    tracker: None where the study is not tracked. root: the study's directory. stop: set when the study shall end; where that is
    while it waits for the tracker at its end, it waits no more.
    """

    def __init__(self, tracker: Tracker | None, root: Path, stop: threading.Event):
        self._tracker, self._root, self._stop = tracker, root, stop
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._starting = threading.Lock()
        self._newest: deque[StudyRecord] = deque(maxlen=1)
        self._last: StudyRecord | None = None
        self._said = ""

    def after(self, analyse: Callable[[StudyRecord, Path | None], None]) -> Callable[[StudyRecord, Path | None], None]:
        """The analysis, with the tracker following whenever its pages are written."""
        if self._tracker is None:
            return analyse

        def both(record: StudyRecord, directory: Path | None) -> None:
            analyse(record, directory)
            self.follow(lambda: record)

        return both

    def follow(self, look: Callable[[], StudyRecord]) -> None:
        """Have the tracker catch up with the study as it is now, without waiting. Of several records only the newest is written."""
        if self._tracker is None:
            return
        self._last = look()
        self._newest.append(self._last)
        self._begin(partial(self._catch_up, self._tracker))

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        """Have the tracker catch up with the study as it begins."""
        self.follow(snapshot)

    def study_ended(self, snapshot: Callable[[], StudyRecord], status: int) -> None:
        """Have the tracker catch up with a study that ends with this exit status, and wait for it."""
        if self._tracker is not None:
            record, self._last = snapshot(), None
            self._finish(self._tracker, record, status)

    def close(self) -> None:
        """Let go of the thread. A study that broke off is written as failed, as it was last seen."""
        if self._tracker is not None and self._last is not None:
            self._finish(self._tracker, self._last, FAILED)
        self._works.put(None)

    def _work(self) -> None:
        while (work := self._works.get()) is not None:
            work()

    def _begin(self, work: Callable[[], None]) -> None:
        with self._starting:  # pages are written in a thread of their own
            if self._thread.ident is None:
                self._thread.start()
        self._works.put(work)

    def _catch_up(self, tracker: Tracker) -> None:
        if self._newest:
            later = "What is missing is written with the next super-batch."
            self._write(tracker, partial(tracker.follow, self._newest.pop()), later)

    def _finish(self, tracker: Tracker, record: StudyRecord, status: int) -> None:
        """Write for the last time, and wait until that is done, or takes too long, or is not wanted any more."""
        done, was_stopped = threading.Event(), self._stop.is_set()
        later = f"What is missing is written when it goes on: {resume_command(self._root)}"
        self._begin(partial(self._write, tracker, partial(tracker.end, record, status), later))
        self._begin(done.set)
        if done.wait(SILENT_SECONDS):
            return
        log.info("Waiting for %s, %.0f seconds at most.", tracker.name, LONGEST_SECONDS)
        until = time.monotonic() + LONGEST_SECONDS
        while not done.wait(0.2):
            interrupted = self._stop.is_set() and not was_stopped
            if interrupted or time.monotonic() > until or not self._thread.is_alive():
                log.warning("%s has not everything of the study yet. %s", tracker.name, later)
                return

    def _write(self, tracker: Tracker, work: Callable[[], None], later: str) -> None:
        """Do it, or say in one line why it could not be done; the same fault again is not news."""
        try:
            work()
            self._said = ""
        except Exception as error:  # a tracker may raise anything, and none of it is the study's fault
            log.debug("The fault in full:", exc_info=True)
            fault = f"{tracker.name} could not be written: {_in_one_line(error)} The study is not affected. {later}"
            if fault != self._said:
                log.warning("%s", fault)
            self._said = fault


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "it gave no reason"
    shown = text if len(text) <= LONGEST_FAULT else f"{text[:LONGEST_FAULT]}..."
    return f"{type(error).__name__}: {shown}" + ("" if shown.endswith(".") else ".")
