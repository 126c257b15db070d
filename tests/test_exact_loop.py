"""A lane equals a plain Python loop over an exact-size network, and wider padding changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from hyperlax.algorithms import dqn, ppo, sac
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.envs import Discrete, Environment, make
from hyperlax.hyperparams import Network, Torso, of_algorithm
from hyperlax.trial import Trial
from tests.exact import ExactMLP, crop
from tests.small import BASES, CASES, ENVIRONMENTS, RUN_LENGTH, SEED, SEEDS, STRUCTURE, WIDEST, train, workload
from tests.test_lane_laws import CONTINUOUS, mixed


class ExactPPO(ppo.Shape):
    torsos: Any

    @cached_property
    def policy_network(self) -> Any:
        return ExactMLP(self.torsos["actor_network"], super().policy_network.outputs)

    @cached_property
    def value_network(self) -> Any:
        return ExactMLP(self.torsos["critic_network"], 1)


class ExactSAC(sac.Shape):
    torsos: Any

    @cached_property
    def policy_network(self) -> Any:
        return ExactMLP(self.torsos["actor_network"], 2 * self.action_size)

    @cached_property
    def q_network(self) -> Any:
        return ExactMLP(self.torsos["critic_network"], 1)


def actions_of(environment: Environment) -> int:
    assert isinstance(environment.action, Discrete)
    return environment.action.n


class ExactDQN(dqn.Shape):
    torsos: Any

    @cached_property
    def q_network(self) -> Any:
        return ExactMLP(self.torsos["critic_network"], actions_of(self.environment))


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
EXACT = {ppo.Shape: ExactPPO, sac.Shape: ExactSAC, dqn.Shape: ExactDQN}


def torsos_of(trial: Trial) -> dict[str, Torso]:
    network = of_algorithm(trial.config).network
    return {field.name: getattr(network, field.name).pre_torso for field in dataclasses.fields(network)}


def sizes(state: Any, shape: Any) -> dict[str, tuple[Any, str, int, int]]:
    """Name -> (parameters, torso's name, inputs, outputs) of every network in a state."""
    inputs = shape.environment.observation_size
    if isinstance(state, ppo.State):
        outputs = shape.policy_network.outputs
        return {
            "policy": (state.policy.network, "actor_network", inputs, outputs),
            "value": (state.value, "critic_network", inputs, 1),
        }
    if isinstance(state.learner, sac.Learner):
        critics = (inputs + shape.action_size, 1)
        return {
            "policy": (state.learner.policy, "actor_network", inputs, 2 * shape.action_size),
            "critics": (state.learner.critics, "critic_network", *critics),
            "targets": (state.learner.targets, "critic_network", *critics),
        }
    actions = shape.environment.action.n
    return {
        "q": (state.learner.q, "critic_network", inputs, actions),
        "target": (state.learner.target, "critic_network", inputs, actions),
    }


def cropped(state: Any, shape: Any, torsos: dict[str, Torso]) -> dict[str, Any]:
    return {
        name: crop(params, torsos[torso], inputs, outputs)
        for name, (params, torso, inputs, outputs) in sizes(state, shape).items()
    }


def with_networks(state: Any, networks: dict[str, Any]) -> Any:
    """The state with exact-size parameters and fresh optimizers."""
    if isinstance(state, ppo.State):
        policy = state.policy._replace(network=networks["policy"])
        return state._replace(
            policy=policy,
            value=networks["value"],
            policy_optimizer=ppo.ADAM.init(policy),
            value_optimizer=ppo.ADAM.init(networks["value"]),
        )
    if isinstance(state.learner, sac.Learner):
        learner = state.learner._replace(
            **networks,
            policy_optimizer=sac.ADAM.init(networks["policy"]),
            critic_optimizer=sac.ADAM.init(networks["critics"]),
        )
        return state._replace(learner=learner)
    return state._replace(learner=dqn.Learner(networks["q"], networks["target"], dqn.ADAM.init(networks["q"])))


Trained = tuple[dict[str, Any], list[float]]


class Loop:
    """Training of one seed of one lane as a plain Python loop: one iteration after another, and no other lane."""

    def __init__(self, shape: Any):
        self.step, self.evaluate = jax.jit(shape.step), jax.jit(shape.evaluate)

    def __call__(self, state: Any, lane: Any, seed: int, segments: tuple[int, ...]) -> tuple[Any, list[float]]:
        """The state after all segments, and the mean return after each."""
        means, iteration = [], 0
        for iterations in segments:
            for _ in range(iterations):
                state = self.step(state, lane, np.int32(iteration))
                iteration += 1
            means.append(float(self.evaluate(state, lane, evaluation_keys(SEED, SEEDS)[seed]).mean))
        return state, means


def plain_loop(case: str, trial: Trial, seed: int, segments: tuple[int, ...]) -> Callable[[float], Trained]:
    """Training of one seed of one trial without lanes, padding or masks: an exact-size network, one iteration after another.

    The argument is how far the initial weights are off, relative to themselves.
    """
    load = AlgorithmTask(of_algorithm(trial.config), {}, ENVIRONMENTS[case], RUN_LENGTH)
    padded: Any = load.program(trial)
    fields = {field.name: getattr(padded, field.name) for field in dataclasses.fields(padded)}
    shape = EXACT[type(padded)](**fields)
    object.__setattr__(shape, "torsos", torsos_of(trial))
    lane = load.lane(trial)
    start = jax.jit(padded.init)(training_keys(SEED, [trial.number], SEEDS)[0, seed], lane)
    weights = cropped(start, padded, torsos_of(trial))
    loop = Loop(shape)

    def run(off: float) -> Trained:
        draw = np.random.default_rng(0)
        state = with_networks(
            start, jax.tree.map(lambda w: w * (1 + off * draw.choice([-1, 1], w.shape)).astype(np.float32), weights)
        )
        state, means = loop(state, lane, seed, segments)
        return {name: params for name, (params, *_) in sizes(state, shape).items()}, means

    return run


def distance(one: Trained, other: Trained) -> tuple[float, float]:
    """The largest difference of any two weights, and of any two returns relative to their size; nan where anything is."""
    apart = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one[0], other[0])
    ours, theirs = np.array(one[1]), np.array(other[1])
    return float(np.max(jax.tree.leaves(apart))), float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0)))


