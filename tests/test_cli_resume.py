"""Going on with a study as a user does: refused over an existing one, resumed after an end and after an interrupt."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from hyperlax.engine.device import cache_directory
from tests.desk import TRIALS, batches, curves, finished_study, hyperlax, optuna_trials, popen, search, study_of, told

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def dqn(desk):
    return finished_study(desk, "dqn_mlp")


def test_starting_over_a_study_is_refused_with_the_command_that_resumes_it(desk, dqn):
    before = (dqn / "optuna_study.db").read_bytes()
    run = hyperlax(desk, *search("dqn_mlp"))
    assert run.returncode == 2
    assert f"hyperlax optuna-hp-search --resume-from {dqn.relative_to(desk)}" in run.stderr
    assert (dqn / "optuna_study.db").read_bytes() == before


def test_an_interrupted_study_resumes_to_what_an_uninterrupted_one_gives(desk, dqn, tmp_path, monkeypatch):
    directory = study_of(desk, "dqn_mlp", "interrupted")
    with (
        monkeypatch.context() as without_programs
    ):  # it is interrupted while it compiles, and stops after the first segment
        (tmp_path / "costs.json").write_bytes((cache_directory() / "costs.json").read_bytes())
        without_programs.setenv("HYPERLAX_CACHE_DIR", str(tmp_path))
        started = popen(desk, *search("dqn_mlp", "interrupted"))
    with started as process:
        try:
            wait_until_a_trial_runs(directory / "optuna_study.db", process)
            for line in process.stderr or ():  # a trial that runs may not have a slot yet
                if "preparing programs" in line:
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 130, err
    assert "Stopping at the next evaluation" in err and "Traceback" not in err
    command = f"optuna-hp-search --resume-from {directory.relative_to(desk)}"
    assert command in out
    assert batches(directory) == []
    saved = len(list((directory / "checkpoints").iterdir()))
    assert f"Interrupted with {TRIALS} trials to go, {2 * saved} of them saved in the middle of training." in out
    assert saved > 0
    assert [trial.state.name for trial in optuna_trials(directory)] == ["WAITING"] * TRIALS

    run = hyperlax(desk, *command.split())
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(" continue from step 256.") == saved
    assert not (directory / "checkpoints").exists()
    assert told(directory) == told(dqn)
    assert curves(directory) == curves(dqn)


def wait_until_a_trial_runs(database: Path, process: subprocess.Popen[str]) -> None:
    """Return while the first trials train; read without a lock that the study could meet."""
    patience = time.monotonic() + 500
    while time.monotonic() < patience and process.poll() is None:
        if database.exists():
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                try:
                    if connection.execute("SELECT 1 FROM trials WHERE state = 'RUNNING'").fetchone():
                        return
                except sqlite3.OperationalError:
                    pass  # its tables are being made
        time.sleep(0.01)
    raise AssertionError(f"no trial ever ran: {process.communicate()}")
