"""Checks that a user's environment conforms to `hyperlax.envs.protocol`. It is traced once; nothing is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from hyperlax.envs.protocol import Continuous, Discrete, Environment, Step
from hyperlax.errors import UsageError, in_one_line
from hyperlax.metrics import ReferenceReturns
from hyperlax.user_code import with_line


def check(environment: Environment) -> None:
    """Raise UsageError if a field has the wrong type, or if reset or step raises or returns something unusable."""
    where = f"environment `{environment.name}`"
    _check_facts(environment, where)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    space = environment.action
    action = jax.ShapeDtypeStruct(*((2,), jnp.int32) if isinstance(space, Discrete) else ((2, space.size), jnp.float32))
    jax.eval_shape(jax.vmap(lambda key, action: _check_episode(environment, key, action, where)), key, action)


def _check_facts(environment: Environment, where: str) -> None:
    for name in ("observation_size", "max_episode_steps"):
        value = getattr(environment, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{where}: {name} is {value!r}; a whole number of at least 1 is needed.")
    for name, kinds, needed in (
        ("action", (Discrete, Continuous), "Discrete(n) or Continuous(low, high)"),
        ("reference", ReferenceReturns, "ReferenceReturns(lo, hi, source)"),
    ):
        value = getattr(environment, name)
        if not isinstance(value, kinds):
            raise UsageError(f"{where}: {name} is {value!r}; {needed} is needed.")
    for name in ("reset", "step"):
        if not callable(getattr(environment, name)):
            raise UsageError(f"{where}: {name} is {getattr(environment, name)!r}; a function is needed.")


def _check_episode(environment: Environment, key: jax.Array, action: jax.Array, where: str) -> jax.Array:
    """Check a reset and a step, as one environment of many."""
    size = environment.observation_size
    why = f": observation_size is {size}"
    returned = _called(lambda: environment.reset(key), f"{where}: reset")
    state, observation = _pair(returned, object, f"{where}: reset", "(state, observation)")
    _check_state(state, f"{where}: reset")
    _check_array(observation, (size,), jnp.float32, f"{where}: reset returned the observation", why)
    returned = _called(lambda: environment.step(key, state, action), f"{where}: step")
    after, step = _pair(returned, Step, f"{where}: step", "(state, Step)")
    _check_state(after, f"{where}: step")
    _check_same_state(state, after, f"{where}: step")
    for name in ("observation", "final_observation"):
        _check_array(getattr(step, name), (size,), jnp.float32, f"{where}: step returned the {name}", why)
    _check_array(step.reward, (), jnp.float32, f"{where}: step returned the reward", "")
    for name in ("terminated", "truncated"):
        _check_array(getattr(step, name), (), jnp.bool_, f"{where}: step returned {name} as", "")
    return jnp.zeros(())


def _called(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except Exception as error:  # a user's code may raise anything
        raise UsageError(f"{where} raised {with_line(error)}.") from error


def _pair(returned: Any, second: type, where: str, needed: str) -> tuple[Any, Any]:
    if not isinstance(returned, (tuple, list)) or len(returned) != 2 or not isinstance(returned[1], second):
        raise UsageError(f"{where} returned {_shown(returned)}; {needed} is needed.")
    return returned[0], returned[1]


def _check_state(state: Any, where: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not _is_array(leaf):
            raise UsageError(
                f"{where} returned a state whose {_entry(path)} is {_shown(leaf)}; arrays in tuples, lists, dictionaries or "
                "NamedTuples are needed."
            )


def _check_same_state(before: Any, after: Any, where: str) -> None:
    """Check that a step returns a state of the form it was given, since a loop carries it."""
    was, now = (jax.tree.structure(state) for state in (before, after))
    if was != now:
        raise UsageError(
            f"{where} returned a state of the form {_form(now)}; {_form(was)} is needed, as reset returned."
        )
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in leaves:
        if jnp.shape(old) != jnp.shape(new) or not _becomes(jax.typeof(old), jax.typeof(new)):
            raise UsageError(
                f"{where} returned a state whose {_entry(path)} is {_shown(new)}; {_shown(old)} is needed, as reset returned."
            )


def _check_array(value: Any, shape: tuple[int, ...], dtype: Any, where: str, why: str) -> None:
    if not _is_array(value) or jax.typeof(value).dtype != dtype or jnp.shape(value) != shape:
        raise UsageError(f"{where} {_shown(value)}; {jnp.dtype(dtype).name}{list(shape)} is needed{why}.")


def _is_array(value: Any) -> bool:
    try:
        jax.typeof(value)
    except TypeError:
        return False
    return True


def _becomes(old: Any, new: Any) -> bool:
    """Return whether a loop accepts one type for the other. A Python number adopts the type of its counterpart."""
    weak = getattr(old, "weak_type", False)
    return old.dtype == new.dtype or (weak and jnp.promote_types(old.dtype, new.dtype) == new.dtype)


def _shown(value: Any) -> str:
    """Write an array as its type and shape, a tuple as its entries, anything else as Python does."""
    if isinstance(value, (tuple, list)):
        name = type(value).__name__ if hasattr(value, "_fields") else ""
        return f"{name}({', '.join(map(_shown, value))})"
    if _is_array(value):
        return f"{jax.typeof(value).dtype.name}{list(jnp.shape(value))}"
    text = in_one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:60]}..."


def _form(structure: Any) -> str:
    text = in_one_line(str(structure).removeprefix("PyTreeDef(").removesuffix(")"))
    return re.sub(r"CustomNode\(namedtuple\[(\w+)\], \[(.*?)\]\)", r"\1(\2)", text)


def _entry(path: Any) -> str:
    return f"entry {jax.tree_util.keystr(path)}" if path else "one entry"
