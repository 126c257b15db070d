"""Refusals of a resume, for example with another recipe or with fewer trials."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hyperlax import cli
from hyperlax.errors import UsageError
from hyperlax.fields import apply
from hyperlax.hyperparams import SAC
from hyperlax.space import Categorical, LogUniform
from tests.fake_backend import train_with_fakes
from tests.study_cases import MIXED, Case


@pytest.fixture
def case(finished, tmp_path):
    """A finished study of 12 trials."""
    return finished(tmp_path / "study")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"algorithm.hyperparam.gamma": LogUniform(domain=(0.9, 0.999))}, "algorithm.hyperparam.gamma"),
        ({"algorithm.hyperparam.tau": Categorical(values=[0.1])}, "algorithm.hyperparam.tau"),
    ],
)
def test_a_changed_search_space_is_refused_naming_the_entry(case, change, named):
    case.space = {**MIXED, **change}
    with pytest.raises(UsageError, match=named):
        case.resume(n_trials=20)
    assert len(case.study().trials) == 12


def test_fewer_trials_than_the_study_holds_are_refused_and_nothing_is_written(case):
    before = contents(case.directory)
    said = "--n-trials 5: the study already holds 12 finished trials. Give 12 to leave it as it is, more to continue."
    with pytest.raises(UsageError) as refusal:
        case.resume(n_trials=5)
    assert str(refusal.value) == said
    assert contents(case.directory) == before
    assert case.resume(n_trials=12) == 0 and len(case.states()) == 12


def contents(directory):
    """Every file but the lock, which says who holds it."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_finished_trials_that_only_the_batches_on_disk_know_count_too(tmp_path):
    case = Case(tmp_path)
    case.start(n_trials=8)
    database = (case.directory / "optuna_study.db").read_bytes()
    case.resume(n_trials=12)
    (case.directory / "optuna_study.db").write_bytes(database)
    with pytest.raises(UsageError, match="--n-trials 9: the study already holds 12 finished trials"):
        case.resume(n_trials=9)


def test_a_changed_base_value_is_refused_naming_it(case):
    algorithm = apply(SAC(), {"algorithm.hyperparam.tau": 0.01}, "test")
    case.given_recipe = replace(case.recipe, config=replace(case.recipe.config, algorithm=algorithm))
    with pytest.raises(UsageError, match="algorithm.hyperparam.tau = 0.005, now it is 0.01"):
        case.resume(n_trials=20)


@pytest.fixture
def begun(elsewhere, monkeypatch):
    """The directory of a study that the command has begun, relative to the working directory."""
    train_with_fakes(monkeypatch, pages=False)
    words = "--algo-and-network-config sac_mlp --env-config gymnax.pendulum --n-trials 1 --total-timesteps 5000"
    assert cli.main(["optuna-hp-search", *words.split(), "--output-root", "studies"]) == 0
    return Path("studies/sac_mlp/gymnax_pendulum")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("arguments", "n_trials"), -1, "n_trials needs a whole number of at least 1, got -1."),
        (("arguments", "study_name"), "", "study_name is empty."),
        (("arguments", "objective_names"), ["x"], "objective_names: no metric named `x`."),
        (("arguments", "constraints"), ["x"], "constraints needs 'METRIC <= NUMBER'"),
        (("space", "algorithm.hyperparam.actor_lr", "domain"), [-1, 1], "`space`: LogUniform needs"),
        (("recipe", "config", "algorithm.hyperparam.tau"), 2.0, "`recipe.config`: algorithm.hyperparam.tau needs"),
    ],
)
def test_a_value_in_study_json_that_cannot_be_is_refused_with_the_file_and_its_name(begun, capsys, place, value, said):
    path = begun / "study.json"
    stored = node = json.loads(path.read_text())
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    path.write_text(json.dumps(stored))
    assert cli.main(["optuna-hp-search", "--resume-from", str(begun), "--plan-only"]) == 2
    assert capsys.readouterr().err.startswith(f"hyperlax: {path}: {said}")
