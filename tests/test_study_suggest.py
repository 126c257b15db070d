"""Suggestions: a pure function of seed and history, never twice the same configuration."""

import json
import logging
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy.stats import qmc

from hyperlax.samplers.base import derive_seed
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.samplers.registry import SAMPLERS, SamplerRow
from hyperlax.space import Categorical, LogUniform, QUniform, UniformContinuous, UniformDiscrete
from tests.study_cases import FINITE, MIXED

UNIT = {"x": UniformContinuous(domain=(0.0, 1.0)), "y": UniformContinuous(domain=(0.0, 1.0))}
NUMBERS = {**UNIT, "n": UniformDiscrete(domain=(1, 900)), "q": QUniform(domain=(0.1, 1.3), q=0.1)}
STEPS = {**FINITE, "n": UniformDiscrete(domain=(1, 9)), "c": Categorical(values=[[64, 64], [128]])}
SPACES = {"cmaes": NUMBERS, "gp": NUMBERS, "grid": STEPS}
NEEDS = {"cmaes": "cmaes", "gp": "torch"}


def marked(sampler, *more):
    """A case of a sampler; GP takes seconds a suggestion."""
    return pytest.param(sampler, *more, marks=pytest.mark.slow if sampler == "gp" else ())


@pytest.fixture(params=map(marked, SAMPLERS))
def sampler(request):
    """Each sampler, as far as the package that it needs is there."""
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


def space_of(sampler):
    """A space that the sampler takes, with more than 200 configurations."""
    return SPACES.get(sampler, MIXED)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def questioner(space, sampler, super_batch=8, seed=0, objectives=1):
    return OptunaSampler(SearchSpace(space), sampler, ("maximize", "minimize")[:objectives], seed, super_batch)


def finished(asker, suggestions, values):
    """The trials that came of suggestions; a value of None is a failure."""
    return [
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            params=suggestion.params,
            distributions=asker.space.optuna,
            values=None if value is None else [value, -value][: len(asker.directions)],
            system_attrs=suggestion.system_attrs,
        )
        for suggestion, value in zip(suggestions, values, strict=True)
    ]


def below(history):
    """What a super-batch was asked from: the trials before its first, where nothing was amended."""
    return lambda start: history[:start]


def ran(asker, super_batches, value=lambda number: float(number % 5)):
    """The history of a study of some super-batches."""
    history: list[Any] = []
    for start in range(0, super_batches * asker.super_batch, asker.super_batch):
        asked = asker.suggest(start, asker.super_batch, below(history))
        history += finished(asker, asked, [value(start + i) for i in range(len(asked))])
    return history


def test_the_same_question_gets_the_same_answer_and_fewer_trials_are_its_beginning(sampler):
    space = space_of(sampler)
    asker = questioner(space, sampler)
    history = ran(asker, 3)
    answer = asker.suggest(24, 8, below(history))
    again = questioner(space, sampler)
    assert answer[:3] == again.suggest(24, 3, below(history)) and answer == again.suggest(24, 8, below(history))
    assert answer != questioner(space, sampler, seed=1).suggest(
        24, 8, below(ran(questioner(space, sampler, seed=1), 3))
    )


def test_super_batches_do_not_repeat_each_other(sampler):
    asker = questioner(space_of(sampler), sampler)
    assert len({asker.space.identity(trial.params) for trial in ran(asker, 4)}) == 32


def test_the_order_of_the_recipe_does_not_steer_the_sampler(sampler):
    space = space_of(sampler)
    backwards = dict(reversed(space.items()))
    one, other = (questioner(entries, sampler).suggest(0, 4, below([])) for entries in (space, backwards))
    assert one == other


PLAIN = {
    "tpe": lambda space: optuna.samplers.TPESampler(seed=7),
    "random": lambda space: optuna.samplers.RandomSampler(seed=7),
    "cmaes": lambda space: optuna.samplers.CmaEsSampler(seed=7),
    "gp": lambda space: optuna.samplers.GPSampler(seed=7),
    "grid": lambda space: optuna.samplers.GridSampler(space.values(), seed=7),
}


