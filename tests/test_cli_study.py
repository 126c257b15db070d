"""The main job as a user runs it: real training in a process of its own, and every file read back and cross-checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hyperlax.envs.catalog import CATALOG
from hyperlax.fields import dotted
from hyperlax.hyperparams import PPO
from hyperlax.metrics import METRICS, compute
from hyperlax.recipe import load
from hyperlax.trial import Outcome, Trial
from tests.desk import (
    BUDGET,
    ENVIRONMENTS,
    EVALUATIONS,
    OBJECTIVES,
    SEEDS,
    TRIALS,
    batches,
    curve,
    finished_study,
    optuna_trials,
    rows,
    summaries,
)

pytestmark = pytest.mark.timeout(900)

TIMING = {
    "programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps",
    "steps_per_second", "peak_memory_bytes", "lanes", "useful_lane_segments", "predicted_seconds",
}  # fmt: skip
PLOTS = {
    "optimization_history", "param_importances", "param_distributions",
    "parallel_coordinate", "slice", "contour", "timeline", "learning_curves",
}  # fmt: skip


@pytest.fixture(
    scope="module", params=["dqn_mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sac_mlp", "ppo_mlp"))]
)
def finished(request, desk) -> tuple[str, Path]:
    """A recipe, and the directory of its finished study."""
    return request.param, finished_study(desk, request.param)


def test_a_study_leaves_every_file_that_is_promised(finished):
    recipe, directory = finished
    several = len(OBJECTIVES[recipe]) > 1
    best = "pareto_front_params.json" if several else "best_optuna_params.json"
    plots = PLOTS | ({"pareto_front", "hypervolume_history"} if several else set())
    assert len(batches(directory)) == 2
    for batch in batches(directory):
        assert {path.name for path in batch.iterdir()} == {
            "hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "timeline.csv", "intermediate.csv", "success.txt",
        }  # fmt: skip
    assert {path.stem for path in (directory / "analysis_plots").glob("*.html")} == plots
    for name in ("study.json", "trials.csv", "report.html", best):
        assert (directory / name).stat().st_size > 0
    assert (directory / "optuna_exec_batch_0000" / "analysis" / best).read_text().count('"trial"') >= 1
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", _references(directory / "report.html"))


def _references(page: Path) -> str:
    """What a page would load from elsewhere."""
    return " ".join(re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[^>]*>", page.read_text(encoding="utf-8")))


def test_sqlite_summary_and_curves_tell_the_same_values(finished):
    recipe, directory = finished
    reference = CATALOG[ENVIRONMENTS[recipe]].reference
    told = {trial.number: trial for trial in optuna_trials(directory)}
    assert sorted(told) == sorted(summaries(directory)) == list(range(TRIALS))
    for batch in batches(directory):
        table = rows(batch / "curves.csv")
        for row in rows(batch / "summary.csv"):
            number = int(row["trial"])
            known = (int(float(row["num_parameters"])), float(row["train_seconds"]))
            computed = compute(Outcome(Trial(number, PPO()), "COMPLETE", "", curve(number, table), *known), reference)
            written = {name: float(row[name]) for name in METRICS}
            trial = told[number]
            assert computed == written == {name: trial.user_attrs[name] for name in METRICS}
            assert trial.state.name == row["state"] == "COMPLETE"
            assert trial.values == [written[name] for name in OBJECTIVES[recipe]]


def test_curves_have_a_point_before_training_and_one_per_evaluation(finished):
    _, directory = finished
    for batch in batches(directory):
        table = rows(batch / "curves.csv")
        assert list(table[0]) == ["trial", "seed", "step", "mean", "std", "min", "max", "length", "episodes"]
        assert {row["episodes"] for row in table} == {"2"}
        for row in rows(batch / "summary.csv"):
            steps = curve(int(row["trial"]), table).steps
            assert len(steps) == 1 + EVALUATIONS and steps[0] == 0 and steps[-1] == int(row["steps"]) >= BUDGET


def test_hyperparams_csv_holds_every_field_with_the_value_that_was_asked(finished, desk, monkeypatch):
    recipe, directory = finished
    monkeypatch.chdir(desk)
    loaded = load(recipe)
    fixed = dotted(loaded.config.algorithm)
    asked = {int(row["trial"]): row for row in rows(directory / "trials.csv")}
    for batch in batches(directory):
        for row in rows(batch / "hyperparams.csv"):
            assert list(row) == ["trial", *fixed]
            for name, value in fixed.items():
                if name in loaded.space:
                    assert row[name] == asked[int(row["trial"])][name]
                else:
                    assert row[name] == (json.dumps(value) if isinstance(value, list) else str(value))


def test_trials_csv_is_the_whole_study(finished):
    recipe, directory = finished
    table = {int(row["trial"]): row for row in rows(directory / "trials.csv")}
    for trial in optuna_trials(directory):
        row = table.pop(trial.number)
        assert [float(row[f"objective.{name}"]) for name in OBJECTIVES[recipe]] == trial.values
        assert all(row[name] == summaries(directory)[trial.number][name] for name in METRICS)
    assert not table


def test_timing_json_has_its_keys_and_counts_what_ran(finished):
    _, directory = finished
    timings = [json.loads((batch / "timing.json").read_text()) for batch in batches(directory)]
    for timing in timings:
        assert set(timing) >= TIMING
        assert timing["lanes"] == 2 and timing["steps"] >= 2 * SEEDS * BUDGET and timing["useful_lane_segments"] == 4
    compiled = sorted(timing["compile_seconds"] for timing in timings)
    assert compiled[0] == 0 < compiled[1], "both batches share one program"


def test_the_best_file_is_the_best_of_the_study(finished):
    recipe, directory = finished
    objectives = OBJECTIVES[recipe]
    values = {trial.number: trial.values for trial in optuna_trials(directory)}
    if len(objectives) == 1:
        entries = [json.loads((directory / "best_optuna_params.json").read_text())]
        assert entries[0]["values"] == {next(iter(objectives)): max(value for (value,) in values.values())}
    else:
        entries = json.loads((directory / "pareto_front_params.json").read_text())
        losses = {number: (-value[0], value[1]) for number, value in values.items()}
        front = [
            number
            for number, own in losses.items()
            if not any(o != own and o[0] <= own[0] and o[1] <= own[1] for o in losses.values())
        ]
        assert [entry["trial"] for entry in entries] == front
    for entry in entries:
        assert set(entry) == {"trial", "values", "params", "metrics", "command"}
        assert entry["metrics"] == {name: float(summaries(directory)[entry["trial"]][name]) for name in METRICS}
        sizes = [value for name, value in entry["params"].items() if name.endswith("layer_sizes")]
        assert sizes and all(isinstance(value, list) for value in sizes)
