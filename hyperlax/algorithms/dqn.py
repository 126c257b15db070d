"""Deep Q-learning with a replay buffer, a slowly tracking target network, and double Q-learning as a flag.

Mnih et al., "Human-level control through deep reinforcement learning", 2015 (Nature 518); van Hasselt et al., "Deep
Reinforcement Learning with Double Q-learning", 2016 (arXiv:1509.06461). The target network follows by Polyak averaging
(Lillicrap et al., 2016); tau = 1 is no target network.

Shapes: T rollout_length, E total_num_envs, B total_batch_size, A actions; one seed of one lane, which the engine vmaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, replay
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane, remaining
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.algorithms.replay import Replay, Transition
from hyperlax.envs import Environment
from hyperlax.hyperparams import DQNHyperparams
from hyperlax.networks.architecture import TorsoShape
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP

ADAM = Adam(epsilon=1e-8)
DQNLane = Lane[DQNHyperparams]


class Learner(NamedTuple):
    """Everything that a gradient update changes."""

    q: Any
    target: Any
    optimizer: Any


class State(NamedTuple):
    """All that training one seed of one lane carries from iteration to iteration."""

    key: Array
    steps: Array  # int32[], environment steps done
    learner: Learner
    replay: Replay
    statistics: ObservationStatistics
    environment: Any  # [E, ...]
    observation: Array  # float32[E, obs]


def exploration(steps: Array, lane: DQNLane) -> Array:
    """Epsilon: from 1 to training_epsilon, linear over exploration_fraction of the budget, then constant."""
    final = lane.hyperparam.training_epsilon
    span = lane.hyperparam.exploration_fraction * lane.total_timesteps
    progress = jnp.where(span > 0, jnp.clip(steps / jnp.where(span > 0, span, 1.0), 0.0, 1.0), 1.0)
    return 1.0 + progress * (final - 1.0)


def td_target(
    reward: Array, continues: Array, next_target_q: Array, next_online_q: Array, gamma: Array, double: Array
) -> Array:
    """r + gamma Q_target(s', a'), a' the best action by the online network if `double`, else by the target network.

    reward, continues [B]; next_*_q [B, A]. (Mnih et al.: the loss of eq. 1 of Methods; van Hasselt et al.: eq. 4.)
    """
    best = jnp.where(double, jnp.argmax(next_online_q, axis=-1), jnp.argmax(next_target_q, axis=-1))
    return reward + gamma * continues * jnp.take_along_axis(next_target_q, best[:, None], axis=-1)[:, 0]


def huber(error: Array, delta: Array) -> Array:
    """1/2 e^2 up to |e| = delta, linear beyond (Huber, 1964); delta = 0 stands for no bound: 1/2 e^2 everywhere."""
    size = jnp.abs(error)
    inside = jnp.where(delta > 0, jnp.minimum(size, delta), size)
    return 0.5 * inside**2 + delta * (size - inside)


@dataclass(frozen=True)
class Shape:
    """One compiled DQN program."""

    environment: Environment
    critic_network: TorsoShape
    total_num_envs: int
    rollout_length: int
    total_batch_size: int
    replay_capacity: int
    num_eval_episodes: int

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one seed in one `step`."""
        return self.total_num_envs * self.rollout_length

    @cached_property
    def q_network(self) -> MaskedMLP:
        return MaskedMLP(self.critic_network, self.environment.action.n, lecun_normal(), lecun_normal())

    def init(self, key: Array, lane: DQNLane) -> State:
        """Fresh parameters, environments and an empty replay buffer."""
        q_key, reset_key, train_key = jax.random.split(key, 3)
        environment, observation = jax.vmap(self.environment.reset)(jax.random.split(reset_key, self.total_num_envs))
        q = self.q_network.init(q_key, observation, lane.networks["critic_network"])
        ring = replay.ring_length(self.replay_capacity, self.steps_per_iteration)
        size = self.environment.observation_size
        return State(
            key=train_key,
            steps=jnp.int32(0),
            learner=Learner(q, jax.tree.map(jnp.copy, q), ADAM.init(q)),
            replay=replay.empty(ring, size, 1),
            statistics=normalizer.fresh(size),
            environment=environment,
            observation=observation,
        )

    def renew(self, old: State, fresh: State) -> State:
        """The state of a lane that a new trial takes over; the old rows stay where they are, out of its reach."""
        return fresh._replace(replay=Replay(old.replay.rows, fresh.replay.size))

    def step(self, state: State, lane: DQNLane, tick: Array) -> State:
        """One iteration: a rollout into the replay buffer, then, past the warm-up, some gradient updates."""
        key, collect_key, update_key = jax.random.split(state.key, 3)
        state, rows, seen = collect(self, state, lane, collect_key)
        state = state._replace(
            key=key,
            steps=state.steps + self.steps_per_iteration,
            replay=replay.write(state.replay, rows, tick, lane.hyperparam.total_buffer_size),
            statistics=normalizer.observe(state.statistics, seen),
        )
        warm = state.steps >= lane.hyperparam.warmup_rollout_length * self.total_num_envs
        updates = jnp.where(warm, lane.hyperparam.epochs, 0)

        def turn(number: Array, learner: Learner) -> Learner:
            return update(self, learner, state, lane, tick, jax.random.fold_in(update_key, number))

        return state._replace(learner=jax.lax.fori_loop(0, updates, turn, state.learner))

    def evaluate(self, state: State, lane: DQNLane, key: Array) -> Evaluation:
        """Play whole episodes greedily, but for a part evaluation_epsilon of random actions."""

        def act(observation: Array, key: Array) -> Array:
            q = q_values(self, state.learner.q, state.statistics, lane, observation)
            return epsilon_greedy(q, lane.hyperparam.evaluation_epsilon, *exploration_draws(key, q.shape))

        return evaluate(self.environment, act, key, self.num_eval_episodes, (state.learner.q, state.learner.target))


