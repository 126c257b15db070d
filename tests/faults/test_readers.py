"""Whoever reads a study's database while it is written, a dashboard or a notebook, neither ends the study nor changes it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.study import database, database_file
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

SMALL: dict[str, Any] = {"n_trials": 24, "sampler": "tpe", "optuna_study_batch_size": 8, "runner_hparam_batch_size": 1}
PYTHONS_OWN_PATIENCE = 5.0
READS = """
import sys, optuna
from pathlib import Path
url, until = "sqlite:///" + sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
reads = most = 0
while not until.exists():
    trials = optuna.load_study(study_name=None, storage=url).trials
    print(reads, most, flush=True)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial in trials:
        assert trial.state.name != "COMPLETE" or "peak_performance" in trial.user_attrs
    reads, most = reads + 1, max(most, len(trials))
print(reads, most)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("whole"), **SMALL)
    assert case.start(FakeBackend(lanes=1)) == 0
    return case


@contextmanager
def reading(path: Path, until: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that asks plain Optuna for all trials, again and again, until there is a file `until`."""
    words = [sys.executable, "-c", READS, str(path), str(until)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            until.touch()


@contextmanager
def held(path: Path, begin: str) -> Iterator[sqlite3.Connection]:
    """A lock on a database, of reading or of writing, as `begin` begins it."""
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        connection.execute(begin)
        connection.execute("SELECT COUNT(*) FROM trials").fetchone()
        yield connection
        connection.rollback()


def test_a_process_that_reads_all_trials_all_the_time_changes_nothing(tmp_path, whole):
    case = Case(tmp_path / "read", **SMALL)
    assert case.start(FakeBackend(lanes=1), n_trials=1) == 0
    with reading(case.directory / "optuna_study.db", tmp_path / "done") as process:
        assert process.stdout
        read = process.stdout.readline
        runner = FakeBackend(lanes=1, after_batch=lambda count: read())
        assert case.resume(runner, n_trials=24) == 0
        (tmp_path / "done").touch()
        said, errors = process.communicate()
    assert process.returncode == 0, errors
    reads, most = map(int, said.split()[-2:])
    assert reads >= 5 and most >= 16
    assert case.told() == whole.told()


def test_a_reader_that_stays_longer_than_python_would_wait_is_waited_for(tmp_path, whole):
    case = Case(tmp_path / "held", **SMALL)
    assert case.start(FakeBackend(lanes=1), n_trials=8) == 0
    with held(case.directory / "optuna_study.db", "BEGIN") as reader:
        leaving = threading.Timer(PYTHONS_OWN_PATIENCE + 1, reader.rollback)
        leaving.start()
        assert case.resume(FakeBackend(lanes=1)) == 0
        assert leaving.finished.is_set()
    assert case.told() == whole.told()


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_lock_that_outlasts_all_patience_ends_the_study_in_a_sentence_and_it_goes_on(
    tmp_path, monkeypatch, whole, begin
):
    case = Case(tmp_path / "held", **SMALL)
    assert case.start(FakeBackend(lanes=1), n_trials=8) == 0
    path = case.directory / "optuna_study.db"
    with monkeypatch.context() as patch, held(path, begin):
        for module in (database, database_file):
            patch.setattr(module, "PATIENCE", 0.2)
        words = rf"{path}: database is locked\. The study ends here; .+ Close the program that holds it, then resume:"
        with pytest.raises(HyperlaxError, match=words) as refused:
            case.resume(FakeBackend(lanes=1))
    assert not isinstance(refused.value, UsageError)
    assert case.resume(FakeBackend(lanes=1)) == 0
    assert case.told() == whole.told()
