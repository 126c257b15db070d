"""`hyperlax train --from`: the winner of a study again, as the study trained it where nothing else is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hyperlax
from hyperlax.cli import main
from hyperlax.recipe import dotted
from hyperlax.study import single
from tests.fake_backend import train_with_fakes

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """12 trials of SAC's recipe."""
    root = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        train_with_fakes(patch)
        length: dict[str, Any] = {"num_seeds": 2, "total_timesteps": 5000, "num_evaluations": 5, "seed": 3}
        return hyperlax.search("sac_mlp", "gymnax.pendulum", n_trials=12, output_root=root, **length)


@pytest.fixture
def trained(monkeypatch):
    """What is handed to the training."""
    received: list[Any] = []
    monkeypatch.setattr(single, "run_single", lambda *given, **_: received.append(given[:3]) or 0)
    return received


def test_the_winner_is_trained_as_in_its_study(study, trained):
    assert main(["train", "--from", str(study.directory)]) == 0
    ((arguments, recipe, algorithm),) = trained
    own = dotted(algorithm)
    assert {name: own[name] for name in study.best.params} == study.best.params
    assert recipe.name == "sac_mlp" and arguments.env_config == "gymnax.pendulum"
    assert (arguments.total_timesteps, arguments.num_evaluations, arguments.num_seeds, arguments.seed) == (
        5000,
        5,
        2,
        3,
    )


def test_flags_say_what_is_otherwise(study, trained):
    words = ["--trial", "4", "--total-timesteps", "9000", "--num-seeds", "7", "--env-config", "gymnax.point_robot"]
    assert main(["train", "--from", str(study.directory), *words]) == 0
    ((arguments, _, algorithm),) = trained
    params = study.pareto and next(trial for trial in study.record.trials if trial.number == 4).params
    assert {name: dotted(algorithm)[name] for name in params} == params
    assert (arguments.total_timesteps, arguments.num_seeds) == (9000, 7)
    assert arguments.env_config == "gymnax.point_robot"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "{study}", "--trial", "99"], "has no such trial. Its trials are 0 to 11"),
        (["--from", "{nowhere}"], "is not a directory"),
        (["--from", "{study}", "--num-seeds", "0"], "--num-seeds"),
    ],
)
def test_what_cannot_be_trained_is_refused(study, trained, tmp_path, capsys, words, message):
    names = {"study": study.directory, "nowhere": Path(tmp_path / "nowhere")}
    assert main(["train", *(word.format(**names) for word in words)]) == 2
    assert message in capsys.readouterr().err and not trained
