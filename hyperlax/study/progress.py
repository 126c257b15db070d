"""How far a study is: one line on a terminal, rewritten in place; elsewhere one line for each batch that ends."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

_CLEAR = "\r\x1b[K"


class Progress:
    """Counts trials and steps, and prints. `stepped` may be called from any thread, the rest from one.

    total: finished trials that the study ends with. objective, direction: the first objective's. task: what the trials are for.
    """

    def __init__(
        self, total: int, objective: str, direction: str, stream: TextIO | None = None, *, task: str = "search"
    ):
        self._total, self._task = total, task
        self._objective = objective
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._steps = self._done = self._failed = self._pruned = self._done_before = 0
        self._best: tuple[float, int] | None = None
        self._began = time.monotonic()
        self._lanes: tuple[int, int] | None = None
        self._handler: _AroundTheLine | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._done_before = self._done
        if self._live:
            self._handler = _AroundTheLine(self._stream, self.draw)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handler:
            self._handler.remove()
            self._stream.write(_CLEAR)
            self._stream.flush()

    def stepped(self, steps: int) -> None:
        """Environment steps were done, over all trials and seeds of a batch."""
        with self._lock:
            self._steps += steps

    def lanes_in_use(self, used: int, lanes: int) -> None:
        """How many lanes hold a trial now, of so many."""
        self._lanes = used, lanes

    def finished(self, number: int, state: str, value: float | None) -> None:
        """A trial has ended; value: the first objective's, None unless it can be the best."""
        self._done += 1
        self._failed += state == "FAIL"
        self._pruned += state == "PRUNED"
        if value is not None and (self._best is None or self._sign * value > self._sign * self._best[0]):
            self._best = (value, number)

    def batch_ended(self) -> None:
        """Print a line where there is no terminal to keep one on."""
        if not self._live:
            self._stream.write(self.line() + "\n")
            self._stream.flush()

    def draw(self) -> None:
        """Rewrite the line on a terminal."""
        if self._live:
            self._stream.write(_CLEAR + self.line())
            self._stream.flush()

    def line(self) -> str:
        """Trials, best so far, failures, speed, time since the start and time left at the rate so far."""
        elapsed = time.monotonic() - self._began
        done_now = self._done - self._done_before
        parts = [f"{self._done}/{self._total} trials"]
        if self._best is not None:
            parts.append(f"best {self._objective} {self._best[0]:.6g} (trial {self._best[1]})")
        if self._pruned:
            parts.append(f"{self._pruned} pruned")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._lanes:
            parts.append(f"{self._lanes[0]}/{self._lanes[1]} lanes")
        if elapsed > 0:
            parts.append(f"{self._steps / elapsed:,.0f} steps/s")
        parts.append(clock(elapsed))
        if done_now and self._done < self._total:
            parts.append(f"{clock(elapsed / done_now * (self._total - self._done))} left")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _AroundTheLine(logging.Handler):
    """Prints what Hyperlax logs above the progress line, instead of into it."""

    def __init__(self, stream: TextIO, redraw: Callable[[], None]):
        super().__init__()
        self._stream = stream
        self._redraw = redraw
        self._logger = logging.getLogger("hyperlax")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def remove(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        self._stream.write(_CLEAR + self.format(record) + "\n")
        self._redraw()
