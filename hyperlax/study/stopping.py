"""Reasons to end a run early: Ctrl-C and SIGTERM, a lack of time, too many failures.

The first signal asks a run to end at its next evaluation, the second ends the process at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hyperlax.config.speech import spoken
from hyperlax.errors import INTERRUPTED, TERMINATED, counted

_EXIT_STATUS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
_SAME_SIGNAL_SECONDS = 0.5
_MIN_FINISHED = 8
"""Finished trials below which no failure rate ends a study."""
_taken = 0


def signals_taken() -> int:
    """Return how many signals this process has taken so far."""
    return _taken


class StopRequest(threading.Event):
    """An event that asks a run to end. exit_status: of the process then. since: when a signal set it (`time.monotonic`)."""

    exit_status = _EXIT_STATUS[signal.SIGINT]
    since: float | None = None
    _listener: Callable[[], None] | None = None
    _is_compiling: Callable[[], bool] | None = None

    def tell(self, listener: Callable[[], None], is_compiling: Callable[[], bool] | None = None) -> None:
        """Call the listener when the event is set, or now if it is set already. It replaces the listener before.

        is_compiling: says whether programs are compiled now, which cannot be interrupted.
        """
        self._listener, self._is_compiling = listener, is_compiling
        if self.is_set():
            listener()

    def set(self) -> None:
        """Set the event and tell the listener."""
        super().set()
        if self._listener:
            self._listener()

    def when(self) -> str:
        """Return when the run ends if the event is set now."""
        is_compiling = self._is_compiling is not None and self._is_compiling()
        return "at the next evaluation" + (", once the programs are compiled and kept" if is_compiling else "")


@contextmanager
def stopping_on_signals(stop: StopRequest) -> Iterator[None]:
    """Let the first signal set `stop`. Does nothing outside the main thread, which gets all signals.

    A second signal ends the process and loses only the training since the last save: files and transactions are whole or absent.
    One that follows at once counts as the first: terminals, `timeout` and service managers signal a process and its group.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _taken
        _taken += 1
        if stop.since is not None:
            if time.monotonic() - stop.since < _SAME_SIGNAL_SECONDS:
                return
            _say("\nStopped at once. What was complete, and what was saved of the rest, is kept.\n")
            os._exit(_EXIT_STATUS[signal.Signals(number)])
        stop.exit_status = _EXIT_STATUS[signal.Signals(number)]
        stop.since, when = time.monotonic(), stop.when()
        stop.set()
        again = "Ctrl-C again exits" if number == signal.SIGINT else "A second signal ends it"
        _say(f"\nStopping {when}. {again} at once.\n")

    before = {number: signal.signal(number, handle) for number in _EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Write to standard error from a signal handler: not through its buffer, and not if that would block.

    It blocks where nobody reads, for example under a pager, or in a terminal after Ctrl-S.
    """
    with suppress(OSError, ValueError):
        file = sys.stderr.fileno()
        if os.name == "nt" or select.select([], [file], [], 0)[1]:
            os.write(file, text.encode())


class Limits:
    """The limits at which a study ends early. It counts the finished trials.

    Args:
      stop: Set when the study has to end at the next segment.
      timeout: Seconds from now after which no trial starts; None for no limit.
      failure_rate: The share of FAIL among the finished trials above which no trial starts.
    """

    def __init__(self, stop: StopRequest, timeout: float | None = None, failure_rate: float = 1.0):
        self.stop = stop
        self._deadline = time.monotonic() + (timeout or float("inf"))
        self._rate = failure_rate
        self._finished = self._failed = 0
        self._last = ""

    def without_failures(self) -> Limits:
        """Return the same limits without that of failures."""
        limits = Limits(self.stop)
        limits._deadline = self._deadline
        return limits

    def count(self, number: int, state: str, reason: str) -> None:
        """Count a finished trial. reason: of a FAIL."""
        self._finished += 1
        if state == "FAIL":
            self._failed += 1
            self._last = f"trial {number}: {reason}"

    def may_start(self) -> bool:
        """Return whether another trial may start."""
        return not self.stop.is_set() and not self.too_many_failed and time.monotonic() < self._deadline

    @property
    def too_many_failed(self) -> bool:
        return self._finished >= _MIN_FINISHED and self._failed > self._rate * self._finished

    def sentence(self) -> str:
        """Return a sentence that too many trials failed, with the latest."""
        return (
            f"{self._failed} of {counted(self._finished, 'trial')} failed, more than {spoken('max_failure_rate')} {self._rate:g} "
            "allows. "
            f"The latest: {self._last}."
        )
