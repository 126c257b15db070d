"""What a study says in a log, how Ctrl-C works, and a training without a study."""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from hyperlax.analysis.pages import write_learning_curve
from hyperlax.errors import OptionFailure, UsageError, format_number
from hyperlax.files import read_csv
from hyperlax.hyperparams import SAC
from hyperlax.study.single import run_single
from hyperlax.study.stopping import StopRequest, stopping_on_signals
from tests.fake_backend import FakeBackend
from tests.study_cases import MIXED, Case, recipe_of, single_options
from tests.waiting import eventually


def test_without_a_terminal_each_batch_is_a_line(tmp_path, capsys):
    Case(tmp_path).start()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["3/12", "6/12", "8/12", "11/12", "12/12"]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_to_stop_and_a_second_one_exits_at_once(monkeypatch, capfd, number, status):
    exits, now = [], [100.0]
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr("hyperlax.study.stopping.time.monotonic", lambda: now[0])
    stop, before = StopRequest(), signal.getsignal(number)
    with stopping_on_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.is_set() and stop.exit_status == status and exits == []
        os.kill(os.getpid(), number)
        assert exits == [], "sent to the process and to its group, it is one signal"
        now[0] += 1.0
        os.kill(os.getpid(), number)
    assert exits == [status]
    assert "at once" in capfd.readouterr().err
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("is_compiling", [True, False])
def test_a_study_that_is_to_stop_while_it_compiles_says_that_it_compiles_first(
    tmp_path, monkeypatch, capfd, is_compiling
):
    backend = FakeBackend(after_batch=lambda count: os.kill(os.getpid(), signal.SIGINT) if count == 1 else None)
    monkeypatch.setattr(FakeBackend, "preparing", int(is_compiling), raising=False)
    assert Case(tmp_path).start(backend) == 130
    when = ", once the programs are compiled and kept" if is_compiling else ""
    assert f"\nStopping at the next evaluation{when}. Ctrl-C again exits at once.\n" in capfd.readouterr().err


def test_signals_are_obeyed_where_nobody_reads_what_is_said(monkeypatch):
    """Under a pager, or in a terminal after Ctrl-S, writing would wait for ever."""
    exits, (reader, writer) = [], os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr("hyperlax.study.stopping._SAME_SIGNAL_SECONDS", 0.0)
    with os.fdopen(writer, "w") as stuck, monkeypatch.context() as patch, stopping_on_signals(stop := StopRequest()):
        patch.setattr(sys, "stderr", stuck)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set() and exits == []
        os.kill(os.getpid(), signal.SIGINT)
    os.close(reader)
    assert exits == [130]


def test_the_first_signal_to_a_study_that_ends_for_another_reason_is_no_second_one(monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"exits with {status} at once"))
    stop = StopRequest()
    with stopping_on_signals(stop):
        stop.set()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_status == 143


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_batch_trains_ends_the_study_at_its_next_segment(tmp_path, capsys, number, status):
    case = Case(tmp_path)
    runner = FakeBackend(after_batch=lambda count: os.kill(os.getpid(), number) if count == 2 else None)
    assert case.start(runner) == status
    assert case.states() == ["COMPLETE"] * 6 + ["WAITING"] * 2
    assert "Interrupted with 6 trials to go. To resume:\n  hyperlax optuna-hp-search" in capsys.readouterr().out


def test_one_trial_is_one_trial(tmp_path, capsys):
    assert Case(tmp_path, n_trials=1).start(FakeBackend()) == 0
    assert "1 trial finished: 1 COMPLETE." in capsys.readouterr().out


def test_a_study_that_mostly_fails_gives_up_and_goes_on_when_told_to(tmp_path, capsys):
    case, fail = Case(tmp_path, n_trials=24), dict.fromkeys(range(2, 24), "loss is nan at step 300")
    assert case.start(FakeBackend(fail=fail)) == 1
    assert case.states() == ["COMPLETE"] * 2 + ["FAIL"] * 6
    words = (
        "6 of 8 trials failed, more than --max-failure-rate 0.5 allows. "
        "The latest: trial 7: loss is nan at step 300 (lane "
    )
    said = capsys.readouterr().out
    assert words in said and "). The study stops with 16 trials to go." in said
    assert case.resume() == 1 and len(case.states()) == 8
    said = capsys.readouterr().out.rstrip()
    assert words in said and said.endswith("--max-failure-rate 1")
    assert case.resume(max_failure_rate=1.0) == 0
    assert case.states()[8:] == ["COMPLETE"] * 16


