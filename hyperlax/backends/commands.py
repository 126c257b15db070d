"""A command that trains a seed of a trial, in a worker process: it is started, and what it says becomes reports.

It may say so in three ways: by lines of its output, in the file of $HYPERLAX_REPORT, and by metrics of its MLflow run. It is not
blocked while a decision is awaited.
"""

from __future__ import annotations

import json
import math
import os
import queue
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperlax.backends.child import Child, end
from hyperlax.backends.mlflow_runs import MlflowRun
from hyperlax.files import open_regular
from hyperlax.outputs import BoundedFile, last_lines
from hyperlax.placeholders import filled
from hyperlax.report import Report, shown
from hyperlax.tasks import Command

_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 1.0
"""Longest time for reading what a command that has ended has left in its pipes."""
_LONGEST_LINE = 65_536
"""Bytes of a line that is read as a report. A longer one is only kept."""
_MARK = "hyperlax:"


class CommandFault(Exception):
    """The reason why a command has failed."""


class CommandLost(Exception):
    """The words for how a command was killed by somebody else."""


def run_command(
    task: Command,
    params: Mapping[str, Any],
    report: Report,
    names: Mapping[str, Any],
    must_stop: Callable[[], bool],
    hold: Callable[[Child | None], None],
    mlflow: MlflowRun | None = None,
) -> None:
    """Run a command to its end. Return if it has succeeded.

    Args:
      names: The further variables of its environment.
      must_stop: Says whether it has to end now.
      hold: Is told the process while it runs.
      mlflow: Its run in MLflow.

    Raises:
      TrialEnded: It has to end, or has reported something wrong. It has ended.
      CommandFault: It has failed, or its metrics in MLflow cannot be read.
      CommandLost: It was killed.
    """
    place = report.directory
    outputs = [place.with_name(f"{place.name}.{stream}.txt") for stream in ("out", "err")]
    reported = place.with_name(f"{place.name}.report.jsonl")
    reported.write_bytes(b"")
    own = {f"HYPERLAX_{name}": str(value) for name, value in {"DIRECTORY": place, "REPORT": reported, **names}.items()}
    child = _start(task, params, {**own, **(mlflow.variables if mlflow else {})})
    hold(child)
    lines, file = _Lines(child, outputs), _ReportFile(reported)
    try:
        while not child.has_ended(_POLL_SECONDS if lines.is_over else 0.0):
            _pass_on([*lines.new(_POLL_SECONDS), *file.new()], report)
            if mlflow:
                mlflow.pass_on(report)
            if must_stop():
                report.end("the study has stopped this trial")
        end([child])  # and what it has left behind
        lines.close()
        _pass_on([*lines.new(0.0), *file.new(is_over=True)], report)
    finally:
        end([child])
        lines.close()
        hold(None)
        with suppress(OSError):
            if not reported.stat().st_size:
                reported.unlink()
    _check_status(child, outputs[1])
    if mlflow and (problem := mlflow.pass_on(report, is_over=True)):
        raise CommandFault(problem)


def _start(task: Command, params: Mapping[str, Any], variables: Mapping[str, str]) -> Child:
    """Start the command of a trial. variables: of its environment, besides those of this process."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, **variables}  # else reports of Python wait for its end
    try:
        return Child(filled(task.command, params), environment, cwd=task.directory, **pipes)
    except (OSError, ValueError) as error:
        raise CommandFault(f"cannot be started: {error}") from error


def _check_status(child: Child, errors: Path) -> None:
    """Raise the exception of a command that was killed or has failed. errors: its standard error."""
    if child.status < 0 and not child.has_crashed:
        raise CommandLost(child.wait())
    if child.status:
        how = child.wait() if child.has_crashed else f"exit status {child.status}"
        raise CommandFault(": ".join([how, *last_lines(errors, 1)]))


def _pass_on(texts: list[str], report: Report) -> None:
    """Report what lines say: `hyperlax: step=3 accuracy=0.9`, or JSON. Without a step, the next one is reported."""
    for text in texts:
        values = _read_json(text, report) if text.startswith("{") else _read_line(text, report)
        report(values.pop("step", max(report.step, 0) + 1), **values)


def _read_json(text: str, report: Report) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values:
        report.end(f"its report {shown(text)} is not a JSON object on a line of its own", is_fault=True)
    return dict(values)


def _read_line(text: str, report: Report) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in text.removeprefix(_MARK).replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not (name and equals and value) or name in values:
            break
        values[name] = _number(value)
    else:
        if values:
            return values
    return report.end(
        f"its report {shown(text)} is not of the form {_MARK} step=3 {report.leading}=0.91", is_fault=True
    )


def _number(text: str) -> Any:
    """Return the number that a text spells, else the text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


