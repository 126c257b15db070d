"""Proximal policy optimization with clipped surrogate, generalized advantages, and separate policy and value networks.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017 (arXiv:1707.06347); advantages from Schulman et al., "High-
Dimensional Continuous Control Using Generalized Advantage Estimation", 2016 (arXiv:1506.02438); implementation details that
matter from Huang et al., "The 37 Implementation Details of PPO", 2022: orthogonal initialization (gain sqrt 2, 0.01 for the
policy's head, 1 for the value's), Adam epsilon 1e-5, advantages standardized per minibatch.

Shapes: T rollout_length, E total_num_envs; one seed of one lane, which the engine vmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, policies
from hyperlax.algorithms.evaluation import Evaluation, evaluate
from hyperlax.algorithms.lane import Lane, PolicyParams, remaining
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.optimizer import Adam
from hyperlax.envs import Discrete, Environment
from hyperlax.hyperparams import Torso
from hyperlax.networks.architecture import TorsoShape, count_parameters
from hyperlax.networks.initializers import orthogonal
from hyperlax.networks.masked import MaskedMLP

ADAM = Adam(epsilon=1e-5)


class ActorParams(NamedTuple):
    """Parameters of the policy: a network, and for continuous actions one log standard deviation per dimension."""

    network: Any
    log_std: Array  # float32[action], empty for discrete actions


class State(NamedTuple):
    """Training state of one seed of one lane between iterations."""

    key: Array
    steps: Array  # int32[], environment steps done
    policy: ActorParams
    value: Any
    policy_optimizer: Any
    value_optimizer: Any
    statistics: ObservationStatistics
    environment: Any  # [E, ...]
    observation: Array  # float32[E, obs]


class _Rollout(NamedTuple):
    """Observations and actions of the policy, and what followed: [T, E, ...]."""

    observation: Array
    action: Array
    log_prob: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_observation: Array


class Sample(NamedTuple):
    """Transitions as the loss reads them: [n, ...]."""

    observation: Array
    action: Array
    log_prob: Array
    advantage: Array
    target: Array


def generalized_advantages(
    reward: Array, value: Array, next_value: Array, terminated: Array, truncated: Array, gamma: Array, gae_lambda: Array
) -> Array:
    """Return A_t = delta_t + gamma lambda (1 - done_t) A_t+1, delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t).

    All [T, E]. next_value is the value of the observation that the transition led to, also where the episode ended there: a
    truncated episode is bootstrapped, a terminated one has no further value (GAE, eq. 16).
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = gamma * gae_lambda * (1.0 - (terminated | truncated))

    def backward(later: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        advantage = at[0] + at[1] * later
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def shuffled(key: Array, n: int) -> Array:
    """Return the numbers 0 to n - 1 in a random order, int32[n].

    They are sorted by random bits with the number itself in the lowest ones: a single array of integers is sorted several times as
    fast as pairs. At least 16 bits are random; numbers that draw the same ones stay in order.
    """
    low = (n - 1).bit_length()
    if low > 16:
        return jax.random.permutation(key, n)
    bits = jax.random.bits(key, (n,), jnp.uint32)
    return (jnp.sort(bits >> low << low | jnp.arange(n, dtype=jnp.uint32)) & (1 << low) - 1).astype(jnp.int32)


def standardize(advantage: Array, pieces: Array | Literal[1] = 1) -> Array:
    """Return advantages with zero mean and unit standard deviation over every minibatch: float32[chunks, n].

    pieces: Chunks of a minibatch: 1, or int32[] that divides `chunks`.
    """
    minibatch = jnp.arange(advantage.shape[0]) // pieces
    mates = (minibatch[:, None] == minibatch[None, :]) / pieces

    def over_minibatch(x: Array) -> Array:
        means = jnp.mean(x, axis=1, keepdims=True)
        return means if isinstance(pieces, int) else jnp.matmul(mates, means, precision=jax.lax.Precision.HIGHEST)

    centered = advantage - over_minibatch(advantage)
    return centered / (jnp.sqrt(over_minibatch(centered**2)) + 1e-8)


def surrogate_loss(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: Array) -> Array:
    """Return -mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) (PPO, eq. 7), over [n]."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.mean(jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantage))


def value_loss(value: Array, target: Array) -> Array:
    """Return mean (V - V_target)^2 (PPO, eq. 9), over [n]."""
    return jnp.mean((value - target) ** 2)


@dataclass(frozen=True)
class Shape:
    """One compiled PPO program.

    chunks: equal parts of an epoch; a minibatch consists of a whole number of them in every lane. alike: of one in every lane.
    """

    continuous_output: ClassVar[str] = "clip"  # how its outputs are brought into [-1, 1]

    environment: Environment
    actor_network: TorsoShape
    critic_network: TorsoShape
    total_num_envs: int
    rollout_length: int
    chunks: int
    alike: bool
    num_eval_episodes: int

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one seed in one `step`."""
        return self.total_num_envs * self.rollout_length

    @cached_property
    def policy_network(self) -> MaskedMLP:
        space = self.environment.action
        outputs = space.n if isinstance(space, Discrete) else len(space.low)
        return MaskedMLP(self.actor_network, outputs, orthogonal(2**0.5), orthogonal(0.01))

    @cached_property
    def value_network(self) -> MaskedMLP:
        return MaskedMLP(self.critic_network, 1, orthogonal(2**0.5), orthogonal(1.0))

    def num_parameters(self, torso: Torso) -> int:
        """Return the trainable scalars of a policy of this torso: the network and, for continuous actions, the log deviations."""
        outputs = self.policy_network.outputs
        weights = count_parameters(torso, self.environment.observation_size, outputs)
        return weights if self.is_discrete else weights + outputs

    def flops(self, epochs: float) -> float:
        """Estimate the multiplications of one `step` of one seed. A gradient costs three forward passes."""
        size = self.environment.observation_size
        policy, value = self.policy_network.multiplications(size), self.value_network.multiplications(size)
        rows, updates = self.steps_per_iteration, epochs * self.chunks
        return rows * (policy + 2 * value + 3 * epochs * (policy + value)) + updates * ADAM.WORK * (policy + value)

    def init(self, key: Array, lane: Lane) -> State:
        """Return the state before training: initial parameters and reset environments."""
        policy_key, value_key, reset_key, train_key = jax.random.split(key, 4)
        environment, observation = jax.vmap(self.environment.reset)(jax.random.split(reset_key, self.total_num_envs))
        space, size = self.environment.action, self.environment.observation_size
        log_std = jnp.zeros(0 if isinstance(space, Discrete) else len(space.low))
        policy = ActorParams(self.policy_network.init(policy_key, size, lane.networks["actor_network"]), log_std)
        value = self.value_network.init(value_key, size, lane.networks["critic_network"])
        return State(
            key=train_key,
            steps=jnp.int32(0),
            policy=policy,
            value=value,
            policy_optimizer=ADAM.init(policy),
            value_optimizer=ADAM.init(value),
            statistics=normalizer.fresh(size),
            environment=environment,
            observation=observation,
        )

    def reset(self, old: State, fresh: State) -> State:
        """Return the state of a lane that a new trial takes over; nothing of the old one is kept."""
        return fresh

    def with_key(self, state: State, key: Array) -> State:
        """Return the state with another key, from which all later random numbers follow."""
        return state._replace(key=key)

    def step(self, state: State, lane: Lane, iteration: Array) -> State:
        """Run one iteration: collect a rollout, estimate advantages, descend over it for some epochs."""
        key, noise_key, step_key, update_key = jax.random.split(state.key, 4)
        state, rollout = collect(self, state, lane, noise_key, step_key)
        samples = estimate(self, state, lane, rollout)
        seen = rollout.observation.reshape(-1, self.environment.observation_size)
        state = update(self, state, lane, samples, update_key)
        return state._replace(
            key=key,
            steps=state.steps + self.steps_per_iteration,
            statistics=normalizer.observe(state.statistics, seen),
        )

    def policy_params(self, state: State) -> PolicyParams:
        """Return the parameters of the policy's network and its statistics."""
        return PolicyParams(state.policy.network, state.statistics)

    def evaluate(self, state: State, lane: Lane, key: Array) -> Evaluation:
        """Play whole episodes with the most likely action."""

        def act(observation: Array, key: Array) -> Array:
            out = policy_output(self, state.policy, state.statistics, lane, observation)
            return _to_environment(self, jnp.argmax(out, axis=-1) if self.is_discrete else out)

        return evaluate(self.environment, act, key, self.num_eval_episodes, (state.policy, state.value))

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.environment.action, Discrete)


