"""The configurations that a study begins with, and what a constraint does to the best."""

from __future__ import annotations

import json
import logging

import pytest

from hyperlax.analysis.pages import write_study_pages
from hyperlax.analysis.tables import write_best
from hyperlax.errors import UsageError
from hyperlax.fields import dotted
from hyperlax.space import Categorical, UniformContinuous, UniformDiscrete
from tests.fake_backend import FakeBackend
from tests.study_cases import FINITE, TWO, Case, recipe_of

GAMMA, EPOCHS = "algorithm.hyperparam.gamma", "algorithm.hyperparam.epochs"
LAYERS = "algorithm.network.actor_network.pre_torso.layer_sizes"
SPACE = {
    GAMMA: UniformContinuous(domain=(0.5, 0.999)),
    EPOCHS: UniformDiscrete(domain=(1, 8)),
    LAYERS: Categorical(values=[[256, 256], [64, 64]]),
}
BASE = {name: dotted(recipe_of(SPACE).config.algorithm)[name] for name in SPACE}


def params(case, number):
    """What a trial trained, lists as lists."""
    return {n: json.loads(v) if n == LAYERS else v for n, v in case.study().trials[number].params.items()}


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "qmc"])
def test_a_study_begins_with_the_recipe_and_what_is_enqueued_also_after_an_interruption(tmp_path, sampler):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([{GAMMA: 0.75}, {**BASE}, {"trial": 3, "params": {EPOCHS: 2, LAYERS: [64, 64]}}]))
    arguments = {"sampler": sampler, "default_trial": True, "enqueue": str(file), "optuna_study_batch_size": 2}
    whole, parts = (Case(tmp_path / name, SPACE, **arguments) for name in ("whole", "parts"))
    assert whole.start() == 0
    wanted = [BASE, {**BASE, GAMMA: 0.75}, {**BASE, EPOCHS: 2, LAYERS: [64, 64]}]
    assert [params(whole, number) for number in range(3)] == wanted
    assert params(whole, 3) not in wanted
    assert parts.start(FakeBackend(raises={5: KeyboardInterrupt()})) == 130
    file.unlink()
    assert parts.resume() == 0 and parts.told() == whole.told()
    parts.lose_database()
    assert parts.repair() == 0 and parts.told() == whole.told()


def test_a_space_without_the_recipes_configuration_says_which_entry_excludes_it(tmp_path, caplog):
    changes = {GAMMA: UniformContinuous(domain=(0.5, 0.6)), LAYERS: Categorical(values=[[4], [8, 8]])}
    case = Case(tmp_path, {**SPACE, **changes}, default_trial=True, n_trials=2)
    with caplog.at_level(logging.INFO, "hyperlax"):
        assert case.start() == 0
    place, note, *_ = caplog.messages
    assert place == f"Study test_study in {case.directory}."
    assert note.endswith(
        f": gamma = {BASE[GAMMA]}, not in UniformContinuous(domain=[0.5, 0.6]); "
        f"actor_network.pre_torso.layer_sizes = {BASE[LAYERS]}, not among [4], [8, 8]."
    )
    assert json.loads((case.directory / "study.json").read_text())["first_trials"] == []


def test_a_finite_space_is_used_up_exactly_with_a_default_trial_on_a_grid(tmp_path, capsys):
    space = {EPOCHS: UniformDiscrete(domain=(1, 8)), LAYERS: SPACE[LAYERS]}
    case = Case(tmp_path, space, sampler="grid", default_trial=True, n_trials=40)
    assert case.start() == 0
    assert params(case, 0) == {name: BASE[name] for name in space}
    assert len({tuple(t.params.values()) for t in case.study().trials}) == 16 == len(case.states())
    assert "Every configuration of the search space is used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{GAMMA: 0.1}], f"entry 0: {GAMMA} = 0.1 is not in UniformContinuous(domain=[0.5, 0.999])."),
        ([{}, {"gama": 0.9}], f"entry 1: no hyperparameter named `gama`. Did you mean `{GAMMA}`?"),
        (
            [{"algorithm.hyperparam.tau": 0.5}],
            "entry 0: algorithm.hyperparam.tau = 0.5, and the recipe does not search it",
        ),
        ([3], "entry 0 is 3. Write {name: value}"),
        ([], "holds no configuration."),
        ([{LAYERS: [1]}], f"entry 0: {LAYERS} = [1] is not in Categorical"),
        ([{GAMMA: "high"}], f"entry 0: {GAMMA} = 'high' is not in"),
    ],
)
def test_what_the_space_does_not_contain_is_refused_by_file_entry_and_name(tmp_path, content, said):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    case = Case(tmp_path / "study", SPACE, enqueue=str(file))
    with pytest.raises(UsageError) as refusal:
        case.start()
    assert f"--enqueue {file}: {said}" in str(refusal.value) and not case.root.exists()


