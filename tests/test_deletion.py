"""`hyperlax delete`: all that Hyperlax wrote goes, nothing else does, and what the system refuses is one sentence."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.cli import main
from hyperlax.study.lock import only_one_process
from tests.fake_backend import FakeBackend
from tests.faults.disk import Disk, writing_to
from tests.faults.test_forbidden import as_a_user
from tests.study_cases import TWO, Case
from tests.test_confirmation import case_of, confirmation
from tests.test_population_runs import Run

BATCH = "optuna_exec_batch_0000/samples/batch_00000"
WRITTEN = (
    "study.yaml", "samples.csv", "journal.jsonl", "mlflow.json", "mirror.json", "pbt_schedule.json", "report.html", "trials.csv",
    "optuna_study.db-journal", "optuna_study.db-wal", "optuna_study.db-shm", "optuna_study.db.backup", "optuna_study.db.damaged",
    "optuna_study.db.damaged3-wal", "best_optuna_params.json", "pareto_front_params.json", "confirmation.csv",
    "agents/trial_00003.safetensors", "agents/trial_00003.json", "agents/trial_00003.gif", "checkpoints/trial_00003.npz",
    "checkpoints/pool_001.npz", "confirmation/checkpoints/trial_00003.npz",
    "confirmation/batch_00000/curves.csv", "analysis_plots/plotly.min.js", "analysis_plots/slice.html",
    "optuna_exec_batch_0000/analysis/contour.html", f"{BATCH}/hyperparams.csv",
    f"{BATCH}/intermediate.csv", f"{BATCH}/timeline.csv", f"{BATCH}/timing.json", f"{BATCH}/.curves.csv.12.34.tmp",
    ".optuna_study.db.12.34.tmp-journal", "optuna_exec_batch_12345/success.txt",
)  # fmt: skip
MINE = (
    "notes.txt", ".notes.tmp", "optuna_exec_batch_0000.bak/mine", "optuna_exec_batch_mine/success.txt", "study.json.bak",
    "optuna_study.db.mine", "my_optuna_study.db", "agents/best.gif", "agents/mine/trial_00003.json", "analysis_plots/mine.html",
    "checkpoints/mine.npz", "confirmation/batch_mine/curves.csv", "optuna_exec_batch_0000/mine.md", f"{BATCH}/mine.ipynb",
    f"optuna_exec_batch_0000.bak/{BATCH}/success.txt", "mlartifacts/x/study.json", "mlflow.db", "trials.csv.d/curves.csv",
)  # fmt: skip


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = Case(tmp_path_factory.mktemp("studies"), n_trials=2)
    assert case.start() == 0
    return case.directory


@pytest.fixture
def directory(study: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(study, tmp_path / "studies" / "copy")


def test_what_hyperlax_writes_goes_and_what_a_user_put_beside_it_stays(directory, capsys):
    write(directory, *WRITTEN, *MINE)
    assert main(["delete", str(directory), "--yes", "--keep-tracking"]) == 0
    assert files(directory) == set(MINE)
    assert " are kept: .notes.tmp, agents/best.gif, agents/mine, " in capsys.readouterr().out


@pytest.mark.parametrize("name", MINE)
def test_each_alone_stays_and_is_named(directory, capsys, name):
    write(directory, name)
    assert main(["delete", str(directory), "--yes"]) == 0
    assert files(directory) == {name}
    (named,) = capsys.readouterr().out.partition(" are kept: ")[2].strip(".\n").split(", ")
    assert name.removeprefix(".").startswith(named.removeprefix("."))


def test_a_study_with_everything_leaves_nothing(tmp_path):
    case, _ = case_of(tmp_path, write_pages=write_pages, checkpoint_seconds=0.0)
    assert case.start(FakeBackend(saves=True)) == 0
    assert case.invalidate(2, reason="reward was wrong") == 0
    (case.directory / "optuna_study.db").write_bytes(b"no database" * 1000)
    assert case.repair() == 0 and case.resume() == 0
    assert (case.directory / "optuna_study.db.damaged").exists()
    assert main(["delete", str(case.directory), "--yes"]) == 0
    assert not case.directory.exists()


def test_a_front_and_a_population_leave_nothing(tmp_path):
    case, run = Case(tmp_path / "front", write_pages=write_pages, n_trials=2, **TWO), Run(tmp_path)
    assert case.start() == 0 and run.start() == 0
    for directory in (case.directory, run.directory):
        assert main(["report", str(directory)]) == 0
        assert main(["delete", str(directory), "--yes"]) == 0
        assert not directory.exists()


def test_the_content_of_a_link_inside_stays(directory, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "trial_00000.json")
    (directory / "agents").symlink_to(elsewhere)
    assert main(["delete", str(directory), "--yes"]) == 0
    assert not directory.exists() and files(elsewhere) == {"trial_00000.json"}


def test_the_working_directory_is_emptied_and_kept(directory, monkeypatch, capsys):
    monkeypatch.chdir(directory)
    assert main(["delete", ".", "--yes"]) == 0
    assert list(directory.iterdir()) == []
    said = capsys.readouterr().out
    assert said == "The study is deleted. The empty directory . is kept: it is the working directory.\n"


def test_a_link_to_a_study_stays_with_the_empty_directory(directory, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert main(["delete", str(link), "--yes"]) == 0
    assert link.is_symlink() and list(directory.iterdir()) == []
    said = capsys.readouterr().out
    assert said == f"The study is deleted. The empty directory {link} is kept: {link} is a link to it.\n"


def test_in_a_directory_that_may_not_be_written_the_empty_one_is_kept(directory, capsys):
    directory.parent.chmod(0o555)
    with as_a_user():
        assert main(["delete", str(directory), "--yes"]) == 0
    directory.parent.chmod(0o755)
    assert list(directory.iterdir()) == []
    assert capsys.readouterr().out.endswith(f"The empty directory {directory} is kept: Permission denied.\n")


def test_what_cannot_be_deleted_is_named_and_the_same_command_goes_on(directory, capsys):
    kept = directory / BATCH
    kept.chmod(0o555)
    with as_a_user():
        assert main(["delete", str(directory), "--yes"]) == 1
    kept.chmod(0o755)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hyperlax: {kept}") and "Permission denied. Fix this, then run the command" in line
    assert (directory / "study.json").exists()
    assert main(["delete", str(directory), "--yes"]) == 0
    assert not directory.exists()


def test_a_full_disk_does_not_keep_a_study(directory):
    with writing_to(Disk("")):
        assert main(["delete", str(directory), "--yes"]) == 0
    assert not directory.exists()


@pytest.mark.parametrize("answer", ["n", "", "y", EOFError])
def test_deleting_asks_and_the_end_of_the_input_is_no(directory, monkeypatch, capsys, answer):
    def asked(question: str) -> str:
        if answer is EOFError:
            raise EOFError
        return answer

    before = files(directory)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", asked)
    assert main(["delete", str(directory)]) == (0 if answer == "y" else 1)
    if answer == "y":
        assert not directory.exists()
    else:
        assert capsys.readouterr().out.endswith("Nothing was deleted.\n")
        assert files(directory) - {".lock"} == before - {".lock"}


def test_a_study_that_runs_is_not_deleted(directory, capsys):
    with only_one_process(directory):
        assert main(["delete", str(directory), "--yes"]) == 2
    assert "is running this study" in capsys.readouterr().err and (directory / "study.json").exists()


def test_a_resume_leaves_what_a_user_copied_beside_a_super_batch(tmp_path):
    case = Case(tmp_path, n_trials=2)
    assert case.start() == 0
    copy = case.directory / "optuna_exec_batch_0000.bak" / "samples" / "batch_00000"
    write(copy, "mine")
    write(case.directory, ".notes.tmp")
    beside = shutil.copytree(case.directory / BATCH, case.directory / f"{BATCH}_backup")
    (beside / "success.txt").unlink()
    assert case.resume(n_trials=4) == 0 and case.states() == ["COMPLETE"] * 4
    assert os.listdir(copy) == ["mine"] and (case.directory / ".notes.tmp").exists()
    assert (beside / "summary.csv").exists()


def test_a_confirmation_leaves_what_a_user_put_beside_its_batches(tmp_path):
    case, _ = case_of(tmp_path, n_trials=2)
    write(case.directory / "confirmation", "batch_mine/notes.txt")
    assert case.start() == 0 and confirmation(case).configurations
    assert (case.directory / "confirmation" / "batch_mine" / "notes.txt").exists()