@st.composite
def random_trials(draw: st.DrawFn, case: str) -> tuple[list[Trial], Trial]:
    """A batch of the case's program, and the one of its trials whose architecture and integers are random."""
    torso = st.builds(
        Torso,
        layer_sizes=st.lists(st.integers(1, WIDEST), min_size=1, max_size=3).map(tuple),
        activation=st.sampled_from(["tanh", "relu", "elu"]),
        use_layer_norm=st.booleans(),
    )
    base: Any = BASES[case]
    networks = {field.name: Network(draw(torso)) for field in dataclasses.fields(base.network)}
    structure = {name: draw(st.sampled_from(v)) for name, v in STRUCTURE.items() if hasattr(base.hyperparam, name)}
    hyperparam = dataclasses.replace(base.hyperparam, epochs=draw(st.integers(1, 3)), **structure)
    own = Trial(draw(st.integers(20, 99)), type(base)(hyperparam, type(base.network)(**networks)))
    place = draw(st.integers(0, 2))
    return [*mixed(case)[:place], own, *mixed(case)[place + 1 :]], own


def apart(case: str, trials: list[Trial], trial: Trial, seed: int, exact: Trained, **kind: Any) -> tuple[float, float]:
    """The distance of a trial among its mates from its exact-size loop. kind: as for `train`."""
    state, scores = train(case, trials, **kind)[trial.number]
    shape: Any = AlgorithmTask(BASES[case], {}, ENVIRONMENTS[case], RUN_LENGTH).program(trial)
    own = cropped(jax.tree.map(lambda x: x[seed], state), shape, torsos_of(trial))
    return distance((own, [float(score.mean[seed]) for score in scores]), exact)