@pytest.mark.parametrize(("sampler", "objectives"), [*(marked(name, 1) for name in PLAIN), ("tpe", 2)])
@pytest.mark.parametrize("enqueued", [False, True])
def test_one_at_a_time_a_study_is_what_plain_optuna_gives_with_the_same_seed(sampler, objectives, enqueued):
    """Params to the bit, also where trials fail."""
    if sampler in NEEDS:
        pytest.importorskip(NEEDS[sampler])
    space = SearchSpace(space_of(sampler))
    first = [space.combination(7) if sampler == "grid" else drawn(space)] if enqueued else []
    asker = OptunaSampler(space, sampler, ("maximize", "minimize")[:objectives], 7, 1, first)
    plain = optuna.create_study(
        directions=[optuna.study.StudyDirection[name.upper()] for name in asker.directions],
        sampler=PLAIN[sampler](space),
    )
    for params in first:
        plain.enqueue_trial(params)
    history = []
    for number in range(12 if sampler == "gp" else 24):
        (suggestion,) = asker.suggest(number, 1, below(history))
        theirs = plain.ask(space.optuna)
        assert suggestion.params == space.canonical(theirs.params)
        value = None if number in (3, 15) else float(len(repr(suggestion.params)) % 13)
        history += finished(asker, [suggestion], [value])
        plain.tell(theirs, history[-1].values, state=history[-1].state)


def drawn(space):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=9)).ask(space.optuna).params


def test_random_draws_do_not_depend_on_how_many_are_asked_together():
    narrow, wide = (questioner(MIXED, "random", width) for width in (2, 16))
    assert [t.params for t in ran(narrow, 8)] == [t.params for t in ran(wide, 1)]


def test_from_its_saved_state_tpe_suggests_what_it_suggests_when_it_is_asked_for_all_again():
    asker = questioner(MIXED, "tpe")
    history = ran(asker, 4)
    answer = asker.suggest(32, 8, below(history))
    state = json.loads(json.dumps(asker.state()))
    asked_from = []

    def known(start):
        asked_from.append(start)
        return history[:start]

    assert questioner(MIXED, "tpe").suggest(32, 8, known, state) == answer and asked_from == [32]
    history += finished(asker, answer, [1.0] * 8)
    later = asker.suggest(40, 8, known)
    asked_from.clear()
    assert questioner(MIXED, "tpe").suggest(40, 8, known, state) == later and asked_from == [32, 40]


def test_a_finite_space_is_used_up_exactly(sampler):
    asker = questioner(FINITE, sampler, super_batch=4)
    history = ran(asker, 5)
    assert len(history) == 15
    assert len({asker.space.identity(trial.params) for trial in history}) == 15


def test_trial_n_of_qmc_is_point_n_of_one_scrambled_sobol_sequence():
    asker = questioner(UNIT, "qmc", super_batch=4)
    points = [[trial.params["x"], trial.params["y"]] for trial in ran(asker, 4)]
    sobol: Any = qmc.Sobol  # its `seed`, which Optuna uses, is not in its signature; `rng` draws another scrambling
    sequence = sobol(2, seed=derive_seed(0), scramble=True).random(16)
    np.testing.assert_allclose(points, sequence, rtol=0, atol=1e-12)


def test_nsgaii_breeds_a_generation_per_super_batch_although_trials_fail():
    asker = questioner(UNIT, "nsgaii", objectives=2)
    history = ran(asker, 4, lambda number: None if number % 8 in (2, 5) or number < 7 else float(number))
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in history[::8]]
    assert generations == [0, 0, 1, 2]


def test_tpe_spreads_one_super_batch_although_it_has_one_best_point():
    asker = questioner(UNIT, "tpe")
    history = ran(asker, 3)
    asked = [suggestion.params["x"] for suggestion in asker.suggest(24, 8, below(history))]
    assert len(set(asked)) == 8 and np.std(asked) > 0.05


@pytest.mark.parametrize("space", [UNIT, FINITE])
def test_a_sampler_that_keeps_repeating_itself_is_overruled_by_chance(monkeypatch, space):
    class Stuck(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, param_name, param_distribution):
            return param_distribution.to_external_repr(vars(param_distribution)["low"])

    monkeypatch.setitem(SAMPLERS, "random", SamplerRow("random", "Stuck.", lambda *args: Stuck(), learns=False))
    asker = questioner(space, "random")
    asked = asker.suggest(0, 8, below([]))
    assert len({asker.space.identity(suggestion.params) for suggestion in asked}) == 8
    assert asked == asker.suggest(0, 8, below([]))


def test_every_combination_of_a_finite_space_has_its_number():
    space = SearchSpace({**FINITE, "c": Categorical(values=[[64, 64], [32], [32, 8]])})
    combinations = [space.decode(space.combination(index)) for index in range(space.size() or 0)]
    assert len(combinations) == 45
    assert len({repr(combination) for combination in combinations}) == 45
    assert combinations[6]["algorithm.hyperparam.target_entropy_scale"] == 0.3  # not 0.30000000000000004


