"""Sizes of a network: the program's (padded, static) and a lane's own (traced)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax import Array

from hyperlax.hyperparams import Torso


class Architecture(NamedTuple):
    """The torso of one lane. Dead layers, those past its depth, have width 0."""

    widths: Array  # int32[layers], live units of each padded layer
    depth: Array  # int32[], live layers
    activation: Array  # int32[], index into TorsoShape.activations
    layer_norm: Array  # bool[]


@dataclass(frozen=True)
class TorsoShape:
    """The torso of a program: every lane's fits inside.

    widths: padded units per layer. activations, layer_norms: the values that lanes may have. If there is only one, nothing is
    dispatched.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    layer_norms: tuple[bool, ...]


def torso_shape(torsos: Sequence[Torso]) -> TorsoShape:
    """Return the smallest padded torso that each of `torsos` fits into.

    A shallower lane carries its last layer's output through the dead ones, so all layers are equally wide from the shallowest
    lane's last layer on.
    """
    depths = [len(torso.layer_sizes) for torso in torsos]
    deepest, shallowest = max(depths), min(depths)
    widths = [max(t.layer_sizes[i] for t in torsos if i < len(t.layer_sizes)) for i in range(deepest)]
    if deepest > shallowest:
        through = max(widths[shallowest - 1 :])
        widths[shallowest - 1 :] = [through] * (deepest - shallowest + 1)
    return TorsoShape(
        tuple(widths), tuple(sorted({t.activation for t in torsos})), tuple(sorted({t.use_layer_norm for t in torsos}))
    )


def architecture(torso: Torso, shape: TorsoShape) -> Architecture:
    """Return a lane's architecture as numpy scalars and arrays."""
    dead = len(shape.widths) - len(torso.layer_sizes)
    return Architecture(
        widths=np.asarray([*torso.layer_sizes, *[0] * dead], np.int32),  # type: ignore[arg-type]
        depth=np.int32(len(torso.layer_sizes)),  # type: ignore[arg-type]
        activation=np.int32(shape.activations.index(torso.activation)),  # type: ignore[arg-type]
        layer_norm=np.bool_(torso.use_layer_norm),  # type: ignore[arg-type]
    )


def count_parameters(torso: Torso, inputs: int, outputs: int) -> int:
    """Return the number of trainable scalars of the exact-size network: torso, layer norm's scale and bias, and a dense head."""
    total = 0
    for width in torso.layer_sizes:
        total += inputs * width + width + (2 * width if torso.use_layer_norm else 0)
        inputs = width
    return total + inputs * outputs + outputs
