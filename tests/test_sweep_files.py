"""Sweep files: a command and its parameters with the keys of sweep tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from hyperlax import cli
from hyperlax.file_studies import planned_studies
from hyperlax.space import Categorical, LogUniform
from tests.mlflow_store import Seen
from tests.test_bad_input import TABLES

FILE = (TABLES / "sweep.yaml").read_text()
PRINTS = """import sys
given = dict(word.split("=") for word in sys.argv[1:])
assert given["seed"] == "0"
for step in (1, 2, 3):
    print(f"hyperlax: step={step} val/accuracy={float(given['lr']) * step}")
"""
LOGS = """import sys, mlflow
given = dict(word.split("=") for word in sys.argv[1:])
with mlflow.start_run():
    for step in (1, 2, 3):
        mlflow.log_metric("val/accuracy", float(given["lr"]) * step, step=step)
"""
NAME = "my-experiment/lr_bs_grid"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(FILE)
    Path("train.py").write_text(PRINTS)


def planned(old: str = "", new: str = "", **given: Any) -> Any:
    assert old in FILE
    Path("sweep.yaml").write_text(FILE.replace(old, new))
    (study,) = planned_studies(["sweep.yaml"], given)
    return study


def test_a_sweep_is_a_study_of_its_command():
    study = planned()
    options = study.options
    assert (options.study_name, study.directory) == (NAME, Path("sweeps") / NAME)
    assert (options.sampler, options.n_trials, options.objectives) == ("grid", 4, {"val/accuracy": "maximize"})
    assert options.mirror == "sqlite:///optuna.db" and options.track is None
    assert study.recipe.space == {"lr": Categorical(values=[1e-3, 1e-4]), "batch_size": Categorical(values=[32, 64])}
    assert study.recipe.task.command == ("python", "train.py") and study.recipe.config.algorithm.values["seed"] == 0


def test_parameters_are_choices_ranges_or_fixed():
    study = planned("lr: [1e-3, 1e-4]", "lr: {type: log_uniform, min: 1e-4, max: 1e-2}, depth: 3", sampler="tpe")
    assert study.recipe.space["lr"] == LogUniform(domain=(1e-4, 1e-2))
    assert study.recipe.config.algorithm.values["depth"] == 3 and study.options.n_trials == 100


def test_mlflow_and_names_are_optional(tmp_path):
    study = planned("optuna_storage: sqlite:///optuna.db", "mlflow_storage: sqlite:///mlruns.db")
    options = study.options
    assert (options.track, options.tracking_uri, options.tracking_experiment, options.mirror) == (
        "mlflow", "sqlite:///mlruns.db", "my-experiment", None,
    )  # fmt: skip
    assert planned("experiment: my-experiment\nsweep_name: lr_bs_grid\n", "").options.study_name == "sweep"


def test_an_address_may_take_its_password_from_the_environment(monkeypatch):
    monkeypatch.setenv("TEAM_PASSWORD", "s3cr3t")
    study = planned("sqlite:///optuna.db", "postgresql://me:${TEAM_PASSWORD}@host/db")
    assert study.options.mirror == "postgresql://me:s3cr3t@host/db"
    assert "s3cr3t" not in str(study.options.to_json())


def test_sensitivity_varies_each_parameter_alone():
    options = planned("algorithm: grid", "algorithm: sensitivity").options
    assert (options.sampling_method, options.n_trials) == ("sensitivity", 3)


def test_a_sweep_runs_is_mirrored_and_the_same_file_resumes_it(capsys):
    assert cli.main(["run-study", "sweep.yaml", "--n-trials", "2"]) == 0
    assert cli.main(["run-study", "sweep.yaml"]) == 0
    assert f"sweep.yaml: the study in sweeps/{NAME} exists and is resumed." in capsys.readouterr().out
    found = optuna.load_study(study_name=NAME, storage="sqlite:///optuna.db")
    assert len(found.trials) == 4 and found.best_value == 3e-3 and found.direction.name == "MAXIMIZE"
    for old, new, said in (
        ("64", "128", "5: train.py: the study in sweeps/{0} searches batch_size = "),
        ("seed: 0", "seed: 1", "5: train.py: the study in sweeps/{0} has the base value seed = 0, "),
        ("train.py", "-u train.py", "3: train.py: the study in sweeps/{0} runs the command = "),
        (
            "grid\nparam",
            "tpe\nparam",
            "4: these options differ from those of the study to resume:\n  algorithm: study has grid",
        ),
    ):
        Path("sweep.yaml").write_text(FILE.replace(old, new))
        assert cli.main(["run-study", "sweep.yaml"]) == 2
        assert said.partition(": ")[2].format(NAME) in capsys.readouterr().err


@pytest.mark.slow
def test_a_script_that_logs_to_mlflow_reports_by_that(capsys):
    pytest.importorskip("mlflow", reason='needs MLflow: pip install "hyperlax[mlflow]"')
    Path("train.py").write_text(LOGS)
    old, new = "optuna_storage: sqlite:///optuna.db", "mlflow_storage: sqlite:///mlruns.db"
    text = FILE.replace(old, new).replace("lr: [1e-3, 1e-4], batch_size: [32, 64]", "lr: [1e-3]")
    Path("sweep.yaml").write_text(text.replace("python", sys.executable))
    assert cli.main(["run-study", "sweep.yaml"]) == 0
    seen = Seen("sqlite:///mlruns.db", "my-experiment")
    assert seen.numbers == [0] and seen.parent.info.run_name == NAME
    assert seen.points(seen.trials[0], "val/accuracy")[:3] == [(1, 1e-3), (2, 2e-3), (3, 3e-3)]
    assert seen.trials[0].data.tags["hyperlax.state"] == "COMPLETE"
    assert cli.main(["delete", f"sweeps/{NAME}", "--yes"]) == 0
    assert "Deleted to MLflow's trash: 2 runs in experiment my-experiment of MLflow" in capsys.readouterr().out
