"""A trial does not know its neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.algorithms.padding import padding_of, structure_of
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine.programs import Programs
from hyperlax.hyperparams import of_algorithm, rules
from hyperlax.recipe import RunLength
from hyperlax.trial import Trial
from tests import toy
from tests.small import (
    BASES,
    CASES,
    ENVIRONMENTS,
    RUN_LENGTH,
    SEED,
    WIDEST,
    changed,
    program,
    same_bits,
    structural_space,
    train,
    with_values,
    workload,
)

OTHER_VALUES = {
    "actor_lr": 1e-2,
    "critic_lr": 1e-2,
    "q_lr": 1e-2,
    "alpha_lr": 1e-2,
    "gamma": 0.9,
    "gae_lambda": 0.5,
    "clip_eps": 0.01,
    "ent_coef": 0.1,
    "vf_coef": 0.1,
    "max_grad_norm": 1e-3,
    "standardize_advantages": False,
    "decay_learning_rates": True,
    "normalize_observations": True,
    "total_num_envs": 4,
    "rollout_length": 16,
    "epochs": 1,
    "num_minibatches": 4,
    "tau": 0.5,
    "target_entropy_scale": 0.3,
    "init_alpha": 0.3,
    "autotune": False,
    "warmup_rollout_length": 2,
    "total_buffer_size": 9,
    "total_batch_size": 4,
    "training_epsilon": 0.9,
    "exploration_fraction": 0.05,
    "evaluation_epsilon": 0.9,
    "huber_loss_parameter": 0.01,
    "use_double_q": False,
}
CONTINUOUS = ("ppo_continuous", "sac")
"""Cases whose lanes side by side take half a minute to compile, and differ from the others in their actions."""
FIELDS = [(case, field) for case in CASES for field in rules(type(BASES[case].hyperparam))]


STATIC = [(case, field) for case, field in FIELDS if rules(type(BASES[case].hyperparam))[field].kind == "static"]


def learnt(result: tuple[Any, list[Any]]) -> Any:
    """What a trial's hyperparameters should have changed: the networks, and how they score. No counter, no temperature."""
    state, scores = result
    if hasattr(state, "learner"):
        learner = state.learner
        return (learner.policy, learner.critics, scores) if hasattr(learner, "policy") else (learner.q, scores)
    return state.policy, state.value, scores


def mixed(case: str) -> list[Trial]:
    """Three trials that differ in hyperparameters, in integers of structure and in every part of their architecture."""
    networks = [field.name for field in dataclasses.fields(BASES[case].network)]

    def architecture(layer_sizes: list[int], activation: str, layer_norm: bool) -> dict:
        return {
            f"algorithm.network.{name}.pre_torso.{key}": value
            for name in networks
            for key, value in (
                ("layer_sizes", layer_sizes),
                ("activation", activation),
                ("use_layer_norm", layer_norm),
            )
        }

    fast: dict[str, Any] = {"algorithm.hyperparam.gamma": 0.9, "algorithm.hyperparam.epochs": 4}
    last: dict[str, Any] = {"algorithm.hyperparam.epochs": 1}
    if hasattr(BASES[case].hyperparam, "num_minibatches"):
        fast["algorithm.hyperparam.num_minibatches"] = 4
        last["algorithm.hyperparam.num_minibatches"] = 1
    else:
        fast["algorithm.hyperparam.total_batch_size"] = 4
    return [
        Trial(3, with_values(case, architecture([6, 4], "relu", False))),
        Trial(11, with_values(case, {**architecture([8], "tanh", True), **fast})),
        Trial(12, with_values(case, {**architecture([3, 8, 5], "elu", True), **last})),
    ]


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, marks=pytest.mark.slow if kind and case in CONTINUOUS else ())
        for case in CASES
        for kind in ({}, {"sequential": False})
    ],
)
def test_a_lane_alone_equals_the_lane_among_others_to_the_bit(case: str, kind: dict[str, Any]) -> None:
    trials = mixed(case)
    together = train(case, trials, **kind)
    for trial in trials:
        alone = train(case, [trial], **kind)
        assert same_bits(alone[trial.number], together[trial.number])


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in CONTINUOUS else ()) for case in CASES]
)
def test_lanes_one_after_another_side_by_side_and_a_single_one_agree_to_rounding(case: str) -> None:
    trials = mixed(case)
    several, side_by_side = train(case, trials), train(case, trials, sequential=False)
    for trial in trials:
        alone = train(case, [trial], lanes=1, seeds=1)[trial.number]
        first_seed = jax.tree.map(lambda x: x[:1], several[trial.number])
        for other, expected in ((side_by_side[trial.number], several[trial.number]), (alone, first_seed)):
            for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_lane_does_not_depend_on_its_place_nor_on_the_programs_clock(case: str) -> None:
    trials = mixed(case)
    there = train(case, trials)
    moved = train(case, trials[::-1])
    late = train(case, trials, iteration=5)
    for trial in trials:
        assert same_bits(there[trial.number], moved[trial.number])
        assert same_bits(there[trial.number][1], late[trial.number][1])


@pytest.mark.parametrize("case", CASES)
def test_trials_and_seeds_with_equal_hyperparameters_train_differently(case: str) -> None:
    results = train(case, [Trial(0, BASES[case]), Trial(1, BASES[case])])
    observations = [results[number][0].observation for number in (0, 1)]
    assert len({observations[trial][seed].tobytes() for trial in (0, 1) for seed in (0, 1)}) == 4


