"""The commands as a user runs them: real training in processes of their own, and every file read back and cross-checked."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from hyperlax.envs.catalog import CATALOG
from hyperlax.metrics import METRICS, compute
from hyperlax.recipe import dotted, load
from hyperlax.trial import Curve, Outcome

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = {"ppo_mlp": "gymnax.cartpole", "sac_mlp": "gymnax.pendulum", "dqn_mlp": "gymnax.cartpole"}
OBJECTIVES = {
    "ppo_mlp": {"peak_performance": "maximize"},
    "sac_mlp": {"peak_performance": "maximize", "num_parameters": "minimize"},
    "dqn_mlp": {"final_performance": "maximize"},
}
SEEDS, EVALUATIONS, TRIALS = 2, 2, 4
SMALLER = {
    r"LAYER_SIZES = .*": "LAYER_SIZES = [[4], [8]]",
    r"ACTIVATIONS = .*": 'ACTIVATIONS = ["tanh"]',
    r"total_num_envs=\d+": "total_num_envs=4",
    r"rollout_length=128": "rollout_length=16",
    r"warmup_rollout_length=\d+": "warmup_rollout_length=16",
    r"total_batch_size=\d+": "total_batch_size=16",
    r"num_minibatches=\d+": "num_minibatches=2",
    r"UniformDiscrete\(domain=\(\d+, \d+\)\)": "UniformDiscrete(domain=(1, 3))",
}
TIMING = {
    "programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps",
    "steps_per_second", "peak_memory_bytes", "lanes", "useful_lane_segments", "predicted_seconds",
}  # fmt: skip
PLOTS = {"optimization_history", "param_importances", "parallel_coordinate", "slice", "learning_curves"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A directory to work in, whose recipes are the shipped ones with networks and rollouts small enough for a test."""
    path = tmp_path_factory.mktemp("desk")
    (path / "recipes").mkdir()
    for name in ENVIRONMENTS:
        text = (ROOT / "recipes" / f"{name}.py").read_text()
        for pattern, replacement in SMALLER.items():
            text = re.sub(pattern, replacement, text)
        (path / "recipes" / f"{name}.py").write_text(text)
    return path


