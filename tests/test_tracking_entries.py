"""What a tracker writes of a study, without MLflow: parameters, curves, marks, and what stands on the study itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis.study_data import read_curves
from hyperlax.tracking import entries
from hyperlax.tracking.entries import artifacts, mark_of, standing, study_params, trial_entry, with_curves
from tests.made_up_studies import study
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(120)


def test_a_trial_has_its_hyperparameters_metrics_and_curve(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0, 4.0], failed={1})
    curve = read_curves([record.trials[2]])[2]
    entry = trial_entry(record, record.trials[2], curve)
    assert entry.status == "FINISHED" and entry.number == 2
    assert entry.params["algorithm.hyperparam.gamma"] == repr(record.trials[2].params["algorithm.hyperparam.gamma"])
    assert json.loads(entry.params["algorithm.network.actor_network.pre_torso.layer_sizes"])[0] in (64, 256, 512)
    shown = {
        name: [(p.step, p.value) for p in entry.points if p.name == name] for name in ("return_mean", "return_max")
    }
    assert shown["return_mean"] == [(int(s), float(v)) for s, v in zip(curve.steps, curve.returns.mean(1), strict=True)]
    assert shown["return_max"] == [(int(s), float(v)) for s, v in zip(curve.steps, curve.returns.max(1), strict=True)]
    assert [p.value for p in entry.points if p.name == "peak_performance"] == [20.0]
    failed = trial_entry(record, record.trials[1], None)
    assert failed.status == "FAILED" and failed.tags["hyperlax.reason"] == "loss is nan at step 3200"
    assert failed.points == []


def test_what_is_not_finite_is_no_point(tmp_path):
    record = study(tmp_path, [3.0])
    curve = read_curves(record.trials)[0]
    curve.returns[2:] = np.inf
    steps = [point.step for point in trial_entry(record, record.trials[0], curve).points if point.name == "return_mean"]
    assert steps == [0, 2000]


def test_a_curve_that_cannot_be_read_leaves_its_mates_theirs(tmp_path):
    record = study(tmp_path, [float(value) for value in range(8)])
    first, second = (str(record.trials[number].batch_directory) for number in (0, 4))
    batch = Path(first, "curves.csv")
    lines = batch.read_text().splitlines()
    batch.write_text("\n".join(line for line in lines if not line.startswith("1,")) + "\n")
    Path(second, "curves.csv").unlink()
    found = {trial.number: curve is not None for trial, curve in with_curves(record.trials)}
    assert found == {0: True, 1: False, 2: True, 3: True, 4: False, 5: False, 6: False, 7: False}


def test_a_mark_changes_when_a_trial_ends_otherwise(tmp_path):
    record = study(tmp_path, [3.0, 1.0])
    marks = [mark_of(record, trial) for trial in record.trials]
    assert marks[0] == {"hyperlax.state": "COMPLETE", "hyperlax.batch": "optuna_exec_batch_0000/samples/batch_00000"}
    taken_out = replace(record.trials[0], state="FAIL", reason="invalidated", values={})
    assert mark_of(record, taken_out) != marks[0]
    long = replace(taken_out, reason="x" * 20_000)
    assert all(len(value) <= entries.LONGEST_TAG for value in mark_of(record, long).values())


def test_the_best_stands_on_the_study(tmp_path):
    record = study(tmp_path, [3.0, 1.0, 20.0, 4.0], failed={1})
    now = standing(replace(record, arguments={**record.arguments, "n_trials": 6}))
    assert now.tags["best_trial"] == "2" and now.tags["hyperlax.trials"] == "4/6 trials (1 failed)"
    assert now.tags["best.algorithm.hyperparam.gamma"] == repr(record.trials[2].params["algorithm.hyperparam.gamma"])
    assert [(point.name, point.value, point.step) for point in now.points] == [("best_peak_performance", 20.0, 4)]


def test_of_several_objectives_the_front_stands_there(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    record = study(tmp_path, [[3.0, 10.0], [1.0, 20.0], [20.0, 30.0]], objectives)
    now = standing(replace(record, arguments={**record.arguments, "n_trials": 3}))
    assert now.tags["pareto_front"] == "0, 2" and not any(name.startswith("best") for name in now.tags)
    assert {point.name: point.value for point in now.points} == {
        "best_peak_performance": 20.0,
        "best_num_parameters": 10.0,
    }


def test_parameters_of_a_study_are_what_cannot_change(tmp_path):
    case = Case(tmp_path, n_trials=8)
    assert case.start() == 0
    params = study_params(case.pages[-1][0])
    assert params["sampler"] == "random" and params["objective_names"] == '["peak_performance"]'
    assert not {"n_trials", "timeout", "log_level", "constraints", "enqueue"} & params.keys()


def test_artifacts_are_the_pages_that_there_are(tmp_path):
    assert artifacts(tmp_path) == []
    (tmp_path / "analysis_plots").mkdir()
    for name in ("report.html", "study.json", "optuna_study.db", "analysis_plots/slice.html", "analysis_plots/.x.tmp"):
        (tmp_path / name).write_text("")
    assert artifacts(tmp_path) == [
        (tmp_path / "report.html", None),
        (tmp_path / "study.json", None),
        (tmp_path / "analysis_plots" / "slice.html", "analysis_plots"),
    ]


def test_the_chunks_are_the_whole():
    assert [list(chunk) for chunk in entries.in_chunks(list(range(7)), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(entries.in_chunks([], 3)) == []
