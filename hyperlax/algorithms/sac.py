"""Soft actor-critic with twin Q-networks and a learned temperature.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018b (arXiv:1812.05905); equations are numbered as there.
Actions are squashed by tanh and rescaled to the environment's box; the Q-networks see them in [-1, 1].

Shapes: T rollout_length, E total_num_envs, B total_batch_size; one seed of one lane, which the engine vmaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, policies, replay
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.algorithms.replay import Replay, Transition
from hyperlax.envs import Environment
from hyperlax.hyperparams import SACHyperparams
from hyperlax.networks.architecture import TorsoShape
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP

ADAM = Adam(epsilon=1e-8)
LOG_STD_RANGE = (-20.0, 2.0)  # of the reference implementation, github.com/rail-berkeley/softlearning
SACLane = Lane[SACHyperparams]


class Learner(NamedTuple):
    """Everything that a gradient update changes."""

    policy: Any
    critics: Any  # leading axis 2: the twins
    targets: Any  # leading axis 2
    log_alpha: Array  # float32[]
    policy_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any


class State(NamedTuple):
    """All that training one seed of one lane carries from iteration to iteration."""

    key: Array
    steps: Array  # int32[], environment steps done
    learner: Learner
    replay: Replay
    statistics: ObservationStatistics
    environment: Any  # [E, ...]
    observation: Array  # float32[E, obs]


def soft_target(
    reward: Array, continues: Array, next_q: Array, next_log_prob: Array, gamma: Array, alpha: Array
) -> Array:
    """r + gamma (min_i Q_i(s', a') - alpha log pi(a'|s')), with no second term after a termination (eqs. 2, 3).

    reward, continues, next_log_prob [B]; next_q [2, B].
    """
    return reward + gamma * continues * (jnp.min(next_q, axis=0) - alpha * next_log_prob)


def critic_loss(q: Array, target: Array) -> Array:
    """Sum over the twins of mean 1/2 (Q - target)^2 (eq. 5): q [2, B], target [B]."""
    return 0.5 * jnp.sum(jnp.mean((q - target) ** 2, axis=1))


def policy_loss(log_prob: Array, q: Array, alpha: Array) -> Array:
    """mean alpha log pi - min_i Q_i (eq. 7): log_prob [B], q [2, B]."""
    return jnp.mean(alpha * log_prob - jnp.min(q, axis=0))


def temperature_loss(log_alpha: Array, log_prob: Array, target_entropy: Array) -> Array:
    """mean -alpha (log pi + target entropy) (eq. 18), in log alpha."""
    return -jnp.exp(log_alpha) * jnp.mean(log_prob + target_entropy)


@dataclass(frozen=True)
class Shape:
    """One compiled SAC program."""

    environment: Environment
    actor_network: TorsoShape
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

    @property
    def action_size(self) -> int:
        return len(self.environment.action.low)

    @cached_property
    def policy_network(self) -> MaskedMLP:
        return MaskedMLP(self.actor_network, 2 * self.action_size, lecun_normal(), lecun_normal())

    @cached_property
    def q_network(self) -> MaskedMLP:
        return MaskedMLP(self.critic_network, 1, lecun_normal(), lecun_normal())

    def init(self, key: Array, lane: SACLane) -> State:
        """Fresh parameters, environments and an empty replay buffer."""
        policy_key, critic_key, reset_key, train_key = jax.random.split(key, 4)
        environment, observation = jax.vmap(self.environment.reset)(jax.random.split(reset_key, self.total_num_envs))
        policy = self.policy_network.init(policy_key, observation, lane.networks["actor_network"])
        pair = jnp.concatenate([observation, jnp.zeros((self.total_num_envs, self.action_size))], axis=-1)
        critics = jax.vmap(lambda k: self.q_network.init(k, pair, lane.networks["critic_network"]))(
            jax.random.split(critic_key, 2)
        )
        log_alpha = jnp.log(jnp.asarray(lane.hyperparam.init_alpha, jnp.float32))
        learner = Learner(
            policy=policy,
            critics=critics,
            targets=jax.tree.map(jnp.copy, critics),
            log_alpha=log_alpha,
            policy_optimizer=ADAM.init(policy),
            critic_optimizer=ADAM.init(critics),
            alpha_optimizer=ADAM.init(log_alpha),
        )
        ring = replay.ring_length(self.replay_capacity, self.steps_per_iteration)
        size = self.environment.observation_size
        return State(
            key=train_key,
            steps=jnp.int32(0),
            learner=learner,
            replay=replay.empty(ring, size, self.action_size),
            statistics=normalizer.fresh(size),
            environment=environment,
            observation=observation,
        )

    def renew(self, old: State, fresh: State) -> State:
        """The state of a lane that a new trial takes over; the old rows stay where they are, out of its reach."""
        return fresh._replace(replay=Replay(old.replay.rows, fresh.replay.size))

    def step(self, state: State, lane: SACLane, tick: Array) -> State:
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

    def evaluate(self, state: State, lane: SACLane, key: Array) -> Evaluation:
        """Play whole episodes with the squashed mean action."""
        bounds = policies.Bounds.of(self.environment.action)

        def act(observation: Array, key: Array) -> Array:
            mean, _ = policy_output(self, state.learner.policy, state.statistics, lane, observation)
            return bounds.scale(jnp.tanh(mean))

        trained = (state.learner.policy, state.learner.critics, state.learner.log_alpha)
        return evaluate(self.environment, act, key, self.num_eval_episodes, trained)


def policy_output(
    shape: Shape, policy: Any, statistics: ObservationStatistics, lane: SACLane, observation: Array
) -> tuple[Array, Array]:
    """Mean and log standard deviation before squashing: float32[..., obs] -> float32[..., action] twice."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    mean, log_std = jnp.split(shape.policy_network.apply(policy, seen, lane.networks["actor_network"]), 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def draw_action(
    shape: Shape, policy: Any, statistics: ObservationStatistics, lane: SACLane, observation: Array, noise: Array
) -> tuple[Array, Array]:
    """A reparametrized action in [-1, 1], float32[..., action], and its log-density in the environment's units [...]."""
    mean, log_std = policy_output(shape, policy, statistics, lane, observation)
    raw = mean + jnp.exp(log_std) * noise
    half = policies.Bounds.of(shape.environment.action).half
    return jnp.tanh(raw), policies.squashed_log_prob(mean, log_std, raw, half)


