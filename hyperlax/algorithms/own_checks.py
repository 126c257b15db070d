"""Checks of a recipe's JAX functions before anything is compiled: they are traced once, for their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hyperlax.algorithms.own import LanesProgram, LanesTask, array
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.fields import written
from hyperlax.recipe import Recipe, shown_path
from hyperlax.report import shown
from hyperlax.tasks import Lanes
from hyperlax.trial import Trial
from hyperlax.user_code import line_of, with_line

_LEAVES = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_PYTHON_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
"""Errors of JAX about a traced value of which Python's is needed."""


class _Number(int):
    """A padded size in place of a `Padded`, to find out whether a function uses it as a number."""

    size = live = property(int)
    mask = property(lambda self: np.ones(self, np.float32))


def check_functions(recipe: Recipe) -> None:
    """Raise UsageError unless the functions of a recipe's `Lanes` go together, with the default configuration."""
    assert isinstance(recipe.task, Lanes)
    config = recipe.config
    _check_static(recipe)
    task = LanesTask(recipe.task, config.algorithm, recipe.space, config.run_lengths["default"])
    default = Trial(0, config.algorithm)
    program, lane, where = task.program(default), task.lane(default), shown_path(recipe.path)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = _traced(program, "init", lane, where, key)
    _check_kept(state, _traced(program, "step", lane, where, state, key), where)
    _check_measures(program.task, _traced(program, "evaluate", lane, where, state, key), where)


def _check_static(recipe: Recipe) -> None:
    """Raise UsageError for a static field with a continuous range: each of its values would be compiled."""
    assert recipe.task is not None
    for name, distribution in recipe.space.items():
        if recipe.task.rules[name].kind == "static" and distribution.size() is None:
            raise UsageError(
                f"{shown_path(recipe.path)}: {name} is static, so each value of {written(distribution)} would be compiled. Make it "
                "traced, or give it Categorical or whole numbers."
            )


def _traced(program: LanesProgram, verb: str, lane: Mapping[str, Any], where: str, *arguments: Any) -> Any:
    """Return the shapes and types of what a function returns. arguments: those besides the hyperparameters."""
    try:
        returned = _shapes(program, verb, lane, {}, arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where}: {_problem(program, verb, lane, arguments, error)}") from error
    return returned


def _shapes(program: LanesProgram, verb: str, lane: Mapping[str, Any], fixed: Mapping[str, Any], arguments: Any) -> Any:
    """Return the shapes and types of what a function returns. fixed: fields that it gets as Python's numbers."""

    def call(traced: Mapping[str, Any], arguments: Any) -> Any:
        hypers = program.hypers({**lane, **traced})
        for name, value in fixed.items():
            object.__setattr__(hypers, name, value)
        first, *rest = arguments
        returned = getattr(program.task, verb)(first, hypers, *rest)
        _check_returned(verb, returned)
        return jax.tree.map(array, returned)

    return jax.eval_shape(call, {name: value for name, value in lane.items() if name not in fixed}, arguments)


def _problem(program: LanesProgram, verb: str, lane: Mapping[str, Any], arguments: Any, error: BaseException) -> str:
    """Return why a function raised, in words."""
    place = line_of(error)
    name = _misused(program, verb, lane, arguments, type(error))
    if name is None and isinstance(error, _PYTHON_NEEDED):
        return (
            f"{verb}() needs a Python number where JAX traces one{place}. Use jnp.where, jax.lax.cond or jax.lax.fori_loop "
            "instead of if, while and range, and jax.numpy instead of numpy."
        )
    if name is None:
        return f"{verb}() raised {with_line(error)}."
    default = repr(program.task.defaults[name])
    static = f"make it static, as in {name} = static({default})"
    if name in dict(program.sizes):
        return (
            f"{verb}() uses hypers.{name} as a number{place}, and it is padded. Use hypers.{name}.size for shapes, "
            f"hypers.{name}.live for its own size and hypers.{name}.mask for what is live, or {static}."
        )
    return (
        f"{verb}() needs hypers.{name} as a Python number{place}, and it is traced: lanes of one program differ in it. "
        f"Compute with it by jax.numpy, or {static}."
    )


def _misused(program: LanesProgram, verb: str, lane: Mapping[str, Any], arguments: Any, error: type) -> str | None:
    """Return the first field with which a function raises such an error only because it is not a Python number."""
    sizes = {name: _Number(size) for name, size in program.sizes}
    fixed = {name: sizes.get(name, x.item()) for name, x in lane.items()}

    def helps(fixed: Mapping[str, Any]) -> bool:
        try:
            _shapes(program, verb, lane, fixed, arguments)
        except (Exception, SystemExit) as other:
            return type(other) is not error
        return True

    if not helps(fixed):
        return None
    for name in list(fixed):
        others = {other: value for other, value in fixed.items() if other != name}
        if helps(others):
            fixed = others
    return next(iter(fixed), None)


def _check_returned(verb: str, returned: Any) -> None:
    """Raise UsageError for a value that no program can return."""
    leaves = jax.tree_util.tree_leaves_with_path(returned)
    what = "every measure by its name" if verb == "evaluate" else "the state, a pytree of arrays"
    if not leaves:
        raise UsageError(f"{verb}() returned {shown(returned)}. Return {what}.")
    for path, leaf in leaves:
        if not isinstance(leaf, _LEAVES):
            place = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise UsageError(f"{verb}() returned {shown(leaf)}{place}. Return {what}.")


def _check_kept(before: Any, after: Any, where: str) -> None:
    """Raise UsageError unless a step keeps the structure, shapes and types of the state."""
    then, now = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (before, after)
    )
    for leaf in (*then, *now):
        if (leaf in then) != (leaf in now):
            lost = "lacks" if leaf in then else "has"
            raise UsageError(
                f"{where}: the state that step() returns {lost} {leaf}, unlike that of init(). Return the same arrays."
            )
    for leaf, x in then.items():
        if (x.shape, x.dtype) != (now[leaf].shape, now[leaf].dtype):
            of = f"{leaf} of the state" if leaf else "the state"
            raise UsageError(
                f"{where}: step() changes {of} from {_form(x)} to {_form(now[leaf])}. Return it as init() does: "
                "shapes and types of a program stay as they are."
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise UsageError(
            f"{where}: step() returns {jax.tree.structure(after)}, init() {jax.tree.structure(before)}. Return the same types."
        )


def _check_measures(task: Lanes, returned: Any, where: str) -> None:
    """Raise UsageError unless an evaluation returns every measure of the task, each as one number."""
    names = [measure.name for measure in task.all_measures]
    example = f'Return {{"{names[0]}": ...}}'
    if not isinstance(returned, Mapping):
        raise UsageError(f"{where}: evaluate() returned {_form(returned)}, not a dictionary. {example}.")
    for name in returned:
        if name not in names:
            hint = did_you_mean(str(name), names)
            raise UsageError(
                f"{where}: evaluate() returned {name}, and the task has no such measure. {hint}Add it to measures=, or drop it."
            )
    for name in names:
        if name not in returned:
            what = "the leading measure" if name == names[0] else "a measure of the task"
            raise UsageError(f"{where}: evaluate() returned no {name}, {what}. {example}.")
        value = returned[name]
        if getattr(value, "shape", None) != () or value.dtype.kind not in "fiub":
            raise UsageError(
                f"{where}: evaluate() returned {name} as {_form(value)}. Return one number, such as jnp.mean(...)."
            )


def _form(value: Any) -> str:
    """Return shape and type of an array, as float32[3]; of anything else its type."""
    if hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return f"a {type(value).__name__}"