def test_a_study_whose_last_trials_fail_ends_with_the_sentence_and_exit_1(tmp_path, capsys):
    case = Case(tmp_path, n_trials=8)
    assert case.start(FakeBackend(fail=dict.fromkeys(range(2, 8), "loss is nan"))) == 1
    said = capsys.readouterr().out
    assert (
        "6 of 8 trials failed, more than --max-failure-rate 0.5 allows. The latest: trial 7: loss is nan (lane " in said
    )
    assert said.endswith(").\n")
    assert "Best: trial 1" in said or "Best: trial 0" in said
    assert case.resume(max_failure_rate=1.0) == 0


def test_seven_failures_are_no_rate(tmp_path):
    case = Case(tmp_path, n_trials=7)
    assert case.start(FakeBackend(fail=dict.fromkeys(range(6), "diverged"))) == 0


def single(tmp_path, backend, algorithm=SAC(), **more):  # noqa: B008
    return run_single(single_options(tmp_path), recipe_of(MIXED), algorithm, write_learning_curve, backend.bind, **more)


def test_a_single_training_leaves_its_files_and_prints_its_metrics(tmp_path, capsys):
    assert single(tmp_path, FakeBackend()) == 0
    assert single(tmp_path, FakeBackend()) == 0
    parent = tmp_path / "sac_test" / "gymnax_pendulum"
    assert sorted(path.name for path in parent.iterdir()) == ["single_0000", "single_0001"]
    files = {path.name for path in (parent / "single_0001").iterdir()}
    assert files == {
        *("hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "learning_curve.html", "success.txt"),
    }
    row = read_csv(parent / "single_0000" / "summary.csv")[0]
    assert f"peak_performance     {format_number(float(row['peak_performance']))}" in capsys.readouterr().out


def test_a_single_training_says_first_what_it_trains_and_where_its_files_go(tmp_path, caplog):
    caplog.set_level("INFO", "hyperlax")
    changed = replace(SAC(), hyperparam=replace(SAC().hyperparam, gamma=0.5, epochs=2))
    for algorithm, said in (
        (SAC(), ["Configuration: trial 3. All is as in the recipe's default."]),
        (
            changed,
            [
                "Configuration: trial 3. Different from the recipe's default:",
                "  algorithm.hyperparam.epochs = 2 (default 1)",
                f"  algorithm.hyperparam.gamma = 0.5 (default {SAC().hyperparam.gamma})",
            ],
        ),
    ):
        caplog.clear()
        assert single(tmp_path, FakeBackend(), algorithm, source="trial 3") == 0
        first, *told, last = caplog.messages[0].splitlines()
        assert first == "sac_test on gymnax.pendulum, 500 steps, 5 evaluations, 2 seeds from seed 0."
        assert sorted(told) == sorted(said)
        assert last == f"The files go to {tmp_path}/sac_test/gymnax_pendulum/single_NNNN when training ends."


def test_a_single_training_shows_its_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hyperlax.study.reporters.SILENT_SECONDS", 0.0)
    monkeypatch.setattr("hyperlax.study.reporters.LOOK_SECONDS", 0.01)
    stderr: Any = sys.stderr
    backend = FakeBackend(after_batch=lambda count: eventually(lambda: stderr.getvalue().count("\n") > 3))
    assert single(tmp_path, backend) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3 and lines[0].startswith("0/1 trial") and lines[-1].startswith("1/1 trial")


def test_a_single_training_without_memory_says_what_to_make_smaller(tmp_path):
    with pytest.raises(OptionFailure) as ended:
        single(tmp_path, FakeBackend(raises={0: MemoryError("not enough memory for more than 1 trial at once")}))
    assert ended.value.exit_code == 1 and not isinstance(ended.value, UsageError)
    assert str(ended.value.spelled(lambda name: name)).endswith("Make networks, batches, replay or num_seeds smaller.")


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (FakeBackend(fail={0: "loss is nan"}), "loss is nan (lane 0, step 500)"),
        (FakeBackend(raises={0: ValueError("the tank is\n empty")}), "ValueError: the tank is empty (lane 0)"),
        (
            FakeBackend(gives={0: lambda result: replace(result, curve=None)}),
            "the backend returned the curve None; a Curve is needed (lane 0)",
        ),
    ],
    ids=["fails", "raises", "gives nothing"],
)
def test_a_single_training_that_fails_exits_with_1_and_leaves_its_files_too(tmp_path, capsys, backend, reason):
    assert single(tmp_path, backend) == 1
    directory = tmp_path / "sac_test" / "gymnax_pendulum" / "single_0000"
    assert capsys.readouterr().out == f"The training failed: {reason}\nIts files: {directory}\n"
    (row,) = read_csv(directory / "summary.csv")
    assert (row["state"], row["reason"]) == ("FAIL", reason) and (directory / "success.txt").exists()
    if backend.fail:
        assert "loss is nan" in (directory / "learning_curve.html").read_text()[:20000]
