"""Law 2 on a full disk: whatever write fails, a study ends in one sentence, and going on gives what an undisturbed study gives."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.analysis.pages import write_pages
from hyperlax.cli import commands
from hyperlax.errors import HyperlaxError
from hyperlax.study.manifest import resume_command
from tests.fake_backend import FakeBackend
from tests.faults.disk import Disk, check_refusal, files, pages_at_most, refuse_each_write, writing_to
from tests.study_cases import Case
from tests.test_study_terminal import single

SMALL: dict[str, Any] = {"n_trials": 2, "optuna_study_batch_size": 1, "runner_hparam_batch_size": 1}
FIRST_WRITES, NEXT_WRITES = 20, 20
"""A study writes at least so often before its first trial, and then for each."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_that_is_whole(tmp_path_factory.mktemp("whole"), 2)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_that_is_whole(tmp_path_factory.mktemp("half"), 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A study whose trials need pages of their own."""
    case = Case(tmp_path_factory.mktemp("many"), n_trials=32, optuna_study_batch_size=16)
    assert case.start() == 0
    return case


def case_that_is_whole(root: Path, n_trials: int) -> Case:
    case = Case(root, **{**SMALL, "n_trials": n_trials})
    assert case.start(FakeBackend(lanes=1)) == 0
    return case


def tables(case: Case) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(case.directory / "optuna_study.db")) as connection:
        return sorted(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def go_on(case: Case, refused: HyperlaxError) -> int:
    """What the sentence tells a user to do, with room on the disk."""
    if (case.directory / "study.json").exists():
        words = "The study ends here; all that is complete is kept. Free some space, then resume:\n  "
        assert str(refused).endswith(words + resume_command(case.directory))
        return case.resume(FakeBackend(lanes=1))
    assert str(refused).endswith("No trial has run. Free some space, then run the command again.")
    return case.start(FakeBackend(lanes=1))


some_or_all = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])


@some_or_all
def test_whatever_write_before_the_first_trial_finds_no_room_going_on_ends_it_as_if_nothing_had_been(
    tmp_path, half, every
):
    def check(case: Case) -> None:
        assert case.told() == half.told() and files(case) == files(half) and tables(case) == tables(half)

    def new(number: int) -> Case:
        return Case(tmp_path / str(number), **half.arguments)

    def start(case: Case) -> int:
        return case.start(FakeBackend(lanes=1), timeout=1e-9)

    assert refuse_each_write(new, start, go_on, check, every) >= FIRST_WRITES


@some_or_all
def test_whatever_write_of_a_trial_finds_no_room_going_on_ends_it_as_if_nothing_had_been(tmp_path, half, whole, every):
    def check(case: Case) -> None:
        assert case.told() == whole.told() and files(case) == files(whole)

    def copy(number: int) -> Case:
        copied = half.copy(tmp_path / str(number))
        copied.arguments = SMALL
        return copied

    def resume(case: Case) -> int:
        return case.resume(FakeBackend(lanes=1))

    assert refuse_each_write(copy, resume, go_on, check, every) >= NEXT_WRITES


@pytest.mark.parametrize("command", [pytest.param("--retry-failed", marks=pytest.mark.slow), "invalidate"])
def test_whatever_write_of_an_amendment_finds_no_room_giving_the_command_again_does_it(tmp_path, command):
    def run(case: Case) -> int:
        if command == "invalidate":
            return case.invalidate(0)
        return case.resume(FakeBackend(lanes=1), retry_failed=True)

    fail = {0: "boom"} if command == "--retry-failed" else {}
    begun, expected = (Case(tmp_path / name, **SMALL) for name in ("begun", "expected"))
    for case in (begun, expected):
        assert case.start(FakeBackend(lanes=1, fail=fail)) == 0
    assert run(expected) == 0
    ended = []
    for refuses in itertools.count(1):
        case = begun.copy(tmp_path / str(refuses))
        with writing_to(Disk(refuses)) as disk, suppress(HyperlaxError):
            ended.append(run(case))
        if ended:
            break
        assert run(case) == 0
        assert case.told() == expected.told() and files(case) == files(expected)
    assert len(disk.writes) < refuses and refuses > (NEXT_WRITES if fail else 4)


