"""The gymnax suite (Lange 2022, https://github.com/RobertTLange/gymnax) as environments of the protocol.

gymnax 1.0 gives observations of several shapes and types, rewards and flags of several types, both end flags at once, and a
state that leaves `reset` with Python numbers in it. Here observations are flat float32 (one-hot where gymnax's are an index),
rewards float32 scalars, and the state keeps the shapes and types it had after `reset`. Continuous actions are clipped to
their bounds: not every gymnax environment does so itself.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperlax.envs.catalog import CATALOG
from hyperlax.envs.protocol import Continuous, Discrete, Environment, Step
from hyperlax.metrics import ReferenceReturns


@contextmanager
def _deferring(*names: str) -> Iterator[None]:
    """Import these modules lazily inside the block: each is loaded when one of its attributes is first read.

    After the block, `import` finds the real modules again. Modules loaded before the block are left alone.
    """
    deferred = {name: _Deferred(name) for name in names if name not in sys.modules}
    sys.modules.update(deferred)
    for name, module in deferred.items():
        package, _, last = name.rpartition(".")
        if package in deferred:
            setattr(deferred[package], last, module)  # where `import package.last as ...` reads it
    try:
        yield
    finally:
        for name, module in deferred.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # asked by the import system itself
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


with _deferring("seaborn", "matplotlib", "matplotlib.colors", "matplotlib.pyplot"):  # gymnax only renders with them
    import gymnax
    from gymnax.environments import spaces


def make(name: str) -> Environment:
    """Return the environment that the catalog lists under `name`, with gymnax's default parameters."""
    entry = CATALOG[name]
    env, params = gymnax.make(entry.gymnax_id)
    return adapt(name, env, params, entry.reference)


def adapt(name: str, env: Any, params: Any, reference: ReferenceReturns) -> Environment:
    """Adapt any gymnax environment to the protocol, including your own or one with other parameters."""
    observation_shape, state_shape = jax.eval_shape(lambda key: env.reset(key, params), jax.random.key(0))
    flatten, observation_size = _flattener(env.observation_space(params), observation_shape)
    action_space = _action_space(env.action_space(params))
    prepare = _action_preparer(action_space)
    resets_itself = getattr(type(env), "step", None) is not gymnax.environments.environment.Environment.step

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        observation, state = env.reset(key, params)
        return _like(state_shape, state), flatten(observation)

    restart = _restarting(
        lambda key: reset(jax.random.split(key)[1])
    )  # the part of a step's key that gymnax resets with

    @jax.jit  # for those who call it outside of a compiled program, as gymnax's own
    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Step]:
        if resets_itself:
            begun, after, reward, terminated, truncated, info = env.step(key, state, prepare(action), params)
            final = info["final_observation"]
        else:
            final, after, reward, terminated, _ = env.step_env(jax.random.split(key)[0], state, prepare(action), params)
            begun, truncated = final, env.is_truncated(after, params)
        after, observation, final = _like(state_shape, after), flatten(begun), flatten(final)
        terminated = jnp.reshape(terminated, ()).astype(bool)
        truncated = jnp.reshape(truncated, ()).astype(bool)
        if not resets_itself:
            # A clone, since `restart` splits the same key, where it needs it, to take the other part.
            after, observation = restart(terminated | truncated, jax.random.clone(key), after, observation)
        return after, Step(
            observation=observation,
            final_observation=final,
            reward=jnp.reshape(reward, ()).astype(jnp.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
        )

    return Environment(
        name=name,
        observation_size=observation_size,
        action=action_space,
        max_episode_steps=int(params.max_steps_in_episode),
        reset=reset,
        step=step,
        reference=reference,
    )


def _restarting(reset: Callable[[jax.Array], tuple[Any, jax.Array]]) -> Callable[..., tuple[Any, jax.Array]]:
    """Return (ended, key, state, observation) -> (state, observation), where `ended` those of a new episode of `reset`.

    gymnax's own `step` resets in every step and drops it. Here a CPU does so only if one of the environments of a step has ended: a
    reset draws random numbers, which takes as long there as all else in a step of CartPole.
    """

    @jax.custom_batching.custom_vmap
    def restart(ended: jax.Array, key: jax.Array, state: Any, observation: jax.Array) -> tuple[Any, jax.Array]:
        def begun() -> tuple[Any, jax.Array]:
            at_once = functools.reduce(lambda function, _: jax.vmap(function), range(ended.ndim), reset)
            return jax.tree.map(
                lambda new, old: jnp.where(jnp.expand_dims(ended, range(ended.ndim, new.ndim)), new, old),
                at_once(key),
                (state, observation),
            )

        def if_any() -> tuple[Any, jax.Array]:
            return jax.lax.cond(jnp.any(ended), begun, lambda: (state, observation))

        return jax.lax.platform_dependent(cpu=if_any, default=begun)

    @restart.def_vmap
    def _(size: int, are_batched: Any, *args: Any) -> tuple[Any, Any]:
        batched = jax.tree.map(
            lambda x, is_batched: x if is_batched else jnp.stack([x] * size), list(args), are_batched
        )
        out = restart(*batched)
        return out, jax.tree.map(lambda _: True, out)

    return restart


def _flattener(space: Any, shape: jax.ShapeDtypeStruct) -> tuple[Callable[[Any], jax.Array], int]:
    """Return a function that flattens an observation, and the size of its result."""
    if isinstance(space, spaces.Discrete):
        return lambda observation: jax.nn.one_hot(observation, space.n, dtype=jnp.float32), space.n
    return lambda observation: jnp.ravel(observation).astype(jnp.float32), math.prod(shape.shape)


def _action_space(space: Any) -> Discrete | Continuous:
    if isinstance(space, spaces.Discrete):
        return Discrete(space.n)
    # gymnax gives bounds as one number for all entries, or as an array.
    low, high = np.broadcast_to(space.low, space.shape), np.broadcast_to(space.high, space.shape)
    return Continuous(tuple(low.ravel().tolist()), tuple(high.ravel().tolist()))


def _action_preparer(space: Discrete | Continuous) -> Callable[[jax.Array], jax.Array]:
    if isinstance(space, Discrete):
        return lambda action: jnp.asarray(action, jnp.int32)
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    return lambda action: jnp.clip(jnp.asarray(action, jnp.float32), low, high)


def _like(wanted: Any, state: Any) -> Any:
    """Return `state` with the shapes and types of `wanted`, none of them weak, as `lax.scan` needs of a carry."""

    def leaf(want: jax.ShapeDtypeStruct, have: Any) -> jax.Array:
        return jax.lax.convert_element_type(jnp.reshape(have, want.shape), want.dtype)

    return jax.tree.map(leaf, wanted, state)
