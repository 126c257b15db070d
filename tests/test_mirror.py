"""A study in another Optuna storage: all of it, nothing twice, no password, and a fault costs the study nothing."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hyperlax import cli, studies
from hyperlax.errors import HyperlaxError
from hyperlax.seals import seal
from hyperlax.study import search as runs
from hyperlax.study.view import load_study
from hyperlax.tracking.mirror import MirrorWriter
from hyperlax.tracking.mirror_place import mirror_of
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

SEARCH = [
    "optuna-hp-search",
    "--algo-and-network-config",
    "sac_mlp",
    "--env-config",
    "gymnax.pendulum",
    "--n-trials",
    "1",
]
PASSWORD = "s3cr3t"
AWAY = f"postgresql://me:{PASSWORD}@127.0.0.1:1/db"


def mirrored(root: Path, storage: str | None, is_new: bool = False, **arguments) -> Case:
    case = Case(root, **{"n_trials": 12, **arguments})
    mirror = mirror_of(storage, "test_study", case.directory, is_new)
    assert mirror is not None
    case.tracker = MirrorWriter(mirror)
    return case


def told(storage: str | optuna.storages.BaseStorage) -> list[tuple]:
    study = optuna.load_study(study_name="test_study", storage=storage)
    assert [trial.user_attrs["trial"] for trial in study.trials] == [trial.number for trial in study.trials]
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, {**t.user_attrs, "trial": None}, t.duration)
        for t in study.trials
    ]


def own(case: Case) -> list[tuple]:
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, {**t.user_attrs, "trial": None}, t.duration)
        for t in case.study().trials
    ]


@pytest.fixture
def address(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'team.db'}"


def test_every_trial_is_there_as_in_the_study_and_a_resume_adds_what_is_missing(tmp_path, address):
    case = mirrored(tmp_path, address, is_new=True)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    assert told(address) == own(case) and told(address)[5][1] == "FAIL"
    study = optuna.load_study(study_name="test_study", storage=address)
    assert study.directions == case.study().directions and study.metric_names == ["peak_performance"]
    assert study.user_attrs["recipe"] == "sac_test" and study.user_attrs["hyperlax_directory"] == str(case.directory)
    again = mirrored(tmp_path, None, n_trials=16)
    assert again.resume() == 0
    assert told(address) == own(again) and len(told(address)) == 16


def test_an_interrupted_study_leaves_what_has_ended_and_the_resume_the_rest(tmp_path, address):
    case = mirrored(tmp_path, address, is_new=True)
    assert case.start(FakeBackend(raises={4: KeyboardInterrupt()})) == 130
    ended = [n for n, state in enumerate(case.states()) if state == "COMPLETE"]
    there = optuna.load_study(study_name="test_study", storage=address).trials
    assert ended and [trial.user_attrs["trial"] for trial in there] == ended
    assert mirrored(tmp_path, None).resume() == 0
    there = optuna.load_study(study_name="test_study", storage=address).trials
    assert sorted(trial.user_attrs["trial"] for trial in there) == list(range(12))


def test_a_changed_result_replaces_the_former_one_unless_others_use_the_study(tmp_path, address, caplog):
    case = mirrored(tmp_path, address, is_new=True)
    assert case.start() == 0 and case.invalidate(3, reason="wrong") == 0
    assert mirrored(tmp_path, None).resume() == 0
    assert told(address) == own(case) and told(address)[3][1] == "FAIL"
    study = optuna.load_study(study_name="test_study", storage=address)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert case.invalidate(4) == 0
    with caplog.at_level(logging.WARNING):
        assert mirrored(tmp_path, None).resume() == 0
    assert "keeps earlier results of trial 4: other programs added" in caplog.text
    assert [trial.state.name for trial in study.trials][4] == "COMPLETE" and len(study.trials) == 13


def test_a_journal_file_is_a_storage_too(tmp_path):
    path = tmp_path / "team.journal"
    case = mirrored(tmp_path, str(path), is_new=True, n_trials=2)
    assert case.start() == 0
    assert len(told(JournalStorage(JournalFileBackend(str(path))))) == 2


def test_a_fault_names_what_is_missing_and_the_next_resume_adds_it(tmp_path, address, caplog):
    quiet = Case(tmp_path / "quiet", n_trials=12)
    assert quiet.start() == 0
    database = tmp_path / "team.db"
    case = mirrored(tmp_path / "mirrored", address, is_new=True)
    database.write_bytes(b"no database" * 100)
    with caplog.at_level(logging.WARNING):
        assert case.start() == 0
    assert case.told() == quiet.told()
    said = [one.getMessage() for one in caplog.records if one.name == "hyperlax.tracking.background"]
    assert len(said) == 2
    assert said[1].startswith(
        "MLflow could not be written: file is not a database. Missing there: trials 0-11. The study"
    )
    assert said[-1].endswith(f"hyperlax optuna-hp-search --resume-from {case.directory}")
    database.unlink()
    assert mirrored(tmp_path / "mirrored", address).resume() == 0
    assert told(address) == own(case)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command whose study trains nothing, and returns the line that it is refused with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "run_study", lambda *args, **more: 0)

    def refused(*words: str) -> str:
        assert cli.main([*SEARCH, *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert PASSWORD not in line
        return line.removeprefix("hyperlax: ")

    return refused


def test_what_cannot_be_a_mirror_is_refused_before_anything_runs(run, tmp_path, monkeypatch):
    assert run("--mirror", "") == "--mirror : is empty. Name a storage, such as sqlite:///optuna.db"
    assert run("--mirror", "sqlite:///no/team.db").endswith("no is not a directory. Make it, or name another file.")
    (tmp_path / "folder").mkdir()
    assert "folder: is a directory. Name a file, as " in run("--mirror", "folder")
    assert run("--mirror", "nodb://x").startswith("--mirror nodb://x: cannot be used (Can't load plugin: ")
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one")
    assert "cannot be used (file is not a database)" in run("--mirror", "sqlite:///text.db")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE alembic_version (x)")
    assert "holds tables of another program (alembic_version" in run("--mirror", "sqlite:///other.db")
    optuna.create_study(study_name="sac_mlp_gymnax_pendulum", storage="sqlite:///mine.db").set_user_attr("a", 1)
    study = optuna.load_study(study_name="sac_mlp_gymnax_pendulum", storage="sqlite:///mine.db")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert run("--mirror", "sqlite:///mine.db").endswith(
        "has another study of the name sac_mlp_gymnax_pendulum. Choose another --study-name, another storage, or --mirror none."
    )
    assert run("--mirror", AWAY).startswith("--mirror postgresql://me:***@127.0.0.1:1/db: ")
    monkeypatch.setenv("HYPERLAX_MIRROR", AWAY)
    assert run().startswith("--mirror postgresql://me:***@127.0.0.1:1/db: ")
    assert cli.main([*SEARCH, "--mirror", "none"]) == 0


def test_a_password_is_not_kept(tmp_path, monkeypatch):
    mirror = mirror_of(AWAY, "s", tmp_path, True)
    assert mirror and PASSWORD not in mirror.shown
    mirror.write()
    assert json.loads((tmp_path / "mirror.json").read_text()) == {
        "storage": None,
        "mark": mirror.mark,
        "seal": seal([None, mirror.mark]),
    }
    with pytest.raises(
        studies.OptionError, match="holds a password and was not stored. Set HYPERLAX_MIRROR again, or give --mirror"
    ):
        mirror_of(None, "s", tmp_path, False)
    monkeypatch.setenv("HYPERLAX_MIRROR", AWAY)
    again = mirror_of(None, "s", tmp_path, False)
    assert again == mirror
    assert mirror_of("none", "s", tmp_path, False) is None


def names(address: str) -> list[str]:
    return optuna.get_all_study_names(storage=address)


def test_deleting_a_study_asks_for_its_mirror_too_and_can_leave_it(tmp_path, address, monkeypatch, capsys):
    case = mirrored(tmp_path / "one", address, is_new=True, n_trials=2)
    assert case.start() == 0
    copy = shutil.copytree(case.directory, tmp_path / "copy")
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert cli.main(["delete", str(case.directory)]) == 1
    assert asked[0].endswith(f" MiB), and study test_study in the mirror {address}? [y/N] ")
    with pytest.raises(HyperlaxError, match="has another study of the name test_study, that of .*one"):
        mirror = mirror_of(None, "test_study", copy, False)
        assert mirror
        MirrorWriter(mirror).follow(load_study(copy, "").record)
    assert cli.main(["delete", str(copy), "--yes"]) == 0 and names(address) == ["test_study"], "it is the original's"
    copy = shutil.copytree(case.directory, tmp_path / "copy")
    assert cli.main(["delete", str(case.directory), "--yes", "--keep-tracking"]) == 0 and names(address) == [
        "test_study"
    ]
    capsys.readouterr()
    assert cli.main(["delete", str(copy), "--yes"]) == 0 and names(address) == []
    assert capsys.readouterr().out == (f"Deleted: study test_study in the mirror {address}.\n{copy} is deleted.\n")


def test_a_mirror_that_cannot_be_reached_remains_and_is_named(tmp_path, address, capsys):
    case = mirrored(tmp_path / "one", address, is_new=True, n_trials=2)
    assert case.start() == 0
    (tmp_path / "team.db").write_text("no database, but long enough to be read as one")
    capsys.readouterr()
    assert cli.main(["delete", str(case.directory), "--yes"]) == 1
    remains, gone = capsys.readouterr().out.splitlines()
    assert remains.startswith(f"Remains: study test_study in the mirror {address} (file is not a database)")
    assert gone == f"{case.directory} is deleted."
