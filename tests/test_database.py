"""A study's database when it is damaged, gone, or somebody else's; and how it is built again."""

import errno
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.files import read_csv
from hyperlax.study import database_file
from tests.fake_backend import FakeBackend
from tests.study_cases import Case


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"x" * 8192
    path.write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "overwritten in the middle": scribble,
    "no database": lambda path: path.write_text("not a database at all, but long enough to be one " * 40),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A study of two super-batches that was stopped in its second, and what it would have told."""
    whole = Case(tmp_path_factory.mktemp("whole"), n_trials=16, sampler="tpe")
    assert whole.start() == 0
    case = Case(tmp_path_factory.mktemp("stopped"), n_trials=16, sampler="tpe")
    assert case.start(FakeBackend(raises={12: KeyboardInterrupt()})) == 130
    return case, whole.told()


@pytest.mark.parametrize(
    ("damage", "backup"), [*((damage, True) for damage in DAMAGES), ("truncated", False), ("deleted", False)]
)
def test_a_damaged_database_is_refused_and_repaired_and_nothing_is_lost(tmp_path, stopped, damage, backup, capsys):
    case, whole = stopped[0].copy(tmp_path / "copy"), stopped[1]
    finished = sum(state == "COMPLETE" for state in case.states())
    path = case.directory / "optuna_study.db"
    DAMAGES[damage](path)
    if not backup:
        (case.directory / "optuna_study.db.backup").unlink()
    damaged = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError, match=r"is (damaged \(.+\)\.|missing\.) `hyperlax repair .+` rebuilds it"):
        case.resume()
    assert (path.read_bytes() if path.exists() else None) == damaged
    assert case.repair() == 0
    said = capsys.readouterr().out
    kept = case.directory / "optuna_study.db.damaged"
    assert (kept.read_bytes() if kept.exists() else None) == damaged
    restored = (8, finished - 8, "optuna_study.db.backup") if backup else (0, finished, "no backup")
    assert f"Restored {restored[0]} finished trials from {restored[2]} and {restored[1]} from the batches" in said
    runner = FakeBackend()
    assert case.resume(runner) == 0
    assert len(runner.trained) == 16 - finished
    assert case.told() == whole


def test_a_damaged_backup_is_not_used(tmp_path, stopped, capsys):
    case = stopped[0].copy(tmp_path / "copy")
    truncate(case.directory / "optuna_study.db")
    truncate(case.directory / "optuna_study.db.backup")
    assert case.repair() == 0
    assert "Restored 0 finished trials from no backup" in capsys.readouterr().out
    assert case.resume() == 0 and case.told() == stopped[1]


def test_a_repair_that_is_refused_at_its_end_leaves_the_damaged_file_where_it_was(tmp_path, stopped, monkeypatch):
    case = stopped[0].copy(tmp_path / "copy")
    path, real = case.directory / "optuna_study.db", os.replace
    truncate(path)
    damaged = path.read_bytes()

    def refused(source, target):
        if Path(target) == path:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(HyperlaxError, match="Permission denied. Nothing is lost."):
            case.repair()
    assert path.read_bytes() == damaged
    assert case.repair() == 0 and case.resume() == 0 and case.told() == stopped[1]


def test_a_second_damage_keeps_the_first_file(tmp_path, stopped):
    case = stopped[0].copy(tmp_path / "copy")
    for name in ("optuna_study.db.damaged", "optuna_study.db.damaged1"):
        truncate(case.directory / "optuna_study.db")
        assert case.repair() == 0
        assert (case.directory / name).exists()


def test_batches_of_another_seed_are_not_taken_for_this_studys(tmp_path, stopped):
    case = stopped[0].copy(tmp_path / "copy")
    other = Case(tmp_path / "other", n_trials=16, sampler="tpe", seed=99)
    assert other.start(FakeBackend(raises={12: KeyboardInterrupt()})) == 130
    case.lose_database()
    for batch in other.batches():
        shutil.copytree(batch, case.directory / batch.relative_to(other.directory), dirs_exist_ok=True)
    with pytest.raises(
        HyperlaxError, match=r"trial 0 was trained with algorithm\..+ asked for .+ Put back the study's own"
    ):
        case.repair()


@pytest.mark.parametrize("value", ["abc", None, [1], 10**400, float("nan"), ...])
def test_a_journal_with_parameters_that_are_not_the_spaces_is_refused(tmp_path, stopped, value):
    case = stopped[0].copy(tmp_path / "copy")
    case.lose_database()
    journal = case.directory / "journal.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    event = json.loads(first)
    params = event["trials"][1]["params"]
    params["algorithm.hyperparam.gamma"] = value
    if value is ...:
        del params["algorithm.hyperparam.gamma"]
    journal.write_text("".join([json.dumps(event) + "\n", *rest]))
    with pytest.raises(
        UsageError, match="journal.jsonl: asks trial 1 for parameters that the search space does not have"
    ):
        case.repair()


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii"])
def test_a_batch_that_is_gone_is_trained_again_and_what_was_suggested_from_it_stays(tmp_path, sampler):
    whole = Case(tmp_path / "whole", n_trials=16, sampler=sampler)
    assert whole.start() == 0
    case, runner = whole.copy(tmp_path / "torn"), FakeBackend()
    case.lose_database()
    shutil.rmtree(case.batches()[0])
    assert case.repair() == 0 and case.resume(runner) == 0
    assert sorted(runner.trained) == [0, 1, 2]
    assert case.told() == whole.told()


def other_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def other_layout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE version_info SET schema_version = 99")
        connection.commit()


def other_study(path: Path) -> None:
    path.unlink()
    optuna.create_study(study_name="another", storage=f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_tables, "is not a database of Optuna, it has the tables recipes"),
        (other_layout, "its tables have layout 99, this version of Hyperlax writes layout 12"),
        (other_study, "holds the study another, not test_study of study.json"),
    ],
)
def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path, stopped, change, words):
    case = stopped[0].copy(tmp_path / "copy")
    path = case.directory / "optuna_study.db"
    change(path)
    before = path.read_bytes()
    for command in (case.resume, lambda: case.plan(resume=True), lambda: case.repair()):
        with pytest.raises(UsageError, match=words):
            command()
    assert path.read_bytes() == before


def test_the_backup_is_a_whole_database_as_of_the_last_super_batch(stopped):
    case, _ = stopped
    backup = case.directory / "optuna_study.db.backup"
    database_file.check(backup, "test_study", has_batches=True)
    states = [trial.state.name for trial in optuna.load_study(study_name=None, storage=f"sqlite:///{backup}").trials]
    assert states == ["COMPLETE"] * 8 + ["WAITING"] * 8
    curves = [row for path in case.directory.glob("*/samples/*/curves.csv") for row in read_csv(path)]
    assert {int(row["trial"]) for row in curves} >= set(range(8))
