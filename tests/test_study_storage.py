"""The study in SQLite: what is written in bulk is what Optuna would have written, and reads."""

import math
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hyperlax.samplers.base import AskedTrial
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.space import UniformContinuous
from hyperlax.study import database
from hyperlax.study.database import StudyDatabase
from hyperlax.study.database_rows import read_rows
from hyperlax.study.importances import importances
from hyperlax.study.observer import Observer
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES
from hyperlax.trial import TrialResult
from tests.study_cases import MIXED, Case

OBJECTIVES = {"peak_performance": "maximize", "num_parameters": "minimize"}
BOTH = {"peak_performance": math.pi, "num_parameters": 5.0}
UNIT = {"x": UniformContinuous(domain=(0.0, 1.0)), "y": UniformContinuous(domain=(0.0, 1.0))}


@pytest.fixture
def storage(tmp_path):
    with closing(StudyDatabase(tmp_path / "study.db", "s", OBJECTIVES)) as opened:
        yield opened


def plain(path):
    """The trials as plain Optuna reads them from a file."""
    return optuna.load_study(study_name="s", storage=f"sqlite:///{path}").trials


def drawn(number):
    """Parameters of a mixed space."""
    space = SearchSpace(MIXED)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return study.ask(space.optuna).params


def test_what_is_written_in_bulk_is_what_optuna_would_have_written(tmp_path, storage):
    space, reason = SearchSpace(MIXED), 'ünïcode \n "'
    entries = [AskedTrial(drawn(number), {"exec_batch": number}, {"key": [number, None]}) for number in range(3)]
    storage.insert(entries, space.optuna)
    assert [trial.state for trial in storage.trials()] == [TrialState.WAITING] * 3
    storage.start([0, 1, 2])
    storage.finish([TrialResult(1, "FAIL", reason, {}), TrialResult(0, "COMPLETE", "", {**BOTH, "n": 1 / 3})], "b/0")
    theirs = optuna.create_study(
        study_name="s", storage=f"sqlite:///{tmp_path / 'theirs.db'}", directions=["maximize", "minimize"]
    )
    for number, (state, values, own) in enumerate(
        [
            (TrialState.COMPLETE, [math.pi, 5], {**BOTH, "n": 1 / 3, "batch": "b/0"}),
            (TrialState.FAIL, None, {"reason": reason, "batch": "b/0"}),
            (TrialState.RUNNING, None, {}),
        ]
    ):
        entry = entries[number]
        theirs.add_trial(
            create_trial(
                state=state,
                values=values,
                params=dict(entry.params),
                distributions=dict(space.optuna),
                user_attrs={**entry.user_attrs, **own},
                system_attrs={**entry.system_attrs, "hyperlax:number": number},
            )
        )
    for ours, written in zip(plain(tmp_path / "study.db"), theirs.trials, strict=True):
        for name in ("number", "state", "params", "distributions", "values", "user_attrs", "system_attrs"):
            assert getattr(ours, name) == getattr(written, name), name
        assert ours.datetime_start is not None
        assert (ours.datetime_complete is not None) == ours.state.is_finished()


def test_what_optuna_reads_while_it_is_written_is_up_to_date(storage):
    storage.insert([AskedTrial({"x": 0.5, "y": 0.25}, {}, {})], SearchSpace(UNIT).optuna)
    seen = [storage.trials()[0].state.name]
    for change in (lambda: storage.start([0]), lambda: storage.requeue([0]), lambda: storage.start([0])):
        change()
        seen.append(storage.trials()[0].state.name)
    storage.finish([TrialResult(0, "COMPLETE", "", BOTH)], "b/0")
    assert [*seen, storage.trials()[0].state.name] == ["WAITING", "RUNNING", "WAITING", "RUNNING", "COMPLETE"]
    assert storage.trials()[0].values == [math.pi, 5] and storage.trials()[0].user_attrs == {**BOTH, "batch": "b/0"}


def test_a_finished_trial_is_never_set_back(storage):
    storage.insert([AskedTrial({"x": 0.5, "y": 0.25}, {}, {})], SearchSpace(UNIT).optuna)
    storage.finish([TrialResult(0, "FAIL", "", {})], "b/0")
    storage.requeue([0])
    storage.start([0])
    assert storage.trials()[0].state == TrialState.FAIL


