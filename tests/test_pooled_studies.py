"""Studies that prune: which trials continue follows from numbers and curves alone, and nothing is lost or recorded twice."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from hyperlax.fields import apply
from hyperlax.hyperparams import AlgorithmConfig, of_algorithm
from hyperlax.metrics import ReferenceReturns, compute
from hyperlax.schedulers.base import Shown, Stop
from hyperlax.schedulers.pruning import PruningOptions
from hyperlax.schedulers.registry import PRUNERS
from hyperlax.study import trials as study_trials
from hyperlax.study.batch_files import DamagedBatch
from hyperlax.study.state import StudyState
from hyperlax.trial import MEASURED, Outcome, Trial
from tests.desk import rows
from tests.fake_backend import FakeBackend, curve_of
from tests.study_cases import TWO, Case, Killed, killing

ASHA: dict[str, Any] = {
    "pruner": "asha", "pruner_min_segments": 1, "pruner_reduction_factor": 2, "n_trials": 24, "runner_hparam_batch_size": 3
}  # fmt: skip
REFERENCE = ReferenceReturns(-1200.0, -200.0, "test")


def fates(case: Case, seeds: int = 2) -> list[tuple[str, int]]:
    """State and last segment of every trial, had all been trained whole."""
    shown = {}
    for record in case.pages[-1][0].trials:
        curve = curve_of(Trial(record.number, algorithm(case, record.number)), seeds)
        peaks = []
        for segment in range(1, 6):
            columns: dict[str, Any] = {name: vars(curve)[name][: segment + 1] for name in ("steps", *MEASURED)}
            whole = Outcome(
                Trial(record.number, algorithm(case, record.number)), "COMPLETE", "", replace(curve, **columns), 1, 0.0
            )
            peaks.append([compute(whole, REFERENCE)["peak_performance"]])
        shown[record.number] = Shown(np.array(peaks), False)
    decisions = PRUNERS["asha"](PruningOptions(["maximize"], 1, 5, 1, 2)).decide(shown)
    return [("PRUNED", found.segment) if isinstance(found, Stop) else ("COMPLETE", 5) for found in decisions.values()]


def algorithm(case: Case, number: int) -> AlgorithmConfig:
    return apply(of_algorithm(case.recipe.config.algorithm), case.pages[-1][0].trials[number].params, "test")


def met(case: Case) -> list[tuple[str, int]]:
    return [(trial.state.name, len(trial.intermediate_values)) for trial in case.study().trials]


@pytest.mark.parametrize(("lanes", "slots"), [(1, 1), (3, 1), (3, 2), (8, 1)])
def test_who_is_pruned_does_not_hang_on_the_lanes(tmp_path: Path, lanes: int, slots: int) -> None:
    case = Case(tmp_path, **{**ASHA, "runner_hparam_batch_size": "auto"})
    assert case.start(FakeBackend(lanes=lanes, slots=slots, packing={"slots": slots})) == 0
    assert met(case) == fates(case)
    assert {"PRUNED", "COMPLETE"} == set(case.states())


def test_the_plan_is_told_once_when_training_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hyperlax")
    case = Case(tmp_path, **ASHA, optuna_study_batch_size=8)
    assert case.start(FakeBackend(lanes=3)) == 0
    planned = [message for message in caplog.messages if "->" in message]
    assert planned == ["First super-batch: 8 trials -> 1 program (1 known), 3 batches, if none is pruned."]


def test_pruned_trials_have_their_intermediate_values_and_the_reason(tmp_path: Path) -> None:
    case = Case(tmp_path, **ASHA, aggregate="worst")
    case.start()
    assert [(case.directory / f"optuna_exec_batch_{n:04d}" / "success.txt").exists() for n in range(3)] == [True] * 3
    for trial in case.study().trials:
        batch = case.batch_of(trial.number)
        own = [row for row in rows(batch / "intermediate.csv") if int(row["trial"]) == trial.number]
        assert [float(row["peak_performance"]) for row in own] == list(trial.intermediate_values.values())
        assert (
            list(trial.intermediate_values)
            == [int(row["step"]) for row in own]
            == [100 * n for n in range(1, len(own) + 1)]
        )
        (summary,) = [row for row in rows(batch / "summary.csv") if int(row["trial"]) == trial.number]
        assert summary["state"] == trial.state.name
        if trial.state == optuna.trial.TrialState.PRUNED:
            assert summary["reason"].startswith(f"pruned after segment {len(own)} of 5: ")
            assert trial.values is None
        else:
            assert trial.value == float(own[-1]["peak_performance"])


@pytest.mark.parametrize("sampler", [pytest.param("random", marks=pytest.mark.slow), "tpe"])
def test_an_interrupted_study_ends_as_one_that_was_left_alone(tmp_path: Path, sampler: str) -> None:
    short = {**ASHA, "n_trials": 16, "sampler": sampler}
    whole = Case(tmp_path / "whole", **short)
    assert whole.start() == 0
    for seconds in (0.0, 60.0):
        case = Case(tmp_path / f"parts_{seconds:g}", **short, checkpoint_seconds=seconds)
        assert case.start(stopping_after(2)) == 130
        for _ in range(40):
            if case.resume(stopping_after(4)) == 0:
                break
        assert case.told() == whole.told()
        assert case.states().count("WAITING") == 0


def stopping_after(segments: int) -> FakeBackend:
    """A runner that interrupts the study after so many segments, as Ctrl-C does."""

    def after(count: int) -> None:
        if count == segments:
            signal.raise_signal(signal.SIGINT)

    return FakeBackend(after_segment=after)


def test_a_study_that_dies_at_any_write_ends_as_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**ASHA, "n_trials": 16, "sampler": "tpe"}
    whole = Case(tmp_path / "whole", **short)
    whole.start()
    for place, (owner, function, at) in enumerate(
        [(study_trials, "write_batch", 0), (study_trials, "write_batch", 4), (StudyState, "record", 2)]
    ):
        case = Case(tmp_path / str(place), **short, checkpoint_seconds=0.0)
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, killing(getattr(owner, function), at))
            with pytest.raises(Killed):
                case.start()
        assert case.resume() == 0
        assert case.told() == whole.told()


def test_several_objectives_prune_by_rank_and_crowding(tmp_path: Path) -> None:
    arguments = {**ASHA, **TWO, "sampler": "nsgaii"}
    case = Case(tmp_path, **arguments)
    assert case.start() == 0
    states = case.states()
    assert states.count("PRUNED") >= 8 and states.count("COMPLETE") >= 2
    for trial in case.study().trials:
        assert len(trial.user_attrs["intermediate"]) == len(trial.intermediate_values)
    again = Case(tmp_path / "again", **arguments, checkpoint_seconds=0.0)
    assert again.start(stopping_after(3)) == 130
    assert again.resume() == 0
    assert again.told() == case.told()


def test_a_failing_trial_is_one_failing_trial(tmp_path: Path) -> None:
    case, whole = Case(tmp_path / "some", **ASHA), Case(tmp_path / "none", **ASHA)
    whole.start()
    assert case.start(FakeBackend(fail={0: "nan"}, raises={9: ValueError("nine")})) == 0
    failed = {t.number: t.user_attrs["reason"] for t in case.study().trials if t.state.name == "FAIL"}
    assert failed.keys() == {0, 9}
    assert "not finite" in failed[0] and failed[9].startswith("ValueError: nine")
    assert [t[2] for t in case.told()] == [t[2] for t in whole.told()]


def test_seeds_race(tmp_path: Path) -> None:
    racing = {**ASHA, "pruner": "none", "seed_schedule": "racing", "num_seeds": 3}
    case = Case(tmp_path, **racing)
    assert case.start(FakeBackend()) == 0
    lasted = [length for _, length in met(case)]
    assert set(lasted) == {5, 10, 15}
    assert [state for state, _ in met(case)] == ["COMPLETE" if length == 15 else "PRUNED" for length in lasted]
    for trial in case.study().trials:
        curve = [
            r
            for r in rows(case.directory / trial.user_attrs["batch"] / "curves.csv")
            if int(r["trial"]) == trial.number
        ]
        assert {int(row["seed"]) for row in curve} == set(range(lasted[trial.number] // 5))
    again = Case(tmp_path / "again", **racing, checkpoint_seconds=0.0)
    assert again.start(stopping_after(8)) == 130
    assert again.resume(FakeBackend()) == 0
    assert again.told() == case.told()


def test_lanes_stay_full_until_the_queue_is_empty(tmp_path: Path) -> None:
    case = Case(tmp_path, **{**ASHA, "runner_hparam_batch_size": 4, "n_trials": 24})
    case.start(FakeBackend(lanes=4))
    paths = case.directory.glob("optuna_exec_batch_*/samples/*/timing.json")
    timings = [json.loads(path.read_text()) for path in paths]
    assert all(0 < timing["useful_share"] <= 1 for timing in timings)
    lasted, segments = sum(length for _, length in met(case)), sum(timing["lane_segments"] for timing in timings)
    assert sum(timing["useful_lane_segments"] for timing in timings) == lasted
    assert lasted <= segments <= lasted + 4 * 5


@pytest.mark.parametrize("sampler", [pytest.param("random", marks=pytest.mark.slow), "nsgaii"])
def test_more_trials_follow_whatever_was_changed_of_the_earlier_ones(tmp_path: Path, sampler: str) -> None:
    """Other lanes, trials run again and trials invalidated: what was asked from then on disk holds, and a repair finds it."""
    case = Case(tmp_path, **{**ASHA, "sampler": sampler, "n_trials": 16})
    assert case.start(FakeBackend(fail={0: "nan"}, raises={3: ValueError("three")}), max_failure_rate=1.0) == 0
    assert case.resume(FakeBackend(lanes=6), runner_hparam_batch_size=6, n_trials=17) == 0
    assert case.resume(retry_failed=True, n_trials=17) == 0
    complete = [number for number, state in enumerate(case.states()) if state == "COMPLETE"]
    case.invalidate(*complete[:2])
    assert case.resume(n_trials=32) == 0
    before = case.told()
    for lose in ((case.directory / "optuna_study.db").unlink, case.lose_database):
        lose()
        assert case.repair() == 0
        assert case.told() == before


def test_a_study_is_not_overrun_where_it_shall_end_earlier(tmp_path: Path) -> None:
    case = Case(tmp_path, **ASHA, checkpoint_seconds=0.0)
    assert case.start(stopping_after(4)) == 130
    finished = sum(state in ("COMPLETE", "PRUNED") for state in case.states())
    assert case.resume(n_trials=finished + 2) == 0
    assert sum(state in ("COMPLETE", "PRUNED") for state in case.states()) == finished + 2


@pytest.mark.parametrize(
    ("pattern", "by"),
    [(r"(?m)^(\d+),1,(\d),.*$", r"\1,1,\2,100,nan"), (r"(?s)\n.*", "\n"), (r"\d+,1,", "999,1,"), (r"[^\n]*\n$", "")],
    ids=["nan", "header only", "another trial", "a row less"],
)
def test_damaged_intermediate_values_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, by: str
) -> None:
    case = Case(tmp_path, **ASHA)
    with monkeypatch.context() as patch:
        patch.setattr(StudyState, "record", killing(StudyState.record, 2))
        with pytest.raises(Killed):
            case.start()
    path = max(case.directory.glob("optuna_exec_batch_*/samples/*/intermediate.csv"))
    path.write_text(re.sub(pattern, by, path.read_text().replace("\r\n", "\n"), count=1))
    with pytest.raises(DamagedBatch, match="intermediate.csv"):
        case.resume()
