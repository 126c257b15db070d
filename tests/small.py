"""Tiny trials and the programs that train them, for tests of the engine and the algorithms."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Program
from hyperlax.engine.session import stacked
from hyperlax.fields import apply
from hyperlax.hyperparams import (
    DQN,
    PPO,
    SAC,
    ActorCriticNetworks,
    DQNHyperparams,
    Network,
    PPOHyperparams,
    QNetworks,
    SACHyperparams,
    Torso,
)
from hyperlax.recipe import RunLength
from hyperlax.space import Categorical
from hyperlax.trial import Trial

LANES, SEEDS = 3, 2
SEED = 7
WIDEST = 8
SMALL = Network(Torso((6, 4), "tanh", False))
BASES: dict[str, Any] = {
    "ppo_discrete": PPO(
        PPOHyperparams(total_num_envs=2, rollout_length=8, epochs=2, num_minibatches=2, actor_lr=3e-2, critic_lr=3e-2),
        ActorCriticNetworks(SMALL, SMALL),
    ),
    "sac": SAC(
        SACHyperparams(
            total_num_envs=2,
            rollout_length=4,
            warmup_rollout_length=6,
            epochs=3,
            total_buffer_size=40,
            total_batch_size=8,
            actor_lr=3e-2,
            q_lr=3e-2,
            alpha_lr=3e-2,
        ),
        ActorCriticNetworks(SMALL, SMALL),
    ),
    "dqn": DQN(
        DQNHyperparams(
            total_num_envs=2,
            rollout_length=4,
            warmup_rollout_length=6,
            epochs=3,
            total_buffer_size=40,
            total_batch_size=8,
            critic_lr=3e-2,
        ),
        QNetworks(SMALL),
    ),
}
BASES["ppo_continuous"] = BASES["ppo_discrete"]
ENVIRONMENTS = {
    "ppo_discrete": "gymnax.cartpole",
    "ppo_continuous": "gymnax.pendulum",
    "sac": "gymnax.pendulum",
    "dqn": "gymnax.cartpole",
}
CASES = list(BASES)
RUN_LENGTH = RunLength(total_timesteps=64, num_evaluations=2, num_eval_episodes=2)


STRUCTURE = {"num_minibatches": [1, 2, 4], "total_batch_size": [4, 8]}


def structural_space(base: Any) -> dict[str, Categorical]:
    """Architectures and integers of structure that differ in everything that may differ between lanes."""
    own = vars(base.hyperparam)
    space = {
        f"algorithm.hyperparam.{name}": Categorical(values=values) for name, values in STRUCTURE.items() if name in own
    }
    for field in dataclasses.fields(base.network):
        prefix = f"algorithm.network.{field.name}.pre_torso."
        space[prefix + "layer_sizes"] = Categorical(values=[[6, 4], [8], [3, 8, 5]])
        space[prefix + "activation"] = Categorical(values=["tanh", "relu", "elu"])
        space[prefix + "use_layer_norm"] = Categorical(values=[False, True])
    return space


@lru_cache
def workload(case: str, widest: int, exact_sizes: bool | None = None) -> AlgorithmTask:
    """The workload of a case whose networks are padded to `widest` units, its batches and minibatches to STRUCTURE's largest."""
    base = BASES[case]
    space = structural_space(base)
    for name in space:
        if name.endswith("layer_sizes") and widest > WIDEST:
            space[name] = Categorical(values=[*space[name].values, [3, widest, 5]])
    return AlgorithmTask(base, space, ENVIRONMENTS[case], RUN_LENGTH, exact_sizes=exact_sizes)


@lru_cache
def program(case: str, widest: int, lanes: int = LANES, seeds: int = SEEDS, sequential: bool | None = None) -> Program:
    """The one program that most tests of a case share, or another of its lanes, seeds and ways to compute them.

    Lanes side by side are padded, as on an accelerator; else they compute at their own sizes.
    """
    load = workload(case, widest, sequential)
    shape = load.program(Trial(0, BASES[case]))
    return Program(shape, lanes, seeds, jax.local_devices()[0], sequential=sequential)


def changed(case: str, **values: Any) -> Any:
    """The case's configuration with hyperparameters changed."""
    base = BASES[case]
    return dataclasses.replace(base, hyperparam=dataclasses.replace(base.hyperparam, **values))


def with_values(case: str, values: dict[str, Any]) -> Any:
    """The case's configuration with dotted names set."""
    return apply(BASES[case], values, "test")


def train(
    case: str,
    trials: list[Trial],
    *,
    segments: tuple[int, ...] = (2, 2),
    widest: int = WIDEST,
    iteration: int = 0,
    **kind: Any,
) -> dict[int, tuple[Any, list[Any]]]:
    """Train as many trials at once as the program has lanes; per number its final state and its scores, [seeds, ...] numpy trees.

    kind: as for `program`. A program of fewer seeds trains the first.
    """
    load, lanes_program = workload(case, widest, kind.get("sequential")), program(case, widest, **kind)
    filled = [*trials, *[trials[0]] * (lanes_program.lanes - len(trials))]
    hypers = stacked(lanes_program, [load.lane(trial) for trial in filled])
    episode_keys = evaluation_keys(SEED, SEEDS)[: lanes_program.seeds]
    keys = training_keys(SEED, [trial.number for trial in filled], SEEDS)[:, : lanes_program.seeds]
    lanes = lanes_program.start(keys, hypers)
    scores = []
    for iterations in segments:
        lanes = lanes_program.train(lanes, hypers, iteration, iterations)
        iteration += iterations
        scores.append(to_numpy(lanes_program.evaluate(lanes, hypers, episode_keys)))
    state = to_numpy(lanes)
    return {
        trial.number: (jax.tree.map(lambda x, i=i: x[i], state), [jax.tree.map(lambda x, i=i: x[i], s) for s in scores])
        for i, trial in enumerate(trials)
    }


def to_numpy(tree: Any) -> Any:
    """Arrays as numpy, random keys as their words."""
    return jax.tree.map(
        lambda x: np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def same_bits(a: Any, b: Any) -> bool:
    """Whether two numpy trees are equal to the bit."""
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(left) == len(right) and all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(left, right, strict=True)
    )
