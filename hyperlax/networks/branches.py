"""A switch whose backward pass is a switch as well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array


def switch(index: Array, branches: Sequence[Callable], fixed: Any, *args: Any) -> Any:
    """Return `branches[index](fixed, *args)`, differentiable with respect to `args`.

    The backward pass keeps the arguments only and computes the rest again in the one branch that it needs. JAX's own gradient of
    a switch keeps the intermediate values of all branches, whichever ran.
    """
    if len(branches) == 1:
        return branches[0](fixed, *args)

    @jax.custom_vjp
    def run(index: Array, fixed: Any, args: tuple) -> Any:
        return jax.lax.switch(index, branches, fixed, *args)

    def forward(index: Array, fixed: Any, args: tuple) -> tuple[Any, tuple]:
        return run(index, fixed, args), (index, fixed, args)

    def backward(kept: tuple, gradient: Any) -> tuple:
        pulls = [functools.partial(_pull, branch) for branch in branches]
        return None, None, jax.lax.switch(kept[0], pulls, *kept[1:], gradient)

    run.defvjp(forward, backward)
    return run(index, fixed, args)


def _pull(branch: Callable, fixed: Any, args: tuple, gradient: Any) -> tuple:
    return jax.vjp(functools.partial(branch, fixed), *args)[1](gradient)
