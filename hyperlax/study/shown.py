"""Other ways to show how far a study is: not at all, and as JSON lines for a program to read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

from hyperlax.errors import HyperlaxError
from hyperlax.output import Heard, heard
from hyperlax.study.progress import Progress


class Silent(Progress):
    """Counts, and prints nothing."""

    def batch_ended(self) -> None:
        """Nothing is printed."""

    def draw(self) -> None:
        """Nothing is drawn."""


class JsonLines(Progress):
    """An object a line: `trial` when one has ended, `progress` after every batch.

    A trial's `value` is that of the first objective, null unless it can be the best. `task` is "search" or "confirmation".
    """

    def __enter__(self) -> JsonLines:
        super().__enter__()
        self._is_open = True
        return self

    def finished(self, number: int, state: str, value: float | None) -> None:
        """A trial has ended; those that had ended before this run are counted and not told again."""
        super().finished(number, state, value)
        if getattr(self, "_is_open", False):
            write_line(self._stream, "trial", task=self._task, trial=number, state=state, value=value)

    def batch_ended(self) -> None:
        """Tell how far it is."""
        elapsed = time.monotonic() - self._began
        best, trial = self._best or (None, None)
        write_line(
            self._stream,
            "progress",
            task=self._task,
            finished=self._done,
            total=self._total,
            pruned=self._pruned,
            failed=self._failed,
            objective=self._objective,
            best=best,
            best_trial=trial,
            seconds=round(elapsed, 3),
            lanes=self._at_work().training,
            seconds_left=None if (left := self.seconds_left()) is None else round(left, 1),
            steps_per_second=None if (rate := self.steps_per_second()) is None else round(rate, 1),
        )

    def draw(self) -> None:
        """There is no line to rewrite."""


def write_line(stream: TextIO, event: str, **content: Any) -> None:
    """One event."""
    stream.write(json.dumps({"event": event, **content}) + "\n")
    stream.flush()


def in_json(run: Callable[[Callable[..., Progress]], int], directory: Path) -> int:
    """Run a study with JSON lines on standard output, everything else on standard error, and `end` as the last line.

    What the run raises passes, after an `end` with the exit status that it means.
    """
    status = 1
    with lines_apart() as stream:
        try:
            status = run(partial(JsonLines, stream=stream))
        except HyperlaxError as error:
            status = error.exit_code
            raise
        except KeyboardInterrupt:
            status = 130
            raise
        finally:
            write_line(stream, "end", exit=status, directory=str(directory))
    return status


@contextmanager
def lines_apart() -> Iterator[TextIO]:
    """Standard output, for lines; what else the block prints, a recipe as it is loaded, goes to standard error.

    Inside of another such block it is the same standard output.
    """
    if isinstance(sys.stdout, _Aside):
        yield sys.stdout.lines
        return
    lines = heard(sys.stdout)
    with redirect_stdout(cast(TextIO, _Aside(lines))):
        yield lines


class _Aside(Heard):
    """Standard error in place of a standard output that is for lines."""

    def __init__(self, lines: TextIO):
        super().__init__(sys.stderr)
        self.lines = lines
