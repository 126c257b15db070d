"""How far a study is: one line on a terminal, rewritten in place; elsewhere one line for each batch that ends."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from hyperlax.config.constraints import are_satisfied
from hyperlax.output import heard
from hyperlax.study.batch_files import TrialEnd
from hyperlax.study.observer import Observer, Training
from hyperlax.study.record import StudyRecord

_CLEAR = "\r\x1b[K"
_TICK_SECONDS = 0.5
_LEAST_IMPORTANT_FIRST = ("objective", "elapsed", "pruned", "lanes", "rate", "preparing", "failed", "left", "best")
"""What a line goes without where the terminal is too narrow."""


class AtWork(NamedTuple):
    """What runs now. training, preparing: lanes that train, and lanes that wait for their program; lanes: of so many, if known."""

    training: int
    preparing: int
    lanes: int | None = None


class Progress:
    """Counts trials and steps, and prints. `batch` and `stepped` may be called from any thread, the rest from one.

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
        self._batches: list[_Batch] = []
        self._at_work: Callable[[], AtWork] = self._of_batches
        self._drawing = threading.RLock()
        self._handler: _AroundTheLine | None = None
        self._is_over, self._ticker = threading.Event(), threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._done_before = self._done
        if self._live:
            self._handler = _AroundTheLine(self._stream, self._drawing, self.draw)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handler:
            self._is_over.set()
            self._ticker.join()
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

    @contextmanager
    def batch(self, trials: int) -> Iterator[Callable[[int], None]]:
        """Around the run of a batch: its `report` of `hyperlax.trial.Runner`. Until that is called its program is being made."""
        batch = _Batch(trials)

        def report(steps: int) -> None:
            batch.is_training = True
            self.stepped(steps)

        with self._lock:
            self._batches.append(batch)
        try:
            yield report
        finally:
            with self._lock:
                self._batches.remove(batch)

    def ask(self, at_work: Callable[[], AtWork]) -> None:
        """Learn from `at_work` what runs now, instead of from batches. It is called from any thread."""
        self._at_work = at_work

    def finished(self, number: int, state: str, value: float | None) -> None:
        """A trial has ended; value: the first objective's, None unless it can be the best."""
        self._done += 1
        self._failed += state == "FAIL"
        self._pruned += state == "PRUNED"
        if value is not None:
            so_far = [(value, number)] if self._best is None else [self._best, (value, number)]
            self._best = max(so_far, key=lambda best: (self._sign * best[0], -best[1]))

    def batch_ended(self) -> None:
        """Print a line where there is no terminal to keep one on."""
        if not self._live:
            self._stream.write(self.line() + "\n")
            self._stream.flush()

    def draw(self) -> None:
        """Rewrite the line on a terminal."""
        if self._live:
            with self._drawing:
                self._stream.write(_CLEAR + self.line(_columns(self._stream) - 1))
                self._stream.flush()

    def line(self, width: int | None = None) -> str:
        """Trials, best so far, failures, lanes, speed, time since the start and time left; of these what `width` has room for."""
        parts = self._parts()
        for name in _LEAST_IMPORTANT_FIRST:
            if width is None or len("  ".join(parts.values())) <= width:
                break
            if name == "objective" and "best" in parts:
                parts["best"] = parts["best"].replace(f" {self._objective}", "", 1)
            parts.pop(name, None)
        return "  ".join(parts.values())[:width]

    def seconds_left(self) -> float | None:
        """At the rate so far, None where nobody knows."""
        elapsed = time.monotonic() - self._began
        return self._seconds_left(elapsed) if self._done < self._total else None

    def _parts(self) -> dict[str, str]:
        """What the line says, by name and in order."""
        elapsed = time.monotonic() - self._began
        parts = {"trials": f"{self._done}/{self._total} trials"}
        if self._best is not None:
            parts["best"] = f"best {self._objective} {self._best[0]:.6g} (trial {self._best[1]})"
        if self._pruned:
            parts["pruned"] = f"{self._pruned} pruned"
        if self._failed:
            parts["failed"] = f"{self._failed} failed"
        now = self._at_work()
        if now.training:
            of = "" if now.lanes is None else f"/{now.lanes}"
            parts["lanes"] = f"{now.training}{of} lane{'s' if (now.lanes or now.training) > 1 else ''}"
        rate = self.steps_per_second()
        if rate is not None and (now.training or not now.preparing):
            parts["rate"] = f"{rate:,.0f} steps/s"
        if now.preparing:
            parts["preparing"] = "preparing programs"
        parts["elapsed"] = clock(elapsed)
        left = self.seconds_left()
        if left is not None:
            parts["left"] = f"{clock(left)} left"
        return parts

    def _of_batches(self) -> AtWork:
        with self._lock:
            training = sum(batch.trials for batch in self._batches if batch.is_training)
            return AtWork(training, sum(batch.trials for batch in self._batches) - training)

    def _tick(self) -> None:
        while not self._is_over.wait(_TICK_SECONDS):
            self.draw()

    def steps_per_second(self) -> float | None:
        """Since the first program was ready, or the first steps were done; None before there are any."""
        if not self._steps or self._first_steps is None:
            return None
        since, before = self._first_steps
        seconds = time.monotonic() - since
        if self._steps == before or seconds <= 0:
            since, before = self._began, 0
            seconds = time.monotonic() - since
        return (self._steps - before) / seconds if seconds > 0 else None

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


