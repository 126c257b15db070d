"""Reference returns of the shipped environments: of a uniformly random policy, and of some scripted policies.

    python benchmarks/reference_returns.py                       # table of every environment's lo
    python benchmarks/reference_returns.py --env gymnax.pendulum --episodes 4096
    python benchmarks/reference_returns.py --check               # exit 1 if a lo in the catalog is off by 4 standard errors
    python benchmarks/reference_returns.py --scripted            # the hi values that come from a scripted policy

The values of `hyperlax/envs/catalog.py` come from `--episodes 4096 --seed 0` (lo) and `--scripted --episodes 4096 --seed 0` (hi).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import hyperlax  # noqa: F401  before jax: sets the XLA flag that jax 0.10 needs

# isort: split
import jax
import jax.numpy as jnp

from hyperlax import envs
from hyperlax.envs import Discrete, Environment

Policy = Callable[[jax.Array, Any], jax.Array]
"""(key, state) -> action in one environment. A scripted policy may read the state."""

STANDARD_ERRORS = 4.0
ROUNDING = 5e-3
"""Extra tolerance, relative for means above 1: the catalog rounds to three digits, and rare rewards hide the error of a mean."""


class Measured(NamedTuple):
    """Mean return over `episodes`, its standard error, and the seconds it took, including compilation."""

    mean: float
    error: float
    episodes: int
    seconds: float


def random_policy(environment: Environment) -> Policy:
    """Return a policy that is uniform over the actions, or over the box between their bounds."""
    space = environment.action
    if isinstance(space, Discrete):
        return lambda key, state: jax.random.randint(key, (), 0, space.n)
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return lambda key, state: jax.random.uniform(key, low.shape, minval=low, maxval=high)


def still(key: jax.Array, state: Any) -> jax.Array:
    """Pong: leave the paddle where it is. The first ball arrives straight and bounces back straight."""
    return jnp.int32(0)


def swim_to_goal(key: jax.Array, state: Any) -> jax.Array:
    """Swimmer: accelerate towards the goal so as to stop there, ignoring the urchins."""
    return _brake_to(state.goal_xy - state.xy, state.xy_vel)


def reach_goal(key: jax.Array, state: Any) -> jax.Array:
    """Reacher: turn both joints to the nearer of the two arm positions that reach the goal, or point at it if out of reach.

    The hand is the sum of two unit vectors at absolute angles, so both lie arccos(d / 2) to either side of the goal's direction.
    """
    distance = jnp.clip(jnp.linalg.norm(state.goal_xy), 0.0, 2.0)
    direction = jnp.arctan2(state.goal_xy[1], state.goal_xy[0])
    spread = jnp.arccos(distance / 2.0)
    turns = (
        jnp.stack([direction + jnp.array([spread, -spread]), direction + jnp.array([-spread, spread])]) - state.angles
    )
    turns = (turns + jnp.pi) % (2 * jnp.pi) - jnp.pi
    return _brake_to(turns[jnp.argmin(jnp.max(jnp.abs(turns), axis=1))], state.angle_vels)


def _brake_to(distance: jax.Array, velocity: jax.Array) -> jax.Array:
    """Return the acceleration in [-1, 1] that tracks velocity = sign(d) sqrt(2 |d|), the fastest way to stop at distance 0."""
    wanted = jnp.sign(distance) * jnp.minimum(jnp.sqrt(1.8 * jnp.abs(distance)), 4.0 * jnp.abs(distance))
    return jnp.clip((wanted - velocity) / 0.05, -1.0, 1.0)


SCRIPTED: dict[str, Policy] = {
    "gymnax.pong": still,
    "gymnax.reacher": reach_goal,
    "gymnax.swimmer": swim_to_goal,
}


def episode_returns(environment: Environment, policy: Policy, key: jax.Array, episodes: int) -> jax.Array:
    """Return float32[episodes], the undiscounted return of one episode in each of `episodes` parallel environments."""

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        key, states, running, returns = carry
        key, action_key, step_key = jax.random.split(key, 3)
        actions = jax.vmap(policy)(jax.random.split(action_key, episodes), states)
        states, step = jax.vmap(environment.step)(jax.random.split(step_key, episodes), states, actions)
        returns = returns + jnp.where(running, step.reward, 0.0)
        return key, states, running & ~step.terminated & ~step.truncated, returns

    reset_key, key = jax.random.split(key)
    states, _ = jax.vmap(environment.reset)(jax.random.split(reset_key, episodes))
    start = (key, states, jnp.ones(episodes, bool), jnp.zeros(episodes, jnp.float32))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), advance, start)[3]


def measure(environment: Environment, policy: Policy, episodes: int, seed: int) -> Measured:
    """Measure the mean return of `policy` over new episodes."""
    began = time.perf_counter()
    run = jax.jit(lambda key: episode_returns(environment, policy, key, episodes))
    returns = np.asarray(run(jax.random.key(seed)), np.float64)
    error = returns.std(ddof=1) / np.sqrt(episodes)
    return Measured(float(returns.mean()), float(error), episodes, time.perf_counter() - began)


def agrees(measured: Measured, catalog: float) -> bool:
    """Return whether the catalog's value is within four standard errors of the measured one, plus rounding."""
    return abs(measured.mean - catalog) <= STANDARD_ERRORS * measured.error + ROUNDING * max(1.0, abs(measured.mean))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="name of an environment; repeat for several (default: all)")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes per environment, 2 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scripted", action="store_true", help="measure the scripted policies and compare with hi")
    parser.add_argument("--check", action="store_true", help="exit 1 if a value in the catalog disagrees")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 2:
        parser.error(f"--episodes must be 2 or more to have a standard error, got {arguments.episodes}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Print the table and return the exit status."""
    arguments = parse(argv)
    names = [envs.canonical(name) for name in arguments.env or (SCRIPTED if arguments.scripted else envs.names())]
    print(f"{'environment':34}{'mean':>12}{'std. error':>12}{'catalog':>12}{'episodes':>10}{'seconds':>9}")
    disagreeing = []
    for name in names:
        environment = envs.make(name)
        policy = SCRIPTED[name] if arguments.scripted else random_policy(environment)
        catalog = environment.reference.hi if arguments.scripted else environment.reference.lo
        found = measure(environment, policy, arguments.episodes, arguments.seed)
        mark = "" if agrees(found, catalog) else "  differs"
        row = f"{name:34}{found.mean:12.4f}{found.error:12.4f}{catalog:12.4f}{found.episodes:10}{found.seconds:9.1f}"
        print(row + mark, flush=True)
        disagreeing += [name] if mark else []
    if arguments.check and disagreeing:
        print(f"the catalog's values differ by more than {STANDARD_ERRORS:g} standard errors: {', '.join(disagreeing)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
