"""Lanes as an algorithm sees them: the hyperparameters, architectures and budget that one lane brings to a compiled program.

The hyperparameter classes become JAX pytrees here: traced fields are leaves (one scalar a lane), static fields are part of
the tree's structure. An algorithm therefore reads `lane.hyperparam.gamma` and gets its lane's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from hyperlax.algorithms.normalizer import ObservationStatistics
from hyperlax.hyperparams import rules
from hyperlax.networks.architecture import Architecture
from hyperlax.networks.branches import by_size

H = TypeVar("H")

SCALARS: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32}
"""Type of a hyperparameter -> that of a lane's own number."""


class Lane(NamedTuple):
    """One trial, as the program sees it."""

    hyperparam: Any  # a hyperparameter class whose traced fields are arrays: float32[], int32[] or bool[]
    networks: Mapping[str, Architecture]  # "actor_network", "critic_network"
    total_timesteps: Array  # float32[], the budget, over which schedules fall

    def by_size(self, shape: Any, name: str, function: Callable[..., tuple], *trees: Any) -> tuple:
        """Return `function(lane, *trees)` at the own size of the network of that name, see `networks.branches.by_size`.

        shape: the program's, which has the network's shape under the same name.
        """

        def call(own: Architecture, *trees: Any) -> tuple:
            return function(self._replace(networks={**self.networks, name: own}), *trees)

        return by_size(getattr(shape, name), self.networks[name], call, *trees)


class PolicyParams(NamedTuple):
    """The part of a training state that acts: the parameters of a masked network and the statistics that normalize observations."""

    network: Any
    statistics: ObservationStatistics


def as_scalars(hyperparam: H) -> H:
    """Return the hyperparameters with every traced field as a numpy scalar of one fixed type: float32, int32 or bool."""
    bag: Any = hyperparam
    register_as_pytree(type(bag))
    traced = [f for f in dataclasses.fields(bag) if f.metadata["rule"].kind == "traced"]
    return dataclasses.replace(bag, **{f.name: SCALARS[type(f.default)](getattr(bag, f.name)) for f in traced})


@functools.cache
def register_as_pytree(bag: type) -> None:
    """Make a class of hyperparameters a pytree. Its static fields are part of the tree's structure."""
    kinds = {name: rule.kind for name, rule in rules(bag).items()}
    static = [name for name, kind in kinds.items() if kind == "static"]
    with contextlib.suppress(ValueError):  # a recipe has made it one already
        jax.tree_util.register_dataclass(bag, [name for name in kinds if name not in static], static)


def remaining(steps: Array, lane: Lane) -> Array:
    """Return the share of the budget that is left after `steps` environment steps, from 1 to 0."""
    return jax.numpy.clip(1.0 - steps / lane.total_timesteps, 0.0, 1.0)
