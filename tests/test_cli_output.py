"""What a command does where its output cannot go: a reader who has left, a full disk, a terminal that lacks letters."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.cli import commands
from hyperlax.study.reporters import SafeStream
from tests.desk import ROOT
from tests.fake_backend import FakeBackend
from tests.study_cases import Case


class Left(io.StringIO):
    """An output that cannot be written, by default because its reader has left."""

    def __init__(self, error: int = errno.EPIPE):
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise OSError(self._error, os.strerror(self._error))


def help_into(output: int) -> tuple[int, str]:
    """The exit status of --help, and what it says elsewhere."""
    words = [sys.executable, "-m", "hyperlax.cli", "--help"]
    run = subprocess.run(words, check=False, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    return run.returncode, run.stderr


def test_a_reader_who_has_left_ends_a_command_without_a_word():
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as output:
        assert help_into(output.fileno()) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as output:
        said = "hyperlax: The output cannot be written: No space left on device.\n"
        assert help_into(output.fileno()) == (1, said)


def test_a_study_whose_reader_has_left_ends_as_any(tmp_path, monkeypatch):
    case = Case(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Left())
        assert case.start() == 0
    told, runner = case.told(), FakeBackend()
    assert case.states() == ["COMPLETE"] * 12
    assert case.resume(runner) == 0
    assert runner.trained == [] and case.told() == told


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_a_study_whose_progress_cannot_be_written_trains_all_of_its_trials(tmp_path, monkeypatch, error, pruner):
    case = Case(tmp_path, pruner=pruner, pruner_min_segments=1)
    monkeypatch.setattr(sys, "stderr", Left(error))
    assert case.start() == 0
    assert not {"WAITING", "RUNNING"} & set(case.states()) and len(case.states()) == 12


def test_a_terminal_that_goes_away_takes_no_study_with_it(tmp_path, monkeypatch):
    class Gone(Left):
        def isatty(self) -> bool:
            return True

    case = Case(tmp_path)
    monkeypatch.setattr(sys, "stderr", Gone(errno.EIO))
    assert case.start(FakeBackend(fail={2: "loss is nan"})) == 0
    assert case.states().count("COMPLETE") == 11


def test_an_output_on_a_full_disk_is_logged_once_and_a_reader_who_left_is_not(caplog):
    for stream in (SafeStream(Left()), SafeStream(Left(errno.ENOSPC))):
        print("a", file=stream, flush=True)
        print("b", file=stream, flush=True)
    assert [record.getMessage() for record in caplog.records] == [
        "The output cannot be written (No space left on device). The run continues without it."
    ]


SEARCH = """
import sys
import pytest
from hyperlax import cli
from tests.fake_backend import train_with_fakes
train_with_fakes(pytest.MonkeyPatch(), pages=False, fail={fail})
words = "optuna-hp-search --algo-and-network-config sac_mlp --env-config gymnax.pendulum --n-trials 12 --num-seeds 2"
words += " --total-timesteps 5000 --num-evaluations 5 --no-default-trial --output-root"
sys.exit(cli.main([*words.split(), {root!r}, *{more!r}]))
"""


def search_into(
    root: Path, output: int, errors: int, *more: str, fail: Sequence[int] = ()
) -> subprocess.CompletedProcess:
    """A search in a process of its own, with these descriptors."""
    program = SEARCH.format(root=str(root), more=more, fail=dict.fromkeys(fail, "loss is nan"))
    return subprocess.run([sys.executable, "-c", program], check=False, stdout=output, stderr=errors, cwd=ROOT)


def finished_trials(root: Path) -> int:
    return len(list(root.glob("sac_mlp/gymnax_pendulum/*/samples/*/success.txt")))


@pytest.mark.parametrize(
    ("more", "both", "fail", "status"),
    [pytest.param((), True, (), 0, marks=pytest.mark.slow), (("--json",), False, range(12), 1)],
)
def test_the_exit_status_of_a_search_whose_reader_has_left_is_its_own(tmp_path, more, both, fail, status):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as output:
        errors = output.fileno() if both else subprocess.PIPE
        run = search_into(tmp_path, output.fileno(), errors, *more, fail=fail)
    assert run.returncode == status, run.stderr
    assert finished_trials(tmp_path) > 0 and b"Traceback" not in (run.stderr or b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_search_whose_output_is_on_a_full_disk_says_so_and_ends_as_any(tmp_path):
    with open("/dev/full", "w") as output:
        run = search_into(tmp_path, output.fileno(), subprocess.PIPE, "--json")
    assert run.returncode == 0 and finished_trials(tmp_path) == 4
    assert b"The output cannot be written" in run.stderr


def test_a_path_that_the_terminal_cannot_show_is_printed_in_numbers(tmp_path, monkeypatch):
    case = Case(tmp_path / "ü", n_trials=3, write_pages=_report)
    output = io.BytesIO()
    search = commands.COMMANDS["optuna-hp-search"]
    monkeypatch.setitem(commands.COMMANDS, "optuna-hp-search", replace(search, function=lambda flags: case.start()))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert cli.main(["optuna-hp-search"]) == 0
    shown = str(case.directory / "report.html").replace("ü", "\\xfc")
    assert f"Report: {shown}\n" in output.getvalue().decode("ascii")


def _report(record: Any, directory: Path, is_latest: bool = True) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (record.directory / "report.html").write_text("")
