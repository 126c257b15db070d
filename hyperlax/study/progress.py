"""How far a study is: one line on a terminal, rewritten in place; elsewhere one line for each batch that ends."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from hyperlax.output import heard

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
        self._stream = heard(stream or sys.stderr)
        self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._steps = self._done = self._failed = self._pruned = self._done_before = 0
        self._best: tuple[float, int] | None = None
        self._began = time.monotonic()
        self._expected: int | None = None
        self._first_steps: tuple[float, int] | None = None
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

    def expect(self, steps: int) -> None:
        """So many environment steps are left to do, over all trials and seeds; where trials may be pruned nobody knows."""
        self._expected = steps

    def stepped(self, steps: int) -> None:
        """Environment steps were done, over all trials and seeds of a batch."""
        with self._lock:
            self._steps += steps
            if self._first_steps is None:
                self._first_steps = time.monotonic(), self._steps

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
        parts = [f"{self._done}/{self._total} trials"]
        if self._best is not None:
            parts.append(f"best {self._objective} {self._best[0]:.6g} (trial {self._best[1]})")
        if self._pruned:
            parts.append(f"{self._pruned} pruned")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._lanes:
            parts.append(f"{self._lanes[0]}/{self._lanes[1]} lanes")
        parts.append(f"{self._steps / elapsed:,.0f} steps/s" if self._steps and elapsed > 0 else "preparing programs")
        parts.append(clock(elapsed))
        left = self._seconds_left(elapsed) if self._done < self._total else None
        if left is not None:
            parts.append(f"{clock(left)} left")
        return "  ".join(parts)

    def _seconds_left(self, elapsed: float) -> float | None:
        """By the steps since the first ones, where it is known how many there will be; else by the trials."""
        if self._expected is not None and self._first_steps is not None:
            since, before = self._first_steps
            done, seconds = self._steps - before, time.monotonic() - since
            return max(0, self._expected - self._steps) / done * seconds if done > 0 else None
        done = self._done - self._done_before
        return elapsed / done * (self._total - self._done) if done else None


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