@pytest.mark.parametrize(("case", "field"), FIELDS, ids=[f"{case}-{field}" for case, field in FIELDS])
def test_changing_one_hyperparameter_in_one_lane_changes_that_lane_alone(case: str, field: str) -> None:
    other = Trial(1, changed(case, **{field: OTHER_VALUES[field]}))
    if rules(type(BASES[case].hyperparam))[field].kind == "static":
        assert workload(case, WIDEST).program(other) != workload(case, WIDEST).program(Trial(1, BASES[case]))
        return
    base = train(case, [Trial(number, BASES[case]) for number in range(3)])
    mixed_in = train(case, [Trial(0, BASES[case]), other, Trial(2, BASES[case])])
    assert same_bits(base[0], mixed_in[0])
    assert same_bits(base[2], mixed_in[2])
    assert not same_bits(learnt(base[1]), learnt(mixed_in[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "field"), STATIC, ids=[f"{case}-{field}" for case, field in STATIC])
def test_changing_one_static_hyperparameter_in_one_trial_changes_that_trial_alone(case: str, field: str) -> None:
    length = RunLength(total_timesteps=128, num_evaluations=2, num_eval_episodes=2)
    load = AlgorithmTask(BASES[case], {}, ENVIRONMENTS[case], length)
    backend = toy.batches(load, Programs(3, 1), seed=SEED)

    def curves(middle: Any) -> dict[int, Any]:
        trials = [Trial(0, BASES[case]), Trial(1, middle), Trial(2, BASES[case])]
        results = toy.finish(backend, trials)
        return {outcome.number: outcome.curve for result in results for outcome in result.outcomes}

    base, mixed_in = curves(BASES[case]), curves(changed(case, **{field: OTHER_VALUES[field]}))
    for number in (0, 2):
        assert np.array_equal(base[number].mean, mixed_in[number].mean)
    assert not np.array_equal(base[1].mean, mixed_in[1].mean)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("key", "value"), [("layer_sizes", [8]), ("activation", "relu"), ("use_layer_norm", True)])
def test_changing_one_part_of_an_architecture_changes_that_lane_alone(case: str, key: str, value: object) -> None:
    base = train(case, [Trial(number, BASES[case]) for number in range(3)])
    for field in dataclasses.fields(BASES[case].network):
        other = with_values(case, {f"algorithm.network.{field.name}.pre_torso.{key}": value})
        mixed_in = train(case, [Trial(0, BASES[case]), Trial(1, other), Trial(2, BASES[case])])
        assert same_bits(base[0], mixed_in[0])
        assert same_bits(base[2], mixed_in[2])
        assert not same_bits(base[1], mixed_in[1])


@pytest.mark.parametrize("case", CASES)
def test_all_of_this_took_one_program_a_case(case: str) -> None:
    train(case, mixed(case))
    verbs = [compilation.verb for compilation in program(case, WIDEST).compilations]
    assert sorted(verbs) == ["evaluate", "start", "train"]


@st.composite
def super_batches(draw: st.DrawFn, case: str) -> list[Trial]:
    """Three trials that differ in anything that may differ between lanes."""
    base = BASES[case].hyperparam
    steps = base.total_num_envs * base.rollout_length
    choices: dict[str, st.SearchStrategy] = {
        "algorithm.hyperparam.gamma": st.floats(0.5, 0.999),
        "algorithm.hyperparam.epochs": st.integers(1, 4),
        **{name: st.sampled_from(list(values.values)) for name, values in structural_space(BASES[case]).items()},
    }
    if "warmup_rollout_length" in vars(base):
        choices["algorithm.hyperparam.warmup_rollout_length"] = st.integers(0, 12)
        choices["algorithm.hyperparam.total_buffer_size"] = st.integers(steps, 40)
    numbers = draw(st.lists(st.integers(0, 999), min_size=3, max_size=3, unique=True))
    return [
        Trial(number, with_values(case, {name: draw(choice) for name, choice in choices.items()})) for number in numbers
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_trial_of_a_random_mixed_super_batch_is_the_trial_run_alone(case: str) -> None:
    @given(super_batches(case), st.integers(0, 2))
    @settings(max_examples=10, deadline=None, derandomize=True)
    def check(trials: list[Trial], place: int) -> None:
        together = train(case, trials, segments=(2,))
        alone = train(case, [trials[place]], segments=(2,))
        assert same_bits(alone[trials[place].number], together[trials[place].number])

    check()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_padded_split_or_mixed_a_trial_has_the_same_curve(case: str) -> None:
    """Across programs, to rounding: over so few updates rounding has not grown."""
    trials, space = mixed(case), structural_space(BASES[case])
    some = padding_of(structure_of(of_algorithm(trials[0].config)) | structure_of(of_algorithm(trials[1].config)))
    curves = []
    for paddings in (None, [], [some]):
        load = AlgorithmTask(BASES[case], space, ENVIRONMENTS[case], RUN_LENGTH, paddings)
        backend = toy.batches(load, Programs(2, 1), seed=SEED)
        results = toy.finish(backend, trials)
        curves.append({outcome.number: outcome.curve.mean for result in results for outcome in result.outcomes})
    for other in curves[1:]:
        for number, mean in curves[0].items():
            np.testing.assert_allclose(other[number], mean, rtol=1e-3)