def test_choices_that_python_takes_for_equal_stay_apart():
    space = SearchSpace({"c": Categorical(values=[1, True, [1]])})
    assert [space.decode(space.combination(index))["c"] for index in range(3)] == [1, True, [1]]
    assert len({space.identity(space.combination(index)) for index in range(3)}) == 3


def test_distributions_become_optunas_own():
    space = SearchSpace({**MIXED, "q": QUniform(domain=(0.0, 1.0), q=0.25), "l": LogUniform(domain=(1e-4, 1.0))}).optuna
    assert space["q"] == optuna.distributions.FloatDistribution(0, 1, step=0.25)
    assert space["l"] == optuna.distributions.FloatDistribution(1e-4, 1, log=True)
    assert space["algorithm.hyperparam.epochs"] == optuna.distributions.IntDistribution(1, 4)
    assert space["algorithm.hyperparam.warmup_rollout_length"] == optuna.distributions.IntDistribution(1, 512, log=True)
    sizes = optuna.distributions.CategoricalDistribution(["[64, 64]", "[128]"])
    assert space["algorithm.network.actor_network.pre_torso.layer_sizes"] == sizes


def test_building_any_sampler_warns_of_nothing(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        questioner(space_of(sampler), sampler).suggest(0, 2, below([]))


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("name", ["tpe", "nsgaii", "nsgaiii", "random", "qmc"])
def test_a_history_may_hold_pruned_and_running_trials(name, objectives):
    """Pruned ones with their intermediate values, which Optuna's samplers refuse of a study with several objectives."""
    asker = questioner(MIXED, name, objectives=objectives)

    def known(start, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)):
        trials = finished(asker, asked[:start], [float(number % 5) for number in range(start)])
        for number, trial in enumerate(trials):
            trial.state = states[number % 3 if number >= start - 8 else number % 2]
            if trial.state != TrialState.COMPLETE:
                trial.values, trial.intermediate_values = None, {0: 1.0, 1: number / 7}
            if trial.state == TrialState.RUNNING:
                trial.datetime_complete = None
        return trials

    asked: list[Any] = []
    for start in range(0, 40, 8):
        asked += asker.suggest(start, 8, known)
    assert len({asker.space.identity(one.params) for one in asked}) == 40
    assert questioner(MIXED, name, objectives=objectives).suggest(32, 8, known) == asked[32:]


def test_of_pruned_trials_tpe_prefers_those_that_went_further():
    """What they are told to the study in memory as is what TPE ranks: the step they reached, then the value there."""
    asker = questioner(UNIT, "tpe", super_batch=16)
    asked = asker.suggest(0, 16, below([]))
    history = finished(asker, asked, [None] * 16)
    for number, trial in enumerate(history):
        trial.state, trial.intermediate_values = TrialState.PRUNED, {number: 0.0}
    asker.suggest(16, 1, below(history))
    told = asker._study.study.get_trials(deepcopy=False)[:16]
    assert [trial.intermediate_values for trial in told] == [{number: 0.0} for number in range(16)]
    assert {trial.state for trial in told} == {TrialState.PRUNED}


def test_trials_recorded_with_other_parameters_are_gone_on_from_and_that_is_said(caplog):
    asker = questioner(MIXED, "nsgaii")
    history = ran(asker, 2)
    history[3].params = {**history[3].params, "algorithm.hyperparam.gamma": 0.95}
    with caplog.at_level(logging.WARNING, "hyperlax"):
        answer = questioner(MIXED, "nsgaii").suggest(16, 8, below(history))
    assert "Trial 3 has other parameters than the sampler suggests now" in caplog.text
    assert answer == questioner(MIXED, "nsgaii").suggest(16, 8, below(history))


def test_constraints_steer_tpe_away_from_what_misses_them():
    asker = questioner(UNIT, "tpe", super_batch=16)
    history = []
    for start in range(0, 64, 16):
        asked = asker.suggest(start, 16, below(history))
        history += finished(asker, asked, [one.params["x"] for one in asked])
        for trial in history[start:]:
            trial.system_attrs["constraints"] = [trial.params["x"] - 0.5]
    asked = asker.suggest(64, 16, below(history))
    assert np.mean([one.params["x"] <= 0.55 for one in asked]) > 0.5