def q_values(
    shape: Shape, critics: Any, statistics: ObservationStatistics, lane: SACLane, observation: Array, action: Array
) -> Array:
    """Both twins' values of [n] pairs: float32[2, n]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    pair = jnp.concatenate([seen, action], axis=-1)
    apply = jax.vmap(lambda q: shape.q_network.apply(q, pair, lane.networks["critic_network"])[..., 0])
    return apply(critics)


def collect(shape: Shape, state: State, lane: SACLane, key: Array) -> tuple[State, Array, Array]:
    """T steps in E environments: uniform actions while a step is part of the warm-up, the policy's after.

    Returns the state, the packed rows [T * E, row] oldest first, and the observations [T * E, obs].
    """
    noise_key, uniform_key, step_key = jax.random.split(key, 3)
    extent = (shape.rollout_length, shape.total_num_envs)
    bounds = policies.Bounds.of(shape.environment.action)
    noise = jax.random.normal(noise_key, (*extent, shape.action_size))
    uniform = jax.random.uniform(uniform_key, (*extent, shape.action_size), minval=-1.0, maxval=1.0)
    number = state.steps // shape.total_num_envs + jnp.arange(shape.rollout_length)
    warming = number < lane.hyperparam.warmup_rollout_length

    def act(carry: tuple[Any, Array], at: tuple[Array, ...]) -> tuple[tuple[Any, Array], Transition]:
        environment, observation = carry
        noise, uniform, warming, keys = at
        drawn, _ = draw_action(shape, state.learner.policy, state.statistics, lane, observation, noise)
        action = jnp.where(warming, uniform, drawn)
        environment, step = jax.vmap(shape.environment.step)(keys, environment, bounds.scale(action))
        continues = 1.0 - step.terminated
        return (environment, step.observation), Transition(
            observation, action, step.reward, continues, step.final_observation
        )

    xs = (noise, uniform, warming, jax.random.split(step_key, extent))
    (environment, observation), transitions = jax.lax.scan(act, (state.environment, state.observation), xs)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transitions)
    return state._replace(environment=environment, observation=observation), replay.pack(flat), flat.observation


def update(shape: Shape, learner: Learner, state: State, lane: SACLane, tick: Array, key: Array) -> Learner:
    """One gradient update of critics, policy and temperature, in this order, and of the targets after them."""
    hyperparam = lane.hyperparam
    sample_key, next_key, current_key = jax.random.split(key, 3)
    rows = replay.sample(state.replay, sample_key, shape.total_batch_size, shape.steps_per_iteration, tick)
    batch = replay.unpack(rows, shape.environment.observation_size, shape.action_size)
    extent = (shape.total_batch_size, shape.action_size)
    alpha = jnp.exp(learner.log_alpha)

    def q(critics: Any, observation: Array, action: Array) -> Array:
        return q_values(shape, critics, state.statistics, lane, observation, action)

    def draw(policy: Any, observation: Array, key: Array) -> tuple[Array, Array]:
        return draw_action(shape, policy, state.statistics, lane, observation, jax.random.normal(key, extent))

    next_action, next_log_prob = draw(learner.policy, batch.next_observation, next_key)
    next_q = q(learner.targets, batch.next_observation, next_action)
    target = soft_target(batch.reward, batch.continues, next_q, next_log_prob, hyperparam.gamma, alpha)
    gradient = jax.grad(lambda c: critic_loss(q(c, batch.observation, batch.action), target))(learner.critics)
    critics, critic_optimizer = ADAM.descend(
        learner.critics, gradient, learner.critic_optimizer, hyperparam.q_lr, hyperparam.max_grad_norm
    )

    def loss_of_policy(policy: Any) -> tuple[Array, Array]:
        action, log_prob = draw(policy, batch.observation, current_key)
        return policy_loss(log_prob, q(critics, batch.observation, action), alpha), log_prob

    gradient, log_prob = jax.grad(loss_of_policy, has_aux=True)(learner.policy)
    policy, policy_optimizer = ADAM.descend(
        learner.policy, gradient, learner.policy_optimizer, hyperparam.actor_lr, hyperparam.max_grad_norm
    )

    target_entropy = -hyperparam.target_entropy_scale * shape.action_size
    gradient = jax.grad(temperature_loss)(learner.log_alpha, log_prob, target_entropy)
    tuned, alpha_optimizer = ADAM.descend(
        learner.log_alpha, gradient, learner.alpha_optimizer, hyperparam.alpha_lr, hyperparam.max_grad_norm
    )
    return Learner(
        policy=policy,
        critics=critics,
        targets=track(learner.targets, critics, hyperparam.tau),
        log_alpha=jnp.where(hyperparam.autotune, tuned, learner.log_alpha),
        policy_optimizer=policy_optimizer,
        critic_optimizer=critic_optimizer,
        alpha_optimizer=alpha_optimizer,
    )