def test_endings_are_told_all_or_none(storage):
    storage.insert([AskedTrial({"x": 0.5, "y": 0.25}, {}, {})] * 2, SearchSpace(UNIT).optuna)
    with pytest.raises(ValueError, match="not enough values"):
        storage.finish([TrialResult(0, "FAIL", "nan", {}), TrialResult(9, "FAIL", "", {})], "b/0")
    assert [(trial.state.name, trial.user_attrs) for trial in storage.trials()] == [("WAITING", {})] * 2


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_never_reaches_optuna(storage, value):
    storage.insert([AskedTrial({"x": 0.5, "y": 0.5}, {}, {})], SearchSpace(UNIT).optuna)
    storage.start([0])
    with pytest.raises(ValueError, match="finite"):
        storage.finish([TrialResult(0, "COMPLETE", "", {**BOTH, "num_parameters": value})], "b/0")
    assert storage.trials()[0].state == TrialState.RUNNING


def test_importances_find_the_parameter_that_matters(storage):
    space = SearchSpace(UNIT)
    numbers = [(number * 0.618) % 1 for number in range(FEWEST_FOR_IMPORTANCES)]
    storage.insert([AskedTrial({"x": x, "y": (x * 7.3) % 1}, {}, {}) for x in numbers], space.optuna)
    metrics = [{"peak_performance": x, "num_parameters": 7.0} for x in numbers]
    storage.finish([TrialResult(number, "COMPLETE", "", own) for number, own in enumerate(metrics)], "b/0")
    found = importances(storage.trials(), OBJECTIVES)
    assert list(found) == ["peak_performance"]
    assert list(found["peak_performance"]) == ["x", "y"] and sum(found["peak_performance"].values()) == pytest.approx(1)
    assert importances(storage.trials()[:-1], OBJECTIVES) == {}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_importances_are_those_of_optuna(direction):
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=5))

    def objective(trial: optuna.Trial) -> float:
        rate, size = trial.suggest_float("rate", 1e-5, 0.1, log=True), trial.suggest_int("size", 4, 4096, log=True)
        share, kind = trial.suggest_float("share", 0, 1, step=0.125), trial.suggest_categorical("kind", ["a", "b", "c"])
        epochs, _ = trial.suggest_int("epochs", 1, 16), trial.suggest_int("fixed", 3, 3)
        return round(
            (math.log10(rate) + 3) ** 2 + share * trial.suggest_float("gamma", 0.9, 1) + (kind == "a") + epochs / size,
            1,
        )

    study.optimize(objective, n_trials=75)
    ours = importances(study.trials, {"value": direction})["value"]
    assert ours == pytest.approx(optuna.importance.get_param_importances(study), abs=1e-12)
    assert list(ours.values()) == sorted(ours.values(), reverse=True)


class Noon(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz=None):
        return datetime(2026, 1, 2, 12, tzinfo=UTC).astimezone(tz)


def test_times_are_those_of_the_clock_in_any_zone(tmp_path, storage, monkeypatch):
    monkeypatch.setattr(database, "datetime", Noon)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        storage.insert([AskedTrial({"x": 0.5, "y": 0.25}, {}, {})], SearchSpace(UNIT).optuna)
        storage.start([0])
        storage.finish([TrialResult(0, "FAIL", "", {})], "b/0")
        (trial,) = plain(tmp_path / "study.db")
        assert trial.datetime_start is not None and trial.datetime_complete is not None
        for told in (trial.datetime_start, trial.datetime_complete):
            assert told.replace(tzinfo=None) == datetime(2026, 1, 2, 21)
    finally:
        monkeypatch.undo()
        time.tzset()


class Work(Observer):
    """The work of each super-batch on the thread of the loop: calls of Python functions, and trials read from the database."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[int] = []
        self.reads: list[int] = []
        self._calls = self._reads = 0
        patch.setattr(database, "read_rows", self._read)

    def study_started(self, snapshot: Any) -> None:
        sys.setprofile(self._profile)

    def super_batch_ended(self, record: Any, directory: Any) -> None:
        self.calls.append(self._calls)
        self.reads.append(self._reads)
        self._calls = self._reads = 0

    def close(self) -> None:
        sys.setprofile(None)

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        self._calls += event == "call"

    def _read(self, *of: Any) -> list[FrozenTrial]:
        trials = read_rows(*of)
        self._reads += len(trials)
        return trials


def test_a_super_batch_takes_as_much_work_late_as_early(tmp_path, monkeypatch):
    work = Work(monkeypatch)
    case = Case(tmp_path, observers=[work], sampler="random", optuna_study_batch_size=4)
    assert case.start(n_trials=100) == 0
    early, late = slice(2, 7), slice(18, 23)
    assert set(work.reads[late]) == set(work.reads[early])
    assert min(work.calls[late]) - min(work.calls[early]) < 32, "less than half a call for each of 64 more trials"
