"""A multilayer perceptron whose lanes differ in width, depth, activation and layer norm, each equal to its exact-size self.

Only the initial weights are masked. Every activation here maps 0 to 0, so a dead unit has output 0 and gradient 0, and stays
dead under any optimizer that maps gradient 0 to update 0 (SGD, Adam, global-norm clipping).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.networks.architecture import Architecture, TorsoShape
from hyperlax.networks.initializers import Initializer

ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "elu": nn.elu,
}
LAYER_NORM_EPSILON = 1e-6


def output(network: nn.Module, params: Any, x: Array, lane: Architecture) -> Array:
    """Return `network.apply(...)` as an array: its declared type allows for mutable collections."""
    return network.apply(params, x, lane)  # pyright: ignore[reportReturnType]


class _MaskedDense(nn.Module):
    """`x @ kernel + bias`; x is float32[..., inputs]. The bias starts at 0."""

    features: int
    initializer: Initializer

    @nn.compact
    def __call__(self, x: Array, live_inputs: Array, live_features: Array) -> Array:
        kernel = self.param("kernel", self.initializer, x.shape[-1], self.features, live_inputs, live_features)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ kernel + bias


class _MaskedLayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016) over the first `live` features; the others stay 0."""

    @nn.compact
    def __call__(self, x: Array, live: Array) -> Array:
        features = x.shape[-1]
        mask = jnp.arange(features) < live
        scale = self.param("scale", lambda key: mask.astype(jnp.float32))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        count = jnp.maximum(live, 1)
        mean = jnp.sum(jnp.where(mask, x, 0.0), axis=-1, keepdims=True) / count
        centered = jnp.where(mask, x - mean, 0.0)
        variance = jnp.sum(centered**2, axis=-1, keepdims=True) / count
        return centered * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + bias


class _MaskedTorso(nn.Module):
    """Layers of dense, layer norm if the lane has it, and activation; as many as the lane is deep."""

    shape: TorsoShape
    initializer: Initializer

    @nn.compact
    def __call__(self, x: Array, lane: Architecture) -> Array:
        live = jnp.asarray(x.shape[-1])
        for layer, width in enumerate(self.shape.widths):
            y = _MaskedDense(width, self.initializer, name=f"dense_{layer}")(x, live, lane.widths[layer])
            y = self._normalize(y, lane, layer)
            y = self._activate(y, lane)
            alive = layer < lane.depth
            x = y if layer == 0 or x.shape != y.shape else jnp.where(alive, y, x)
            live = jnp.where(alive, lane.widths[layer], live)
        return x

    def _normalize(self, x: Array, lane: Architecture, layer: int) -> Array:
        if self.shape.layer_norms == (False,):
            return x
        normalized = _MaskedLayerNorm(name=f"norm_{layer}")(x, lane.widths[layer])
        return normalized if self.shape.layer_norms == (True,) else jnp.where(lane.layer_norm, normalized, x)

    def _activate(self, x: Array, lane: Architecture) -> Array:
        functions = [ACTIVATION_FUNCTIONS[name] for name in self.shape.activations]
        return functions[0](x) if len(functions) == 1 else jax.lax.switch(lane.activation, functions, x)


class MaskedMLP(nn.Module):
    """A torso and a dense head of `outputs` features: float32[..., inputs] -> float32[..., outputs]."""

    shape: TorsoShape
    outputs: int
    torso_initializer: Initializer
    head_initializer: Initializer

    def multiplications(self, inputs: int) -> int:
        """Return the multiplications of one forward pass of one row at the padded sizes; about the number of weights."""
        sizes = [inputs, *self.shape.widths, self.outputs]
        return sum(a * b for a, b in itertools.pairwise(sizes))

    @nn.compact
    def __call__(self, x: Array, lane: Architecture) -> Array:
        x = _MaskedTorso(self.shape, self.torso_initializer, name="torso")(x, lane)
        last_width = lane.widths[lane.depth - 1]
        head = _MaskedDense(self.outputs, self.head_initializer, name="head")
        return head(x, last_width, jnp.asarray(self.outputs))
