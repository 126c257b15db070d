"""Training with a replay buffer: collect a rollout, store it, and after the warm-up learn from stored transitions.

Shapes: T rollout_length, E total_num_envs; one seed of one lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.algorithms import normalizer, replay
from hyperlax.algorithms.lane import Lane
from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.algorithms.replay import Replay, Transition
from hyperlax.envs import Environment


class State(NamedTuple):
    """Training state of one seed of one lane between iterations."""

    key: Array
    steps: Array  # int32[], environment steps done
    learner: Any  # all that a gradient update changes
    replay: Replay
    statistics: ObservationStatistics
    environment: Any  # [E, ...]
    observation: Array  # float32[E, obs]


class _OffPolicyShape(Protocol):
    """The sizes of a program that these functions read."""

    @property
    def environment(self) -> Environment: ...
    @property
    def total_num_envs(self) -> int: ...
    @property
    def rollout_length(self) -> int: ...
    @property
    def replay_capacity(self) -> int: ...


Choose = Callable[[Array, Any, Array], tuple[Array, Array]]
"""(observations float32[E, obs], this step's random numbers [E, ...], int32[] steps that each environment has done) ->
(actions for the environment [E, ...], the same as they are stored float32[E, action])."""


def batch_mean(x: Array, size: Array | int) -> Array:
    """Return the mean over a lane's own batch, the first `size` of float32[..., rows]."""
    return jnp.sum(jnp.where(jnp.arange(x.shape[-1]) < size, x, 0.0), axis=-1) / size


def begin(shape: _OffPolicyShape, key: Array, reset_key: Array, learner: Any, action_size: int) -> State:
    """Return the state before training: a learner, reset environments and an empty replay buffer."""
    environment, observation = jax.vmap(shape.environment.reset)(jax.random.split(reset_key, shape.total_num_envs))
    size = shape.environment.observation_size
    ring = replay.ring_length(shape.replay_capacity, shape.total_num_envs * shape.rollout_length)
    return State(
        key=key,
        steps=jnp.int32(0),
        learner=learner,
        replay=replay.empty(ring, size, action_size),
        statistics=normalizer.fresh(size),
        environment=environment,
        observation=observation,
    )


def reset(old: State, fresh: State) -> State:
    """Return the state of a lane that a new trial takes over. Old rows stay in the buffer, but are never sampled."""
    return fresh._replace(replay=Replay(old.replay.rows, fresh.replay.size))


def iterate(
    shape: _OffPolicyShape,
    state: State,
    lane: Lane,
    iteration: Array,
    *,
    draw: Callable[[Array, tuple[int, int]], Any],
    choose: Choose,
    learn: Callable[[State, Callable[..., Any]], Any],
) -> State:
    """Run one iteration: T steps in E environments into the replay buffer, then `epochs` updates of the learner.

    The number of updates is 0 during the warm-up. It is the lane's own loop bound: under vmap a lane that is done keeps its
    learner, and the buffer is only read.

    Args:
      draw: (key, (T, E)) -> random numbers for acting, [T, E, ...].
      learn: (state, repeat) -> learner. It sees the state as of this iteration. `repeat(update, learner)` makes the updates, each
        (learner, key) -> learner.
    """
    key, draw_key, step_key, update_key = jax.random.split(state.key, 4)
    state, transitions = _collect(shape, state, draw_key, step_key, draw, choose)
    rows = replay.pack(transitions)
    state = state._replace(
        key=key,
        steps=state.steps + rows.shape[0],
        replay=replay.write(state.replay, rows, iteration, lane.hyperparam.total_buffer_size),
        statistics=normalizer.observe(state.statistics, transitions.observation),
    )
    warm = state.steps // shape.total_num_envs >= lane.hyperparam.warmup_rollout_length
    updates = jnp.where(warm, lane.hyperparam.epochs, 0)

    def repeat(update: Callable[[Any, Array], Any], learner: Any) -> Any:
        def turn(number: Array, learner: Any) -> Any:
            return update(learner, jax.random.fold_in(update_key, number))

        return jax.lax.fori_loop(0, updates, turn, learner)

    return state._replace(learner=learn(state, repeat))


def _collect(
    shape: _OffPolicyShape,
    state: State,
    draw_key: Array,
    step_key: Array,
    draw: Callable[[Array, tuple[int, int]], Any],
    choose: Choose,
) -> tuple[State, Transition]:
    """Return the state after the rollout, and its transitions [T * E, ...], oldest first."""
    extent = (shape.rollout_length, shape.total_num_envs)
    number = state.steps // shape.total_num_envs + jnp.arange(shape.rollout_length)

    def act(carry: tuple[Any, Array], at: tuple[Any, Array, Array]) -> tuple[tuple[Any, Array], Transition]:
        environment, observation = carry
        draws, number, keys = at
        action, stored = choose(observation, draws, number)
        environment, step = jax.vmap(shape.environment.step)(keys, environment, action)
        seen = Transition(observation, stored, step.reward, 1.0 - step.terminated, step.final_observation)
        return (environment, step.observation), seen

    xs = (draw(draw_key, extent), number, jax.random.split(step_key, extent))
    (environment, observation), transitions = jax.lax.scan(act, (state.environment, state.observation), xs)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transitions)
    return state._replace(environment=environment, observation=observation), flat