def policy_output(
    shape: Shape, policy: ActorParams, statistics: ObservationStatistics, lane: Lane, observation: Array
) -> Array:
    """Return logits or means: float32[..., obs] -> float32[..., action]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    return shape.policy_network.output(policy.network, seen, lane.networks["actor_network"])


def value_of(shape: Shape, value: Any, statistics: ObservationStatistics, lane: Lane, observation: Array) -> Array:
    """Return the values of observations: float32[..., obs] -> float32[...]."""
    seen = normalizer.normalize(statistics, observation, lane.hyperparam.normalize_observations)
    return shape.value_network.output(value, seen, lane.networks["critic_network"])[..., 0]


def _log_prob_and_entropy(shape: Shape, policy: ActorParams, out: Array, action: Array) -> tuple[Array, Array]:
    """Return both, float32[...], for actions as the policy sampled them (unclipped if continuous)."""
    if shape.is_discrete:
        return policies.categorical_log_prob(out, action), policies.categorical_entropy(out)
    entropy = jnp.broadcast_to(policies.gaussian_entropy(policy.log_std), out.shape[:-1])
    return policies.gaussian_log_prob(out, policy.log_std, action), entropy


def _to_environment(shape: Shape, action: Array) -> Array:
    """Return an action in the environment's units: continuous ones are clipped to [-1, 1] and rescaled to its box."""
    space = shape.environment.action
    if isinstance(space, Discrete):
        return action
    return policies.Bounds.of(space).scale(jnp.clip(action, -1.0, 1.0))