class ProgressLine(Observer):
    """An observer that has a `Progress` follow the search, then the confirmation. show: makes it."""

    def __init__(self, show: Callable[..., Progress] = Progress):
        self._show, self._progress = show, None

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        self._record = snapshot()

    def training_started(self, training: Training) -> None:
        record, is_search = self._record, training.task == "search"
        self._leading, direction = next(iter(record.objectives.items()))
        named = {} if is_search else {"task": training.task}
        progress = self._progress = self._show(training.total, self._leading, direction, **named)
        for trial in record.trials if is_search else ():
            if trial.state != "RUNNING":
                wins = trial.state == "COMPLETE" and trial.feasible
                progress.finished(trial.number, trial.state, trial.values[self._leading] if wins else None)
        if training.steps is not None:
            progress.expect(training.steps)
        backend = training.backend

        def at_work() -> AtWork:
            preparing = backend.preparing
            return AtWork(max(0, backend.occupied - preparing), preparing, training.lanes)

        progress.ask(at_work)
        self._constraints = record.arguments.get("constraints", []) if is_search else None
        progress.__enter__()

    def steps_done(self, steps: int) -> None:
        if self._progress:
            self._progress.stepped(steps)

    def trials_ended(self, ends: list[TrialEnd]) -> None:
        if not self._progress:
            return
        for end in ends:
            own = self._constraints
            wins = end.state == "COMPLETE" and own is not None and are_satisfied(own, end.metrics)
            self._progress.finished(end.number, end.state, end.metrics[self._leading] if wins else None)
        self._progress.batch_ended()

    def training_ended(self) -> None:
        progress, self._progress = self._progress, None
        if progress:
            progress.__exit__(None, None, None)


@dataclass(eq=False)
class _Batch:
    """One that runs. trials: how many lanes they take."""

    trials: int
    is_training: bool = False


def _columns(stream: TextIO) -> int:
    """How wide a terminal is."""
    try:
        own = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        own = 0
    return own or shutil.get_terminal_size().columns


class _AroundTheLine(logging.Handler):
    """Prints what Hyperlax logs above the progress line, instead of into it. lock: held by whoever writes to the stream."""

    def __init__(self, stream: TextIO, lock: Any, redraw: Callable[[], None]):
        self._lock_of_the_line = lock
        super().__init__()
        self._stream = stream
        self._redraw = redraw
        self._logger = logging.getLogger("hyperlax")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def createLock(self) -> None:  # noqa: N802
        """One lock for the line and the log: with two, a thread that draws and one that logs could wait for each other."""
        self.lock = self._lock_of_the_line

    def remove(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        self._stream.write(_CLEAR + self.format(record) + "\n")
        self._redraw()
