"""Environments so small that an algorithm can fail in each for one reason only (after Jones 2021, "Debugging RL, without the
agonizing pain", and the five of rejax).

Run them in this order; the first that fails names the fault. Each comes as `probe.<name>_discrete`, with two actions, and as
`probe.<name>_continuous`, with one in [-1, 1], or in [-1, 3] where it matters: those bounds are not symmetric, so a policy that
forgets to rescale its actions cannot be right. Observations are float32[1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyperlax.envs.catalog import PROBES
from hyperlax.envs.protocol import Continuous, Discrete, Environment, Step
from hyperlax.metrics import ReferenceReturns

LIMIT = 5
"""Steps in an episode of the probes that run into a limit."""

_ASYMMETRIC = Continuous(low=(-1.0,), high=(3.0,))


class _ProbeState(NamedTuple):
    time: jax.Array  # int32[], steps taken in this episode
    sign: jax.Array  # float32[], -1 or 1, drawn at reset


@dataclass(frozen=True)
class _Probe:
    """A probe.

    Args:
      lo, hi: Returns of a random policy and of the best one, by the definition.
      reward: (state before the step, action as a float) -> float32[].
      observe: state -> the observation, float32[].
      steps: Length of an episode.
      truncates: Whether an episode is truncated at its end; otherwise it terminates.
      bounds: Bounds of the continuous action.
    """

    lo: float
    hi: float
    reward: Callable[[_ProbeState, jax.Array], jax.Array]
    observe: Callable[[_ProbeState], jax.Array] = lambda state: jnp.float32(1.0)
    steps: int = 1
    truncates: bool = False
    bounds: Continuous = field(default=Continuous(low=(-1.0,), high=(1.0,)))


def _constant_reward() -> _Probe:
    """Probe value learning. One step, reward 1, one observation. Right: value 1. Fails when the value is not learned at all."""
    return _Probe(0.0, 1.0, lambda state, action: jnp.float32(1.0))


def _observation_reward() -> _Probe:
    """Probe the value's input. One step; the observation is -1 or 1 by a fair coin, the reward equals it. Right: value(o) = o.

    Fails when the value does not see the observation.
    """
    return _Probe(0.0, 1.0, lambda state, action: state.sign, observe=lambda state: state.sign)


def _delayed_reward() -> _Probe:
    """Probe discounting. Two steps, observed as 0 then 1; reward 0 then 1. Right: value(0) = gamma, value(1) = 1."""
    return _Probe(0.0, 1.0, lambda state, action: _seconds(state), observe=_seconds, steps=2)


def _seconds(state: _ProbeState) -> jax.Array:
    return state.time.astype(jnp.float32)


def _action_reward_discrete() -> _Probe:
    """Probe the policy. One step; reward 1 for action 1, else 0. Right: action 1, value 1. Fails when it is not improved."""
    return _Probe(0.5, 1.0, lambda state, action: action)


def _action_reward_continuous() -> _Probe:
    """Probe the policy. One step; reward -(a - 2)^2, a in [-1, 3]. Right: a = 2, value 0. Fails if not improved or not rescaled."""
    return _Probe(-7.0 / 3.0, 0.0, lambda state, action: -((action - 2.0) ** 2), bounds=_ASYMMETRIC)


def _observation_action_reward_discrete() -> _Probe:
    """Probe that observations and actions of a batch are kept together.

    One step; the observation is -1 or 1; reward 1 for action 1 at 1 and action 0 at -1, else -1. Right: these actions, value 1.
    """
    return _Probe(0.0, 1.0, lambda state, action: state.sign * (2.0 * action - 1.0), observe=lambda state: state.sign)


def _observation_action_reward_continuous() -> _Probe:
    """Probe the same, continuous. One step; o is -1 or 1; reward -(a - 1 - o)^2, a in [-1, 3]. Right: a = 1 + o, value 0."""
    return _Probe(
        -7.0 / 3.0, 0.0, lambda state, action: -((action - 1.0 - state.sign) ** 2),
        observe=lambda state: state.sign, bounds=_ASYMMETRIC,
    )  # fmt: skip


def _truncation() -> _Probe:
    """Probe truncation. Reward 1 per step, one observation, truncated after 5 steps. Right: value 1 / (1 - gamma), as if endless.

    Fails when a truncation is taken for a termination.
    """
    return _Probe(0.0, float(LIMIT), lambda state, action: jnp.float32(1.0), steps=LIMIT, truncates=True)


def _final_observation() -> _Probe:
    """Probe the final observation. An episode's sign s is its only observation and the reward of each of its 5 steps; truncated.

    Right: value(s) = s / (1 - gamma). Bootstrapping from the next episode's first observation, whose sign is another coin,
    gives s (1 - gamma^5) / (1 - gamma) on average. Fails when the final observation is not the one used.
    """
    return _Probe(
        0.0,
        float(LIMIT),
        lambda state, action: state.sign,
        observe=lambda state: state.sign,
        steps=LIMIT,
        truncates=True,
    )


def _termination() -> _Probe:
    """Probe termination. Reward 1 per step, 5 steps, observed as t / 5. Right: value(t / 5) = (1 - gamma^(5 - t)) / (1 - gamma).

    Fails when value flows through a termination.
    """
    return _Probe(
        0.0,
        float(LIMIT),
        lambda state, action: jnp.float32(1.0),
        observe=lambda state: _seconds(state) / LIMIT,
        steps=LIMIT,
    )


_PROBES: dict[str, Callable[[], _Probe]] = {
    "constant_reward": _constant_reward,
    "observation_reward": _observation_reward,
    "delayed_reward": _delayed_reward,
    "action_reward_discrete": _action_reward_discrete,
    "action_reward_continuous": _action_reward_continuous,
    "observation_action_reward_discrete": _observation_action_reward_discrete,
    "observation_action_reward_continuous": _observation_action_reward_continuous,
    "truncation": _truncation,
    "final_observation": _final_observation,
    "termination": _termination,
}


def make(name: str) -> Environment:
    """Return the probe of that name."""
    kind = PROBES[name]
    stem = name.removeprefix("probe.")
    probe = _PROBES.get(stem) or _PROBES[stem.removesuffix(f"_{kind}")]
    return _environment(name, probe(), discrete=kind == "discrete")


def _environment(name: str, probe: _Probe, *, discrete: bool) -> Environment:
    def observe(state: _ProbeState) -> jax.Array:
        return jnp.reshape(probe.observe(state), (1,))

    def start(key: jax.Array) -> _ProbeState:
        return _ProbeState(jnp.int32(0), jax.random.rademacher(key, (), jnp.float32))

    def reset(key: jax.Array) -> tuple[_ProbeState, jax.Array]:
        state = start(key)
        return state, observe(state)

    def step(key: jax.Array, state: _ProbeState, action: jax.Array) -> tuple[_ProbeState, Step]:
        moved = _ProbeState(state.time + jnp.int32(1), state.sign)
        ended = moved.time == probe.steps
        after = jax.tree.map(lambda fresh, old: jnp.where(ended, fresh, old), start(key), moved)
        return after, Step(
            observation=observe(after),
            final_observation=observe(moved),
            reward=probe.reward(state, _number(action, None if discrete else probe.bounds)),
            terminated=ended & (not probe.truncates),
            truncated=ended & probe.truncates,
        )

    return Environment(
        name=name,
        observation_size=1,
        action=Discrete(2) if discrete else probe.bounds,
        max_episode_steps=probe.steps,
        reset=reset,
        step=step,
        reference=ReferenceReturns(
            probe.lo, probe.hi, "derived from the definition of the probe (constant ones: lo is 0)"
        ),
    )


def _number(action: jax.Array, bounds: Continuous | None) -> jax.Array:
    """Return the action as float32[], clipped to its bounds if it has any."""
    number = jnp.reshape(action, ()).astype(jnp.float32)
    return number if bounds is None else jnp.clip(number, bounds.low[0], bounds.high[0])
