"""Studies in a real MLflow with an SQLite store: its content, and its content after a study has continued."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.analysis.study_data import read_curves
from hyperlax.cli import main
from hyperlax.study.directory import TRACKING
from hyperlax.tracking.background import Writer
from tests.fake_backend import FakeBackend
from tests.made_up_studies import study
from tests.mlflow_store import Seen, tracked, tracker, with_trials
from tests.study_cases import Case

pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')

SIZES = "algorithm.network.actor_network.pre_torso.layer_sizes"


def test_a_study_is_a_run_and_its_trials_are_runs_under_it(store, tmp_path):
    case = tracked(store, "whole", tmp_path, write_pages=write_pages)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    seen, trials = Seen(store, "whole"), case.study().trials
    assert seen.parent.info.status == "FINISHED" and seen.parent.info.run_name == "test_study"
    assert seen.numbers == list(range(12))
    for trial in trials:
        run = seen.trials[trial.number]
        assert run.info.status == ("FAILED" if trial.number == 5 else "FINISHED")
        assert run.info.run_name == f"trial {trial.number}"
        assert run.data.tags["hyperlax.state"] == trial.state.name
        assert run.data.params["algorithm.hyperparam.gamma"] == repr(trial.params["algorithm.hyperparam.gamma"])
        assert run.data.params[SIZES] == trial.params[SIZES]
        if trial.values:
            assert run.data.metrics["peak_performance"] == trial.values[0]
            assert run.data.metrics["num_parameters"] == trial.user_attrs["num_parameters"]
    assert seen.trials[5].data.tags["hyperlax.reason"] == trials[5].user_attrs["reason"]
    best, parent = case.study().best_trial, seen.parent.data
    assert parent.tags["best_trial"] == str(best.number)
    assert parent.tags["best.algorithm.hyperparam.gamma"] == repr(best.params["algorithm.hyperparam.gamma"])
    assert parent.metrics["best_peak_performance"] == best.value
    assert parent.params["sampler"] == "random" and parent.params["objective_names"] == '["peak_performance"]'
    assert not {"n_trials", "timeout", "log_level", "constraints", "enqueue"} & parent.params.keys(), (
        "a resume changes them"
    )
    assert [step for step, _ in seen.points(seen.parent, "best_peak_performance")][-1] == 12
    files = {file.path for file in seen.client.list_artifacts(seen.parent.info.run_id)}
    assert files == {"report.html", "trials.csv", "study.json", "best_optuna_params.json", "analysis_plots"}
    plots = {file.path for file in seen.client.list_artifacts(seen.parent.info.run_id, "analysis_plots")}
    assert {"analysis_plots/learning_curves.html", "analysis_plots/plotly.min.js"} <= plots
    report = seen.client.download_artifacts(seen.parent.info.run_id, "report.html", str(tmp_path))
    assert Path(report).read_bytes() == (case.directory / "report.html").read_bytes()


def test_a_learning_curve_is_that_of_the_files_and_a_batch_has_its_times(store, tmp_path):
    case = tracked(store, "curves", tmp_path, n_trials=4)
    assert case.start() == 0
    seen = Seen(store, "curves")
    record, _ = case.pages[-1]
    for trial in record.trials:
        run, curve = seen.trials[trial.number], read_curves([trial])[trial.number]
        shown = sorted(seen.points(run, "return_mean"))
        assert shown == [(int(s), float(v)) for s, v in zip(curve.steps, curve.returns.mean(axis=1), strict=True)]
        lowest = sorted(seen.points(run, "return_min"))
        assert lowest == [(int(s), float(v)) for s, v in zip(curve.steps, curve.returns.min(axis=1), strict=True)]
        assert trial.batch_directory is not None
        assert run.data.tags["hyperlax.batch"] == str(trial.batch_directory.relative_to(case.directory))
        assert run.info.end_time == int((trial.batch_directory / "success.txt").stat().st_mtime * 1000)


def test_a_study_that_goes_on_keeps_its_run(store, tmp_path):
    case = tracked(store, "resumed", tmp_path, n_trials=8, optuna_study_batch_size=4)
    assert case.start(FakeBackend(raises={7: KeyboardInterrupt()})) == 130
    before = Seen(store, "resumed")
    assert before.parent.info.status == "KILLED" and 4 < len(before.numbers) < 8
    case.tracker = tracker(store, "resumed", case.directory)
    assert case.resume() == 0
    after = Seen(store, "resumed")
    assert after.parent.info.run_id == before.parent.info.run_id and after.parent.info.status == "FINISHED"
    assert after.numbers == list(range(8))
    assert all(after.trials[n].info.run_id == before.trials[n].info.run_id for n in before.numbers)
    assert all(before.told()[n] == after.told()[n] for n in before.numbers)
    case.tracker = tracker(store, "resumed", case.directory)
    assert case.resume() == 0
    assert Seen(store, "resumed").told() == after.told()


def test_a_study_that_was_not_tracked_can_be_from_then_on(store, tmp_path):
    case = Case(tmp_path, n_trials=12)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    assert not (case.directory / TRACKING).exists()
    case.tracker = tracker(store, "late", case.directory)
    runner = FakeBackend()
    assert case.resume(runner) == 0 and runner.trained == []
    assert Seen(store, "late").numbers == list(range(12))
    case.tracker = None
    assert case.resume(n_trials=14) == 0
    assert Seen(store, "late").numbers == list(range(12))
    case.tracker = tracker(store, "late", case.directory)
    assert case.resume(n_trials=16) == 0
    assert Seen(store, "late").numbers == list(range(16)) and len(Seen(store, "late").parents) == 1


def test_a_trial_that_ends_otherwise_has_a_new_run(store, tmp_path):
    case = tracked(store, "amended", tmp_path, n_trials=8)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    before, best = Seen(store, "amended"), case.study().best_trial.number
    assert case.invalidate(best, reason="reward was wrong") == 0
    case.tracker = tracker(store, "amended", case.directory)
    assert case.resume(retry_failed=True) == 0
    after = Seen(store, "amended")
    assert after.numbers == list(range(8))
    changed = {n for n in range(8) if after.trials[n].info.run_id != before.trials[n].info.run_id}
    assert changed == {5, best}
    assert (after.trials[5].info.status, after.trials[best].info.status) == ("FINISHED", "FAILED")
    assert after.trials[best].data.tags["hyperlax.reason"] == "invalidated: reward was wrong"
    assert after.parent.data.tags["best_trial"] == str(case.study().best_trial.number)


def test_what_is_the_best_no_more_leaves_no_tag(store, tmp_path):
    case = tracked(store, "nothing left", tmp_path, n_trials=2)
    assert case.start() == 0
    assert "best.algorithm.hyperparam.gamma" in Seen(store, "nothing left").parent.data.tags
    assert case.invalidate(0, 1) == 0
    case.tracker = tracker(store, "nothing left", case.directory)
    case.resume()
    assert not [name for name in Seen(store, "nothing left").parent.data.tags if name.startswith("best")]


def test_more_than_one_call_can_hold_is_several_calls(store, tmp_path):
    record = with_trials(study(tmp_path, [3.0]))
    trial = record.trials[0]
    many = {f"algorithm.hyperparam.x{number}": float(number) for number in range(250)}
    long = replace(trial, params={**many, "text": "x" * 20_000}, reason="y" * 20_000, state="FAIL")
    assert trial.batch_directory is not None
    curves = trial.batch_directory / "curves.csv"
    header, first = curves.read_text().splitlines()[:2]
    row = first.split(",")
    rows = [",".join([row[0], row[1], str(step), *row[3:]]) for step in range(2500)]
    curves.write_text("\n".join([header, *rows]) + "\n")
    record = replace(record, trials=[long])
    tracker(store, "many", record.directory).end(record, 1)
    seen = Seen(store, "many")
    run = seen.trials[0]
    assert len(run.data.params) == 251 and len(run.data.params["text"]) == 6000
    assert len(seen.points(run, "return_mean")) == 2500
    assert seen.parent.info.status == "FAILED" and seen.parent.data.tags["hyperlax.trials"] == "1/1 trial (1 failed)"


def test_what_cannot_be_shown_of_a_curve_is_left_out_and_costs_no_other_trial_its_own(store, tmp_path):
    """Returns that are not finite, a trial whose rows are gone, and a batch without the file."""
    record = with_trials(study(tmp_path, np.arange(8.0)))
    curves, gone = (Path(str(record.trials[number].batch_directory), "curves.csv") for number in (0, 4))
    lines = [line for line in curves.read_text().splitlines() if not line.startswith("1,")]
    lines = [re.sub(r"^(0,\d,[1-9]\d{4}),[^,]*", r"\1,inf", line) for line in lines]
    curves.write_text("\n".join(lines) + "\n")
    gone.unlink()
    tracker(store, "left out", record.directory).end(record, 0)
    seen = Seen(store, "left out")
    steps = {
        number: [step for step, _ in sorted(seen.points(run, "return_mean"))] for number, run in seen.trials.items()
    }
    whole = list(range(0, 20001, 2000))
    assert steps == {0: whole[:5], 1: [], 2: whole, 3: whole, 4: [], 5: [], 6: [], 7: []}


def test_several_objectives_and_pruned_trials(store, tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    record = with_trials(study(tmp_path, [[3.0, 10.0], [1.0, 20.0], [20.0, 30.0]], objectives))
    pruned = replace(record.trials[1], state="PRUNED", reason="behind at step 4000", values={}, metrics={})
    record = replace(record, trials=[record.trials[0], pruned, record.trials[2]])
    tracker(store, "front", record.directory).end(record, 0)
    seen = Seen(store, "front")
    assert seen.parent.data.tags["pareto_front"] == "0, 2"
    assert seen.parent.data.metrics == {"best_peak_performance": 20.0, "best_num_parameters": 10.0}
    assert seen.trials[1].info.status == "KILLED" and seen.trials[1].data.tags["hyperlax.state"] == "PRUNED"
    assert seen.points(seen.trials[1], "return_mean")


def test_the_database_is_the_one_that_was_asked_for(store, tmp_path):
    path = Path(store.removeprefix("sqlite:///"))
    record = with_trials(study(tmp_path / "study", [3.0]))
    follower: Writer = tracker(store, "beside", record.directory)
    follower.end(record, 0)
    with closing(sqlite3.connect(path)) as connection:
        ((location,),) = connection.execute("SELECT artifact_location FROM experiments WHERE name = 'beside'")
    assert location.startswith((path.parent / "mlartifacts").as_uri())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["study"], "nothing lies in the working directory"


def test_a_study_with_a_long_name_is_tracked_in_an_experiment_with_a_short_one(store, tmp_path):
    record = replace(with_trials(study(tmp_path, [3.0, 1.0])), study_name="x" * 600)
    tracker(store, "short", record.directory).end(record, 0)
    seen = Seen(store, "short")
    assert seen.parent.info.run_name == "x" * 600 and seen.numbers == [0, 1]


def test_deleting_a_study_moves_its_runs_to_the_trash_unless_they_are_kept(store, tmp_path, capsys):
    case = tracked(store, "in the trash", tmp_path, n_trials=2)
    assert case.start() == 0
    other = tracked(store, "in the trash", tmp_path / "other", n_trials=1)
    assert other.start() == 0 and len(Seen(store, "in the trash").parents) == 2
    kept = shutil.copytree(case.directory, tmp_path / "copy")
    assert main(["delete", str(kept), "--yes"]) == 0 and len(Seen(store, "in the trash").parents) == 2, "the original's"
    capsys.readouterr()
    assert main(["delete", str(case.directory), "--yes"]) == 0
    assert capsys.readouterr().out.startswith(
        f"Deleted to MLflow's trash: 3 runs in experiment in the trash of MLflow, {store}.\n"
    )
    seen = Seen(store, "in the trash")
    assert seen.numbers == [0] and seen.parent.data.tags["hyperlax.directory"] == str(other.directory)
    assert main(["delete", str(other.directory), "--yes", "--keep-tracking"]) == 0
    assert len(Seen(store, "in the trash").parents) == 1