def exploration_draws(key: Array, extent: tuple[int, ...]) -> tuple[Array, Array]:
    """A uniform number and a random action for each of `extent` = [..., A]: float32[...], int32[...]."""
    coin_key, action_key = jax.random.split(key)
    return jax.random.uniform(coin_key, extent[:-1]), jax.random.randint(action_key, extent[:-1], 0, extent[-1])


def epsilon_greedy(q: Array, epsilon: Array, coin: Array, random_action: Array) -> Array:
    """The best of float32[..., A], or where the coin falls below epsilon the random action: int32[...]."""
    return jnp.where(coin < epsilon, random_action, jnp.argmax(q, axis=-1))


def q_values(shape: Shape, q: Any, statistics: ObservationStatistics, lane: DQNLane, observation: Array) -> Array:
    """float32[..., obs] -> float32[..., A]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    return shape.q_network.apply(q, seen, lane.networks["critic_network"])


def collect(shape: Shape, state: State, lane: DQNLane, key: Array) -> tuple[State, Array, Array]:
    """T steps in E environments: random actions while a step is part of the warm-up, epsilon-greedy ones after.

    Returns the state, the packed rows [T * E, row] oldest first, and the observations [T * E, obs].
    """
    draw_key, step_key = jax.random.split(key)
    extent = (shape.rollout_length, shape.total_num_envs)
    coin, random_action = exploration_draws(draw_key, (*extent, shape.environment.action.n))
    number = state.steps // shape.total_num_envs + jnp.arange(shape.rollout_length)
    warming = number < lane.hyperparam.warmup_rollout_length
    epsilon = jnp.where(warming, 1.0, exploration(number * shape.total_num_envs, lane))

    def act(carry: tuple[Any, Array], at: tuple[Array, ...]) -> tuple[tuple[Any, Array], Transition]:
        environment, observation = carry
        coin, random_action, epsilon, keys = at
        q = q_values(shape, state.learner.q, state.statistics, lane, observation)
        action = epsilon_greedy(q, epsilon, coin, random_action)
        environment, step = jax.vmap(shape.environment.step)(keys, environment, action)
        stored = action.astype(jnp.float32)[:, None]
        continues = 1.0 - step.terminated
        return (environment, step.observation), Transition(
            observation, stored, step.reward, continues, step.final_observation
        )

    xs = (coin, random_action, epsilon, jax.random.split(step_key, extent))
    (environment, observation), transitions = jax.lax.scan(act, (state.environment, state.observation), xs)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transitions)
    return state._replace(environment=environment, observation=observation), replay.pack(flat), flat.observation


def td_loss(
    shape: Shape, q: Any, target: Any, statistics: ObservationStatistics, lane: DQNLane, batch: Transition
) -> Array:
    """mean Huber(target - Q(s, a)) over [B]."""
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
    chosen = jnp.take_along_axis(values, batch.action.astype(jnp.int32), axis=-1)[:, 0]
    return jnp.mean(huber(jax.lax.stop_gradient(goal) - chosen, lane.hyperparam.huber_loss_parameter))


def update(shape: Shape, learner: Learner, state: State, lane: DQNLane, tick: Array, key: Array) -> Learner:
    """One gradient update of the Q-network, and of its target after it."""
    hyperparam = lane.hyperparam
    rows = replay.sample(state.replay, key, shape.total_batch_size, shape.steps_per_iteration, tick)
    batch = replay.unpack(rows, shape.environment.observation_size, 1)
    gradient = jax.grad(lambda q: td_loss(shape, q, learner.target, state.statistics, lane, batch))(learner.q)
    scale = jnp.where(hyperparam.decay_learning_rates, remaining(state.steps, lane), 1.0)
    q, optimizer = ADAM.descend(
        learner.q, gradient, learner.optimizer, scale * hyperparam.critic_lr, hyperparam.max_grad_norm
    )
    return Learner(q, track(learner.target, q, hyperparam.tau), optimizer)
