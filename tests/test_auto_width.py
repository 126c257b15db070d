"""`--optuna-study-batch-size auto`: super-batches as wide as the lanes, of which the next is asked while one trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from hyperlax.study import trials as study_trials
from hyperlax.study.database import StudyDatabase
from hyperlax.study.simulated_schedule import schedule_of
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Killed, arguments_of, killing

AUTO: dict[str, Any] = {
    "optuna_study_batch_size": "auto",
    "runner_hparam_batch_size": "auto",
    "sampler": "tpe",
    "n_trials": 18,
}


class Slots(FakeBackend):
    """Closed batches of two slots. In a jumbled order, every other time the one that entered last ends first."""

    def __init__(self, is_jumbled: bool = False, **options: Any):
        super().__init__(lanes=1, **{"slots": 2, **options})
        self.is_jumbled = is_jumbled

    def _run_batch(self) -> Any:
        if self.is_jumbled and self.batches % 2:
            last = max(self.in_lanes)
            self.in_lanes = {last: self.in_lanes[last], **self.in_lanes}
        return super()._run_batch()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("whole"), **AUTO)
    assert case.start(Slots()) == 0
    return case


def test_the_width_is_what_trains_at_once_and_study_json_keeps_it(whole: Case) -> None:
    stored = whole.stored()
    assert (stored["super_batch"], stored["overlaps"]) == (2, True)
    assert stored["arguments"]["optuna_study_batch_size"] == "auto"
    assert "--optuna-study-batch-size auto" in stored["command"]
    assert "optuna_study_batch_size: auto" in (whole.directory / "study.yaml").read_text()
    assert [len(event["trials"]) for event in whole.events()] == [2] * 9
    assert all(event["ended"] is None for event in whole.events())


def test_the_next_trials_are_asked_while_one_trains(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    class Watching(Slots):
        def _run_batch(self) -> Any:
            seen.append({trial.state.name for trial in case.study().trials})
            assert len(self.in_lanes) == 2 or len(case.study().trials) == 8
            return super()._run_batch()

    case = Case(tmp_path, **{**AUTO, "n_trials": 8})
    assert case.start(Watching(is_jumbled=True)) == 0
    assert len(seen) == 8


def test_a_super_batch_knows_the_results_of_all_but_the_one_before_it() -> None:
    manifest: Any = SimpleNamespace(super_batch=2, overlaps=True)
    schedule = schedule_of(arguments_of(Path(), **AUTO), manifest, None)
    assert schedule
    ended, trains = create_trial(value=1.0), create_trial(state=TrialState.RUNNING)
    assert schedule.ended(0, []) == schedule.ended(2, [trains, trains]) == frozenset()
    assert schedule.ended(4, [ended, trains, trains, trains]) is None
    assert schedule.ended(4, [ended, ended, trains, trains]) == {0, 1}
    assert schedule.ended(6, [ended] * 6) == {0, 1, 2, 3}
    assert schedule.ended(4, [trains] * 6) == {0, 1}, "what was asked stays as it was"


def test_neither_speed_nor_slots_nor_interruptions_change_what_is_suggested(tmp_path: Path, whole: Case) -> None:
    jumbled = Case(tmp_path / "jumbled", **AUTO)
    assert jumbled.start(Slots(is_jumbled=True)) == 0
    assert jumbled.told() == whole.told()
    parts = Case(tmp_path / "parts", **AUTO)
    assert parts.start(Slots(), n_trials=5) == 0
    assert parts.resume(Slots(slots=1), n_trials=6) == 0
    assert parts.resume(Slots(slots=5), n_trials=11) == 0
    for at in (12, 14, 16):
        assert parts.resume(Slots(is_jumbled=True, raises={at: KeyboardInterrupt()})) == 130
    assert parts.resume(Slots()) == 0
    assert parts.told() == whole.told()


@pytest.mark.parametrize("at", [1, 7])
@pytest.mark.parametrize(
    ("owner", "name"), [(study_trials, "write_batch"), (StudyDatabase, "insert"), (StudyDatabase, "finish")]
)
def test_a_study_that_dies_anywhere_ends_as_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Case, owner: Any, name: str, at: int
) -> None:
    case = Case(tmp_path, **AUTO)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), at))
        with pytest.raises(Killed):
            case.start(Slots(is_jumbled=True))
    assert case.resume(Slots()) == 0
    assert case.told() == whole.told()


def test_what_was_suggested_stays_when_failed_trials_are_run_again(tmp_path: Path) -> None:
    case = Case(tmp_path, **{**AUTO, "n_trials": 9})
    assert case.start(Slots(fail={2: "diverged", 7: "diverged"})) == 0
    before = [told[2] for told in case.told()]
    assert case.resume(Slots(), retry_failed=True, n_trials=14) == 0
    assert [told[2] for told in case.told()][:9] == before
    assert case.states() == ["COMPLETE"] * 14
    case.lose_database()
    told = len(case.events())
    assert case.repair() == 0 and case.resume(Slots(), n_trials=16) == 0
    assert len(case.states()) == 16 and len(case.events()) > told


def test_every_super_batch_has_its_analysis_in_the_end_and_after_an_interruption(tmp_path: Path) -> None:
    case = Case(tmp_path, **{**AUTO, "n_trials": 12})
    assert case.start(Slots(raises={9: KeyboardInterrupt()})) == 130
    record, directory = case.pages[-1]
    assert directory.parent.name == "optuna_exec_batch_0003" and len(record.trials) == 8
    assert case.resume(Slots()) == 0
    sizes = {directory.parent.name: len(record.trials) for record, directory in case.pages}
    assert sizes == {f"optuna_exec_batch_{number:04d}": 2 * number + 2 for number in range(6)}


@pytest.mark.parametrize(
    ("changes", "slots", "width", "overlaps"),
    [
        ({"sampler": "nsgaii"}, 2, 16, False),
        ({"sampler": "random"}, 2, 16, False),
        ({}, 1, 2, False),
        ({"n_trials": 3}, 8, 3, True),
        ({"pruner": "asha"}, 2, 2, True),
    ],
)
def test_who_does_not_learn_or_breeds_keeps_the_usual_width(
    tmp_path: Path, changes: dict[str, Any], slots: int, width: int, overlaps: bool
) -> None:
    case = Case(tmp_path, **{**AUTO, "n_trials": 4, **changes})
    assert case.start(Slots(slots=slots)) == 0
    stored = case.stored()
    assert (stored["super_batch"], stored["overlaps"]) == (width, overlaps)


def test_a_plan_is_that_of_the_first_super_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(tmp_path, **AUTO)
    assert case.plan(backend=Slots()) == 0
    assert "2 trials" in capsys.readouterr().out
