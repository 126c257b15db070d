"""Reporters of progress: one redrawn line on a terminal and in a notebook, lines elsewhere, or JSON lines for a program.

A study does not depend on its output: if a stream cannot be written, the study continues without it.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TextIO, cast

from hyperlax.errors import FAILED, INTERRUPTED, HyperlaxError, counted, format_number
from hyperlax.printable import printable, unescaped
from hyperlax.study.observer import Training
from hyperlax.study.progress import Progress, clock
from hyperlax.trial import TrialResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

log = logging.getLogger(__name__)

REDRAWS_PER_SECOND = 2.0
SILENT_SECONDS, LOOK_SECONDS = 30.0, 1.0
"""The longest time without a line where there is no terminal, and the time between two looks at it."""


class SafeStream:
    """A text stream that stops writing, instead of raising, once it cannot be written. A closed pipe is not logged."""

    def __init__(self, stream: TextIO):
        self._stream, self._is_open = stream, True

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, unless it cannot be written."""
        self._do("flush")

    def _do(self, verb: str, *arguments: str) -> None:
        if not self._is_open:
            return
        try:
            getattr(self._stream, verb)(*arguments)
        except OSError as error:
            self._is_open = False
            if not isinstance(error, BrokenPipeError):
                log.warning("The output cannot be written (%s). The run continues without it.", error.strerror)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def safe(stream: TextIO) -> TextIO:
    """Return the stream as a `SafeStream`."""
    return stream if isinstance(stream, SafeStream) else cast(TextIO, SafeStream(stream))


@contextmanager
def ignoring_broken_output() -> Iterator[None]:
    """Keep errors of printing from ending the block."""
    with redirect_stdout(safe(sys.stdout)):
        yield


def reporter() -> Progress:
    """Return the reporter: one redrawn line in a notebook and on a terminal that can redraw, else one line per batch.

    Outside of a notebook it writes to standard error.
    """
    stream = sys.stderr
    if display := _notebook_display():
        return NotebookReporter(display)
    is_terminal = stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return TerminalReporter(unescaped(stream)) if is_terminal else LineReporter(stream)


class _WatchingReporter(Progress):
    """A reporter that also looks at the progress between two events, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._over, self._watcher = threading.Event(), None

    def training_started(self, training: Training) -> None:
        super().training_started(training)
        self._begin()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(self._over,), name="progress", daemon=True)
        self._watcher.start()

    def training_ended(self) -> None:
        if self._watcher:
            self._over.set()
            self._watcher.join()
            self._watcher = None
            self._end()
        super().training_ended()

    def _watch(self, over: threading.Event) -> None:
        """Show the progress until the training is over."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Called before the thread starts."""

    def _end(self) -> None:
        """Called after the thread has ended."""


