"""A tracker beside a study, without MLflow: it comes after the study's own commit, its faults cost nothing, and where it writes."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from hyperlax import cli, tracking
from hyperlax.errors import UsageError
from hyperlax.study import launcher
from hyperlax.study import tracking as tracking_module
from hyperlax.study.record import StudyRecord
from hyperlax.study.stopping import Stop
from hyperlax.study.tracking import Tracking
from hyperlax.tracking import place as places
from hyperlax.tracking.place import PLACE_FILE, place_of
from tests.fake_runner import FakeRunner
from tests.made_up_studies import study
from tests.study_cases import Case, Killed

pytestmark = pytest.mark.timeout(120)
SEARCH = ["optuna-hp-search", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]


class Notes:
    """A tracker that notes what it gets. faults: what the next calls raise, one a call; None for no fault."""

    name = "Notes"

    def __init__(self, *faults: Exception | None):
        self.faults = list(faults)
        self.followed: list[StudyRecord] = []
        self.ended: list[tuple[StudyRecord, int]] = []

    def follow(self, record: StudyRecord) -> None:
        self._raise()
        self.followed.append(record)

    def end(self, record: StudyRecord, status: int) -> None:
        self._raise()
        self.ended.append((record, status))

    def _raise(self) -> None:
        if self.faults and (fault := self.faults.pop(0)):
            raise fault


def finished(record: StudyRecord) -> list[int]:
    return [trial.number for trial in record.trials if trial.state != "RUNNING"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hyperlax.study.tracking"]


def test_a_tracker_follows_every_super_batch_and_the_end(tmp_path):
    tracker = Notes()
    case = Case(tmp_path, tracker=tracker, n_trials=12)
    assert case.start(FakeRunner(fail={5: "loss is nan"})) == 0
    assert len(finished(tracker.followed[0])) < 12 and tracker.followed[-1] == case.pages[-1][0]
    ((last, status),) = tracker.ended
    assert status == 0 and last == case.pages[-1][0] and len(finished(last)) == 12
    assert last.trials[5].state == "FAIL"


def test_it_sees_only_what_the_study_has_committed(tmp_path):
    case = Case(tmp_path, n_trials=24)

    class Compares(Notes):
        def follow(self, record: StudyRecord) -> None:
            told = optuna.load_study(study_name="test_study", storage=f"sqlite:///{case.directory / 'optuna_study.db'}")
            states = {trial.number: trial.state.name for trial in told.trials}
            assert {n: record.trials[n].state for n in finished(record)} == {n: states[n] for n in finished(record)}
            assert all(trial.batch_directory.is_dir() for trial in record.trials if trial.batch_directory)
            super().follow(record)

    tracker = case.tracker = Compares()
    assert case.start() == 0
    assert tracker.followed and tracker.ended


def test_an_interrupted_study_ends_with_the_trials_of_its_open_super_batch(tmp_path):
    tracker = Notes()
    case = Case(tmp_path, tracker=tracker, n_trials=16)
    assert case.start(FakeRunner(raises={11: KeyboardInterrupt()})) == 130
    ((last, status),) = tracker.ended
    assert status == 130 and finished(last) == [n for n, state in enumerate(case.states()) if state == "COMPLETE"]
    assert len(finished(last)) > 8
    assert case.resume() == 0
    assert [(len(finished(record)), status) for record, status in tracker.ended][1:] == [(16, 0)]


def test_a_tracker_that_raises_costs_no_trial_and_no_exit_status(tmp_path, caplog):
    quiet = Case(tmp_path / "quiet", n_trials=24)
    assert quiet.start() == 0
    faults = [OSError("the server is away")] * 20
    case = Case(tmp_path / "tracked", tracker=Notes(*faults), n_trials=24)
    with caplog.at_level(logging.WARNING):
        assert case.start() == 0
    assert case.told() == quiet.told()
    first, last = warnings(caplog)
    assert first == (
        "Notes could not be written: OSError: the server is away. The study is not affected. "
        "What is missing is written with the next super-batch."
    )
    assert last.endswith(
        f"What is missing is written when it goes on: hyperlax optuna-hp-search --resume-from {case.directory}"
    )


def test_a_fault_is_told_again_only_after_something_else(tmp_path, caplog):
    fault, asked = ValueError("no\nsuch thing"), threading.Semaphore(0)

    class Counts(Notes):
        def follow(self, record: StudyRecord) -> None:
            asked.release()
            super().follow(record)

    record = study(tmp_path, [3.0])
    with (
        caplog.at_level(logging.WARNING),
        closing(Tracking(Counts(fault, fault, None, fault), tmp_path, Stop())) as tracking,
    ):
        for _ in range(4):
            tracking.follow(lambda: record)
            assert asked.acquire(timeout=60)
        tracking.end(lambda: record, 0)
    said = warnings(caplog)
    assert len(said) == 2 and said[0] == said[1]
    assert "ValueError: no such thing. The study is not affected." in said[0]


@pytest.mark.parametrize("why", ["too long", "interrupted"])
def test_the_end_waits_for_a_tracker_only_so_long(tmp_path, caplog, monkeypatch, why):
    stop, go_on = Stop(), threading.Event()

    class Hangs(Notes):
        def end(self, record: StudyRecord, status: int) -> None:
            if why == "interrupted":
                stop.set()
            assert go_on.wait(60)

    monkeypatch.setattr(tracking_module, "SILENT_SECONDS", 0.01)
    if why == "too long":
        monkeypatch.setattr(tracking_module, "LONGEST_SECONDS", 0.3)
    record, began = study(tmp_path, [3.0]), time.monotonic()
    with caplog.at_level(logging.WARNING), closing(Tracking(Hangs(), tmp_path, stop)) as tracking:
        tracking.end(lambda: record, 0)
    assert time.monotonic() - began < 30
    (said,) = warnings(caplog)
    assert said.startswith(
        "Notes has not everything of the study yet. What is missing is written when it goes on: hyperlax"
    )
    go_on.set()


def test_a_slow_tracker_is_not_waited_for_and_gets_only_the_newest(tmp_path):
    go_on = threading.Event()

    class Slow(Notes):
        def follow(self, record: StudyRecord) -> None:
            assert go_on.wait(60)
            super().follow(record)

    tracker = Slow()
    runner = FakeRunner(after_batch=lambda count: go_on.set() if count == 10 else None)
    assert Case(tmp_path, tracker=tracker, n_trials=32).start(runner) == 0
    counts = [len(finished(record)) for record in tracker.followed]
    assert counts[0] <= 8 and counts == sorted(counts) and len(counts) < 5
    assert len(finished(tracker.ended[0][0])) == 32


def test_a_study_that_breaks_off_is_ended_as_failed(tmp_path):
    tracker = Notes()
    with pytest.raises(Killed):
        Case(tmp_path, tracker=tracker, n_trials=16).start(FakeRunner(raises={11: Killed()}))
    ((_, status),) = tracker.ended
    assert status == 1


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As if MLflow were installed, in a working directory of its own, without MLflow's variable."""
    monkeypatch.setattr(places, "find_spec", lambda name: SimpleNamespace(origin=name))
    monkeypatch.delenv(places.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def at(root: Path, track: str | None = "mlflow", uri: str | None = None, name: str | None = None, is_new: bool = True):
    place = place_of(track, uri, name, "a study", root, is_new)
    assert place is not None
    return place


def test_the_store_is_mlflows_own_default_unless_something_else_is_said(installed, monkeypatch):
    default = at(installed)
    assert (default.uri, default.experiment) == (f"sqlite:///{installed}/mlflow.db", "a study")
    assert default.database == installed / "mlflow.db"
    monkeypatch.setenv(places.VARIABLE, "http://tracking:5000")
    assert at(installed).uri == "http://tracking:5000" and at(installed).database is None
    assert at(installed, uri="sqlite:///other.db").uri == f"sqlite:///{installed}/other.db"
    assert at(installed, uri="mlruns").uri == f"{installed}/mlruns"
    assert at(installed, name="pendulum").experiment == "pendulum"


@pytest.mark.parametrize("letters", ["with spaces", "50%", "is it?", "ü"])
def test_a_directory_may_have_any_letters(installed, monkeypatch, letters):
    from sqlalchemy import make_url

    (installed / letters).mkdir()
    monkeypatch.chdir(installed / letters)
    place = at(installed)
    assert place.database == installed / letters / "mlflow.db"
    assert Path(str(make_url(place.uri).database)) == place.database


def test_a_study_that_goes_on_is_tracked_where_it_was(installed, monkeypatch):
    assert place_of(None, None, None, "a study", installed, False) is None
    before = at(installed, uri="sqlite:///before.db", name="pendulum")
    before.write()
    monkeypatch.chdir("/")
    assert at(installed, track=None, is_new=False) == before
    assert place_of("none", None, None, "a study", installed, False) is None
    moved = at(installed, track=None, uri="http://tracking:5000", is_new=False)
    assert (moved.uri, moved.experiment, moved.study) == ("http://tracking:5000", "pendulum", before.study)
    assert at(installed).study != before.study, "a new study is not the one that was there"


def test_a_password_is_not_kept(installed, monkeypatch):
    monkeypatch.setenv(places.VARIABLE, "postgresql://me:secret@host/mlflow")
    place = at(installed)
    place.write()
    assert "secret" not in (installed / PLACE_FILE).read_text() and "secret" not in place.shown
    assert at(installed, track=None, is_new=False) == place
    monkeypatch.delenv(places.VARIABLE)
    with pytest.raises(UsageError, match="was not kept. Set MLFLOW_TRACKING_URI again"):
        at(installed, track=None, is_new=False)


@pytest.mark.parametrize("text", ["{", "[]", '{"uri": 3, "experiment": "x", "study": "y"}', '{"uri": null}'])
def test_a_damaged_file_is_refused(installed, text):
    (installed / PLACE_FILE).write_text(text)
    with pytest.raises(UsageError, match=PLACE_FILE):
        at(installed, track=None, is_new=False)


def test_without_mlflow_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*SEARCH, "--track", "mlflow"]) == 2
    assert (
        capsys.readouterr().err == 'hyperlax: --track mlflow needs the package mlflow: pip install "hyperlax[mlflow]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_the_flags_reach_the_study(installed, monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(tracking, "_import_mlflow", lambda: None)
    monkeypatch.setattr(launcher, "run_study", lambda *args, **more: given.append(more["tracker"]) or 0)
    assert cli.main([*SEARCH, "--track", "mlflow", "--tracking-experiment", "pendulum"]) == 0
    assert cli.main(SEARCH) == 0
    sweep = ["sweep-hp-samples", *SEARCH[1:], "--num-samples", "4", "--track", "mlflow"]
    assert cli.main(sweep) == 0
    assert [tracker and tracker.name for tracker in given] == ["MLflow", None, "MLflow"]
    assert list(installed.iterdir()) == [], "a tracker writes nothing before the study runs"
