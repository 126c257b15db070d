"""An algorithm is a configuration, a program and a row: a policy gradient written here is searched and resumed as any other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import hyperlax
from hyperlax.algorithms import normalizer
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane, PolicyParams
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.policies import categorical_log_prob
from hyperlax.algorithms.registry import ALGORITHMS
from hyperlax.envs import Environment
from hyperlax.hyperparams import AlgorithmConfig, Network, Torso, static, traced
from hyperlax.networks.architecture import TorsoShape, count_parameters
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP
from hyperlax.recipe import load
from hyperlax.study.search import run_study
from tests.study_cases import arguments_of


@dataclass(frozen=True)
class ReinforceHyperparams:
    step_size: float = traced(0.1, above=0)
    normalize_observations: bool = traced(False)
    total_num_envs: int = static(8, 1)
    rollout_length: int = static(4, 1)
    epochs: int = traced(1, 1)


@dataclass(frozen=True)
class ReinforceNetworks:
    policy: Network = Network(Torso((4,)))


@dataclass(frozen=True)
class Reinforce(AlgorithmConfig):
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    policy_network: ClassVar[str] = "policy"

    hyperparam: ReinforceHyperparams = ReinforceHyperparams()
    network: ReinforceNetworks = ReinforceNetworks()


class State(NamedTuple):
    key: Array
    params: Any
    statistics: ObservationStatistics
    environment: Any
    observation: Array


@dataclass(frozen=True)
class Shape:
    """One compiled program of the policy gradient."""

    environment: Environment
    policy: TorsoShape
    total_num_envs: int
    rollout_length: int
    num_eval_episodes: int

    @property
    def steps_per_iteration(self) -> int:
        return self.total_num_envs * self.rollout_length

    @cached_property
    def network(self) -> MaskedMLP:
        actions: Any = self.environment.action
        return MaskedMLP(self.policy, actions.n, lecun_normal(), lecun_normal())

    def num_parameters(self, torso: Torso) -> int:
        return count_parameters(torso, self.environment.observation_size, self.network.outputs)

    def flops(self, num_updates: float) -> float:
        return (1 + 3 * num_updates) * self.steps_per_iteration * self.network.multiplications(1)

    def init(self, key: Array, lane: Lane) -> State:
        network_key, reset_key, key = jax.random.split(key, 3)
        environment, observation = jax.vmap(self.environment.reset)(jax.random.split(reset_key, self.total_num_envs))
        params = self.network.init(network_key, self.environment.observation_size, lane.networks["policy"])
        statistics = normalizer.fresh(self.environment.observation_size)
        return State(key, params, statistics, environment, observation)

    def step(self, state: State, lane: Lane, iteration: Array) -> State:
        key, noise_key, step_key = jax.random.split(state.key, 3)
        extent = (self.rollout_length, self.total_num_envs)

        def act(carry: tuple[Any, Array], at: tuple[Array, Array]) -> tuple[tuple[Any, Array], Any]:
            environment, observation = carry
            noise, keys = at
            action = jnp.argmax(self._logits(state.params, lane, observation) + noise, axis=-1)
            environment, step = jax.vmap(self.environment.step)(keys, environment, action)
            return (environment, step.observation), (observation, action, step.reward)

        def loss(params: Any) -> Array:
            log_prob = categorical_log_prob(self._logits(params, lane, observations), actions)
            return -jnp.mean((rewards - jnp.mean(rewards)) * log_prob)

        def descend(_: Any, params: Any) -> Any:
            return jax.tree.map(lambda p, g: p - lane.hyperparam.step_size * g, params, jax.grad(loss)(params))

        noise = jax.random.gumbel(noise_key, (*extent, self.network.outputs))
        draws = (noise, jax.random.split(step_key, extent))
        (environment, observation), seen = jax.lax.scan(act, (state.environment, state.observation), draws)
        observations, actions, rewards = seen
        params = jax.lax.fori_loop(0, lane.hyperparam.epochs, descend, state.params)
        return State(key, params, state.statistics, environment, observation)

    def evaluate(self, state: State, lane: Lane, key: Array) -> Evaluation:
        def act(observation: Array, key: Array) -> Array:
            return jnp.argmax(self._logits(state.params, lane, observation), axis=-1)

        return evaluate(self.environment, act, key, self.num_eval_episodes, state.params)

    def policy_params(self, state: State) -> PolicyParams:
        return PolicyParams(state.params, state.statistics)

    def reset(self, old: State, fresh: State) -> State:
        return fresh

    def with_key(self, state: State, key: Array) -> State:
        return state._replace(key=key)

    def _logits(self, params: Any, lane: Lane, observation: Array) -> Array:
        return self.network.output(params, observation, lane.networks["policy"])


RECIPE = """
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import Categorical, LogUniform
from tests.test_own_algorithm import Reinforce

def get_base_config():
    return ExperimentConfig(Reinforce(), {name: RunLength(640, 2, 4) for name in ("quick", "default", "long")})

def get_base_hyperparam_distributions():
    return {
        "algorithm.hyperparam.step_size": LogUniform(domain=(0.1, 10.0)),
        "algorithm.hyperparam.epochs": Categorical(values=[1, 2]),
        "algorithm.network.policy.pre_torso.layer_sizes": Categorical(values=[[4], [8]]),
    }
"""


def test_an_algorithm_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reinforce.py"
    path.write_text(RECIPE)
    with pytest.raises(ValueError, match="algorithm must be one of PPO, SAC, DQN, got Reinforce"):
        load(str(path))
    monkeypatch.setitem(ALGORITHMS, Reinforce, __name__)
    recipe = load(str(path))
    arguments: dict[str, Any] = {
        "algo_and_network_config": str(path),
        "env_config": "probe.action_reward_discrete",
        "total_timesteps": 640,
        "num_evaluations": 2,
    }
    assert run_study(arguments_of(tmp_path, **arguments, n_trials=3), recipe) == 0
    directory = tmp_path / "reinforce" / "probe_action_reward_discrete"
    assert run_study(arguments_of(tmp_path, **arguments, n_trials=4), recipe, directory) == 0

    study = hyperlax.open_study(directory)
    assert list(study.trials["state"]) == ["COMPLETE"] * 4
    for record in study.record.trials:
        (width,) = record.params["algorithm.network.policy.pre_torso.layer_sizes"]
        assert record.metrics["num_parameters"] == 2 * width + 2 * width + 2
    assert list(study.best.values.values()) == [1.0]
    agent = hyperlax.load_agent(directory)
    assert agent.about["algorithm"] == "Reinforce"
    assert agent(np.ones(1)) == 1
