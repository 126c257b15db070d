"""A multilayer perceptron whose lanes differ in width, depth, activation and layer norm, each equal to its exact-size self.

Only the initial weights are masked. Every activation here maps 0 to 0, so a dead unit has output 0 and gradient 0, and stays
dead under any optimizer that maps gradient 0 to update 0 (SGD, Adam, global-norm clipping).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.networks.architecture import Architecture, TorsoShape
from hyperlax.networks.branches import crop, switch
from hyperlax.networks.initializers import Initializer, samples

ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
}
LAYER_NORM_EPSILON = 1e-6
_MOST_LAYERS = 1024


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    """Return `x @ kernel`: float32[..., inputs] and float32[inputs, features] -> float32[..., features].

    Its gradient by the kernel, `x.T @ gradient`, is computed from a transposed copy of x on CPUs, where XLA's product over the rows
    of two matrices is slower. It has no forward-mode derivative.
    """
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    rows, outer = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if outer.shape[-1] == 1:  # a product of a matrix and a vector, which needs no copy
        return gradient @ kernel.T, rows.T @ outer
    by_kernel = jax.lax.platform_dependent(
        rows, outer, cpu=lambda a, b: jax.lax.optimization_barrier(a.T) @ b, default=lambda a, b: a.T @ b
    )
    return gradient @ kernel.T, by_kernel


_product.defvjp(_product_forward, _product_backward)


def _normalize(live: Array | None, x: Array, scale: Array, bias: Array) -> Array:
    """Normalize float32[..., features] (Ba et al., 2016) over the first `live` features, None for all; the others stay 0."""
    if live is None:
        centered, count = x - jnp.mean(x, axis=-1, keepdims=True), x.shape[-1]
    else:
        mask, count = jnp.arange(x.shape[-1]) < live, jnp.maximum(live, 1)
        mean = jnp.sum(jnp.where(mask, x, 0.0), axis=-1, keepdims=True) / count
        centered = jnp.where(mask, x - mean, 0.0)
    variance = jnp.sum(centered**2, axis=-1, keepdims=True) / count
    return centered * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + bias


def _sum(live: Array | None, product: Array, bias: Array, *parameters: Array) -> Array:
    return product + bias


def _sum_and_norm(live: Array | None, product: Array, bias: Array, scale: Array, shift: Array) -> Array:
    return _normalize(live, product + bias, scale, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _branching(
    functions: Sequence[Callable], sums: Sequence[Callable], activation: Array, norm: Array, *args: Any
) -> Any:
    """Return `functions[activation](sums[norm](*args))`, computed in one branch for each pair.

    The activation's slope is computed beside it, so that the backward pass needs no branches of activations. JAX's own gradient of
    a switch keeps the intermediate values of all branches, whichever ran.
    """
    pairs = [lambda *args, f=f, g=g: f(g(*args)) for f in functions for g in sums]
    return jax.lax.switch(activation * len(sums) + norm, pairs, *args)


def _branching_forward(functions: Any, sums: Any, activation: Array, norm: Array, *args: Any) -> tuple[Array, tuple]:
    def with_slope(function: Callable, before: Callable, *args: Any) -> tuple[Array, Array]:
        x = before(*args)
        return jax.jvp(function, (x,), (jnp.ones_like(x),))

    pairs = [functools.partial(with_slope, f, g) for f in functions for g in sums]
    out, slope = jax.lax.switch(activation * len(sums) + norm, pairs, *args)
    return out, (norm, slope, args)


def _branching_backward(functions: Any, sums: Any, kept: tuple, gradient: Array) -> tuple:
    norm, slope, (live, *args) = kept

    def pull(before: Callable, gradient: Array, *args: Array) -> tuple:
        return jax.vjp(functools.partial(before, live), *args)[1](gradient)

    pulls = [functools.partial(pull, before) for before in sums]
    return None, None, None, *jax.lax.switch(norm, pulls, gradient * slope, *args)


_branching.defvjp(_branching_forward, _branching_backward)


@dataclass(frozen=True)
class MaskedMLP:
    """A torso and a dense head of `outputs` features: float32[..., inputs] -> float32[..., outputs].

    Its parameters are `{"torso": {"dense_0": ..., "norm_0": ..., "dense_1": ...}, "head": ...}`. Each dense layer has a kernel and
    a bias, and where some lane has layer norm, each norm a scale and a bias.
    """

    shape: TorsoShape
    outputs: int
    torso_initializer: Initializer
    head_initializer: Initializer

    def multiplications(self, inputs: int) -> int:
        """Return the multiplications of one forward pass of one row at the padded sizes; about the number of weights."""
        return sum(a * b for a, b in self._layers(inputs))

    def init(self, key: Array, inputs: int, lane: Architecture) -> Any:
        """Return initial parameters: zero outside the lane's own sizes."""
        *torso, head = self._layers(inputs)
        initializers = [self.head_initializer, *[self.torso_initializer] * len(torso)]
        kinds = dict.fromkeys(initializer.sample for initializer in initializers)
        drawn = {sample: samples(sample, key, [head, *torso], _MOST_LAYERS) for sample in kinds}
        widths = [lane.widths[layer] for layer in range(len(torso))]
        ins = [lane.widths[lane.depth - 1], inputs, *widths[:-1]]
        outs = [self.outputs, *widths]
        kernels = [
            initializer.shape(drawn[initializer.sample][layer], live_inputs, live_features)
            for layer, (initializer, live_inputs, live_features) in enumerate(zip(initializers, ins, outs, strict=True))
        ]
        dense = [{"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])} for kernel in kernels]
        params: dict[str, Any] = {f"dense_{layer}": one for layer, one in enumerate(dense[1:])}
        if True in self.shape.layer_norms:
            for layer, width in enumerate(self.shape.widths):
                scale = (jnp.arange(width) < lane.widths[layer]).astype(jnp.float32)
                params[f"norm_{layer}"] = {"scale": scale, "bias": jnp.zeros(width)}
        return {"torso": params, "head": dense[0]}

    def output(self, params: Any, x: Array, lane: Architecture) -> Array:
        """Return the network's output, computed at the lane's size: float32[..., inputs] -> float32[..., outputs].

        params: padded, or inside `by_size` those that it hands out. Outside, a gradient computes the output a second time.
        """
        branches = [dataclasses.replace(self, shape=size)._output for size in self.shape.sizes]
        if not branches:
            return self._output(lane, params, x)
        if isinstance(lane.size, int):
            return branches[lane.size](lane, params, x)
        return switch(lane.size, branches, lane, params, x)

    def _layers(self, inputs: int) -> list[tuple[int, int]]:
        """Return the rows and columns of the padded layers, the head last."""
        return list(itertools.pairwise([inputs, *self.shape.widths, self.outputs]))

    def _output(self, lane: Architecture, params: Any, x: Array) -> Array:
        """Return the output at the shape's own widths. A layer past the lane's depth passes its input on."""
        own = crop(params, self.shape.widths)
        for layer in range(len(self.shape.widths)):
            y = self._layer(own["torso"], x, lane, layer)
            x = y if self.shape.exact or layer == 0 or x.shape != y.shape else jnp.where(layer < lane.depth, y, x)
        return _product(x, own["head"]["kernel"]) + own["head"]["bias"]

    def _layer(self, torso: Any, x: Array, lane: Architecture, layer: int) -> Array:
        """Return a layer of the torso: dense, layer norm if the lane has it, and activation."""
        dense, norms = torso[f"dense_{layer}"], self.shape.layer_norms
        norm = [torso[f"norm_{layer}"][name] for name in ("scale", "bias")] if True in norms else []
        functions = [ACTIVATION_FUNCTIONS[name] for name in self.shape.activations]
        sums = [_sum_and_norm if is_normed else _sum for is_normed in norms]
        product = _product(x, dense["kernel"])
        live = lane.widths[layer]
        args = (None if self.shape.exact else live, product, dense["bias"], *norm)
        if len(functions) == len(sums) == 1:
            return functions[0](sums[0](*args))
        return _branching(functions, sums, lane.activation, lane.layer_norm * (len(norms) - 1), *args)
