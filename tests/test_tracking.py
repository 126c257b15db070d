"""A tracker beside a study, without MLflow: it comes after the study's own commit, and its faults cost nothing."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from contextlib import closing

import optuna
import pytest

from hyperlax.study.record import StudyRecord
from hyperlax.study.stopping import StopRequest, stopping_on_signals
from hyperlax.tracking import background
from hyperlax.tracking.background import BackgroundObserver
from tests.fake_backend import FakeBackend
from tests.made_up_studies import study
from tests.study_cases import Case, Killed


class Notes:
    """A writer that notes what it gets. faults: what the next calls raise, one a call; None for no fault."""

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
    return [record.getMessage() for record in caplog.records if record.name == "hyperlax.tracking.background"]


def test_a_tracker_follows_every_super_batch_and_the_end(tmp_path):
    tracker = Notes()
    case = Case(tmp_path, tracker=tracker, n_trials=12)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
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
    assert case.start(FakeBackend(raises={11: KeyboardInterrupt()})) == 130
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
        "MLflow could not be written: OSError: the server is away. The study is not affected. "
        "What is missing is written with the next super-batch."
    )
    assert last.endswith(
        f"What is missing is written when the study is resumed: hyperlax optuna-hp-search --resume-from {case.directory}"
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
        closing(BackgroundObserver(Counts(fault, fault, None, fault), "MLflow")) as tracking,
    ):
        for _ in range(4):
            tracking.super_batch_ended(record, None)
            assert asked.acquire(timeout=240)
        tracking.study_ended(lambda: record, 0)
    said = warnings(caplog)
    assert len(said) == 2 and said[0] == said[1]
    assert "ValueError: no such thing. The study is not affected." in said[0]


def test_a_study_that_is_removed_says_so_itself(tmp_path, caplog):
    record = study(tmp_path / "study", [3.0])
    shutil.rmtree(tmp_path / "study")
    tracking = BackgroundObserver(Notes(*[OSError("unable to open database file")] * 2), "The mirror")
    with caplog.at_level(logging.WARNING), closing(tracking):
        tracking.super_batch_ended(record, None)
        tracking.study_ended(lambda: record, 1)
    assert warnings(caplog) == []


@pytest.mark.parametrize("why", ["too long", "interrupted"])
def test_the_end_waits_for_a_tracker_only_so_long(tmp_path, caplog, monkeypatch, why):
    go_on = threading.Event()

    class Hangs(Notes):
        def end(self, record: StudyRecord, status: int) -> None:
            if why == "interrupted":
                signal.raise_signal(signal.SIGINT)
            assert go_on.wait(240)

    monkeypatch.setattr(background, "SILENT_SECONDS", 0.01)
    if why == "too long":
        monkeypatch.setattr(background, "LONGEST_SECONDS", 0.3)
    record = study(tmp_path, [3.0])
    with (
        caplog.at_level(logging.WARNING),
        stopping_on_signals(StopRequest()),
        closing(BackgroundObserver(Hangs(), "MLflow")) as tracking,
    ):
        tracking.study_ended(lambda: record, 0)
    assert not go_on.is_set()
    (said,) = warnings(caplog)
    assert said.startswith(
        "MLflow does not have everything of the study yet. What is missing is written when the study is resumed: hyperlax"
    )
    go_on.set()


def test_a_slow_tracker_is_not_waited_for_and_gets_only_the_newest(tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Notes):
        def follow(self, record: StudyRecord) -> None:
            asked.set()
            assert go_on.wait(240)
            super().follow(record)

    def after(count: int) -> None:
        if count == 4:  # the first of the second super-batch
            assert asked.wait(240)
        elif count == 10:
            go_on.set()

    tracker = Slow()
    assert Case(tmp_path, tracker=tracker, n_trials=32).start(FakeBackend(after_batch=after)) == 0
    counts = [len(finished(record)) for record in tracker.followed]
    assert counts[0] <= 8 and counts == sorted(counts) and len(counts) < 5
    assert len(finished(tracker.ended[0][0])) == 32


def test_a_study_that_breaks_off_is_ended_as_failed(tmp_path):
    tracker = Notes()
    with pytest.raises(Killed):
        Case(tmp_path, tracker=tracker, n_trials=16).start(FakeBackend(raises={11: Killed()}))
    ((_, status),) = tracker.ended
    assert status == 1
