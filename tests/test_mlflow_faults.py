"""Studies in a real MLflow after a death anywhere and after a fault: nothing is there twice, nothing is left out."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy

from hyperlax.errors import HyperlaxError
from hyperlax.study.directory import TRACKING
from hyperlax.study.record import StudyRecord
from hyperlax.tracking import mlflow
from hyperlax.tracking.mlflow import MlflowWriter
from hyperlax.tracking.place import Place, place_of
from tests.made_up_studies import study
from tests.mlflow_store import Seen, tracked, tracker, with_trials
from tests.study_cases import Killed

pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')


class Dying:
    """A client whose call number `at` never returns to the study: it dies before MLflow has done it, or after."""

    def __init__(self, client: Any, at: int, is_done: bool):
        self._client, self._left, self._is_done = client, at, is_done

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left >= 0:
                return method(*args, **kwargs)
            if self._is_done:
                method(*args, **kwargs)
            raise Killed

        return call


def deaths(store: str, record: StudyRecord, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, bool]]:
    """Experiments in which a process died at each of its calls in turn, and whether it did the call that it died at."""
    connect = mlflow.connect
    for is_done in (False, True):
        for at in range(1000):
            name, survived = f"died {at} {is_done}", False
            monkeypatch.setattr(mlflow, "connect", lambda p, a=at, d=is_done: Dying(connect(p), a, d))
            record.directory.joinpath(TRACKING).unlink(missing_ok=True)
            try:
                tracker(store, name, record.directory).end(record, 0)
                survived = True
            except Killed:
                pass
            monkeypatch.setattr(mlflow, "connect", connect)
            yield name, survived
            if survived:
                break


@pytest.mark.slow
def test_a_death_at_any_call_leaves_nothing_twice_and_nothing_out(store, tmp_path, monkeypatch):
    record = with_trials(study(tmp_path, [3.0, 1.0], failed={1}))
    for trial in record.trials:
        assert trial.batch_directory is not None
        (trial.batch_directory / "success.txt").write_text("")
    expected, tries = None, 0
    for name, survived in deaths(store, record, monkeypatch):
        tries += 1
        if not survived:
            tracker(store, name, record.directory).end(record, 0)
        seen = Seen(store, name)
        assert seen.numbers == [0, 1] and seen.parent.info.status == "FINISHED", name
        found = (seen.told(), seen.parent.data.params, seen.histories(seen.parent))
        expected = expected or found
        assert found == expected, name
    assert tries >= 30


@pytest.mark.parametrize("kind", ["sqlite", "files"])
@pytest.mark.parametrize("written", ["metrics", "tags"])
def test_points_whose_writer_died_are_not_written_again(store, tmp_path, monkeypatch, kind, written):
    """It dies at its first tags, after the study's points, or at the end of its first trial, after the trial's."""
    uri, name = store if kind == "sqlite" else str(tmp_path / "mlruns"), f"once {written}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    record, connect = with_trials(study(tmp_path / "study", [3.0, 1.0])), mlflow.connect

    class DiesAfterPoints(Dying):
        def __getattr__(self, method: str) -> Any:
            def dies(*args: Any, **kwargs: Any) -> Any:
                raise Killed

            def logs(*args: Any, **kwargs: Any) -> Any:
                return dies() if "tags" in kwargs else self._client.log_batch(*args, **kwargs)

            instead = {"metrics": ("set_terminated", dies), "tags": ("log_batch", logs)}[written]
            return instead[1] if method == instead[0] else getattr(self._client, method)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(mlflow, "connect", lambda place: DiesAfterPoints(connect(place), 0, False))
        tracker(uri, name, record.directory).end(record, 0)
    tracker(uri, name, record.directory).end(record, 0)
    tracker(uri, f"sound {written}", record.directory, is_new=True).end(record, 0)
    seen, sound = Seen(uri, name), Seen(uri, f"sound {written}")
    assert seen.told() == sound.told()
    assert seen.histories(seen.parent) == sound.histories(sound.parent)


def test_a_locked_store_costs_nothing_and_is_written_when_it_is_free(store, tmp_path, monkeypatch, caplog):
    """A store of its own, which MLflow has opened before: it tries for minutes to open a locked one, and 20 seconds to write."""
    patient, text = "PRAGMA busy_timeout = 20000;", sqlalchemy.sql.text
    hurried = SimpleNamespace(text=lambda words: text("PRAGMA busy_timeout = 50;" if words == patient else words))
    monkeypatch.setattr("mlflow.store.db.utils.sql", hurried)
    tables, path = Path(store.removeprefix("sqlite:///")), tmp_path / "locked.db"
    Seen(store, "none")
    with closing(sqlite3.connect(tables)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    locked = f"sqlite:///{path}"
    assert Seen(locked, "locked").parents == []
    case = tracked(locked, "locked", tmp_path / "studies", n_trials=8)
    with closing(sqlite3.connect(path)) as other, caplog.at_level(logging.WARNING):
        other.execute("BEGIN EXCLUSIVE")
        assert case.start() == 0
    assert "MLflow could not be written: " in caplog.text and "database is locked" in caplog.text
    assert case.states() == ["COMPLETE"] * 8
    assert case.resume() == 0
    assert Seen(locked, "locked").numbers == list(range(8))


def test_an_address_that_is_no_store_does_not_take_the_place_of_a_good_one(store, tmp_path):
    path = tmp_path / "damaged.db"
    path.write_bytes(b"this is no database" * 100)
    case = tracked(store, "kept", tmp_path / "studies", n_trials=4)
    assert case.start() == 0
    before = (case.directory / TRACKING).read_bytes()
    case.tracker = tracker(f"sqlite:///{path}", "elsewhere", case.directory)
    assert case.resume(n_trials=8) == 0
    assert (case.directory / TRACKING).read_bytes() == before
    place = place_of(None, None, None, "test_study", case.directory, False)
    assert place is not None
    case.tracker = MlflowWriter(place)
    assert case.resume(n_trials=8) == 0
    assert Seen(store, "kept").numbers == list(range(8))


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_study_that_dies_as_its_parent_run_is_made_in_another_store_has_one_there(
    store, tmp_path, monkeypatch, is_done
):
    """Of its calls the second makes the experiment, the fourth the run."""
    record, connect, name = with_trials(study(tmp_path, [3.0, 1.0])), mlflow.connect, f"moved {is_done}"
    tracker(store, name, record.directory, is_new=True).end(record, 0)
    before = (record.directory / TRACKING).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(mlflow, "connect", lambda place: Dying(connect(place), 3, is_done))
        tracker(store, f"{name} there", record.directory).end(record, 0)
    assert len(Seen(store, f"{name} there").parents) == is_done
    assert (record.directory / TRACKING).read_bytes() == before
    tracker(store, f"{name} there", record.directory).end(record, 0)
    seen = Seen(store, f"{name} there")
    assert seen.parent.info.status == "FINISHED" and seen.numbers == [0, 1]
    place = place_of(None, None, None, "test_study", record.directory, False)
    assert place is not None and place.experiment == f"{name} there"


def test_a_fault_shows_no_password(tmp_path, monkeypatch):
    """As MLflow names the whole address of a server that does not answer."""

    def unreachable(place: Place) -> Any:
        raise ConnectionError(f"API request to {place.uri}/api failed")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    monkeypatch.setattr(mlflow, "connect", unreachable)
    record = study(tmp_path, [3.0])
    place = place_of("mlflow", None, None, "test_study", record.directory, True)
    assert place is not None
    with pytest.raises(HyperlaxError) as raised:
        MlflowWriter(place).follow(record)
    assert str(raised.value) == "API request to http://me:***@host:5000/api failed"
    assert raised.value.__suppress_context__


def test_two_runs_of_one_trial_become_one(store, tmp_path):
    record = with_trials(study(tmp_path, [3.0, 1.0]))
    tracker(store, "twice", record.directory).end(record, 0)
    seen = Seen(store, "twice")
    copied = seen.trials[1]
    seen.client.create_run(copied.info.experiment_id, tags=copied.data.tags)
    assert Seen(store, "twice").numbers == [0, 1, 1]
    tracker(store, "twice", record.directory).follow(record)
    assert Seen(store, "twice").trials[1].info.run_id == copied.info.run_id
    assert Seen(store, "twice").numbers == [0, 1]


def test_a_run_that_somebody_deleted_is_written_again(store, tmp_path):
    record = with_trials(study(tmp_path, [3.0, 1.0]))
    tracker(store, "deleted", record.directory).end(record, 0)
    seen = Seen(store, "deleted")
    seen.client.delete_run(seen.trials[0].info.run_id)
    tracker(store, "deleted", record.directory).follow(record)
    assert Seen(store, "deleted").numbers == [0, 1]


def test_a_deleted_experiment_is_named(store, tmp_path):
    record = with_trials(study(tmp_path, [3.0]))
    tracker(store, "gone", record.directory).follow(record)
    seen = Seen(store, "gone")
    seen.client.delete_experiment(seen.parent.info.experiment_id)
    with pytest.raises(Exception, match="the experiment gone is deleted. Restore it"):
        tracker(store, "gone", record.directory).follow(record)