class LineReporter(_WatchingReporter):
    """A reporter that prints a line after each batch, when programs are first prepared, and after `SILENT_SECONDS` without one."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream, self._writing, self._last = safe(stream), threading.Lock(), 0.0

    def _begin(self) -> None:
        self._last = time.monotonic()

    def trials_ended(self, results: list[TrialResult]) -> None:
        super().trials_ended(results)
        self._print(self.line())

    def _print(self, line: str) -> None:
        with self._writing:
            self._last = time.monotonic()
            self._stream.write(line + "\n")
            self._stream.flush()

    def _watch(self, over: threading.Event) -> None:
        has_prepared = False
        while not over.wait(LOOK_SECONDS):
            begins_to_prepare = self.lanes()[1] > 0 and not has_prepared
            has_prepared = has_prepared or begins_to_prepare
            if begins_to_prepare or time.monotonic() - self._last >= SILENT_SECONDS:
                self._print(self.line())


class NotebookReporter(_WatchingReporter):
    """A reporter that rewrites one line below a notebook's cell. display: that of IPython."""

    def __init__(self, display: Callable[..., Any]):
        super().__init__()
        self._display, self._handle = display, None

    def _begin(self) -> None:
        self._handle = None
        self._draw()

    def _end(self) -> None:
        self._draw()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(1 / REDRAWS_PER_SECOND):
            self._draw()

    def _draw(self) -> None:
        content = {"text/plain": self.line()}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` if this process is the kernel of a notebook. IPython is not imported for it."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python else None
    return importlib.import_module("IPython.display").display if getattr(shell, "kernel", None) is not None else None


class IntervalReporter(LineReporter):
    """A reporter that prints one line after each interval of a population, otherwise as a `LineReporter`."""

    def __init__(self, stream: TextIO, members: int):
        super().__init__(stream)
        self._members, self._copies = members, 0

    def trials_copied(self, sources: Mapping[int, int]) -> None:
        self._copies = sum(source != number - self._members for number, source in sources.items())

    def trials_ended(self, results: list[TrialResult]) -> None:
        Progress.trials_ended(self, results)
        values = [value for result in results if (value := self.value(result)) is not None]
        total = self.training.total // self._members if self.training else 0
        parts = [
            f"interval {results[0].number // self._members + 1}/{total}",
            f"best so far {format_number(self.tally.best[0] if self.tally.best else -math.inf)}",
            f"median {format_number(median(values))}" if values else "every member failed",
            counted(self._copies, "copy"),
            f"{self.pace.steps_per_second() or 0:,.0f} steps/s",
            f"{clock(self.seconds_left() or 0)} left",
        ]
        self._print("  ".join(parts))


class TerminalReporter(Progress):
    """A reporter that redraws one line on a terminal. Log messages go above it."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream = safe(stream)
        self._live: Live | None = None
        self._handler: _AboveTheLine | None = None

    def training_started(self, training: Training) -> None:
        super().training_started(training)
        from rich.live import Live

        console = _console(self._stream)
        self._live = Live(
            console=console,
            get_renderable=lambda: _one_line(self.line(console.width - 1)),
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        self._handler = _AboveTheLine(console)

    def training_ended(self) -> None:
        if self._live and self._handler:
            self._handler.remove()
            self._live.stop()
        self._live = self._handler = None
        super().training_ended()


class _JsonReporter(Progress):
    """A reporter of JSON objects, one per line: `trial` for each that has ended in this run, `progress` after each batch.

    A trial's `value` is that of the first objective, null unless it can be the best.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream = stream

    def trials_ended(self, results: list[TrialResult]) -> None:
        super().trials_ended(results)
        for result in results:
            _write_event(
                self._stream, "trial", task=self.task, trial=result.number, state=result.state, value=self.value(result)
            )
        best, trial = self.tally.best or (None, None)
        _write_event(
            self._stream,
            "progress",
            task=self.task,
            finished=self.tally.done,
            total=self.training.total if self.training else self.tally.done,
            pruned=self.tally.pruned,
            failed=self.tally.failed,
            objective=self.objective,
            best=best,
            best_trial=trial,
            seconds=round(time.monotonic() - self.pace.began, 3),
            lanes=self.lanes()[0],
            seconds_left=None if (left := self.seconds_left()) is None else round(left, 1),
            steps_per_second=None if (rate := self._rate()) is None else round(rate, 1),
        )

    def _rate(self) -> float | None:
        has_rate = self.training is None or self.training.words.has_programs
        return self.pace.steps_per_second() if has_rate else None


def _write_event(stream: TextIO, event: str, **content: Any) -> None:
    """Write one line of JSON."""
    stream.write(json.dumps({"event": event, **content}) + "\n")
    stream.flush()


def run_in_json(run: Callable[[Progress], int], directory: Path) -> int:
    """Run a study with JSON lines on standard output, everything else on standard error, and `end` as the last line.

    Errors of the run pass, after an `end` with their exit status.
    """
    status = FAILED
    with json_on_stdout() as stream:
        try:
            status = run(_JsonReporter(stream))
        except HyperlaxError as error:
            status = error.exit_code
            raise
        except KeyboardInterrupt:
            status = INTERRUPTED
            raise
        finally:
            _write_event(stream, "end", exit=status, directory=str(directory))
    return status


@contextmanager
def json_on_stdout() -> Iterator[TextIO]:
    """Yield standard output for JSON lines. Everything else that the block prints, e.g. in a recipe, goes to standard error.

    A nested block yields the same standard output.
    """
    if isinstance(sys.stdout, _Aside):
        yield sys.stdout.lines
        return
    lines = safe(sys.stdout)
    with redirect_stdout(cast(TextIO, _Aside(lines))):
        yield lines


class _Aside(SafeStream):
    """Standard error in place of a standard output that is for JSON lines."""

    def __init__(self, lines: TextIO):
        super().__init__(sys.stderr)
        self.lines = lines


def _console(stream: TextIO) -> Console:
    """Return a plain console on a terminal. It does not hide the cursor, since a killed process could not show it again."""
    from rich.console import Console

    class PlainConsole(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return PlainConsole(file=stream, force_terminal=True, force_jupyter=False, color_system=None)


def _one_line(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text), no_wrap=True, overflow="crop")


class _AboveTheLine(logging.Handler):
    """A log handler that prints above the line of a console, instead of into it."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console
        self._logger = logging.getLogger("hyperlax")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def createLock(self) -> None:  # noqa: N802
        """Create no lock besides the console's: a thread that draws and one that logs could wait for each other."""
        self.lock = None

    def remove(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        self._console.print(Text(printable(self.format(record))), soft_wrap=True)
