"""`run-single-hp` as a user runs it, from the best parameters of a study."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from hyperlax import load_agent
from hyperlax.cli import main
from tests.desk import SEEDS, finished_study, hyperlax, rows

pytestmark = pytest.mark.timeout(900)


def test_the_command_of_the_best_file_trains_it_again(desk, capsys):
    dqn = finished_study(desk, "dqn_mlp")
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
    for trained in (directory, dqn):
        agent = load_agent(trained)
        assert agent(np.zeros((5, 4))).shape == (5,)
        assert len(agent.about["returns"]) == SEEDS
    assert main(["play", str(directory), "--episodes", "3", "--no-gif"]) == 0
    assert capsys.readouterr().out.startswith("gymnax.cartpole, trial 0, training seed ")
