"""Soft actor-critic with twin Q-networks and a learned temperature.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018b (arXiv:1812.05905); equations are numbered as there.
Actions are squashed by tanh and rescaled to the environment's box; the Q-networks see them in [-1, 1].

Shapes: T rollout_length, E total_num_envs, B total_batch_size; one seed of one lane, which the engine vmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, off_policy, policies, replay
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane, PolicyParams
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.off_policy import State, batch_mean
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.envs import Continuous, Environment
from hyperlax.hyperparams import Torso
from hyperlax.networks.architecture import TorsoShape, count_parameters
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP

ADAM = Adam(epsilon=1e-8)
_LOG_STD_RANGE = (-20.0, 2.0)  # of the reference implementation, github.com/rail-berkeley/softlearning


class Learner(NamedTuple):
    """All that a gradient update changes."""

    policy: Any
    critics: Any  # leading axis 2: the twins
    targets: Any  # leading axis 2
    log_alpha: Array  # float32[]
    policy_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any


def soft_target(
    reward: Array, continues: Array, next_q: Array, next_log_prob: Array, gamma: Array, alpha: Array
) -> Array:
    """Return r + gamma (min_i Q_i(s', a') - alpha log pi(a'|s')), without the second term after a termination (eqs. 2, 3).

    reward, continues, next_log_prob [B]; next_q [2, B].
    """
    return reward + gamma * continues * (jnp.min(next_q, axis=0) - alpha * next_log_prob)


def critic_loss(q: Array, target: Array, size: Array | int) -> Array:
    """Return the sum over twins of mean 1/2 (Q - target)^2 (eq. 5): q [2, rows], target [rows]; the first B = size rows count."""
    return 0.5 * jnp.sum(batch_mean((q - target) ** 2, size))


def policy_loss(log_prob: Array, q: Array, alpha: Array, size: Array | int) -> Array:
    """Return mean alpha log pi - min_i Q_i (eq. 7): log_prob [rows], q [2, rows], of which the first B = size count."""
    return batch_mean(alpha * log_prob - jnp.min(q, axis=0), size)


def temperature_loss(log_alpha: Array, log_prob: Array, target_entropy: Array, size: Array | int) -> Array:
    """Return mean -alpha (log pi + target entropy) (eq. 18), in log alpha: log_prob [rows], of which the first B = size count."""
    return -jnp.exp(log_alpha) * batch_mean(log_prob + target_entropy, size)


@dataclass(frozen=True)
class Shape:
    """One compiled SAC program. batch_rows: the largest batch of any lane."""

    continuous_output: ClassVar[str] = "tanh"  # how its outputs are brought into [-1, 1]

    environment: Environment
    actor_network: TorsoShape
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
    def action_size(self) -> int:
        """Entries of one action."""
        return self.bounds.half.shape[0]

    @property
    def bounds(self) -> policies.Bounds:
        """The environment's box."""
        assert isinstance(self.environment.action, Continuous)
        return policies.Bounds.of(self.environment.action)

    @cached_property
    def policy_network(self) -> MaskedMLP:
        return MaskedMLP(self.actor_network, 2 * self.action_size, lecun_normal(), lecun_normal())

    @cached_property
    def q_network(self) -> MaskedMLP:
        return MaskedMLP(self.critic_network, 1, lecun_normal(), lecun_normal())

    def num_parameters(self, torso: Torso) -> int:
        """Return the trainable scalars of a policy of this torso, whose outputs are means and log deviations."""
        return count_parameters(torso, self.environment.observation_size, self.policy_network.outputs)

    def flops(self, epochs: float) -> float:
        """Estimate the multiplications of one `step` of one seed.

        A gradient costs three forward passes; one that only passes through a network costs two.
        """
        size = self.environment.observation_size
        policy = self.policy_network.multiplications(size)
        twins = 2 * self.q_network.multiplications(size + self.action_size)
        update = self.batch_rows * (4 * policy + (1 + 3 + 2) * twins) + ADAM.WORK * (policy + twins)
        return self.steps_per_iteration * policy + epochs * update

    def init(self, key: Array, lane: Lane) -> State:
        """Return the state before training: initial parameters, reset environments and an empty replay buffer."""
        policy_key, critic_key, reset_key, train_key = jax.random.split(key, 4)
        size = self.environment.observation_size
        policy = self.policy_network.init(policy_key, size, lane.networks["actor_network"])
        critics = jax.vmap(lambda k: self.q_network.init(k, size + self.action_size, lane.networks["critic_network"]))(
            jax.random.split(critic_key, 2)
        )
        log_alpha = jnp.log(jnp.asarray(lane.hyperparam.init_alpha, jnp.float32))
        learner = Learner(
            policy=policy,
            critics=critics,
            targets=critics,
            log_alpha=log_alpha,
            policy_optimizer=ADAM.init(policy),
            critic_optimizer=ADAM.init(critics),
            alpha_optimizer=ADAM.init(log_alpha),
        )
        return off_policy.begin(self, train_key, reset_key, learner, self.action_size)

    def reset(self, old: State, fresh: State) -> State:
        """Return the state of a lane that a new trial takes over."""
        return off_policy.reset(old, fresh)

    def with_key(self, state: State, key: Array) -> State:
        """Return the state with another key, from which all later random numbers follow."""
        return state._replace(key=key)

    def step(self, state: State, lane: Lane, iteration: Array) -> State:
        """Run one iteration: a rollout, with uniform actions while a step is part of the warm-up, then gradient updates."""
        bounds = self.bounds

        def draw(key: Array, extent: tuple[int, int]) -> tuple[Array, Array]:
            noise_key, uniform_key = jax.random.split(key)
            uniform = jax.random.uniform(uniform_key, (*extent, self.action_size), minval=-1.0, maxval=1.0)
            return jax.random.normal(noise_key, (*extent, self.action_size)), uniform

        def choose(observation: Array, draws: tuple[Array, Array], number: Array) -> tuple[Array, Array]:
            noise, uniform = draws
            drawn, _ = _draw_action(self, state.learner.policy, state.statistics, lane, observation, noise)
            action = jnp.where(number < lane.hyperparam.warmup_rollout_length, uniform, drawn)
            return bounds.scale(action), action

        def learn(state: State, repeat: Callable) -> Learner:
            return repeat(lambda now, key: update(self, now, state, lane, iteration, key), state.learner)

        return off_policy.iterate(self, state, lane, iteration, draw=draw, choose=choose, learn=learn)

    def policy_params(self, state: State) -> PolicyParams:
        """Return the parameters of the policy's network, whose first outputs are the mean, and its statistics."""
        return PolicyParams(state.learner.policy, state.statistics)

    def evaluate(self, state: State, lane: Lane, key: Array) -> Evaluation:
        """Play whole episodes with the squashed mean action."""
        bounds = self.bounds

        def act(observation: Array, key: Array) -> Array:
            mean, _ = policy_output(self, state.learner.policy, state.statistics, lane, observation)
            return bounds.scale(jnp.tanh(mean))

        trained = (state.learner.policy, state.learner.critics, state.learner.log_alpha)
        return evaluate(self.environment, act, key, self.num_eval_episodes, trained)


