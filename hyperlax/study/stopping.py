"""Ctrl-C and SIGTERM: the first asks a run to end at its next evaluation, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hyperlax.errors import INTERRUPTED, TERMINATED

EXIT_STATUS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
SAME_SIGNAL_SECONDS = 0.5
STDERR = 2
_taken = 0


def signals_taken() -> int:
    """Return how many signals this process has taken so far."""
    return _taken


class Stop(threading.Event):
    """An event that asks a run to end. exit_status: what the process then returns; since: when a signal set it (monotonic)."""

    exit_status = EXIT_STATUS[signal.SIGINT]
    since: float | None = None
    _listener: Callable[[], None] | None = None

    def tell(self, listener: Callable[[], None]) -> None:
        """Call the listener once the event is set, or now if it is. It replaces the one before."""
        self._listener = listener
        if self.is_set():
            listener()

    def set(self) -> None:
        """Set the event and tell the listener."""
        super().set()
        if self._listener:
            self._listener()


@contextmanager
def stopping_on_signals(stop: Stop) -> Iterator[None]:
    """Let the first signal set `stop`. Outside the main thread there are no signals to take.

    A second one loses what was trained since the last save and nothing else: files and transactions are whole or not there.
    One that follows at once counts as the same: terminals, `timeout` and service managers signal a process and its group.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _taken
        _taken += 1
        if stop.since is not None:
            if time.monotonic() - stop.since < SAME_SIGNAL_SECONDS:
                return
            os.write(STDERR, b"\nStopped at once. What was complete, and what was saved of the rest, is kept.\n")
            os._exit(EXIT_STATUS[signal.Signals(number)])
        stop.exit_status = EXIT_STATUS[signal.Signals(number)]
        stop.since = time.monotonic()
        stop.set()
        again = "Ctrl-C again exits" if number == signal.SIGINT else "A second signal ends it"
        with suppress(OSError):
            print(f"\nStopping at the next evaluation. {again} at once.", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