class _Lines:
    """The output of a command. A thread keeps it in files, and its reports until they are asked for.

    is_over: whether it has closed standard output and error.
    """

    def __init__(self, child: Child, paths: list[Path]):
        self._reports: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._pipes = selectors.DefaultSelector()
        self._files = [BoundedFile(path) for path in paths]
        for pipe, file, reads in zip((child.output, child.error), self._files, (True, False), strict=True):
            os.set_blocking(pipe.fileno(), False)
            self._pipes.register(pipe, selectors.EVENT_READ, (file, reads))
        self._line, self.is_over, self._until = b"", False, math.inf
        self._thread = threading.Thread(target=self._listen, daemon=True, name="output of a command")
        self._thread.start()

    def new(self, seconds: float) -> list[str]:
        """Return the reports since the last call. Wait for one, if there is none, at most for some seconds."""
        found: list[str] = []
        with suppress(queue.Empty):
            while (text := self._reports.get(timeout=0 if found or self.is_over else seconds)) is not None:
                found.append(text)
        return found

    def close(self) -> None:
        """Keep what is left in the pipes, even if processes that have left the command's group still have them open."""
        self._until = min(self._until, time.monotonic() + _DRAIN_SECONDS)
        self._thread.join()

    def _listen(self) -> None:
        while self._pipes.get_map():
            ready = self._pipes.select(_POLL_SECONDS)
            if time.monotonic() > self._until or (not ready and self._until < math.inf):
                break
            for key, _ in ready:
                self._read(key.fileobj, *key.data)
        for key in [*self._pipes.get_map().values()]:
            self._close(key.fileobj)
        self._note(self._line)
        for file in self._files:
            file.close()
        self.is_over = True
        self._reports.put(None)

    def _read(self, pipe: Any, file: BoundedFile, reads: bool) -> None:
        try:
            block = os.read(pipe.fileno(), _LONGEST_LINE)
        except BlockingIOError:
            return
        if not block:
            self._close(pipe)
            return
        file.write(block)
        if reads:
            *lines, rest = (self._line + block).split(b"\n")
            for line in lines:
                self._note(line)
            self._line = rest if len(rest) <= _LONGEST_LINE else rest[:_LONGEST_LINE]

    def _close(self, pipe: Any) -> None:
        self._pipes.unregister(pipe)
        pipe.close()

    def _note(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rpartition(b"\r")[2]
        if text.startswith(_MARK.encode()):
            self._reports.put(text.decode(errors="replace").strip())


class _ReportFile:
    """The file of $HYPERLAX_REPORT: a JSON object per line."""

    def __init__(self, path: Path):
        self._path, self._at, self._rest = path, 0, b""

    def new(self, is_over: bool = False) -> list[str]:
        """Return the lines since the last call. is_over: also one that is not ended."""
        with suppress(OSError), open_regular(self._path) as file:
            file.seek(self._at)
            block = file.read()
            self._at += len(block)
            self._rest += block
        *lines, self._rest = self._rest.split(b"\n")
        if is_over:
            lines.append(self._rest)
        return [text for line in lines if (text := line.decode(errors="replace").strip())]
