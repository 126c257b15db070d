"""Sizes of a network: the program's (padded, static) and a lane's own (traced)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax import Array

from hyperlax.hyperparams import Torso

MOST_SIZES = 8
"""The most sizes that a shape lists. Each is a branch of its own in every switch over sizes, and takes time to compile."""


class Architecture(NamedTuple):
    """The torso of one lane. Dead layers, those past its depth, have width 0."""

    widths: Array  # int32[layers], live units of each padded layer
    depth: Array  # int32[], live layers
    activation: Array  # int32[], index into TorsoShape.activations
    layer_norm: Array  # bool[]
    # int32[], index into TorsoShape.sizes; known at compile time (an int) inside a branch of `by_size`
    size: Array | int


@dataclass(frozen=True)
class TorsoShape:
    """The torso of a program: every lane's fits inside.

    widths: padded units per layer. activations, layer_norms: the values that lanes may have. If there is only one, nothing is
    dispatched. exact: every lane has these widths, so nothing is masked. sizes: smaller torsos inside this one, at which lanes
    compute, each at the first that holds its own; () if all compute at this one's.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    layer_norms: tuple[bool, ...]
    exact: bool = False
    sizes: tuple[TorsoShape, ...] = ()

    def holds(self, torso: Torso) -> bool:
        """Return whether a lane may have this torso."""
        if self.sizes:
            return any(size.holds(torso) for size in self.sizes)
        depth = len(torso.layer_sizes)
        fits = (
            torso.layer_sizes == self.widths
            if self.exact
            else (
                depth <= len(self.widths)
                and all(own <= padded for own, padded in zip(torso.layer_sizes, self.widths, strict=False))
                and (depth == len(self.widths) or len(set(self.widths[depth - 1 :])) == 1)
            )
        )
        return fits and torso.activation in self.activations and torso.use_layer_norm in self.layer_norms

    def size(self, torso: Torso) -> int:
        """Return the index of the size at which a lane of this torso computes; 0 if there are none."""
        return next((index for index, size in enumerate(self.sizes) if size.holds(torso)), 0)


def torso_shape(torsos: Sequence[Torso], exact_sizes: bool = False) -> TorsoShape:
    """Return the smallest padded torso that each of `torsos` fits into.

    exact_sizes: lanes compute at their own sizes, or near them if there are more than MOST_SIZES.
    """
    activations = tuple(sorted({torso.activation for torso in torsos}))
    layer_norms = tuple(sorted({torso.use_layer_norm for torso in torsos}))
    distinct = sorted({torso.layer_sizes for torso in torsos}, key=lambda sizes: (_num_weights(sizes), sizes))
    padded = TorsoShape(_padded_widths(distinct), activations, layer_norms)
    if not exact_sizes:
        return padded
    groups = _grouped(distinct)
    sizes = tuple(dataclasses.replace(padded, widths=_padded_widths(group), exact=len(group) == 1) for group in groups)
    return sizes[0] if len(sizes) == 1 else dataclasses.replace(padded, sizes=sizes)


def _padded_widths(distinct: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the padded widths of layers of these sizes.

    A shallower lane carries its last layer's output through the dead ones, so all layers are equally wide from the shallowest
    lane's last layer on.
    """
    depths = [len(sizes) for sizes in distinct]
    deepest, shallowest = max(depths), min(depths)
    widths = [max(sizes[i] for sizes in distinct if i < len(sizes)) for i in range(deepest)]
    if deepest > shallowest:
        through = max(widths[shallowest - 1 :])
        widths[shallowest - 1 :] = [through] * (deepest - shallowest + 1)
    return tuple(widths)


def _grouped(distinct: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Return at most MOST_SIZES groups of layer sizes, given in order of weights. Neighbours join where padding adds least."""
    groups = [[sizes] for sizes in distinct]

    def added(at: int) -> int:
        return _padded_weights(groups[at] + groups[at + 1]) - sum(map(_padded_weights, groups[at : at + 2]))

    while len(groups) > MOST_SIZES:
        at = min(range(len(groups) - 1), key=added)
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return groups


def _padded_weights(group: Sequence[tuple[int, ...]]) -> int:
    return len(group) * _num_weights(_padded_widths(group))


def _num_weights(widths: tuple[int, ...]) -> int:
    return count_parameters(Torso(widths), 1, 1)


def architecture(torso: Torso, shape: TorsoShape) -> Architecture:
    """Return a lane's architecture as numpy scalars and arrays."""
    dead = len(shape.widths) - len(torso.layer_sizes)
    return Architecture(
        widths=np.asarray([*torso.layer_sizes, *[0] * dead], np.int32),  # type: ignore[arg-type]
        depth=np.int32(len(torso.layer_sizes)),  # type: ignore[arg-type]
        activation=np.int32(shape.activations.index(torso.activation)),  # type: ignore[arg-type]
        layer_norm=np.bool_(torso.use_layer_norm),  # type: ignore[arg-type]
        size=np.int32(shape.size(torso)),  # type: ignore[arg-type]
    )


def count_parameters(torso: Torso, inputs: int, outputs: int) -> int:
    """Return the number of trainable scalars of the exact-size network: torso, layer norm's scale and bias, and a dense head."""
    total = 0
    for width in torso.layer_sizes:
        total += inputs * width + width + (2 * width if torso.use_layer_norm else 0)
        inputs = width
    return total + inputs * outputs + outputs
