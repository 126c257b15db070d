"""A Python function of a user's own, as a study: trained in worker processes. See also `test_own_studies.py`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperlax
from hyperlax import cli
from hyperlax.files import read_csv
from hyperlax.hyperparams import PPO
from hyperlax.measures import Measures
from hyperlax.metrics import compute, of_curve
from hyperlax.recipe import load
from hyperlax.tasks import Measure
from hyperlax.trial import Curve, Outcome, Trial
from tests.desk import ROOT, results, run
from tests.test_bad_input import TABLES, refused
from tests.test_docs import python_of

RECIPE = TABLES / "own_code.py"
SEARCH = f"optuna-hp-search --algo-and-network-config {RECIPE} --slots 2 --seed 3"


@pytest.fixture
def folder(elsewhere: Path) -> None:
    """A working directory with the recipe."""
    shutil.copy(RECIPE, "own_code.py")


def test_a_measure_that_does_not_lead_is_compared_by_its_own_seeds(folder):
    run(f"{SEARCH} --n-trials 3 --objective-names size --confirm-top 1 --confirm-seeds 3")
    rows = read_csv(Path("my_optuna_studies/own_code/confirmation.csv"))
    assert list(rows[0]) == ["trial", "seed", "final", "peak", "size", "loss"]
    assert "compared instead" not in Path("my_optuna_studies/own_code/report.html").read_text()


def test_a_sweep_trains_given_configurations(folder):
    Path("rows.csv").write_text('x,n,layers\n0.1,1,"[4]"\n0.2,2,"[8, 8]"\n')
    run("sweep-hp-samples --algo-and-network-config own_code.py --load-hyperparams rows.csv --slots 2")
    study = hyperlax.open_study("my_sweeps/own_code")
    assert study.trials[["x", "n"]].to_numpy().tolist() == [[0.1, 1], [0.2, 2]]
    assert study.trials["layers"].tolist() == [[4], [8, 8]]


def test_a_study_file_written_in_full_runs(folder, capsys):
    run(f"{SEARCH} --n-trials 3 --output-root first")
    text = Path("first/own_code/study.yaml").read_text()
    assert "env_config" not in text and "total_timesteps" not in text and "packing" not in text
    run("run-study first/own_code/study.yaml --output-root second")
    assert results(Path("first/own_code")) == results(Path("second/own_code"))


def test_another_study_goes_beside_the_first(folder):
    for name in ("one", "two"):
        run(f"{SEARCH} --n-trials 1 --study-name {name}")
    assert sorted(path.name for path in Path("my_optuna_studies").iterdir()) == ["own_code", "own_code@two"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("evaluations=4", "evaluations=3", "has the task's evaluations = 4, now it is 3"),
        (
            "low=0,",
            "low=0.5,",
            "measure loss = minimized from 0.0 to 4.0, now it is minimized from 0.5 to 4.0",
        ),
        ('"mode": "slow"', '"mode": "fast"', "has the base value mode = slow, now it is fast"),
    ],
)
def test_a_changed_task_does_not_resume(folder, capsys, old, new, said):
    run("optuna-hp-search --algo-and-network-config own_code.py --n-trials 1")
    Path("own_code.py").write_text(RECIPE.read_text().replace(old, new))
    capsys.readouterr()
    assert cli.main(shlex.split("optuna-hp-search --resume-from my_optuna_studies/own_code --n-trials 2")) == 2
    assert said in capsys.readouterr().err


def test_neither_the_study_nor_its_processes_import_jax(folder):
    code = "import sys; from hyperlax.cli import main; status = main(sys.argv[1:]); sys.exit(status or 'jax' in sys.modules)"
    Path("own_code.py").write_text(
        RECIPE.read_text().replace(
            "    for step in", "    import sys\n    assert 'jax' not in sys.modules\n    for step in"
        )
    )
    words = shlex.split("optuna-hp-search --algo-and-network-config own_code.py --n-trials 1 --pruner asha --quiet")
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    assert hyperlax.open_study("my_optuna_studies/own_code").best.number == 0


def test_more_evaluations_are_asked_of_the_task(folder, capsys):
    Path("own_code.py").write_text(RECIPE.read_text().replace("evaluations=4", "evaluations=1"))
    words = "optuna-hp-search --algo-and-network-config own_code.py --objective-names normalized_auc"
    assert "Raise the task's evaluations to at least 2, or choose" in refused(shlex.split(words), capsys)


def curve(values: list[list[float]], **others: list[list[float]]) -> Curve:
    mean = np.array(values)
    steps = np.arange(1, len(mean) + 1) * 10
    more = {name: np.array(column) for name, column in others.items()}
    return Curve(steps, mean, mean * 0, mean, mean, mean * np.nan, 1, int(steps[-1]), has_start=False, others=more)


def outcome(curve: Curve) -> Outcome:
    return Outcome(Trial(0, PPO()), "COMPLETE", "", curve, 0, 2.0)


RISING = [[0.0, 0.0], [0.4, 0.8], [1.0, 0.6]]


def test_metrics_of_a_minimized_measure_are_those_of_its_mirror_image():
    up = Measures((Measure("score", "maximize", low=-1.0, high=1.0),), 30, 3)
    down = Measures((Measure("loss", "minimize", low=-1.0, high=1.0),), 30, 3)
    for aggregate in ("mean", "worst"):
        ours = compute(outcome(curve(RISING)), up, aggregate)
        mirrored = compute(outcome(curve([[-a, -b] for a, b in RISING])), down, aggregate)
        for name in ("normalized_auc", "stability_score", "seed_spread", "steps_to_threshold"):
            assert mirrored[name] == ours[name]
        assert mirrored["peak_performance"] == -ours["peak_performance"] == (-0.8 if aggregate == "mean" else -0.6)
        assert mirrored["final_performance"] == -ours["final_performance"]
        assert mirrored["loss"] == -ours["score"] == mirrored["final_performance"]
    one = of_curve(np.array([10.0, 20.0, 30.0]), np.array([-0.2, -0.9, -0.5]), 30, down)
    assert (one["peak_performance"], one["loss"]) == (-0.9, -0.5)


def test_metrics_without_a_scale_and_of_a_policy_are_refused_by_name():
    scale = Measures((Measure("loss", "minimize"),), 30, 3)
    assert list(scale.table.rows) == ["loss", "peak_performance", "final_performance", "seed_spread", "train_seconds"]
    assert scale.table.refused["normalized_auc"] == 'normalized_auc needs low and high of Measure("loss")'
    assert scale.table.refused.keys() == {"normalized_auc", "stability_score", "steps_to_threshold", "num_parameters"}


def test_a_further_measure_counts_where_it_was_last_reported():
    scale = Measures((Measure("loss", "minimize"), Measure("size", "maximize")), 30, 3)
    nan = np.nan
    found = compute(outcome(curve(RISING, size=[[1.0, 2.0], [3.0, 5.0], [nan, nan]])), scale)
    assert found["size"] == 4.0
    assert "size" not in compute(outcome(curve(RISING, size=[[nan, nan]] * 3)), scale)


def test_the_page_about_own_code_runs(folder):
    blocks = python_of(ROOT / "docs" / "own-code.md")
    recipe, search = blocks[0], blocks[-1]
    (tuned,) = (block for block in blocks if "hyperlax.tune(" in block)
    Path("recipes").mkdir()
    Path("recipes/tank.py").write_text(recipe)
    names: dict[str, Any] = {"hyperlax": hyperlax}
    exec(search, names)  # noqa: S102
    assert len(names["study"].trials) == 30 and names["study"].best.values["error"] < 0.1
    Path("level.py").write_text(tuned)
    done = subprocess.run([sys.executable, "level.py"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("{'error': 0.0"), done.stderr


def test_a_recipe_of_an_algorithm_has_no_task():
    assert load("ppo_mlp").task is None
