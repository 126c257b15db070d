"""What a command that only looks is asked to write where the system refuses it: one sentence that names the place, no traceback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.cli import main, playing
from hyperlax.errors import HyperlaxError
from hyperlax.files import replacing
from tests.fake_backend import FakeBackend
from tests.faults.disk import Disk, writing_to
from tests.faults.test_forbidden import as_a_user
from tests.made_up_studies import policy
from tests.study_cases import Case

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX"),
]
FORMATS = ("csv", "json", "optuna-journal")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = Case(tmp_path_factory.mktemp("studies"), write_pages=write_pages, n_trials=3)
    assert case.start(FakeBackend(policy=policy())) == 0
    return case.directory


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Path]:
    """A directory in which nothing can be made."""
    (tmp_path / "shut").mkdir(mode=0o555)
    yield tmp_path / "shut"
    (tmp_path / "shut").chmod(0o755)


def said(words: list[str], capsys: Any, status: int) -> str:
    capsys.readouterr()
    with as_a_user():
        assert main(words) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("hyperlax: ")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a file system of Linux")
@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_cannot_be_written_is_one_line_and_leaves_nothing(study, shut, tmp_path, capsys, kind):
    """Into a directory that may not be written, one of what takes no files, a full disk, a directory that cannot be read."""

    def line(path: Path, status: int) -> str:
        return said(["export", str(study), "--format", kind, "--output", str(path)], capsys, status)

    refused = f"{shut / 'x'}: cannot be opened for writing (Permission denied). Make it writable, or use another"
    assert line(shut / "x", 2).startswith(refused)
    again = "/proc/x.csv: No such file or directory. Fix this, then run the command again."
    assert line(Path("/proc/x.csv"), 1) == again
    with writing_to(Disk(f"replace {tmp_path}")):
        full = f"{tmp_path / 'x'}: No space left on device. Free some space, then run the command again."
        assert line(tmp_path / "x", 1) == full
    assert list(tmp_path.iterdir()) == [shut]
    shut.chmod(0)
    assert "(Permission denied)" in line(shut / "x", 2)


def test_a_journal_of_a_study_that_has_not_begun_is_refused(tmp_path, capsys, study):
    early = shutil.copytree(study, tmp_path / "early", ignore=shutil.ignore_patterns("optuna_*"))
    line = said(["export", str(early), "--format", "optuna-journal", "--output", str(tmp_path / "x")], capsys, 2)
    assert line == f"export {early}: has no database yet. It is created when the search starts."
    assert not (tmp_path / "x").exists()


def test_a_comparison_that_cannot_be_written_is_refused(study, shut, tmp_path, capsys):
    studies = [str(study), str(shutil.copytree(study, tmp_path / "other"))]
    path = shut / "x.html"
    line = said(["compare", *studies, "--output", str(path)], capsys, 2)
    assert line.startswith(f"{path}: cannot be opened for writing (Permission denied).")
    with writing_to(Disk(f"replace {tmp_path}")):
        line = said(["compare", *studies, "--output", str(tmp_path / "x.html")], capsys, 1)
    assert line.startswith(f"{tmp_path / 'x.html'}: No space left on device. Free some space")


@pytest.mark.parametrize(("part", "status"), [("", 2), ("analysis_plots", 1)])
def test_a_report_into_a_study_that_may_not_be_written_is_refused(study, tmp_path, capsys, part, status):
    copy = shutil.copytree(study, tmp_path / "copy")
    (copy / part).chmod(0o555)
    line = said(["report", str(copy)], capsys, status)
    (copy / part).chmod(0o755)
    assert line.startswith(str(copy / part)) and "Permission denied" in line


def test_a_report_whose_plots_have_no_directory_says_so_and_writes_nothing(study, tmp_path, capsys):
    copy = shutil.copytree(study, tmp_path / "copy")
    shutil.rmtree(copy / "analysis_plots")
    for page in ("analysis_plots", "trials.csv", "report.html"):
        (copy / page).write_text("mine")
    line = said(["report", str(copy)], capsys, 1)
    assert line == (
        f"{copy / 'analysis_plots'}: is a file where a directory belongs. Fix this, then run the command again."
    )
    assert (copy / "trials.csv").read_text() == (copy / "report.html").read_text() == "mine"


def test_a_study_whose_plots_have_no_directory_ends_with_the_line_that_goes_on(tmp_path):
    case = Case(tmp_path, write_pages=write_pages, n_trials=2)
    assert case.start(timeout=1e-9) == 0
    shutil.rmtree(case.directory / "analysis_plots", ignore_errors=True)
    (case.directory / "analysis_plots").write_text("mine")
    with pytest.raises(HyperlaxError, match="analysis_plots: is a file where a directory belongs.*\n.*--resume-from"):
        case.resume()
    (case.directory / "analysis_plots").unlink()
    assert case.resume() == 0 and (case.directory / "report.html").exists()


def test_a_film_that_cannot_be_written_beside_its_agent_says_how_to_write_it_elsewhere(
    study, tmp_path, capsys, monkeypatch
):
    def film(agent: Any, environment: Any, seed: int, path: Path) -> tuple[int, float]:
        with replacing(path) as temporary:
            temporary.write_bytes(b"GIF89a")
        return 1, 0.0

    earned = SimpleNamespace(mean=0.0, min=0.0, max=0.0, std=0.0, length=1.0)
    monkeypatch.setattr(playing, "film", film)
    monkeypatch.setattr(playing, "can_film", lambda environment: None)
    monkeypatch.setattr(playing, "evaluate_agent", lambda *given: earned)
    agents = shutil.copytree(study, tmp_path / "copy") / "agents"
    agents.chmod(0o555)
    line = said(["play", str(agents.parent)], capsys, 1)
    agents.chmod(0o755)
    assert line.startswith(str(agents)) and line.endswith(
        "Permission denied. Name another file with --gif, or write no GIF with --no-gif."
    )
    assert not list(agents.glob("*.gif"))
