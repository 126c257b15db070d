"""An observer that writes a study to another place in its own thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from hyperlax.errors import FAILED, HyperlaxError, in_one_line, in_sentence, type_and_message
from hyperlax.study.manifest import resume_command
from hyperlax.study.observer import Observer
from hyperlax.study.record import StudyRecord
from hyperlax.study.stopping import signals_taken

_log = logging.getLogger(__name__)

SILENT_SECONDS = 2.0
"""Seconds that a study waits at its end without saying so."""
LONGEST_SECONDS = 300.0
"""Maximum seconds that it waits: MLflow tries for an hour to reach a database that is away."""
_LONGEST_FAULT = 300


class Writer(Protocol):
    """A writer of a study to another place. The observer logs its exceptions and calls it again later."""

    def follow(self, record: StudyRecord) -> None:
        """Write every ended trial that is not written yet, and the state of the study."""
        ...

    def end(self, record: StudyRecord, status: int) -> None:
        """Write the same for the last time in this process, which ends with exit status `status`."""
        ...


class BackgroundObserver(Observer):
    """An observer that writes a study to another place in its own thread, so that errors and delays there do not affect trials.

    place: its name, for messages.
    """

    def __init__(self, writer: Writer, place: str):
        self._writer, self._place = writer, place
        self._works: SimpleQueue[tuple[StudyRecord, int | None, str, threading.Event] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=place, daemon=True)
        self._newest: StudyRecord | None = None
        self._has_ended = False
        self._said = ""

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        self._follow(snapshot())

    def super_batch_ended(self, record: StudyRecord, directory: Path | None) -> None:
        self._follow(record)

    def study_ended(self, snapshot: Callable[[], StudyRecord], status: int) -> None:
        self._has_ended = True
        self._finish(snapshot(), status)

    def close(self) -> None:
        """Release the thread. If the study ended by an exception, write its last snapshot as failed."""
        if self._newest is not None and not self._has_ended:
            self._finish(self._newest, FAILED)
        self._works.put(None)

    def _follow(self, record: StudyRecord) -> None:
        """Let the writer catch up with the study in the background. If several records wait, only the newest is written."""
        self._newest = record
        self._begin(record, None, "What is missing is written with the next super-batch.")

    def _begin(self, record: StudyRecord, status: int | None, later: str) -> threading.Event:
        """Let the thread write a record. Return what is set when that is done.

        status: of the end, None before it. later: says when a part that fails is written.
        """
        if self._thread.ident is None:
            self._thread.start()
        done = threading.Event()
        self._works.put((record, status, later, done))
        return done

    def _work(self) -> None:
        while (work := self._works.get()) is not None:
            record, status, later, done = work
            if status is not None or record is self._newest:
                self._write(record, status, later)
            done.set()

    def _finish(self, record: StudyRecord, status: int) -> None:
        """Write for the last time, and wait until that is done, takes too long, or a signal asks to stop."""
        signals = signals_taken()
        later = f"What is missing is written when the study is resumed: {resume_command(record.directory)}"
        done = self._begin(record, status, later)
        if done.wait(SILENT_SECONDS):
            return
        _log.info("Waiting for %s, %.0f seconds at most.", self._place, LONGEST_SECONDS)
        until = time.monotonic() + LONGEST_SECONDS
        while not done.wait(0.2):
            if signals_taken() > signals or time.monotonic() > until or not self._thread.is_alive():
                _log.warning("%s does not have everything of the study yet. %s", in_sentence(self._place), later)
                return

    def _write(self, record: StudyRecord, status: int | None, later: str) -> None:
        """Let the writer write, or log in one line why it failed. Do not log the same error twice in a row.

        A study that was moved or removed says so itself.
        """
        try:
            if status is None:
                self._writer.follow(record)
            else:
                self._writer.end(record, status)
            self._said = ""
        except Exception as error:  # it may raise anything, and none of it is the study's fault
            _log.debug("The fault in full:", exc_info=True)
            fault = f"{in_sentence(self._place)} could not be written: {as_sentence(error)} The study is not affected. {later}"
            if fault != self._said and record.directory.is_dir():
                _log.warning("%s", fault)
            self._said = fault


def as_sentence(error: Exception) -> str:
    """Return an error as a sentence that is not too long."""
    text = in_one_line(error) if isinstance(error, HyperlaxError) else type_and_message(error)
    shown = text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]}..."
    return shown if shown.endswith(".") else f"{shown}."