@pytest.mark.parametrize("case", CASES)
def test_a_lane_equals_a_plain_python_loop_over_an_exact_size_network(case: str) -> None:
    """Of its own three layers with layer norm, and with several minibatches."""
    *mates, last = mixed(case)
    several = {"num_minibatches": 2} if hasattr(BASES[case].hyperparam, "num_minibatches") else {}
    config: Any = last.config
    config = dataclasses.replace(config, hyperparam=dataclasses.replace(config.hyperparam, **several))
    own, seed = Trial(last.number, config), 1
    weights, returns = apart(case, [*mates, own], own, seed, plain_loop(case, own, seed, (2, 2))(0.0))
    assert weights < 2e-4 and returns < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_random_lane_equals_a_plain_python_loop_over_an_exact_size_network(case: str) -> None:
    """Random architectures and integers among mates.

    Adam turns a gradient that is nothing but rounding into a whole step, for example behind a layer norm of two units.

    So where rounding the initial weights otherwise moves the loop away from itself, it proves nothing. Nor do returns, where a
    tie between two actions may go either way.
    """

    seed, examples, counted = 1, 8, []

    @settings(
        max_examples=examples, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=CHECKS
    )
    @given(random_trials(case))
    def check(drawn: tuple[list[Trial], Trial]) -> None:
        trials, trial = drawn
        loop = plain_loop(case, trial, seed, (2, 2))
        exact = loop(0.0)
        rounding = [distance(loop(off), exact) for off in (1e-7, 2e-7)]
        assume(np.max(rounding) < 1e-5)
        weights, returns = apart(case, trials, trial, seed, exact, sequential=False)
        assert weights < 1e-4
        assert returns < 1e-4 or isinstance(make(ENVIRONMENTS[case]).action, Discrete)
        counted.append(trial.number)

    check()
    assert len(counted) == examples


WIDER = 13


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in CONTINUOUS else ()) for case in CASES]
)
def test_wider_padding_changes_nothing(case: str) -> None:
    """Lanes that compute at their own sizes are witnesses against loops of one lane each that is padded further."""
    trials, seed, wide = mixed(case), 1, workload(case, WIDER, exact_sizes=False)
    narrow, shape = train(case, trials), wide.program(trials[0])
    own: Any = AlgorithmTask(BASES[case], {}, ENVIRONMENTS[case], RUN_LENGTH).program(trials[0])
    init, loop = jax.jit(shape.init), Loop(shape)
    for trial in trials:
        assert wide.program(trial) == shape
        start = init(training_keys(SEED, [trial.number], SEEDS)[0, seed], wide.lane(trial))
        state, means = loop(start, wide.lane(trial), seed, (2, 2))
        left = cropped(jax.tree.map(lambda x: x[seed], narrow[trial.number][0]), own, torsos_of(trial))
        right = cropped(state, own, torsos_of(trial))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), left, right)
        np.testing.assert_allclose(means, [score.mean[seed] for score in narrow[trial.number][1]], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"sequential": False}])
@pytest.mark.parametrize("case", CASES)
def test_wider_padding_of_all_lanes_changes_nothing(case: str, kind: dict[str, Any]) -> None:
    trials = mixed(case)
    narrow, wide = train(case, trials, **kind), train(case, trials, widest=WIDER, **kind)
    shape: Any = AlgorithmTask(BASES[case], {}, ENVIRONMENTS[case], RUN_LENGTH).program(trials[0])
    for trial in trials:
        left, right = (cropped(result[trial.number][0], shape, torsos_of(trial)) for result in (narrow, wide))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), left, right)
        for a, b in zip(narrow[trial.number][1], wide[trial.number][1], strict=True):
            np.testing.assert_allclose(a.mean, b.mean, rtol=1e-3)
