"""The process in which a task's function is called, or its command run. It lives as long as the study.

It speaks JSON, a line a message, with the process that holds the study: orders on its standard input, news on its standard output.
The function does not see these: what it prints goes to a file of its trial.

An order: {"run", "task", "params", "trial", "seeds": [[index, seed], ...], "directory", "budget", "evaluations", "waits",
"mlflow"}; its `task` is the source of a task, or {"recipe": path}. A decision: {"run", "stop"}, awaited after each report of a
trial's last seed if the order `waits`. News: {"run", "kind", ...}, of kind "loaded", "group", "points", or the last of a run,
"done", "stopped", "fault", "lost", "raised" or "unloadable". "untracked" is that a seed has no run in MLflow.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from hyperlax import recipe
from hyperlax.backends.child import GRACE_SECONDS, Child, end
from hyperlax.backends.commands import CommandFault, CommandLost, run_command
from hyperlax.backends.mlflow_runs import MlflowRun
from hyperlax.errors import HyperlaxError, type_and_message
from hyperlax.files import escaped, make_directories, read_text, staying
from hyperlax.outputs import points_file, study_of
from hyperlax.report import Report, TrialEnded
from hyperlax.tasks import Command, Function, Task, from_source

OUTPUT = "output.txt"
"""The file in a trial's directory that gets what its function prints."""


class Point(NamedTuple):
    """A sound report."""

    step: int
    values: dict[str, float]


class _KeptPoints:
    """The reports of a seed, kept in a file, for a trial that starts again where its own checkpoint is."""

    def __init__(self, path: Path):
        self._path, self._before, self._file = path, _read_points(path), None

    def add(self, point: Point) -> list[Point]:
        """Keep a report. Return it; the first time after those before it that the file has of an earlier start."""
        new = [point]
        if self._file is None:
            new = [*(before for before in self._before if before.step < point.step), point]
            make_directories(self._path.parent)  # the function may have removed it
            self._file = self._path.open("w", encoding="utf-8")
        self._file.writelines(json.dumps(one) + "\n" for one in new)
        self._file.flush()
        return new

    def close(self) -> list[Point]:
        """Return the reports of an earlier start if there were none in this one."""
        if self._file is None:
            return self._before
        self._file.close()
        return []


class _Study:
    """The connection to the process that holds the study. It takes standard input and output, which then lead nowhere."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = os.dup(0), os.dup(1)
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.is_training, self._child = False, None
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.register_at_fork(
            after_in_child=self._disconnect
        )  # a child must not keep the pipes open when this process has died
        threading.Thread(target=self._listen, daemon=True).start()

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield orders until the study is over."""
        while (message := self._messages.get()) is not None:
            if "task" in message:  # else it is about a run that has ended
                yield message

    def tell(self, run: int, kind: str, **news: Any) -> None:
        """Send news of a run."""
        line = memoryview(json.dumps({"run": run, "kind": kind, **news}).encode() + b"\n")
        while line:
            line = line[os.write(self._outgoing, line) :]

    def must_stop(self, run: int, waits: bool) -> bool:
        """Return whether a run has to stop. waits: until that is decided."""
        with suppress(queue.Empty):
            while (message := self._messages.get(block=waits)) is not None:
                if message["run"] == run:
                    return message["stop"]
        return False

    def hold(self, run: int, child: Child | None) -> None:
        """Note the command that runs, and tell its group: it has to end with this process."""
        self._child = child
        signal.signal(signal.SIGTERM, self._end)
        self.tell(run, "group", group=child and child.pid)

    def _end(self, *_: Any) -> None:
        if self._child:
            end([self._child], GRACE_SECONDS - 2)  # then this process is killed
        os._exit(128 + signal.SIGTERM)

    def _listen(self) -> None:
        rest = b""
        while block := os.read(self._incoming, 65536):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._messages.put(json.loads(line))
        if self.is_training:  # nobody is left who waits for it
            if self._child:
                self._child.send(signal.SIGKILL)
            os.killpg(0, signal.SIGKILL)
        self._messages.put(None)

    def _disconnect(self) -> None:
        for descriptor in (self._incoming, self._outgoing):
            with suppress(OSError):
                os.close(descriptor)


class _Stopwatch:
    """A stopwatch for a function. It stands while a decision is awaited, unless it is of a command, which continues."""

    def __init__(self, stands: bool) -> None:
        self._since, self._before, self._stands = time.perf_counter(), 0.0, stands

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before + time.perf_counter() - self._since

    @contextmanager
    def standing(self) -> Iterator[float]:
        """Let the watch stand in the block. Yield the seconds so far."""
        seconds = self.seconds()
        yield seconds
        if self._stands:
            self._before, self._since = seconds, time.perf_counter()


def main() -> None:
    """Train trials as ordered, until the study is over."""
    study, tasks, home = _Study(), dict[str, Task](), os.getcwd()
    faulthandler.enable(2)  # into the output of the trial
    for order in study.orders():
        study.is_training = True
        try:
            os.chdir(home)
            is_command, directory = "command" in order["task"], Path(order["directory"])
            output = nullcontext() if is_command else _printing_to(directory / OUTPUT)
            with staying(study_of(directory)), output:
                kind, news = _train(order, tasks, study)
        except BaseException as error:  # a user's function may raise anything, also SystemExit
            kind, news = "raised", {"text": _told(error)}
        study.is_training = False
        study.tell(order["run"], kind, **news)


