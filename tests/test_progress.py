"""The line that says how far a study is: what is in it, how it is drawn, and how it fits a terminal."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from hyperlax.metrics import OF_RETURNS
from hyperlax.study.observer import Training
from hyperlax.study.progress import Progress, clock
from hyperlax.study.reporters import (
    SILENT_SECONDS,
    IntervalReporter,
    LineReporter,
    NotebookReporter,
    TerminalReporter,
    reporter,
)
from hyperlax.study.running import RunningTrial
from hyperlax.trial import Curve, LaneInterval, SegmentResult, Trial, TrialResult
from tests.fake_backend import FakeBackend
from tests.made_up_studies import study
from tests.study_cases import Case
from tests.waiting import PATIENCE, eventually


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


P = TypeVar("P", bound=Progress)
OBJECTIVE = "peak_performance"
CLEAR, UP_AND_CLEAR, HIDES_THE_CURSOR = "\x1b[2K", "\x1b[1A\x1b[2K", "\x1b[?25l"


def end(number: int, state: str = "COMPLETE", value: float | None = None, objective: str = OBJECTIVE) -> TrialResult:
    return TrialResult(number, state, "", {} if value is None else {objective: value})


def training(total: int, steps: int | None = None, lanes: int | None = None, at_work: tuple[int, int] = (0, 0)) -> Any:
    """at_work: lanes that hold a trial, and those of them whose program is being prepared."""
    return Training(
        "search", total, steps, lanes, cast(Any, SimpleNamespace(occupied=at_work[0], preparing=at_work[1]))
    )


def begun(progress: P, what: Training, objective: str = OBJECTIVE, direction: str = "maximize") -> P:
    """Told of a study without trials, and of a training."""
    record: Any = SimpleNamespace(objectives={objective: direction}, arguments={}, trials=[])
    progress.study_started(lambda: record)
    progress.training_started(what)
    return progress


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    times = [0.0]
    monkeypatch.setattr("hyperlax.study.progress.time.monotonic", lambda: times[0])
    return times


def test_the_line_counts_trials_failures_and_the_best_so_far():
    progress = begun(Progress(), training(10), "final_performance", "minimize")
    ends = [("COMPLETE", 3.0), ("FAIL", None), ("COMPLETE", -1.5)]
    progress.trials_ended([end(n, state, value, "final_performance") for n, (state, value) in enumerate(ends)])
    assert progress.line().startswith("3/10 trials  best final_performance -1.5 (trial 2)  1 failed")


def test_a_study_that_is_resumed_counts_what_it_holds_and_its_best(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0, 4.0], failed={1})
    progress = Progress()
    progress.study_started(lambda: record)
    progress.training_started(training(10))
    assert progress.line().startswith(f"4/10 trials  best {next(iter(record.objectives))} 20 (trial 2)  1 failed")
    progress.training_started(replace(training(3), task="confirmation"))
    progress.trials_ended([end(2, value=99.0)])
    assert progress.line().startswith("1/3 trials") and "best" not in progress.line()


def test_the_line_counts_the_slots_that_there_are_now():
    backend: Any = SimpleNamespace(occupied=1, preparing=0, slots=1)
    words = replace(OF_RETURNS, lane="slot", has_programs=False)
    progress = begun(Progress(), replace(training(10), backend=backend, words=words))
    assert "  1/1 slot  " in progress.line()
    backend.occupied = backend.slots = 2  # another agent has come
    assert "  2/2 slots  " in progress.line()


def test_a_population_has_a_line_per_interval(now):
    stream = io.StringIO()
    with closing(begun(IntervalReporter(stream, members=2), replace(training(6), task="population"))) as reporter:
        now[0] = 4.0
        reporter.steps_done(200, 4.0)
        reporter.trials_ended([end(0, value=3.0), end(1, value=4.0)])
        reporter.trials_copied({2: 1, 3: 1})
        now[0] = 8.0
        reporter.trials_ended([end(2, "FAIL"), end(3, "FAIL")])
    assert stream.getvalue().splitlines() == [
        "interval 1/3  best so far 4  median 3.5  0 copies  50 steps/s  0:08 left",
        "interval 2/3  best so far 4  every member failed  1 copy  25 steps/s  0:04 left",
    ]


def test_a_trial_that_violates_a_constraint_is_never_the_best():
    progress = Progress()
    record: Any = SimpleNamespace(
        objectives={OBJECTIVE: "maximize"}, arguments={"constraints": ["num_parameters <= 10"]}, trials=[]
    )
    progress.study_started(lambda: record)
    progress.training_started(training(4))
    metrics = [{OBJECTIVE: 5.0, "num_parameters": 20.0}, {OBJECTIVE: 3.0, "num_parameters": 10.0}]
    progress.trials_ended([TrialResult(number, "COMPLETE", "", some) for number, some in enumerate(metrics)])
    assert "best peak_performance 3 (trial 1)" in progress.line()


def test_the_time_left_follows_from_steps_where_their_number_is_known(now):
    """Not from trials: those that share a batch end together. And preparing programs is not part of either rate."""
    progress = begun(Progress(), training(4, steps=4_000))
    now[0] = 20.0
    progress.steps_done(400, 10.0)
    now[0] = 30.0
    progress.steps_done(400, 10.0)
    assert progress.line() == "0/4 trials  40 steps/s  0:30  1:20 left"
    progress.trials_ended([end(number, value=1.0) for number in range(4)])
    assert "left" not in progress.line()


def test_what_was_trained_before_this_process_counts_for_neither_rate(now):
    """Neither batches that agents trained meanwhile, nor those that continue from a checkpoint."""
    progress = begun(Progress(), training(4, steps=4_000))
    now[0] = 1.0
    progress.steps_done(1_000, 100.0)
    progress.steps_done(10, 1.0, before=990)
    assert progress.line() == "0/4 trials  20 steps/s  0:01  1:40 left"


def test_a_trial_that_was_resumed_has_trained_its_last_interval_in_this_process():
    def result(points: int, *intervals: tuple[float, float, float]) -> SegmentResult:
        curve = Curve.of_measures(100 * np.arange(1, points + 1), {"loss": np.zeros((points, 2))}, 1000)
        lanes = tuple(LaneInterval(0, 0, 0, *times) for times in intervals)
        return SegmentResult(0, 0, points, curve, None, False, 0, 1, 1.0, intervals=lanes)

    running = RunningTrial(Trial(0, cast(Any, None)))
    assert running.note(result(4, (1000.0, 5.0, 11.0), (2000.0, 1.0, 3.0))) == (200, 2.0, 600)
    assert running.note(result(5, (1000.0, 5.0, 11.0), (2000.0, 1.0, 4.0))) == (200, 1.0, 0)
    assert running.note(result(6)) == (200, 0.0, 0)


def test_where_trials_may_be_pruned_the_time_left_follows_from_trials(now):
    progress = begun(Progress(), training(4))
    progress.steps_done(100, 1.0)
    now[0] = 30.0
    progress.trials_ended([end(0, "PRUNED")])
    assert progress.line().endswith("0:30  1:30 left")


@pytest.mark.parametrize(
    ("at_work", "said", "not_said"),
    [
        ((3, 3), ["preparing programs"], ["lane", "steps/s"]),
        ((3, 0), ["3 lanes", "steps/s"], ["preparing"]),
        ((4, 1), ["3 lanes", "steps/s  preparing programs"], []),
        ((1, 0), ["1 lane  "], ["lanes"]),
        ((0, 0), ["steps/s"], ["lane", "preparing"]),
    ],
)
def test_the_line_says_which_lanes_train_and_whether_programs_are_prepared(now, at_work, said, not_said):
    progress = begun(Progress(), training(8, at_work=at_work))
    now[0] = 1.0
    progress.steps_done(100, 1.0)
    assert all(words in progress.line() for words in said), progress.line()
    assert not any(words in progress.line() for words in not_said), progress.line()


def test_of_equal_trials_the_lowest_number_is_the_best_whichever_ended_first():
    progress = begun(Progress(), training(3))
    progress.trials_ended([end(number, value=value) for number, value in ((2, 5.0), (1, 5.0), (0, 4.0))])
    assert "best peak_performance 5 (trial 1)" in progress.line()


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            None,
            "3/100 trials  best peak_performance 499.1 (trial 0)  1 pruned  1 failed  3/8 lanes  2,410 steps/s  "
            "preparing programs  1:23  5:32 left",
        ),
        (
            107,
            "3/100 trials  best 499.1 (trial 0)  1 failed  3/8 lanes  2,410 steps/s  preparing programs  5:32 left",
        ),
        (77, "3/100 trials  best 499.1 (trial 0)  1 failed  preparing programs  5:32 left"),
        (45, "3/100 trials  best 499.1 (trial 0)  5:32 left"),
        (6, "3/100 "),
    ],
)
def test_a_narrow_terminal_is_shown_the_most_important(now, columns, line):
    progress = begun(Progress(), training(100, 1_000_000, 8, (4, 1)))
    now[0] = 83.0
    ends = [("COMPLETE", 499.123), ("FAIL", None), ("PRUNED", None)]
    progress.trials_ended([end(number, state, value) for number, (state, value) in enumerate(ends)])
    progress.steps_done(200_000, 83.0)
    assert progress.line(columns) == line


def test_on_a_terminal_one_line_is_redrawn_and_logs_go_above_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with closing(begun(TerminalReporter(terminal), training(10))) as progress:
        logging.getLogger("hyperlax.test").warning("trial 4: diverged, at a [place] " + "x" * 100)
        progress.trials_ended([end(0, value=1.0)])
    drawn = [line.rsplit("\r", 1)[-1].removeprefix(CLEAR) for line in terminal.getvalue().split("\n")]
    assert drawn[0] == "trial 4: diverged, at a [place] " + "x" * 100
    assert "0/10 trials" in terminal.getvalue() and drawn[1].startswith("1/10 trials") and drawn[-1] == UP_AND_CLEAR
    assert all(len(line) < 80 for line in re.split(r"[\r\n]|\x1b\[\dK", terminal.getvalue()) if "trials  " in line)
    assert HIDES_THE_CURSOR not in terminal.getvalue()


def test_threads_that_draw_and_log_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setattr("hyperlax.study.reporters.REDRAWS_PER_SECOND", 1000.0)
    monkeypatch.setenv("COLUMNS", "80")
    terminal, is_over = Terminal(), threading.Event()

    def log() -> None:
        while not is_over.is_set():
            logging.getLogger("hyperlax.test").warning("said")

    with closing(begun(TerminalReporter(terminal), training(10))):
        threads = [threading.Thread(target=log, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        eventually(lambda: "said" in terminal.getvalue())
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    *logged, _, _ = terminal.getvalue().split("\n")
    assert logged and all(line.endswith("said") for line in logged)


def test_elsewhere_a_line_tells_that_programs_are_prepared_and_no_silence_is_long(monkeypatch):
    monkeypatch.setattr("hyperlax.study.reporters.LOOK_SECONDS", 0.01)
    output, now = io.StringIO(), [0.0]
    monkeypatch.setattr("hyperlax.study.reporters.time", SimpleNamespace(monotonic=lambda: now[0]))
    with closing(begun(LineReporter(output), training(2, at_work=(2, 2)))) as progress:
        for count in (1, 2):
            eventually(lambda count=count: output.getvalue().count("\n") == count)
            now[0] += SILENT_SECONDS - 1
            time.sleep(0.1)
            assert output.getvalue().count("\n") == count
            now[0] += 1
        eventually(lambda: output.getvalue().count("\n") == 3)
        progress.trials_ended([end(0, value=1.0)])
        now[0] += 1
    now[0] += SILENT_SECONDS
    time.sleep(0.1)
    lines = output.getvalue().splitlines()
    assert len(lines) == 4 and all("preparing programs" in line for line in lines)


def test_elsewhere_what_ends_in_time_is_a_line_and_no_more(monkeypatch):
    monkeypatch.setattr("hyperlax.study.reporters.LOOK_SECONDS", 0.01)
    output = io.StringIO()
    with closing(begun(LineReporter(output), training(2, at_work=(2, 0)))) as progress:
        time.sleep(0.1)
        progress.trials_ended([end(0, value=1.0)])
    assert output.getvalue().count("\n") == 1


@pytest.mark.parametrize(("term", "kind"), [("xterm", TerminalReporter), ("dumb", LineReporter)])
def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch, term, kind):
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    assert type(reporter()) is kind


def test_a_notebook_rewrites_one_line_a_training(monkeypatch):
    shown: list[list[str]] = []

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Any:
        shown.append([content["text/plain"]])
        return SimpleNamespace(update=lambda new, raw, own=shown[-1]: own.append(new["text/plain"]))

    python: Any = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", cast(Any, SimpleNamespace(display=display)))
    monkeypatch.setattr("hyperlax.study.reporters.REDRAWS_PER_SECOND", 100.0)
    python.get_ipython = lambda: SimpleNamespace()  # IPython on a terminal
    assert type(reporter()) is not NotebookReporter
    python.get_ipython = lambda: SimpleNamespace(kernel="a kernel")
    with closing(begun(reporter(), training(2))) as progress:
        eventually(lambda: len(shown[0]) > 2)
        progress.trials_ended([end(0, value=1.0), end(1, value=2.0)])
        progress.training_ended()
        progress.training_started(replace(training(1), task="confirmation"))
    assert [lines[0].split("  ")[0] for lines in shown] == ["0/2 trials", "0/1 trial"]
    assert shown[0][-1].startswith("2/2 trials  best peak_performance 2 (trial 1)")


def lines_of(case: Case, runner: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a study draws on a terminal."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("hyperlax.study.reporters.REDRAWS_PER_SECOND", 100.0)
    monkeypatch.setenv("COLUMNS", "200")
    assert case.start(runner) == 0
    return terminal.getvalue()


@pytest.mark.parametrize(
    ("pruner", "preparing", "said"),
    [("none", 0, ["  3 lanes  ", "  2 lanes  "]), ("asha", 0, ["  3/3 lanes  "]), ("asha", 3, ["preparing programs"])],
)
def test_a_study_shows_its_lanes_or_that_programs_are_being_prepared(tmp_path, monkeypatch, pruner, preparing, said):
    def after(count: int) -> None:
        """Wait until the line was drawn, and not as it had been before."""
        terminal = cast(Terminal, sys.stderr)
        for _ in range(2):
            drawn = len(terminal.getvalue())
            eventually(lambda drawn=drawn: len(terminal.getvalue()) > drawn)

    monkeypatch.setattr(FakeBackend, "preparing", property(lambda backend: min(preparing, backend.occupied)))
    case = Case(tmp_path, pruner=pruner, pruner_min_segments=1)
    drawn = lines_of(case, FakeBackend(after_batch=after, after_segment=after), monkeypatch)
    assert all(words in drawn for words in said) and not (preparing and "lanes" in drawn)


def test_times_read_as_hours_minutes_and_seconds():
    assert [clock(seconds) for seconds in (3, 125.9, 3723)] == ["0:03", "2:05", "1:02:03"]
