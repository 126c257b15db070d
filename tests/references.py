"""What tests against slow references share: comparing, and drawing."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hyperlax.algorithms.lane import Lane
from hyperlax.hyperparams import DQNHyperparams


def close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def f32(value: float) -> Any:
    return jnp.float32(value)


def dqn_lane(total: float = 1000.0, **values: Any) -> Any:
    return Lane(DQNHyperparams(**values), {}, f32(total))