def test_a_table_begins_a_study_as_well(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(f'trial,state,gamma,{LAYERS},peak_performance\n7,COMPLETE,0.75,"[64, 64]",-3.0\n')
    case = Case(tmp_path / "study", SPACE, enqueue=str(file), n_trials=2)
    assert case.start() == 0
    assert params(case, 0) == {**BASE, GAMMA: 0.75, LAYERS: [64, 64]}
    file.write_text("gamma\n0.1\n")
    with pytest.raises(UsageError, match=f"--enqueue {file}, line 2: {GAMMA} = 0.1 is not in"):
        Case(tmp_path / "other", SPACE, enqueue=str(file)).start()


def test_a_name_left_out_whose_base_value_is_not_searched_is_refused(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({EPOCHS: 2}))
    space = {**SPACE, GAMMA: UniformContinuous(domain=(0.5, 0.6))}
    with pytest.raises(
        UsageError, match=f"{GAMMA} = {BASE[GAMMA]}, the recipe's value for what is left out, is not in"
    ):
        Case(tmp_path / "study", space, enqueue=str(file)).start()


def test_what_a_sampler_cannot_search_is_refused_before_anything_is_written(tmp_path):
    """The other words are in `bad_input/`, of the shipped recipes."""
    many = {**FINITE, "algorithm.hyperparam.warmup_rollout_length": UniformDiscrete(domain=(1, 9000))}
    for space, sampler, said in [
        ({GAMMA: SPACE[GAMMA], LAYERS: Categorical(values=[[8]])}, "cmaes", "needs at least 2 hyperparameters"),
        (many, "grid", "has 135000"),
    ]:
        case = Case(tmp_path / "study", space, sampler=sampler)
        with pytest.raises(UsageError, match=said):
            case.start()
        assert not case.root.exists()


@pytest.mark.parametrize(("sampler", "package"), [("cmaes", "cmaes"), ("gp", "torch")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, sampler, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf'needs the package {package}: pip install "hyperlax\[{sampler}\]"'):
        Case(tmp_path, {**SPACE, LAYERS: Categorical(values=[[8]])}, sampler=sampler).start()


@pytest.mark.parametrize(
    ("more", "constraint", "misses_by"),
    [
        ({}, "num_parameters<=102", lambda excess: excess - 2.0),
        ({**TWO, "sampler": "nsgaii"}, "num_parameters <= 102", lambda excess: excess - 2.0),
        ({"sampler": "tpe"}, " num_parameters >= 103.5 ", lambda excess: 3.5 - excess),
    ],
    ids=["random", "two objectives", "at least"],
)
def test_a_trial_that_misses_a_constraint_is_complete_and_never_the_best(tmp_path, more, constraint, misses_by, capsys):
    """`FakeBackend` has num_parameters 100 + number % 7."""
    case = Case(tmp_path / "all", constraints=(constraint,), n_trials=24, **more)
    case.write_pages = lambda record, directory, is_latest=True: write_best(record, record.directory)
    assert case.start(FakeBackend(fail={1: "diverged"})) == 0
    trials = case.study().trials
    wanted = {trial.number: misses_by(trial.number % 7) for trial in trials if trial.number != 1}
    feasible = [trial for trial in trials if wanted.get(trial.number, 1) <= 0]
    assert [trial.constraints for trial in trials] == [{"0": wanted[n]} if n != 1 else {} for n in range(24)]
    best = {trial.number for trial in (case.study().best_trials if len(more) > 1 else [case.study().best_trial])}
    file = case.directory / ("pareto_front_params.json" if len(more) > 1 else "best_optuna_params.json")
    found = json.loads(file.read_text())
    assert {entry["trial"] for entry in (found if isinstance(found, list) else [found])} == best
    assert best <= {trial.number for trial in feasible}
    if len(more) < 2:
        assert f"Best: trial {max(feasible, key=lambda trial: trial.values[0]).number}," in capsys.readouterr().out


def test_where_no_trial_satisfies_the_constraints_that_is_said(tmp_path, capsys, caplog):
    case = Case(tmp_path, constraints=("num_parameters <= 3",), n_trials=8)
    case.write_pages = lambda record, directory, is_latest=True: write_study_pages(record)
    with caplog.at_level(logging.INFO, "hyperlax"):
        assert case.start() == 0
    assert "random ignores constraints" in caplog.text
    said = capsys.readouterr()
    assert "No trial satisfies the constraints, so none is the best." in said.out and "best peak" not in said.err
    assert not (case.directory / "best_optuna_params.json").exists()
    assert "No trial satisfies the constraints" in (case.directory / "report.html").read_text()
