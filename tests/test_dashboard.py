"""optuna-dashboard on a study's database: it shows the study, and cannot change it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from hyperlax.cli import main
from hyperlax.study import dashboard
from hyperlax.study.database import reading_only
from hyperlax.study.lock import only_one_process
from tests.desk import ROOT
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

BROWSER = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """12 trials, of which trial 5 has failed, in a directory with unusual letters."""
    case = Case(tmp_path_factory.mktemp("some studies: 50%"), n_trials=12)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    return case


def test_without_the_package_the_line_to_install_it_is_given(case, monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    capsys.readouterr()
    assert main(["dashboard", str(case.directory)]) == 2
    said = capsys.readouterr().err
    assert said == 'hyperlax: dashboard needs the package optuna-dashboard: pip install "hyperlax[dashboard]"\n'


def test_a_study_without_a_database_is_refused(case, tmp_path, capsys):
    (tmp_path / "study.json").write_bytes((case.directory / "study.json").read_bytes())
    capsys.readouterr()
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "has no database yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_the_database_is_open_for_reading_only(case):
    database = case.directory / "optuna_study.db"
    before = database.read_bytes()
    storage = reading_only(database)
    study = storage.get_study_id_from_name("test_study")
    assert len(storage.get_all_trials(study)) == 12
    for write in (lambda: storage.delete_study(study), lambda: storage.set_study_user_attr(study, "note", "mine")):
        with pytest.raises((OperationalError, StorageInternalError)) as refused:
            write()
        assert "readonly database" in str(refused.value) + str(refused.value.__cause__)
    storage.engine.dispose()
    assert database.read_bytes() == before


HEEDING_CTRL_C = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from hyperlax.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""Shells have what they start in the background ignore it, and so would what that starts."""


@contextmanager
def served(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves a study's dashboard, and its address."""
    pytest.importorskip("optuna_dashboard", reason='needs optuna-dashboard: pip install "hyperlax[dashboard]"')
    words = [sys.executable, "-c", HEEDING_CTRL_C, "dashboard", str(directory), "--port", "0"]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    how |= {"env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    with subprocess.Popen(words, **how) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line or process.communicate()[1]
            yield process, found[0]
        finally:
            process.kill()


def get(address: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=BROWSER), timeout=500) as answer:
        return answer.read()


def test_the_dashboard_shows_a_study_while_it_runs_changes_nothing_and_ends_by_ctrl_c(case):
    database = case.directory / "optuna_study.db"
    before = database.read_bytes()
    with only_one_process(case.directory), served(case.directory) as (process, address):
        assert b"<html" in get(f"{address}/dashboard/studies/1").lower()
        (summary,) = json.loads(get(f"{address}/api/studies"))["study_summaries"]
        assert summary["study_name"] == "test_study"
        detail = json.loads(get(f"{address}/api/studies/{summary['study_id']}"))
        states = [trial["state"].upper() for trial in detail["trials"]]
        assert len(states) == 12 and states[5].startswith("FAIL")
        delete = urllib.request.Request(f"{address}/api/studies/1", method="DELETE", headers=BROWSER, data=b"{}")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(delete, timeout=500)
        assert refused.value.code == 500
        assert len(json.loads(get(f"{address}/api/studies"))["study_summaries"]) == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert (
            process.returncode == 0
            and "Traceback (most recent call last):\n  File" not in errors.split("Exception:")[0]
        )
    assert database.read_bytes() == before


def test_a_port_that_is_taken_is_refused(case, capsys):
    pytest.importorskip("optuna_dashboard", reason='needs optuna-dashboard: pip install "hyperlax[dashboard]"')
    capsys.readouterr()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", str(case.directory), "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert f"http://127.0.0.1:{port} cannot be served (Address already in use). Choose another --port" in said.err
    assert said.out == "" and said.err.count("\n") == 1
