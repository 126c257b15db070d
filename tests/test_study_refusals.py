"""What a study may not be resumed with, nor beside: another recipe, fewer trials."""

from dataclasses import replace

import pytest

from hyperlax.errors import UsageError
from hyperlax.hyperparams import SAC
from hyperlax.recipe import apply
from hyperlax.space import Categorical, LogUniform
from tests.study_cases import MIXED, Case

pytestmark = pytest.mark.timeout(240)


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
