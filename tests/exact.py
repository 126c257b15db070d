"""The oracle of the padding law: an ordinary, exact-size network that knows nothing of masks, and crops to its size."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperlax.hyperparams import Torso
from hyperlax.networks.masked import ACTIVATION_FUNCTIONS


class ExactMLP(nn.Module):
    """flax's own dense layers and layer norm, at the sizes of one torso."""

    torso: Torso
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for layer, width in enumerate(self.torso.layer_sizes):
            x = nn.Dense(width, name=f"dense_{layer}")(x)
            if self.torso.use_layer_norm:
                x = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=f"norm_{layer}")(x)
            x = ACTIVATION_FUNCTIONS[self.torso.activation](x)
        return nn.Dense(self.outputs, name="head")(x)

    def output(self, params: Any, x: Array, lane: Any) -> Any:
        """As `MaskedMLP.output`, of any lane."""
        return self.apply(params, x)


def crop(params: Any, torso: Torso, inputs: int, outputs: int) -> Any:
    """The live part of a MaskedMLP's parameters, as those of ExactMLP. Leading axes are kept."""
    exact, sizes = {}, [inputs, *torso.layer_sizes]
    for layer in range(len(torso.layer_sizes)):
        exact[f"dense_{layer}"] = _dense(params["torso"][f"dense_{layer}"], sizes[layer], sizes[layer + 1])
        if torso.use_layer_norm:
            norm = params["torso"][f"norm_{layer}"]
            exact[f"norm_{layer}"] = {key: norm[key][..., : sizes[layer + 1]] for key in ("scale", "bias")}
    exact["head"] = _dense(params["head"], sizes[-1], outputs)
    return {"params": exact}


def _dense(layer: Any, inputs: int, outputs: int) -> Any:
    return {
        "kernel": jnp.asarray(layer["kernel"][..., :inputs, :outputs]),
        "bias": jnp.asarray(layer["bias"][..., :outputs]),
    }


def dead_weights(params: Any, torso: Torso, inputs: int) -> float:
    """The largest weight, in size, outside the live part."""
    sizes, largest = [inputs, *torso.layer_sizes], 0.0
    for name, layer in params["torso"].items():
        kind, number = name.split("_")
        live = sizes[int(number) + 1] if int(number) < len(torso.layer_sizes) else 0
        rows = sizes[int(number)] if live else 0
        if kind == "dense":
            kernel = np.array(layer["kernel"])
            kernel[..., :rows, :live] = 0.0
            largest = max(largest, float(np.abs(kernel).max(initial=0.0)))
        for key in ("bias", *(("scale",) if kind == "norm" else ())):
            largest = max(largest, float(np.abs(np.asarray(layer[key])[..., live:]).max(initial=0.0)))
    head = np.asarray(params["head"]["kernel"])[..., sizes[-1] :, :]
    return max(largest, float(np.abs(head).max(initial=0.0)))
