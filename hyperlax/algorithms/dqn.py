"""Deep Q-learning with a replay buffer, a slowly tracking target network, and double Q-learning as a flag.

Mnih et al., "Human-level control through deep reinforcement learning", 2015 (Nature 518); van Hasselt et al., "Deep
Reinforcement Learning with Double Q-learning", 2016 (arXiv:1509.06461). The target network follows by Polyak averaging
(Lillicrap et al., 2016); tau = 1 means no target network.

Shapes: T rollout_length, E total_num_envs, B total_batch_size, A actions; one seed of one lane, which the engine vmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, off_policy, policies, replay
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane, PolicyParams, remaining
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.off_policy import State
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.algorithms.replay import Transition
from hyperlax.envs import Discrete, Environment
from hyperlax.hyperparams import Torso
from hyperlax.networks.architecture import TorsoShape, count_parameters
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP

ADAM = Adam(epsilon=1e-8)


class Learner(NamedTuple):
    """All that a gradient update changes."""

    q: Any
    target: Any
    optimizer: Any


def exploration(steps: Array, lane: Lane) -> Array:
    """Return epsilon: from 1 to training_epsilon, linear over exploration_fraction of the budget, then constant."""
    final = lane.hyperparam.training_epsilon
    span = lane.hyperparam.exploration_fraction * lane.total_timesteps
    progress = jnp.where(span > 0, jnp.clip(steps / jnp.where(span > 0, span, 1.0), 0.0, 1.0), 1.0)
    return 1.0 + progress * (final - 1.0)


def td_target(
    reward: Array, continues: Array, next_target_q: Array, next_online_q: Array, gamma: Array, double: Array
) -> Array:
    """Return r + gamma Q_target(s', a'), where a' is the best action by the online network if `double`, else by the target network.

    reward, continues [B]; next_*_q [B, A]. (Mnih et al.: the loss of eq. 1 of Methods; van Hasselt et al.: eq. 4.)
    """
    best = jnp.where(double, jnp.argmax(next_online_q, axis=-1), jnp.argmax(next_target_q, axis=-1))
    return reward + gamma * continues * policies.chosen(next_target_q, best)


def huber(error: Array, delta: Array) -> Array:
    """Return 1/2 e^2 up to |e| = delta, linear beyond (Huber, 1964); with delta = 0, 1/2 e^2 everywhere."""
    size = jnp.abs(error)
    inside = jnp.where(delta > 0, jnp.minimum(size, delta), size)
    return 0.5 * inside**2 + delta * (size - inside)


@dataclass(frozen=True)
class Shape:
    """One compiled DQN program. batch_rows: the largest batch of any lane."""

    environment: Environment
    critic_network: TorsoShape
    total_num_envs: int
    rollout_length: int
    batch_rows: int
    replay_capacity: int
    num_eval_episodes: int

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one seed in one `step`."""
        return self.total_num_envs * self.rollout_length

    @property
    def actions(self) -> int:
        """Number of actions."""
        assert isinstance(self.environment.action, Discrete)
        return self.environment.action.n

    @cached_property
    def q_network(self) -> MaskedMLP:
        return MaskedMLP(self.critic_network, self.actions, lecun_normal(), lecun_normal())

    def num_parameters(self, torso: Torso) -> int:
        """Return the trainable scalars of a Q-network of this torso."""
        return count_parameters(torso, self.environment.observation_size, self.actions)

    def flops(self, epochs: float) -> float:
        """Estimate the multiplications of one `step` of one seed. A gradient costs three forward passes."""
        q = self.q_network.multiplications(self.environment.observation_size)
        return self.steps_per_iteration * q + epochs * (self.batch_rows * (2 + 3) * q + ADAM.WORK * q)

    def init(self, key: Array, lane: Lane) -> State:
        """Return the state before training: initial parameters, reset environments and an empty replay buffer."""
        q_key, reset_key, train_key = jax.random.split(key, 3)
        q = self.q_network.init(q_key, self.environment.observation_size, lane.networks["critic_network"])
        return off_policy.begin(self, train_key, reset_key, Learner(q, q, ADAM.init(q)), 1)

    def reset(self, old: State, fresh: State) -> State:
        """Return the state of a lane that a new trial takes over."""
        return off_policy.reset(old, fresh)

    def with_key(self, state: State, key: Array) -> State:
        """Return the state with another key, from which all later random numbers follow."""
        return state._replace(key=key)

    def step(self, state: State, lane: Lane, iteration: Array) -> State:
        """Run one iteration: a rollout, with random actions while a step is part of the warm-up, then gradient updates."""

        def draw(key: Array, extent: tuple[int, int]) -> tuple[Array, Array]:
            return exploration_draws(key, (*extent, self.actions))

        def choose(observation: Array, draws: tuple[Array, Array], number: Array) -> tuple[Array, Array]:
            q = q_values(self, state.learner.q, state.statistics, lane, observation)
            warming = number < lane.hyperparam.warmup_rollout_length
            epsilon = jnp.where(warming, 1.0, exploration(number * self.total_num_envs, lane))
            action = epsilon_greedy(q, epsilon, *draws)
            return action, action.astype(jnp.float32)[:, None]

        def learn(state: State, repeat: Callable) -> Learner:
            def at_own_size(lane: Lane, learner: Learner) -> tuple[Learner]:
                return (repeat(lambda now, key: update(self, now, state, lane, iteration, key), learner),)

            return lane.by_size(self, "critic_network", at_own_size, state.learner)[0]

        return off_policy.iterate(self, state, lane, iteration, draw=draw, choose=choose, learn=learn)

    def policy_params(self, state: State) -> PolicyParams:
        """Return the parameters of the Q-network and its statistics."""
        return PolicyParams(state.learner.q, state.statistics)

    def evaluate(self, state: State, lane: Lane, key: Array) -> Evaluation:
        """Play whole episodes greedily, except for a share evaluation_epsilon of random actions."""

        def act(observation: Array, key: Array) -> Array:
            q = q_values(self, state.learner.q, state.statistics, lane, observation)
            return epsilon_greedy(q, lane.hyperparam.evaluation_epsilon, *exploration_draws(key, q.shape))

        return evaluate(self.environment, act, key, self.num_eval_episodes, (state.learner.q, state.learner.target))