def hyperlax(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the desk. Optimization level 1: this compiles much and trains little."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "hyperlax.cli", *arguments]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=desk,
        env=environment,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


def search(recipe: str) -> list[str]:
    """The arguments of a recipe's study."""
    objectives = OBJECTIVES[recipe]
    sampler = "nsgaii" if len(objectives) > 1 else "tpe"
    words = f"optuna-hp-search --algo-and-network-config {recipe} --env-config {ENVIRONMENTS[recipe]} --study-name tiny_{recipe}"
    words += (
        f" --n-trials {TRIALS} --optuna-study-batch-size 4 --runner-hparam-batch-size 2 --sampler {sampler} --seed 1"
    )
    words += f" --num-seeds {SEEDS} --total-timesteps 512 --num-evaluations {EVALUATIONS} --num-eval-episodes 2"
    words += f" --objective-names {' '.join(objectives)} --objective-directions {' '.join(objectives.values())}"
    return [*words.split(), "--output-root", "studies"]


@pytest.fixture(scope="module", params=list(ENVIRONMENTS))
def finished(request, desk) -> tuple[str, Path]:
    """A recipe, and the directory of its finished study."""
    recipe = request.param
    directory = desk / "studies" / recipe / ENVIRONMENTS[recipe].replace(".", "_")
    if not directory.exists():
        run = hyperlax(desk, *search(recipe))
        assert run.returncode == 0, run.stderr
        assert f"{TRIALS} trials finished: {TRIALS} COMPLETE." in run.stdout
    return recipe, directory


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def batches(directory: Path) -> list[Path]:
    return sorted(directory.glob("optuna_exec_batch_*/samples/batch_*"))


def optuna_trials(recipe: str, directory: Path) -> list[optuna.trial.FrozenTrial]:
    """As plain Optuna sees them."""
    return optuna.load_study(study_name=f"tiny_{recipe}", storage=f"sqlite:///{directory / 'optuna_study.db'}").trials


def summaries(directory: Path) -> dict[int, dict[str, str]]:
    """Trial number -> its row of summary.csv."""
    return {int(row["trial"]): row for batch in batches(directory) for row in rows(batch / "summary.csv")}


def curve(trial: int, table: list[dict[str, str]]) -> Curve:
    """A trial's curve, read from curves.csv alone."""
    own = [row for row in table if int(row["trial"]) == trial]
    steps = sorted({int(row["step"]) for row in own})

    def column(name: str) -> np.ndarray:
        values = {(int(row["step"]), int(row["seed"])): float(row[name]) for row in own}
        return np.array([[values[step, seed] for seed in range(SEEDS)] for step in steps])

    measured = [column(name) for name in ("mean", "std", "min", "max", "length")]
    return Curve(np.array(steps), *measured, episodes=int(own[0]["episodes"]))


def test_a_study_leaves_every_file_that_is_promised(finished):
    recipe, directory = finished
    several = len(OBJECTIVES[recipe]) > 1
    best = "pareto_front_params.json" if several else "best_optuna_params.json"
    plots = PLOTS | ({"pareto_front"} if several else set())
    assert len(batches(directory)) == 2
    for batch in batches(directory):
        assert {path.name for path in batch.iterdir()} == {
            "hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "success.txt",
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
    told = {trial.number: trial for trial in optuna_trials(recipe, directory)}
    assert sorted(told) == sorted(summaries(directory)) == list(range(TRIALS))
    for batch in batches(directory):
        table = rows(batch / "curves.csv")
        for row in rows(batch / "summary.csv"):
            number = int(row["trial"])
            known = (int(float(row["num_parameters"])), float(row["train_seconds"]))
            computed = compute(Outcome(number, "COMPLETE", "", curve(number, table), *known), reference)
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
            assert len(steps) == 1 + EVALUATIONS and steps[0] == 0 and steps[-1] == int(row["steps"]) >= 512


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
    for trial in optuna_trials(recipe, directory):
        row = table.pop(trial.number)
        assert [float(row[f"objective.{name}"]) for name in OBJECTIVES[recipe]] == trial.values
        assert all(row[name] == summaries(directory)[trial.number][name] for name in METRICS)
    assert not table


def test_timing_json_has_its_keys_and_counts_what_ran(finished):
    _, directory = finished
    timings = [json.loads((batch / "timing.json").read_text()) for batch in batches(directory)]
    for timing in timings:
        assert set(timing) >= TIMING
        assert timing["lanes"] == 2 and timing["steps"] >= 2 * SEEDS * 512 and timing["useful_lane_segments"] == 4
    compiled = sorted(timing["programs_compiled"] for timing in timings)
    assert compiled[0] == 0 < compiled[1], "both batches share one program"


def test_study_json_says_how_to_have_the_study_again(finished):
    recipe, directory = finished
    study = json.loads((directory / "study.json").read_text())
    assert study["arguments"]["total_timesteps"] == 512 and study["arguments"]["seed"] == 1
    assert study["space"] and study["recipe"]["name"] == recipe and study["device"]
    assert {"jax", "optuna"} <= set(study["versions"])
    assert shlex.split(study["command"])[:2] == ["hyperlax", "optuna-hp-search"]


def test_the_best_file_is_the_best_of_the_study(finished):
    recipe, directory = finished
    objectives = OBJECTIVES[recipe]
    values = {trial.number: trial.values for trial in optuna_trials(recipe, directory)}
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


def study_of(desk: Path, recipe: str) -> Path:
    return desk / "studies" / recipe / ENVIRONMENTS[recipe].replace(".", "_")


@pytest.fixture
def dqn(desk) -> Path:
    """The directory of the finished study of DQN."""
    directory = study_of(desk, "dqn_mlp")
    if not directory.exists():
        assert hyperlax(desk, *search("dqn_mlp")).returncode == 0
    return directory


def test_the_command_of_the_best_file_trains_it_again(desk, dqn):
    best = json.loads((dqn / "best_optuna_params.json").read_text())
    run = hyperlax(desk, *shlex.split(best["command"])[1:], "--output-root", "again")
    assert run.returncode == 0, run.stderr
    directory = desk / "again" / "dqn_mlp" / "gymnax_cartpole" / "single_0000"
    assert {path.name for path in directory.iterdir()} >= {
        "hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "success.txt", "learning_curve.html",
    }  # fmt: skip
    (row,) = rows(directory / "hyperparams.csv")
    for name, value in best["params"].items():
        assert row[name] == (json.dumps(value) if isinstance(value, list) else str(value))
    assert len({row["seed"] for row in rows(directory / "curves.csv")}) == SEEDS
    (summary,) = rows(directory / "summary.csv")
    assert summary["num_parameters"] == str(best["metrics"]["num_parameters"])


def test_set_wins_over_params_and_only_there(desk, dqn):
    best = dqn / "best_optuna_params.json"
    words = ["run-single-hp", "--algo-and-network-config", "dqn_mlp", "--env-config", "gymnax.CartPole-v1"]
    words += ["--params", str(best), "--num-seeds", str(SEEDS), "--total-timesteps", "512", "--num-evaluations", "2"]
    words += ["--num-eval-episodes", "2", "--output-root", "changed"]
    run = hyperlax(desk, *words, "--set", "algorithm.hyperparam.gamma=0.5", "--set", "algorithm.hyperparam.epochs=1")
    assert run.returncode == 0, run.stderr
    (row,) = rows(desk / "changed" / "dqn_mlp" / "gymnax_cartpole" / "single_0000" / "hyperparams.csv")
    assert (row["algorithm.hyperparam.gamma"], row["algorithm.hyperparam.epochs"]) == ("0.5", "1")
    params = json.loads(best.read_text())["params"]
    assert float(row["algorithm.hyperparam.critic_lr"]) == params["algorithm.hyperparam.critic_lr"]


def test_starting_over_a_study_is_refused_with_the_command_that_resumes_it(desk, dqn):
    before = (dqn / "optuna_study.db").read_bytes()
    run = hyperlax(desk, *search("dqn_mlp"))
    assert run.returncode == 2
    assert f"hyperlax optuna-hp-search --resume-from {dqn.relative_to(desk)}" in run.stderr
    assert (dqn / "optuna_study.db").read_bytes() == before


def test_resuming_goes_on_to_the_larger_number_of_trials(desk, dqn):
    before = {trial.number: trial.values for trial in optuna_trials("dqn_mlp", dqn)}
    total = len(before) + 2
    run = hyperlax(desk, "optuna-hp-search", "--resume-from", str(dqn.relative_to(desk)), "--n-trials", str(total))
    assert run.returncode == 0, run.stderr
    after = {trial.number: trial.values for trial in optuna_trials("dqn_mlp", dqn)}
    assert len(after) == total == len(rows(dqn / "trials.csv"))
    assert {number: after[number] for number in before} == before
    assert (dqn / "optuna_exec_batch_0001" / "analysis" / "best_optuna_params.json").exists()
    best = json.loads((dqn / "best_optuna_params.json").read_text())
    assert list(best["values"].values()) == [max(value for (value,) in after.values() if value is not None)]


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--env-config", "gymnax.cartpole"], "Recipes that can: dqn_mlp, ppo_mlp."),
        (["--env-config", "gymnax.pendulm"], "Did you mean `gymnax.pendulum`"),
        (["--env-config", "gymnax.mnist_bandit"], "is not available"),
        (["--algo-and-network-config", "sac_mpl"], "Did you mean `sac_mlp`?"),
        (["--objective-names", "peak_performence"], "Did you mean `peak_performance`?"),
        (["--objective-names", "peak_performance", "num_parameters"], "Give one direction per objective"),
        (["--sampler", "cmaes"], "is not available yet; use tpe"),
        (["--total-timesteps", "4", "--num-evaluations", "3"], "Raise --total-timesteps to at least"),
        (["--runner-hparam-batch-size", "64"], "or use auto"),
        (["--n-trials", "many"], "many"),
        (["--n-trail", "4"], "--n-trials"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_refused_before_anything_is_written(desk, changes, message):
    words = ["optuna-hp-search", "--algo-and-network-config", "sac_mlp", "--env-config", "gymnax.pendulum"]
    words += ["--objective-directions", "maximize", "--output-root", "refused", *changes]
    run = hyperlax(desk, *words)
    assert run.returncode == 2, run.stderr
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr
    assert not (desk / "refused").exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "hyperparam.tau",
            "hyperparam.taus",
            "recipes/edited.py: no hyperparameter named `algorithm.hyperparam.taus`.",
        ),
        (
            "LogUniform(domain=(5e-3, ",
            "LogUniform(domain=(0, ",
            "LogUniform needs 0 < low < high, got low=0, high=0.05.",
        ),
    ],
)
def test_a_wrong_edit_of_a_recipe_is_refused_by_file_and_name(desk, old, new, message):
    text = (desk / "recipes" / "dqn_mlp.py").read_text()
    assert old in text
    (desk / "recipes" / "edited.py").write_text(text.replace(old, new))
    words = ["--algo-and-network-config", "edited", "--env-config", "gymnax.cartpole", "--output-root", "refused"]
    run = hyperlax(desk, "optuna-hp-search", *words)
    (desk / "recipes" / "edited.py").unlink()
    assert run.returncode == 2
    assert "recipes/edited.py" in run.stderr and message in run.stderr
    assert not (desk / "refused").exists()
