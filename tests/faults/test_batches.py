"""Complete batches whose files are damaged: not needed where the database has them, refused in one line where it has not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.errors import UsageError
from hyperlax.study.database import StudyDatabase
from tests.fake_backend import FakeBackend
from tests.faults.disk import refuse_each_write
from tests.study_cases import Case, Killed

SMALL: dict[str, Any] = {"n_trials": 6, "sampler": "random", "optuna_study_batch_size": 3}


def edit(change: Callable[[list[list[str]]], object]) -> Callable[[Path], None]:
    """A damage to the cells of a CSV."""

    def damage(path: Path) -> None:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        change(rows)
        path.write_text("".join(",".join(row) + "\n" for row in rows))

    return damage


def without_column(rows: list[list[str]]) -> None:
    for row in rows:
        del row[3]


def with_cell(row: int, column: int, text: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[row][column] = text

    return change


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file or directory."),
    "empty": (lambda path: path.write_bytes(b""), "is empty; a CSV needs at least its header."),
    "truncated in a row": (
        lambda path: path.write_text(path.read_text().rsplit(",", 9)[0]),
        "line 4: 4 cells, the header has 13.",
    ),
    "truncated between rows": (edit(lambda rows: rows.pop()), "holds trials 3, 4; success.txt counts 3, 4, 5."),
    "truncated to its header": (
        edit(lambda rows: rows.__delitem__(slice(1, None))),
        "holds trials none; success.txt counts 3, 4, 5.",
    ),
    "a row twice": (edit(lambda rows: rows.append(rows[1])), "holds trials 3, 4, 5; success.txt counts 3, 4, 5."),
    "a column gone": (edit(without_column), "has no column `peak_performance`."),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()), "is not UTF-8."),
    "no number": (edit(with_cell(1, 3, "high")), "trial 3 has peak_performance 'high', which is not a finite number."),
    "not a number": (edit(with_cell(1, 3, "nan")), "trial 3 has peak_performance 'nan', which is not a finite number."),
    "no state": (edit(with_cell(2, 1, "COMPLET")), "trial 4 has state 'COMPLET', none of COMPLETE, PRUNED, FAIL."),
    "no trial": (edit(with_cell(1, 0, "x")), "holds trials x, 4, 5; success.txt counts 3, 4, 5."),
    "another trial": (edit(with_cell(1, 0, "0")), "holds trials 0, 4, 5; success.txt counts 3, 4, 5."),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("whole"), **SMALL)
    assert case.start() == 0
    return case


@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A study that died when its second batch was on disk and not in the database."""
    case = Case(tmp_path_factory.mktemp("untold"), **SMALL)
    assert case.start(n_trials=3) == 0

    def die(*args: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyDatabase, "finish", die)
        with pytest.raises(Killed):
            case.resume()
    return case


def last_batch(case: Case) -> Path:
    return case.directory / "optuna_exec_batch_0001" / "samples" / "batch_00000"


def check_words(refused: UsageError, path: Path, finding: str) -> None:
    advice = (
        f"The database does not have this batch yet: put the file back, or remove {path.with_name('success.txt')}, and its trials "
        "are run again."
    )
    said = str(refused)
    assert said.startswith(str(path)) and said.endswith(f"{finding} {advice}") and "\n" not in said
    assert refused.exit_code == 2


@pytest.mark.parametrize("damage", ["missing", "another trial"])
def test_a_damaged_batch_that_is_told_is_not_needed(tmp_path, whole, damage):
    case, runner = whole.copy(tmp_path / "copy"), FakeBackend()
    DAMAGES[damage][0](last_batch(case) / "summary.csv")
    assert case.resume(runner) == 0
    assert runner.trained == [] and case.told() == whole.told()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_batch_that_is_not_told_is_refused_and_run_again_without_its_success(tmp_path, whole, untold, damage):
    case, (spoil, finding) = untold.copy(tmp_path / "copy"), DAMAGES[damage]
    spoil(last_batch(case) / "summary.csv")
    for command in (case.resume, lambda: case.plan(resume=True)):
        with pytest.raises(UsageError) as refused:
            command()
        check_words(refused.value, last_batch(case) / "summary.csv", finding)
    assert case.states()[:3] == ["COMPLETE"] * 3
    (last_batch(case) / "success.txt").unlink()
    runner = FakeBackend()
    assert case.resume(runner) == 0
    assert runner.trained == [3, 4, 5] and case.told() == whole.told()


def test_a_study_whose_told_batch_is_gone_goes_on_with_its_pages(tmp_path, whole):
    case = whole.copy(tmp_path / "copy")
    case.write_pages = write_pages
    shutil.rmtree(last_batch(case))
    assert case.resume(n_trials=7) == 0
    assert case.told()[:6] == whole.told() and (case.directory / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "damage"),
    [("summary.csv", "missing"), ("hyperparams.csv", "missing"), ("hyperparams.csv", "truncated between rows")],
)
def test_a_repair_that_needs_a_damaged_batch_changes_nothing_and_works_once_it_is_back(tmp_path, whole, file, damage):
    case, (spoil, finding) = whole.copy(tmp_path / "copy"), DAMAGES[damage]
    database, path = case.directory / "optuna_study.db", last_batch(case) / file
    (case.directory / "optuna_study.db.backup").unlink()
    database.write_bytes(b"no database")
    good = path.read_bytes()
    spoil(path)
    with pytest.raises(UsageError) as refused:
        case.repair()
    check_words(refused.value, path, finding)
    assert database.read_bytes() == b"no database"
    assert not list(case.directory.glob("*.damaged*")) and not list(case.directory.glob(".*.tmp*"))
    path.write_bytes(good)
    assert case.repair() == 0 and case.told() == whole.told()


def test_a_repair_without_the_success_of_a_damaged_batch_leaves_its_trials_to_be_run_again(tmp_path, whole):
    case, runner = whole.copy(tmp_path / "copy"), FakeBackend()
    case.lose_database()
    (last_batch(case) / "summary.csv").unlink()
    (last_batch(case) / "success.txt").unlink()
    assert case.repair() == 0
    assert case.resume(runner) == 0
    assert runner.trained == [3, 4, 5] and case.told() == whole.told()


def test_a_repair_does_not_need_a_damaged_batch_that_its_backup_has(tmp_path, whole):
    case = whole.copy(tmp_path / "copy")
    (case.directory / "optuna_study.db").unlink()
    first = case.directory / "optuna_exec_batch_0000" / "samples" / "batch_00000"
    (first / "summary.csv").write_bytes(b"")
    assert case.repair() == 0
    assert case.told() == whole.told()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_write_of_a_repair_finds_no_room_it_can_be_repeated(tmp_path, whole, every):
    words = "Nothing is lost. Free some space, then repair again:\n  hyperlax repair "

    def spoiled(number: int) -> Case:
        case = whole.copy(tmp_path / str(number))
        (case.directory / "optuna_study.db").write_bytes(b"no database")
        return case

    def check(case: Case) -> None:
        assert case.told() == whole.told()
        assert (case.directory / "optuna_study.db.damaged").read_bytes() == b"no database"

    def again(case: Case, refused: Exception) -> int:
        assert str(refused).endswith(words + str(case.directory))
        return case.repair()

    assert refuse_each_write(spoiled, Case.repair, again, check, every) > 5