def exploration_draws(key: Array, extent: tuple[int, ...]) -> tuple[Array, Array]:
    """Sample a uniform number and a random action for each of `extent` = [..., A]: float32[...], int32[...]."""
    coin_key, action_key = jax.random.split(key)
    return jax.random.uniform(coin_key, extent[:-1]), jax.random.randint(action_key, extent[:-1], 0, extent[-1])


def epsilon_greedy(q: Array, epsilon: Array, coin: Array, random_action: Array) -> Array:
    """Return the best of float32[..., A], or the random action where the coin falls below epsilon: int32[...]."""
    return jnp.where(coin < epsilon, random_action, jnp.argmax(q, axis=-1))


def q_values(shape: Shape, q: Any, statistics: ObservationStatistics, lane: Lane, observation: Array) -> Array:
    """Return the values of all actions: float32[..., obs] -> float32[..., A]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    return shape.q_network.output(q, seen, lane.networks["critic_network"])


def _td_loss(
    shape: Shape, q: Any, target: Any, statistics: ObservationStatistics, lane: Lane, batch: Transition
) -> Array:
    """Return mean Huber(target - Q(s, a)) over the lane's own B of the batch's rows."""
    next_target_q = q_values(shape, target, statistics, lane, batch.next_observation)
    next_online_q = q_values(shape, q, statistics, lane, batch.next_observation)
    goal = td_target(
        batch.reward,
        batch.continues,
        next_target_q,
        next_online_q,
        lane.hyperparam.gamma,
        lane.hyperparam.use_double_q,
    )
    values = q_values(shape, q, statistics, lane, batch.observation)
    value = policies.chosen(values, batch.action[:, 0].astype(jnp.int32))
    loss = huber(jax.lax.stop_gradient(goal) - value, lane.hyperparam.huber_loss_parameter)
    return off_policy.batch_mean(loss, lane.hyperparam.total_batch_size)


def update(shape: Shape, learner: Learner, state: State, lane: Lane, iteration: Array, key: Array) -> Learner:
    """Update the Q-network by one gradient step, then its target."""
    hyperparam = lane.hyperparam
    rows = replay.sample(state.replay, key, shape.batch_rows, shape.steps_per_iteration, iteration)
    batch = replay.unpack(rows, shape.environment.observation_size, 1)
    gradient = jax.grad(lambda q: _td_loss(shape, q, learner.target, state.statistics, lane, batch))(learner.q)
    scale = jnp.where(hyperparam.decay_learning_rates, remaining(state.steps, lane), 1.0)
    q, optimizer = ADAM.descend(
        learner.q, gradient, learner.optimizer, scale * hyperparam.critic_lr, hyperparam.max_grad_norm
    )
    return Learner(q, track(learner.target, q, hyperparam.tau), optimizer)
