"""The line that says how far a study is: what is in it, how it is drawn, and how it fits a terminal."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperlax.study.progress import AtWork, Progress, clock
from tests.fake_backend import FakeBackend
from tests.fake_pools import FakePools
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(120)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_counts_trials_failures_and_the_best_so_far():
    progress = Progress(10, "final_performance", "minimize", io.StringIO())
    progress.finished(0, "COMPLETE", 3.0)
    progress.finished(1, "FAIL", None)
    progress.finished(2, "COMPLETE", -1.5)
    assert progress.line().startswith("3/10 trials  best final_performance -1.5 (trial 2)  1 failed")


def test_the_time_left_follows_from_steps_where_their_number_is_known(monkeypatch):
    """Not from trials: those that share a batch end together. And preparing programs is no part of either rate."""
    now = [0.0]
    monkeypatch.setattr("hyperlax.study.progress.time.monotonic", lambda: now[0])
    with Progress(4, "peak_performance", "maximize", io.StringIO()) as progress:
        progress.expect(4_000)
        now[0] = 20.0
        progress.stepped(400)
        now[0] = 30.0
        progress.stepped(400)
        assert progress.line() == "0/4 trials  40 steps/s  0:30  1:20 left"
        for number in range(4):
            progress.finished(number, "COMPLETE", 1.0)
        assert "left" not in progress.line()


def test_where_trials_may_be_pruned_the_time_left_follows_from_trials(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hyperlax.study.progress.time.monotonic", lambda: now[0])
    with Progress(4, "peak_performance", "maximize", io.StringIO()) as progress:
        progress.stepped(100)
        now[0] = 30.0
        progress.finished(0, "PRUNED", None)
        assert progress.line().endswith("0:30  1:30 left")


def test_on_a_terminal_one_line_is_rewritten_and_logs_go_above_it():
    terminal = Terminal()
    with Progress(10, "peak_performance", "maximize", terminal) as progress:
        progress.draw()
        logging.getLogger("hyperlax.test").warning("trial 4: diverged")
        progress.batch_ended()
        progress.draw()
    assert "\n" in terminal.getvalue() and terminal.getvalue().count("\n") == 1
    assert "\r\x1b[Ktrial 4: diverged\n\r\x1b[K0/10 trials" in terminal.getvalue()


def test_preparing_programs_is_no_part_of_the_steps_per_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hyperlax.study.progress.time.monotonic", lambda: now[0])
    progress = Progress(4, "peak_performance", "maximize", io.StringIO())
    with progress.batch(2) as report:
        now[0] = 60.0
        report(0)
        assert progress.steps_per_second() is None
        now[0] = 61.0
        report(500)
        now[0] = 62.0
        report(500)
        assert progress.steps_per_second() == 500


@pytest.fixture
def ordinary(monkeypatch) -> Progress:
    """A line with everything in it, after 83 seconds."""
    now = [0.0]
    monkeypatch.setattr("hyperlax.study.progress.time.monotonic", lambda: now[0])
    progress = Progress(100, "peak_performance", "maximize", Terminal())
    progress.expect(1_000_000)
    progress.stepped(0)
    now[0] = 83.0
    for number, (state, value) in enumerate([("COMPLETE", 499.123), ("FAIL", None), ("PRUNED", None)]):
        progress.finished(number, state, value)
    progress.ask(lambda: AtWork(3, 1, 8))
    progress.stepped(200_000)
    return progress


def test_all_that_there_is_to_say_is_on_one_line(ordinary):
    assert ordinary.line() == (
        "3/100 trials  best peak_performance 499.123 (trial 0)  1 pruned  1 failed  3/8 lanes  2,410 steps/s  "
        "preparing programs  1:23  5:32 left"
    )


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            110,
            "3/100 trials  best 499.123 (trial 0)  1 failed  3/8 lanes  2,410 steps/s  preparing programs  5:32 left",
        ),
        (80, "3/100 trials  best 499.123 (trial 0)  1 failed  preparing programs  5:32 left"),
        (48, "3/100 trials  best 499.123 (trial 0)  5:32 left"),
        (7, "3/100 "),
    ],
)
def test_a_narrow_terminal_is_shown_the_most_important(ordinary, monkeypatch, columns, line):
    monkeypatch.setenv("COLUMNS", str(columns))
    ordinary.draw()
    assert ordinary._stream.getvalue() == f"\r\x1b[K{line}" and len(line) < columns


def test_a_program_is_being_prepared_until_a_batch_trains_and_again_for_the_next():
    progress = Progress(8, "peak_performance", "maximize", io.StringIO())
    with progress.batch(3) as first:
        assert "preparing programs" in progress.line() and "lane" not in progress.line()
        first(0)
        assert "3 lanes" in progress.line() and "preparing" not in progress.line()
        first(100)
        with progress.batch(1) as second:
            assert "3 lanes" in progress.line() and "steps/s  preparing programs" in progress.line()
            second(0)
            assert "4 lanes" in progress.line() and "preparing" not in progress.line()
        assert "3 lanes" in progress.line()
    with progress.batch(2):
        assert "preparing programs" in progress.line() and "steps/s" not in progress.line()
    assert "lane" not in progress.line() and "steps/s" in progress.line() and "preparing" not in progress.line()


def test_a_batch_that_breaks_is_at_work_no_more():
    progress = Progress(8, "peak_performance", "maximize", io.StringIO())
    with pytest.raises(ZeroDivisionError), progress.batch(3) as report:
        report(1 // 0)
    assert "lane" not in progress.line() and "preparing" not in progress.line()


def lines_of(case: Case, runner: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a study draws on a terminal."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("hyperlax.study.progress._TICK_SECONDS", 0.01)
    monkeypatch.setenv("COLUMNS", "200")
    assert case.start(runner) == 0
    return terminal.getvalue()


def test_a_study_shows_its_lanes_while_batches_train(tmp_path: Path, monkeypatch):
    drawn = lines_of(Case(tmp_path), FakeBackend(after_batch=lambda count: time.sleep(0.1)), monkeypatch)
    assert "  3 lanes  " in drawn and "  2 lanes  " in drawn


def test_a_study_that_prunes_shows_its_lanes_while_a_segment_trains(tmp_path: Path, monkeypatch):
    case = Case(tmp_path, pruner="asha", pruner_min_segments=1)
    drawn = lines_of(case, FakeBackend(after_segment=lambda count: time.sleep(0.1)), monkeypatch)
    assert "  3/3 lanes  " in drawn


def test_a_study_that_prunes_says_that_programs_are_being_prepared(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(FakePools, "preparing", property(lambda pools: pools.occupied))
    case = Case(tmp_path, pruner="asha", pruner_min_segments=1)
    drawn = lines_of(case, FakeBackend(after_segment=lambda count: time.sleep(0.1)), monkeypatch)
    assert "preparing programs" in drawn and "lanes" not in drawn


def test_threads_that_draw_and_log_do_not_wait_for_each_other():
    terminal, is_over = Terminal(), threading.Event()

    def until_over(work: Callable[[], Any]) -> threading.Thread:
        def loop() -> None:
            while not is_over.is_set():
                work()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    with Progress(10, "peak_performance", "maximize", terminal) as progress:
        logger = logging.getLogger("hyperlax.test")
        threads = [until_over(progress.draw), until_over(lambda: logger.warning("said"))]
        time.sleep(0.3)
        is_over.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
    shown = [line.removeprefix("\r\x1b[K") for line in terminal.getvalue().split("\n")[:-1]]
    assert all(line.endswith("\x1b[Ksaid") for line in shown)


def test_times_read_as_hours_minutes_and_seconds():
    assert [clock(seconds) for seconds in (3, 125.9, 3723)] == ["0:03", "2:05", "1:02:03"]


def test_of_equal_trials_the_lowest_number_is_the_best_whichever_ended_first():
    progress = Progress(3, "return", "maximize", io.StringIO())
    for number, value in ((2, 5.0), (1, 5.0), (0, 4.0)):
        progress.finished(number, "COMPLETE", value)
    assert "best return 5 (trial 1)" in progress.line()