def collect(shape: Shape, state: State, lane: Lane, noise_key: Array, step_key: Array) -> tuple[State, _Rollout]:
    """Follow the policy for T steps in each of the E environments."""
    extent = (shape.rollout_length, shape.total_num_envs)
    outputs = shape.policy_network.outputs
    draw = jax.random.gumbel if shape.is_discrete else jax.random.normal
    noise = draw(noise_key, (*extent, outputs))

    def act(carry: tuple[Any, Array], at: tuple[Array, Array]) -> tuple[tuple[Any, Array], _Rollout]:
        environment, observation = carry
        noise, keys = at
        out = policy_output(shape, state.policy, state.statistics, lane, observation)
        action = jnp.argmax(out + noise, axis=-1) if shape.is_discrete else out + jnp.exp(state.policy.log_std) * noise
        log_prob, _ = _log_prob_and_entropy(shape, state.policy, out, action)
        environment, step = jax.vmap(shape.environment.step)(keys, environment, _to_environment(shape, action))
        seen = _Rollout(
            observation, action, log_prob, step.reward, step.terminated, step.truncated, step.final_observation
        )
        return (environment, step.observation), seen

    start = (state.environment, state.observation)
    (environment, observation), rollout = jax.lax.scan(act, start, (noise, jax.random.split(step_key, extent)))
    return state._replace(environment=environment, observation=observation), rollout


def estimate(shape: Shape, state: State, lane: Lane, rollout: _Rollout) -> Sample:
    """Estimate advantages and value targets of a rollout. Return its transitions, flattened to [T * E, ...]."""
    value = value_of(shape, state.value, state.statistics, lane, rollout.observation)
    next_value = value_of(shape, state.value, state.statistics, lane, rollout.final_observation)
    advantage = generalized_advantages(
        rollout.reward,
        value,
        next_value,
        rollout.terminated,
        rollout.truncated,
        lane.hyperparam.gamma,
        lane.hyperparam.gae_lambda,
    )
    sample = Sample(rollout.observation, rollout.action, rollout.log_prob, advantage, advantage + value)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), sample)


def policy_loss(shape: Shape, policy: ActorParams, state: State, lane: Lane, sample: Sample) -> Array:
    """Return the clipped surrogate minus the entropy bonus (PPO, eq. 9)."""
    out = policy_output(shape, policy, state.statistics, lane, sample.observation)
    log_prob, entropy = _log_prob_and_entropy(shape, policy, out, sample.action)
    surrogate = surrogate_loss(log_prob, sample.log_prob, sample.advantage, lane.hyperparam.clip_eps)
    return surrogate - lane.hyperparam.ent_coef * jnp.mean(entropy)