@pytest.mark.parametrize("pages", [1, 5, 12, 20, 28, 29, 30, 35, 40])
def test_when_sqlite_itself_finds_the_disk_full_a_study_ends_in_a_sentence_and_goes_on(tmp_path, many, pages):
    case = Case(tmp_path, n_trials=32, optuna_study_batch_size=16)
    with (
        pages_at_most(pages),
        pytest.raises(HyperlaxError, match=r"/optuna_study\.db: database or disk is full\. ") as refused,
    ):
        case.start()
    check_refusal(case, refused.value)
    assert go_on(case, refused.value) == 0
    assert case.told() == many.told() and tables(case) == tables(many)


@pytest.mark.parametrize("page", ["report.html", "trials.csv"])
def test_a_page_that_finds_no_room_ends_the_study_and_is_there_after_going_on(tmp_path, page):
    whole, case = (Case(tmp_path / name, n_trials=3) for name in ("whole", "full"))
    whole.write_pages = case.write_pages = write_pages
    assert whole.start() == 0
    with writing_to(Disk(refuses=page)), pytest.raises(HyperlaxError, match=rf"{page}: No space left") as refused:
        case.start()
    check_refusal(case, refused.value)
    assert go_on(case, refused.value) == 0
    assert case.told() == whole.told() and files(case) == files(whole)


def test_an_analysis_that_found_no_room_while_later_trials_ran_is_written_when_the_study_goes_on(tmp_path, whole):
    case, analysis = Case(tmp_path / "full", **SMALL), "optuna_exec_batch_0000/analysis"
    with writing_to(Disk(refuses=analysis)), pytest.raises(HyperlaxError, match=analysis) as refused:
        case.start(FakeBackend(lanes=1))
    assert case.states() == ["COMPLETE"] * 2
    assert go_on(case, refused.value) == 0 and files(case) == files(whole)


def test_other_slots_stop_when_a_write_finds_no_room(tmp_path):
    runner = FakeBackend(lanes=1, slots=2)
    case = Case(tmp_path, n_trials=8, optuna_study_batch_size=8, runner_hparam_batch_size=1)
    with writing_to(Disk(refuses="summary.csv")), pytest.raises(HyperlaxError, match="summary.csv: No space left"):
        case.start(runner)
    assert runner.batches < 8


def test_what_is_told_before_the_disk_is_full_is_never_run_again(tmp_path):
    case = Case(tmp_path, n_trials=3, optuna_study_batch_size=1)
    with writing_to(Disk(refuses="optuna_exec_batch_0002")), pytest.raises(HyperlaxError):
        case.start()
    runner = FakeBackend()
    assert case.resume(runner) == 0 and runner.trained == [2]


def test_the_command_says_it_in_one_sentence_and_exits_with_1(tmp_path, monkeypatch, capsys):
    def start(flags: object) -> int:
        return Case(tmp_path, **SMALL).start(FakeBackend(lanes=1))

    search = commands.COMMANDS["optuna-hp-search"]
    monkeypatch.setitem(commands.COMMANDS, "optuna-hp-search", replace(search, function=start))
    with writing_to(Disk(refuses="timing.json")):
        assert cli.main(["optuna-hp-search", "--algo-and-network-config", "sac_mlp"]) == 1
    said = capsys.readouterr().err
    directory = tmp_path / "sac_test" / "gymnax_pendulum"
    assert said.endswith(
        f"hyperlax: {directory}/optuna_exec_batch_0000/samples/batch_00000/timing.json: No space left on device. The study ends "
        f"here; all that is complete is kept. Free some space, then resume:\n  {resume_command(directory)}\n"
    )


def test_a_single_training_that_finds_no_room_says_so(tmp_path):
    with writing_to(Disk(refuses="curves.csv")), pytest.raises(HyperlaxError) as refused:
        single(tmp_path, FakeBackend())
    path = tmp_path / "sac_test" / "gymnax_pendulum" / "single_0000" / "curves.csv"
    words = "No space left on device. The training is not kept. Free some space, then run the command again."
    assert str(refused.value) == f"{path}: {words}"
    assert single(tmp_path, FakeBackend()) == 0


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), sqlite3.IntegrityError("a bug")])
def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch, error):
    def raise_it(*args: Any) -> None:
        raise error

    case = Case(tmp_path, **SMALL)
    monkeypatch.setattr("hyperlax.study.trials.write_batch", raise_it)
    with pytest.raises(type(error), match="a bug"):
        case.start(FakeBackend(lanes=1))


def test_sql_that_is_wrong_keeps_its_traceback(tmp_path, monkeypatch):
    case = Case(tmp_path, **SMALL)
    monkeypatch.setattr(
        "hyperlax.study.database.StudyDatabase.start", lambda self, numbers: self._update("no = 1", [(0,)])
    )
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        case.start(FakeBackend(lanes=1))
