"""What a study leaves behind where it was cut off, and what the next start makes of it: saved batches, and trials that ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hyperlax.backends.base import Evicted
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.study import trials as study_trials
from hyperlax.trial import Plan, SegmentResult, Trial
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Killed, killing


def saved(case: Case) -> list[tuple[int, ...]]:
    """The trials of every batch that lies in the study's `checkpoints/`."""
    return [head.trials for head in CheckpointManager(case.directory / "checkpoints", 60).batches()]


def test_a_batch_that_is_finished_is_saved_no_more(tmp_path: Path) -> None:
    case = Case(tmp_path, n_trials=6)
    seen: list[list[tuple[int, ...]]] = []
    assert case.start(FakeBackend(saves=True, after_batch=lambda count: seen.append(saved(case)))) == 0
    assert seen == [[(0, 1, 2)], [(3, 4, 5)]]
    assert not (case.directory / "checkpoints").exists()


def test_what_was_saved_of_a_batch_that_broke_is_gone_before_its_halves_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: clock["now"])

    class Slow(FakeBackend):
        def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
            clock["now"] += 10
            return super().advance()

    case = Case(tmp_path)
    assert case.start(Slow(saves=True, raises={1: MemoryError("full")}), timeout=5.0) == 0
    assert case.states() == ["WAITING"] * 8 and saved(case) == []
    assert "Out of time with 12 trials to go. To resume:" in capsys.readouterr().out


def test_a_batch_that_was_told_when_its_study_died_is_forgotten_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case, after_the_first_batch = Case(tmp_path), 1
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "forget", killing(CheckpointManager.forget, after_the_first_batch))
        with pytest.raises(Killed):
            case.start(FakeBackend(saves=True))
    assert case.states()[:3] == ["COMPLETE"] * 3 and saved(case) == [(0, 1, 2)]
    assert case.resume(timeout=1e-9) == 0
    assert saved(case) == []
    assert "Out of time with 9 trials to go. To resume:" in capsys.readouterr().out


@pytest.mark.parametrize(("lanes", "left"), [(2, []), (3, [(3, 4, 5)])])
def test_what_was_saved_in_another_composition_is_gone_when_its_trials_restart_and_else_is_there(
    tmp_path: Path, lanes: int, left: list[tuple[int, ...]]
) -> None:
    case, stop = Case(tmp_path), KeyboardInterrupt()
    assert case.start(FakeBackend(saves=True, slots=2, raises={0: stop, 3: stop})) == 130
    assert saved(case) == [(0, 1, 2), (3, 4, 5)]
    assert case.resume(FakeBackend(lanes=lanes, raises={lanes: stop})) == 130
    assert case.states()[: 2 * lanes] == ["COMPLETE"] * lanes + ["WAITING"] * lanes
    assert saved(case) == left


def test_a_plan_knows_what_is_saved(tmp_path: Path) -> None:
    planned: list[list[tuple[int, ...]]] = []

    class Planner(FakeBackend):
        def plan(self, trials: Sequence[Trial]) -> Plan:
            assert self.checkpoints is not None
            planned.append([metadata.trials for metadata in self.checkpoints.batches()])
            return super().plan(trials)

    case = Case(tmp_path)
    assert case.start(FakeBackend(saves=True, raises={0: KeyboardInterrupt()})) == 130
    assert case.plan(resume=True, backend=Planner()) == 0
    assert planned == [saved(case)] == [[(0, 1, 2)]]


def test_what_ran_when_a_study_died_waits_again_though_nothing_is_run_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(study_trials, "write_batch", killing(study_trials.write_batch, 1))
        with pytest.raises(Killed):
            case.start()
    assert case.states() == ["COMPLETE"] * 3 + ["RUNNING"] * 3 + ["WAITING"] * 2
    assert case.resume(timeout=1e-9) == 0
    assert case.states() == ["COMPLETE"] * 3 + ["WAITING"] * 5