def policy_output(
    shape: Shape, policy: Any, statistics: ObservationStatistics, lane: Lane, observation: Array
) -> tuple[Array, Array]:
    """Return mean and log standard deviation before squashing: float32[..., obs] -> float32[..., action] twice."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    out = shape.policy_network.output(policy, seen, lane.networks["actor_network"])
    mean, log_std = jnp.split(out, 2, axis=-1)
    return mean, jnp.clip(log_std, *_LOG_STD_RANGE)


def _draw_action(
    shape: Shape, policy: Any, statistics: ObservationStatistics, lane: Lane, observation: Array, noise: Array
) -> tuple[Array, Array]:
    """Return a reparametrized action in [-1, 1], float32[..., action], and its log density in the environment's units [...]."""
    mean, log_std = policy_output(shape, policy, statistics, lane, observation)
    raw = mean + jnp.exp(log_std) * noise
    return jnp.tanh(raw), policies.squashed_log_prob(mean, log_std, raw, shape.bounds.half)


def q_values(
    shape: Shape, critics: Any, statistics: ObservationStatistics, lane: Lane, observation: Array, action: Array
) -> Array:
    """Return both twins' values of [n] pairs: float32[2, n]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    pair = jnp.concatenate([seen, action], axis=-1)
    return jax.vmap(lambda q: shape.q_network.output(q, pair, lane.networks["critic_network"])[..., 0])(critics)


def update(shape: Shape, learner: Learner, state: State, lane: Lane, iteration: Array, key: Array) -> Learner:
    """Update critics, policy and temperature, in this order, by one gradient step each, then the targets."""
    hyperparam = lane.hyperparam
    sample_key, next_key, current_key = jax.random.split(key, 3)
    rows = replay.sample(state.replay, sample_key, shape.batch_rows, shape.steps_per_iteration, iteration)
    batch = replay.unpack(rows, shape.environment.observation_size, shape.action_size)
    size, extent = hyperparam.total_batch_size, (shape.batch_rows, shape.action_size)
    alpha = jnp.exp(learner.log_alpha)

    def q(lane: Lane, critics: Any, observation: Array, action: Array) -> Array:
        return q_values(shape, critics, state.statistics, lane, observation, action)

    def draw(lane: Lane, policy: Any, observation: Array, noise: Array) -> tuple[Array, Array]:
        return _draw_action(shape, policy, state.statistics, lane, observation, noise)

    noise = jnp.stack([jax.random.normal(key, extent) for key in (current_key, next_key)])
    both = jnp.stack([batch.observation, batch.next_observation])
    (action, next_action), (log_prob, next_log_prob) = draw(lane, learner.policy, both, noise)

    def improve_critics(lane: Lane, critics: Any, targets: Any, optimizer: Any) -> tuple[Any, Any, Any, Array]:
        next_q = q(lane, targets, batch.next_observation, next_action)
        target = soft_target(batch.reward, batch.continues, next_q, next_log_prob, hyperparam.gamma, alpha)
        gradient = jax.grad(lambda c: critic_loss(q(lane, c, batch.observation, batch.action), target, size))(critics)
        critics, optimizer = ADAM.descend(critics, gradient, optimizer, hyperparam.q_lr, hyperparam.max_grad_norm)
        slope = jax.grad(lambda a: policy_loss(log_prob, q(lane, critics, batch.observation, a), alpha, size))(action)
        return critics, track(targets, critics, hyperparam.tau), optimizer, slope

    def improve_policy(lane: Lane, policy: Any, optimizer: Any) -> tuple[Any, Any]:
        """Descend along the loss's gradient as the paper's eq. 9 writes it: through the action by the critics' slope there."""

        def loss(policy: Any) -> Array:
            action, log_prob = draw(lane, policy, batch.observation, noise[0])
            return batch_mean(alpha * log_prob, size) + jnp.sum(slope * action)

        gradient = jax.grad(loss)(policy)
        return ADAM.descend(policy, gradient, optimizer, hyperparam.actor_lr, hyperparam.max_grad_norm)

    critics, targets, critic_optimizer, slope = lane.by_size(
        shape, "critic_network", improve_critics, learner.critics, learner.targets, learner.critic_optimizer
    )
    policy, policy_optimizer = lane.by_size(
        shape, "actor_network", improve_policy, learner.policy, learner.policy_optimizer
    )

    target_entropy = -hyperparam.target_entropy_scale * shape.action_size
    gradient = jax.grad(temperature_loss)(learner.log_alpha, log_prob, target_entropy, size)
    tuned, alpha_optimizer = ADAM.descend(
        learner.log_alpha, gradient, learner.alpha_optimizer, hyperparam.alpha_lr, hyperparam.max_grad_norm
    )
    return Learner(
        policy=policy,
        critics=critics,
        targets=targets,
        log_alpha=jnp.where(hyperparam.autotune, tuned, learner.log_alpha),
        policy_optimizer=policy_optimizer,
        critic_optimizer=critic_optimizer,
        alpha_optimizer=alpha_optimizer,
    )
