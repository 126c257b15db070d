"""Updates of parameters: Adam, whose step size and gradient bound are scalars of the lane, and target tracking."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

P = TypeVar("P")


class Adam:
    """Adam (Kingma & Ba, 2015) with a bound on the gradient's global norm.

    WORK: cost of a step per parameter, in multiplications of a network; memory traffic is most of it.
    """

    WORK = 10

    def __init__(self, epsilon: float):
        self._scale = optax.scale_by_adam(eps=epsilon)

    def init(self, params: Any) -> optax.OptState:
        return self._scale.init(params)

    def descend(
        self, params: P, gradient: P, state: optax.OptState, learning_rate: Array | float, max_grad_norm: Array | float
    ) -> tuple[P, optax.OptState]:
        """Take one step. The gradient is scaled down to `max_grad_norm` if its global norm exceeds it."""
        norm = optax.tree.norm(gradient)
        factor = jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-12))
        clipped = jax.tree.map(lambda g: g * factor, gradient)
        updates, state = self._scale.update(clipped, state)
        return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), state


def track(target: Any, online: Any, tau: Array | float) -> Any:
    """Return the Polyak average (1 - tau) target + tau online."""
    return jax.tree.map(lambda t, o: (1.0 - tau) * t + tau * o, target, online)