class Learner(NamedTuple):
    """A network in training. gradient: that of a minibatch's chunks so far; () if every minibatch is one chunk."""

    params: Any
    optimizer: Any
    gradient: Any


def update(shape: Shape, state: State, lane: Lane, samples: Sample, key: Array) -> State:
    """Update policy and value over the rollout for some epochs, each with a new partition into minibatches.

    The number of epochs is the lane's own loop bound: under vmap a lane that is done keeps its whole carry. A minibatch is
    processed chunk by chunk, so lanes with different numbers of minibatches do equal work and share one loop over the chunks:
    a lane adds up its chunks' gradients and descends where its minibatch ends.
    """
    pieces = 1 if shape.alike else shape.chunks // lane.hyperparam.num_minibatches
    scale = jnp.where(lane.hyperparam.decay_learning_rates, remaining(state.steps, lane), 1.0)

    def loss_of_policy(policy: ActorParams, lane: Lane, sample: Sample) -> Array:
        return policy_loss(shape, policy, state, lane, sample)

    def loss_of_value(value: Any, lane: Lane, sample: Sample) -> Array:
        prediction = value_of(shape, value, state.statistics, lane, sample.observation)
        return lane.hyperparam.vf_coef * value_loss(prediction, sample.target)

    def descend(name: str, loss: Callable, learner: Learner, parts: Sample, rate: Array) -> Learner:
        """Train one network over all chunks, at its own size."""

        def at_own_size(lane: Lane, learner: Learner) -> tuple[Learner]:
            def chunk(learner: Learner, at: tuple[Array, Sample]) -> tuple[Learner, None]:
                number, sample = at
                gradient = jax.grad(loss)(learner.params, lane, sample)
                complete = True if shape.alike else (number + 1) % pieces == 0
                return _descend(learner, gradient, pieces, complete, scale * rate, lane.hyperparam.max_grad_norm), None

            return (jax.lax.scan(chunk, learner, (jnp.arange(shape.chunks), parts))[0],)

        return lane.by_size(shape, name, at_own_size, learner)[0]

    def epoch(number: Array, learners: tuple[Learner, Learner]) -> tuple[Learner, Learner]:
        order = shuffled(jax.random.fold_in(key, number), shape.steps_per_iteration)
        parts = jax.tree.map(lambda x: x[order].reshape(shape.chunks, -1, *x.shape[1:]), samples)
        wanted = lane.hyperparam.standardize_advantages
        advantage = jnp.where(wanted, standardize(parts.advantage, pieces), parts.advantage)
        parts = parts._replace(advantage=advantage)
        return (
            descend("actor_network", loss_of_policy, learners[0], parts, lane.hyperparam.actor_lr),
            descend("critic_network", loss_of_value, learners[1], parts, lane.hyperparam.critic_lr),
        )

    def learner(params: Any, optimizer: Any) -> Learner:
        return Learner(params, optimizer, () if shape.alike else jax.tree.map(jnp.zeros_like, params))

    learners = learner(state.policy, state.policy_optimizer), learner(state.value, state.value_optimizer)
    policy, value = jax.lax.fori_loop(0, lane.hyperparam.epochs, epoch, learners)
    return state._replace(
        policy=policy.params,
        value=value.params,
        policy_optimizer=policy.optimizer,
        value_optimizer=value.optimizer,
    )


def _descend(
    learner: Learner, gradient: Any, pieces: Array | int, complete: Array | bool, rate: Array, bound: Array
) -> Learner:
    """Add the gradient of one of a minibatch's `pieces` chunks. Take a step if the minibatch is `complete`."""

    def step(gradient: Any) -> tuple[Any, Any]:
        return ADAM.descend(learner.params, gradient, learner.optimizer, rate, bound)

    if isinstance(complete, bool):
        return Learner(*step(gradient), ())
    gradient = jax.tree.map(lambda a, b: a + b / pieces, learner.gradient, gradient)
    nothing = jax.tree.map(jnp.zeros_like, gradient)
    return jax.lax.cond(
        complete,
        lambda: Learner(*step(gradient), nothing),
        lambda: Learner(learner.params, learner.optimizer, gradient),
    )
