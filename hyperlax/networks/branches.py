"""Branches for lanes that differ in layer sizes.

Where lanes train one after another, only a lane's own branch runs. Under `vmap` all of them would: programs whose lanes train side
by side list no sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.networks.architecture import Architecture, TorsoShape


def switch(index: Array, branches: Sequence[Callable], fixed: Any, *args: Any) -> Any:
    """Return `branches[index](fixed, *args)`, differentiable with respect to `args`.

    The backward pass keeps the arguments only and computes the rest again in the one branch that it needs. JAX's own gradient of
    a switch keeps the intermediate values of all branches, whichever ran.
    """

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


def by_size(shape: TorsoShape, lane: Architecture, function: Callable[..., tuple], *trees: Any) -> tuple:
    """Return `function(lane, *trees)`, computed at the lane's own size: in a branch for each size that the shape lists.

    Args:
      function: Takes the lane, whose size is known in the branch, and the trees at that size. It returns the trees as they become,
        and further results after them.
      trees: Padded parameters of the network, and what has their structure, such as the state of their optimizer.
    """

    def branch(index: int, trees: tuple) -> tuple:
        own = [crop(tree, shape.sizes[index].widths) for tree in trees]
        changed = function(lane._replace(size=index), *own)
        return *jax.tree.map(_pad, changed[: len(trees)], trees), *changed[len(trees) :]

    if not shape.sizes:
        return function(lane, *trees)
    return jax.lax.switch(lane.size, [functools.partial(branch, index) for index in range(len(shape.sizes))], trees)


def crop(tree: Any, widths: Sequence[int]) -> Any:
    """Return the part of padded parameters, `[..., inputs, features]`, that layers of these widths use; nothing of later layers."""
    features = {f"{kind}_{layer}": width for layer, width in enumerate(widths) for kind in ("dense", "norm")}
    inputs = {f"dense_{layer + 1}": width for layer, width in enumerate(widths[:-1])}

    def own(path: tuple, x: Array) -> Array:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if "head" in names:
            return x[..., : widths[-1], :] if names[-1] == "kernel" else x
        if "torso" not in names:
            return x
        x = x[..., : features.get(names[-2], 0)]
        return x[..., : inputs.get(names[-2]), :] if names[-1] == "kernel" else x

    return jax.tree_util.tree_map_with_path(own, tree)


def _pad(x: Array, like: Array) -> Array:
    """Return the array with zeros up to the shape of `like`."""
    return x if x.shape == like.shape else jnp.pad(x, [(0, b - a) for a, b in zip(x.shape, like.shape, strict=True)])
