"""What a command does where its output cannot go: a reader who has left, a full disk, a terminal that lacks letters."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli, commands
from tests.desk import ROOT
from tests.fake_runner import FakeRunner
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(120)


class Left(io.StringIO):
    """The standard output of a program whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def help_into(output: int) -> tuple[int, str]:
    """The exit status of --help, and what it says elsewhere."""
    words = [sys.executable, "-m", "hyperlax.cli", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(words, check=False, stdout=output, stderr=subprocess.PIPE, text=True, env=environment)
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


def test_a_study_whose_reader_has_left_is_as_finished_as_any(tmp_path, monkeypatch):
    case = Case(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(BrokenPipeError):
        patched.setattr(sys, "stdout", Left())
        case.start()
    told, runner = case.told(), FakeRunner()
    assert case.states() == ["COMPLETE"] * 12
    assert case.resume(runner) == 0
    assert runner.trained == [] and case.told() == told


def test_a_path_that_the_terminal_cannot_show_is_printed_in_numbers(tmp_path, monkeypatch):
    case = Case(tmp_path / "ü", n_trials=3, analyse=_report)
    output = io.BytesIO()
    kind, _ = commands.COMMANDS["optuna-hp-search"]
    monkeypatch.setitem(commands.COMMANDS, "optuna-hp-search", (kind, lambda flags: case.start()))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    assert cli.main(["optuna-hp-search"]) == 0
    shown = str(case.directory / "report.html").replace("ü", "\\xfc")
    assert f"Report: {shown}\n" in output.getvalue().decode("ascii")


def _report(record: Any, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (record.directory / "report.html").write_text("")