def _train(order: dict[str, Any], tasks: dict[str, Task], study: _Study) -> tuple[str, dict[str, Any]]:
    """Train a trial, one seed after another. Return the kind and content of the last news, or raise what its function raises."""
    key = json.dumps(order["task"])
    try:
        task = tasks[key] = tasks.get(key) or _load(order["task"])
    except Exception as error:  # what is loaded is a user's code
        return "unloadable", {"text": str(error) if isinstance(error, HyperlaxError) else f"{type_and_message(error)}."}
    study.tell(order["run"], "loaded")
    last = order["seeds"][-1][0]
    for index, seed in order["seeds"]:
        if end := _train_seed(order, task, study, index, seed, order["waits"] and index == last):
            return end
    return "done", {}


def _train_seed(
    order: dict[str, Any], task: Task, study: _Study, index: int, seed: int, waits: bool
) -> tuple[str, dict[str, Any]] | None:
    """Train a seed. Return the last news if the trial ends with it."""
    run, directory, names = order["run"], Path(order["directory"]), [measure.name for measure in task.all_measures]
    watch, kept = _Stopwatch(not isinstance(task, Command)), _KeptPoints(points_file(directory, index))

    def deliver(step: int, values: dict[str, float]) -> None:
        with watch.standing() as seconds:
            study.tell(run, "points", seed=index, points=kept.add(Point(step, values)), seconds=seconds)
            if study.must_stop(run, waits):
                raise TrialEnded("the study has stopped this trial")

    report = Report(names, order["budget"], order["evaluations"], directory / f"seed_{index}", deliver)
    end = _call(task, order, report, (index, seed), study)
    earlier = kept.close()
    if end is None and report.step < 0 and not earlier:
        is_command = isinstance(task, Command)
        without = (
            f"exit status 0 without a report. Print a line such as hyperlax: {names[0]}=0.9" if is_command else None
        )
        return "fault", {"words": without or f"returned without a report. Call report(step, {names[0]}=...)"}
    study.tell(run, "points", seed=index, points=earlier if end is None else [], seconds=watch.seconds())
    return end


def _call(
    task: Task, order: dict[str, Any], report: Report, place: tuple[int, int], study: _Study
) -> tuple[str, dict[str, Any]] | None:
    """Call the function, or run the command. Return the last news of a run that ends here, None if it succeeded.

    place: index and value of the seed.
    """
    params, (index, seed) = dict(order["params"]), place
    try:
        if isinstance(task, Command):
            names = {"TRIAL": order["trial"], "SEED": seed}
            must_stop, hold = partial(study.must_stop, order["run"], waits=False), partial(study.hold, order["run"])
            run_command(task, params, report, names, must_stop, hold, _mlflow_run(task, order, index, study))
        else:
            assert isinstance(task, Function)
            task.train(params, report, seed)
        report.finish()
    except CommandFault as error:
        return "fault", {"words": str(error)}
    except CommandLost as error:
        return "lost", {"how": str(error)}
    except BaseException as error:
        if report.ended is None:
            raise
        if not isinstance(error, TrialEnded):  # raised on the way out of a trial that is over
            os.write(2, f"{_told(error)}\n".encode())
    if report.ended is None:
        return None
    return ("fault", {"words": report.fault}) if report.fault else ("stopped", {})


def _mlflow_run(task: Command, order: dict[str, Any], index: int, study: _Study) -> MlflowRun | None:
    """Return the run of a seed in MLflow; None if the study is not tracked there, or MLflow cannot be reached."""
    if not order["mlflow"]:
        return None
    directory, names = Path(order["directory"]), [measure.name for measure in task.all_measures]
    try:
        return MlflowRun(order["mlflow"], directory, index, order["trial"], names)
    except Exception as error:  # MLflow may raise anything, and its words may hold a password
        study.tell(order["run"], "untracked", why=type(error).__name__)
        return None


def _load(source: dict[str, Any]) -> Task:
    """Return the task of an order."""
    task = recipe.load(source["recipe"]).task if "recipe" in source else from_source(source)
    assert task is not None
    return task


def _told(error: BaseException) -> str:
    """Return the traceback of an exception below this file; its last line is the exception in one line."""
    frames, own = error.__traceback__, __file__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename == own:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    line = type_and_message(error)
    return escaped(text if text.endswith(f"\n{line}") else f"{text}\n{line}")


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Let what the block prints, also by programs that it starts, be added to a file."""
    nowhere, file = os.dup(1), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _point_output(file)
    sys.stdout, sys.stderr = _streams()  # the function before may have closed or replaced them
    try:
        yield
    finally:
        _point_output(nowhere)


def _streams() -> list[TextIO]:
    """Return streams for what the function prints to standard output and error."""
    return [open(one, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False) for one in (1, 2)]


def _point_output(descriptor: int) -> None:
    """Point standard output and error to an open file, which is closed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be anything that a function has put there
            stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _read_points(path: Path) -> list[Point]:
    """Return the reports in a file, up to the first line that is not whole."""
    points = []
    with suppress(FileNotFoundError, ValueError, TypeError):
        for line in read_text(path).splitlines():
            step, values = json.loads(line)
            points.append(Point(step, values))
    return points
