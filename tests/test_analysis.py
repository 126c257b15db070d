"""Best trials, tables, plots and the report of made-up studies, checked against what went in."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from hyperlax.analysis import write_analysis, write_study_pages
from hyperlax.analysis.best import pareto_front, ranked, winners
from hyperlax.analysis.curves import read_curves, total_cost
from hyperlax.analysis.labels import short_names
from hyperlax.analysis.plots import draw_all
from hyperlax.analysis.plots.coordinates import coordinate
from hyperlax.files import read_csv, write_csv, write_json
from hyperlax.metrics import METRICS, ReferenceReturns
from hyperlax.study.record import StudyRecord, TrialRecord

pytestmark = pytest.mark.timeout(120)

SIZES = "algorithm.network.actor_network.pre_torso.layer_sizes"
CRITIC_SIZES = "algorithm.network.critic_network.pre_torso.layer_sizes"
SPACE = {
    "algorithm.hyperparam.actor_lr": {"type": "LogUniform", "domain": [1e-6, 1e-2]},
    "algorithm.hyperparam.gamma": {"type": "UniformContinuous", "domain": [0.9, 0.999]},
    "algorithm.hyperparam.epochs": {"type": "UniformDiscrete", "domain": [1, 16]},
    "algorithm.hyperparam.autotune": {"type": "Categorical", "values": [True, False]},
    "algorithm.network.actor_network.pre_torso.activation": {"type": "Categorical", "values": ["tanh", "relu"]},
    SIZES: {"type": "Categorical", "values": [[64, 64], [256, 256], [512, 512]]},
    CRITIC_SIZES: {"type": "Categorical", "values": [[64, 64], [256, 256]]},
}
ARGUMENTS = {
    "algo_and_network_config": "sac_mlp",
    "env_config": "gymnax.pendulum",
    "total_timesteps": 20000,
    "num_evaluations": 10,
    "num_eval_episodes": 16,
    "num_seeds": 3,
    "seed": 7,
    "aggregate": "mean",
}
ALL_PLOTS = ["learning_curves", "optimization_history", "param_importances", "parallel_coordinate", "slice"]


def study(directory, values, objectives=None, failed=(), space=None, name="a study"):
    """A study with one trial per row of `values`; the numbers in `failed` are FAIL. Batches of four, files included."""
    objectives = objectives or {"peak_performance": "maximize"}
    space = SPACE if space is None else space
    rng = np.random.default_rng(0)
    trials = [
        trial(directory, number, np.atleast_1d(row), objectives, number in failed, space, rng)
        for number, row in enumerate(values)
    ]
    write_batches(trials, rng)
    importances = {objective: {name: 1 / len(space) for name in space} for objective in objectives}
    return StudyRecord(
        directory=directory,
        study_name=name,
        recipe="sac_mlp",
        environment="gymnax.pendulum",
        objectives=objectives,
        arguments=ARGUMENTS,
        command="hyperlax optuna-hp-search --study-name 'a study'",
        versions={"jax": "0.10.2", "optuna": "5.0.0"},
        device="cpu, 2 slots",
        space=space,
        reference=ReferenceReturns(-1200.0, -150.0, "measured"),
        trials=trials,
        importances=importances,
    )


def trial(directory, number, row, objectives, failed, space, rng):
    batch = directory / f"optuna_exec_batch_{number // 16:04d}" / "samples" / f"batch_{number % 16 // 4:05d}"
    values = {} if failed else dict(zip(objectives, map(float, row), strict=True))
    metrics = {} if failed else {name: values.get(name, float(rng.normal())) for name in METRICS}
    params = {name: draw(distribution, rng) for name, distribution in space.items()}
    state, reason = ("FAIL", "loss is nan at step 3200") if failed else ("COMPLETE", "")
    return TrialRecord(number, state, reason, params, values, metrics, batch, number // 16)


def draw(distribution, rng):
    if distribution["type"] == "Categorical":
        return distribution["values"][rng.integers(len(distribution["values"]))]
    low, high = distribution["domain"]
    if distribution["type"] == "UniformDiscrete":
        return int(rng.integers(low, high + 1))
    if distribution["type"] == "LogUniform":
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def write_batches(trials, rng):
    header = ["trial", "seed", "step", "mean", "std", "min", "max", "length", "episodes"]
    for directory in {trial.batch_directory for trial in trials}:
        rows = [
            [mate.number, seed, step, -1200 + step / 20 + float(rng.normal(0, 60)), 1.0, 0.0, 2.0, 200.0, 16]
            for mate in trials
            if mate.batch_directory == directory
            for seed in range(3)
            for step in range(0, 20001, 2000)
        ]
        write_csv(directory / "curves.csv", header, rows)
        timing = {"compile_seconds": 3.5, "train_seconds": 2.0, "evaluate_seconds": 0.5, "wall_seconds": 6.25}
        write_json(directory / "timing.json", timing | {"steps": 240000, "peak_memory_bytes": None})


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
    assert winners(study(tmp_path, [1.0, 5.0, 5.0]))[0].number == 1


def test_a_minimized_objective_is_won_by_the_lowest_value(tmp_path):
    record = study(tmp_path, [3.0, -5.0, 4.0], {"seed_spread": "minimize"})
    assert [trial.number for trial in ranked(record)] == [1, 0, 2]


def test_a_failed_trial_never_wins_whatever_it_reached(tmp_path):
    assert winners(study(tmp_path, [1.0, 1e9], failed={1}))[0].number == 0


def test_a_complete_trial_without_a_finite_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match="trial 1 is COMPLETE"):
        winners(study(tmp_path, [1.0, np.inf]))


@pytest.mark.parametrize("seed", range(5))
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
    assert [trial.number for trial in pareto_front(record)] == expected


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


def test_every_page_is_written_and_loads_nothing_from_the_network(tmp_path):
    objectives = {"peak_performance": "maximize", "num_parameters": "minimize"}
    record = study(tmp_path, np.random.default_rng(1).normal(size=(9, 2)), objectives, failed={4})
    write_study_pages(record)
    pages = [tmp_path / "analysis_plots" / f"{name}.html" for name in [*ALL_PLOTS, "pareto_front"]]
    for path in [*pages, tmp_path / "report.html"]:
        text = path.read_text()
        assert 'class="error"' not in text
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert (tmp_path / "analysis_plots" / "plotly.min.js").stat().st_size > 1_000_000


def test_one_objective_has_no_pareto_plot(tmp_path):
    write_study_pages(study(tmp_path, [1.0, 2.0]))
    assert not (tmp_path / "analysis_plots" / "pareto_front.html").exists()


def test_a_super_batch_shares_the_one_plotly_script(tmp_path):
    into = tmp_path / "optuna_exec_batch_0000" / "analysis"
    write_analysis(study(tmp_path, [1.0, 2.0]), into)
    assert sorted(path.name for path in into.iterdir()) == sorted(
        ["best_optuna_params.json", "trials.csv", *(f"{name}.html" for name in ALL_PLOTS)]
    )
    source = re.search(r'<script src="([^"]+)">', (into / "slice.html").read_text())
    assert source is not None
    assert (into / source.group(1)).resolve() == tmp_path / "analysis_plots" / "plotly.min.js"
    assert (tmp_path / "analysis_plots" / "plotly.min.js").exists()


def test_no_temporary_file_is_left(tmp_path):
    write_study_pages(study(tmp_path, [1.0]))
    assert not list(tmp_path.rglob("*.tmp"))


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


def test_failed_trials_are_in_no_plot(tmp_path):
    record = study(tmp_path, [1.0, 2.0, 3.0], failed={1})
    drawings = {drawn.plot.name: json.loads(drawn.figure)["data"] for drawn in draw_all(record)}
    assert all(trace["x"] == [0, 2] for trace in drawings["optimization_history"])
    assert all(len(trace["y"]) == 2 for trace in drawings["slice"])
    assert all(len(axis["values"]) == 2 for axis in drawings["parallel_coordinate"][0]["dimensions"])
    assert not any("trial 1" in trace.get("name", "") for trace in drawings["learning_curves"])


def test_the_report_lists_failed_trials_with_their_reason(tmp_path):
    write_study_pages(study(tmp_path, [1.0, 2.0], failed={1}))
    assert "loss is nan at step 3200" in (tmp_path / "report.html").read_text()


def test_the_best_so_far_follows_the_direction(tmp_path):
    objectives = {"peak_performance": "maximize", "seed_spread": "minimize"}
    record = study(tmp_path, [[1, 5], [3, 7], [2, 4]], objectives)
    traces = {drawn.plot.name: json.loads(drawn.figure)["data"] for drawn in draw_all(record)}["optimization_history"]
    lines = [trace["y"] for trace in traces if trace["mode"] == "lines"]
    assert lines == [[1, 3, 3], [5, 5, 4]]


def test_learning_curves_show_the_ten_best_as_means_over_seeds(tmp_path):
    record = study(tmp_path, np.arange(14.0))
    traces = json.loads(draw_all(record)[0].figure)["data"]
    means = {trace["name"]: trace["y"] for trace in traces if trace.get("name", "").startswith("trial ")}
    assert sorted(means) == sorted(f"trial {number}: {number}" for number in range(4, 14))
    curve = read_curves([record.trials[13]])[13]
    assert curve.returns.shape == (11, 3)
    assert means["trial 13: 13"] == curve.returns.mean(axis=1).tolist()


def test_learning_curves_show_the_aggregate_that_the_study_asked_for_and_say_so(tmp_path):
    record = replace(study(tmp_path, np.arange(2.0)), arguments={**ARGUMENTS, "aggregate": "worst"})
    write_study_pages(record)
    traces = json.loads(draw_all(record)[0].figure)["data"]
    (line,) = (trace["y"] for trace in traces if trace.get("name", "").startswith("trial 1: "))
    assert line == read_curves([record.trials[1]])[1].returns.min(axis=1).tolist()
    assert "Line: lowest over seeds." in (tmp_path / "report.html").read_text()


def test_the_cost_is_the_sum_over_batches(tmp_path):
    cost = total_cost(study(tmp_path, np.arange(9.0)))
    assert (cost.batches, cost.steps, cost.compile_seconds, cost.wall_seconds) == (3, 720000, 10.5, 18.75)
    assert cost.steps_per_train_second == 720000 / 6
    assert cost.peak_memory_bytes is None


def test_importances_that_cannot_be_computed_are_explained(tmp_path):
    record = study(tmp_path, [1.0])
    record.importances.clear()
    write_study_pages(record)
    assert "The study has 1 COMPLETE" in (tmp_path / "analysis_plots" / "param_importances.html").read_text()


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


def test_logarithmic_axes_lie_in_powers_of_ten():
    axis = coordinate("lr", "lr", {"type": "LogUniform", "domain": [1e-6, 1e-2]})
    assert axis.range() == [-6.0, -2.0]
    assert axis.ticks() == ([-6, -5, -4, -3, -2], ["1e-6", "1e-5", "1e-4", "1e-3", "0.01"])


def test_a_choice_that_is_a_list_has_its_own_place():
    axis = coordinate("sizes", "sizes", SPACE[SIZES])
    assert [axis.position(value) for value in SPACE[SIZES]["values"]] == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="none of its choices"):
        axis.position([1, 2])


def test_short_names_tell_equal_endings_apart():
    short = short_names(SPACE)
    assert short["algorithm.hyperparam.gamma"] == "gamma"
    assert (short[SIZES], short[CRITIC_SIZES]) == ("actor_network.layer_sizes", "critic_network.layer_sizes")


def test_no_page_offers_to_upload_a_chart(tmp_path):
    write_study_pages(study(tmp_path, [1.0, 2.0]))
    for path in [tmp_path / "report.html", tmp_path / "analysis_plots" / "slice.html"]:
        assert (
            'showSendToCloud: false, modeBarButtonsToRemove: ["sendChartToCloud"], plotlyServerURL: ""'
            in path.read_text()
        )
