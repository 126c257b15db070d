"""Best trials, tables and the report of made-up studies, checked against what went in."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from hyperlax.analysis.pages import write_study_pages
from hyperlax.files import read_csv
from hyperlax.metrics import METRICS
from tests.made_up_studies import SIZES, SPACE, study


def test_the_best_file_holds_the_trial_exactly(tmp_path):
    record = study(tmp_path, [-300.5, -150.25, -151.0])
    write_study_pages(record)
    best = json.loads((tmp_path / "best_optuna_params.json").read_text())
    assert list(best) == ["trial", "values", "params", "metrics", "command"]
    assert best["trial"] == 1
    assert best["values"] == {"peak_performance": -150.25}
    assert best["params"] == record.trials[1].params
    assert isinstance(best["params"][SIZES], list)
    assert best["metrics"] == record.trials[1].metrics


def test_the_command_runs_the_best_trial_again(tmp_path):
    directory = tmp_path / "a study's directory"
    write_study_pages(study(directory, [1.0]))
    command = json.loads((directory / "best_optuna_params.json").read_text())["command"]
    assert shlex.split(command) == [
        *("hyperlax", "run-single-hp", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"),
        *("--params", str(directory / "best_optuna_params.json"), "--total-timesteps", "20000"),
        *("--num-evaluations", "10", "--num-eval-episodes", "16", "--num-seeds", "3", "--seed", "7"),
        *("--aggregate", "mean"),
    ]


def test_each_pareto_entry_names_its_trial_in_its_command(tmp_path):
    record = study(tmp_path, [[1, 2], [2, 1], [0, 0]], {"peak_performance": "maximize", "normalized_auc": "maximize"})
    write_study_pages(record)
    front = json.loads((tmp_path / "pareto_front_params.json").read_text())
    assert [entry["trial"] for entry in front] == [0, 1]
    assert ["--trial 0 " in entry["command"] for entry in front] == [True, False]
    assert not (tmp_path / "best_optuna_params.json").exists()


def test_the_lower_number_wins_a_tie(tmp_path):
    assert study(tmp_path, [1.0, 5.0, 5.0]).winners[0].number == 1


def test_a_minimized_objective_is_won_by_the_lowest_value(tmp_path):
    record = study(tmp_path, [3.0, -5.0, 4.0], {"seed_spread": "minimize"})
    assert [trial.number for trial in record.ranked] == [1, 0, 2]


def test_a_failed_trial_never_wins_whatever_it_reached(tmp_path):
    assert study(tmp_path, [1.0, 1e9], failed={1}).winners[0].number == 0


def test_a_complete_trial_without_a_finite_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match="trial 1 is COMPLETE"):
        study(tmp_path, [1.0, np.inf]).top(1)


@pytest.mark.parametrize("seed", range(2))
def test_the_pareto_front_equals_brute_force(tmp_path, seed):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize", "stability_score": "maximize"}
    values = np.random.default_rng(seed).integers(0, 5, size=(40, 3)).astype(float)
    failed = {3, 17}
    record = study(tmp_path, values, objectives, failed=failed)
    losses = {number: (-row[0], row[1], -row[2]) for number, row in enumerate(values) if number not in failed}
    expected = [
        number
        for number, own in losses.items()
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in losses.values())
    ]
    assert [trial.number for trial in record.front] == expected


@pytest.mark.parametrize(
    "objectives", [{"peak_performance": "maximize"}, {"seed_spread": "minimize", "peak_performance": "maximize"}]
)
def test_without_a_complete_trial_no_best_file_stays_and_the_report_says_so(tmp_path, objectives):
    values = np.ones((3, len(objectives)))
    write_study_pages(study(tmp_path, values, objectives))
    write_study_pages(study(tmp_path, values, objectives, failed={0, 1, 2}))
    assert not list(tmp_path.glob("*_params.json"))
    assert "No trial is COMPLETE" in (tmp_path / "report.html").read_text()
    assert "No trial is COMPLETE" in (tmp_path / "analysis_plots" / "slice.html").read_text()


def test_trials_csv_reads_back_exactly(tmp_path):
    record = study(tmp_path, [0.1 + 0.2, 1e-300, -151.0], failed={2})
    write_study_pages(record)
    rows = read_csv(tmp_path / "trials.csv")
    assert list(rows[0])[:6] == ["trial", "state", "reason", "exec_batch", "batch", "objective.peak_performance"]
    assert list(rows[0])[6:] == [*METRICS, *SPACE]
    for row, trial in zip(rows, record.trials, strict=True):
        assert (int(row["trial"]), row["state"], row["reason"]) == (trial.number, trial.state, trial.reason)
        assert {name: float(row[name]) for name in METRICS if row[name]} == trial.metrics
        assert row["batch"] == "batch_00000"
        assert float(row["algorithm.hyperparam.actor_lr"]) == trial.params["algorithm.hyperparam.actor_lr"]
        assert json.loads(row[SIZES]) == trial.params[SIZES]
        assert row["algorithm.hyperparam.autotune"] == str(trial.params["algorithm.hyperparam.autotune"])
    assert rows[2]["objective.peak_performance"] == ""
    assert float(rows[0]["objective.peak_performance"]) == 0.1 + 0.2


def test_the_report_lists_failed_trials_with_their_reason(tmp_path):
    write_study_pages(study(tmp_path, [1.0, 2.0], failed={1}))
    assert "loss is nan at step 3200" in (tmp_path / "report.html").read_text()


def test_the_report_counts_pruned_trials_by_the_segment_after_which_they_ended(tmp_path):
    record = study(tmp_path, [1.0, 2.0, 3.0, 4.0], failed={1, 2, 3})
    reasons = [f"pruned after segment {segment} of 36: 5 of 5 earlier trials were better" for segment in (10, 9, 10)]
    lost = [replace(trial, state="PRUNED", reason=why) for trial, why in zip(record.trials[1:], reasons, strict=True)]
    write_study_pages(replace(record, trials=[record.trials[0], *lost]))
    page = (tmp_path / "report.html").read_text()
    _, _, section = page.partition("<h2>Pruned trials</h2>")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", section.partition("</section>")[0])
    assert cells == ["pruned after segment 9 of 36", "1", "2", "pruned after segment 10 of 36", "2", "1, 3"]


def test_special_characters_reach_no_page_as_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    space = {evil: {"type": "Categorical", "values": [evil, "&amp;"]}}
    record = study(tmp_path, [1.0, 2.0], space=space, name=evil)
    write_study_pages(record)
    for path in [tmp_path / "report.html", *(tmp_path / "analysis_plots").glob("*.html")]:
        assert evil not in path.read_text()


def test_a_recipe_that_searches_nothing_has_a_report(tmp_path):
    write_study_pages(study(tmp_path, [1.0, 2.0], space={}))
    assert "searches no hyperparameter" in (tmp_path / "report.html").read_text()
