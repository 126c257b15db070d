"""Sizes of a program: padded so that every lane fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperlax.hyperparams import AlgorithmConfig, Torso
from hyperlax.networks.architecture import TorsoShape, torso_shape


@dataclass(frozen=True)
class Structure:
    """The parts of one or several trials that decide how large a program has to be.

    torsos: network name -> the torsos asked for, without repetition. minibatches, batch_sizes: the numbers asked for, empty
    where the algorithm has none.
    """

    torsos: tuple[tuple[str, frozenset[Torso]], ...]
    minibatches: frozenset[int]
    batch_sizes: frozenset[int]

    def __or__(self, other: Structure) -> Structure:
        return Structure(
            tuple((name, own | theirs) for (name, own), (_, theirs) in zip(self.torsos, other.torsos, strict=True)),
            self.minibatches | other.minibatches,
            self.batch_sizes | other.batch_sizes,
        )


@dataclass(frozen=True)
class Padding:
    """The sizes of a program.

    networks: network name -> the torso that every lane's fits into. minibatches: the numbers of minibatches that lanes may have.
    batch_rows: the largest batch, 0 where the algorithm has none.
    """

    networks: tuple[tuple[str, TorsoShape], ...]
    minibatches: tuple[int, ...]
    batch_rows: int

    def holds(self, structure: Structure) -> bool:
        """Return whether every trial of the structure fits."""
        return (
            all(
                _fits(torso, shape)
                for (_, torsos), (_, shape) in zip(structure.torsos, self.networks, strict=True)
                for torso in torsos
            )
            and structure.minibatches <= set(self.minibatches)
            and max(structure.batch_sizes, default=0) <= self.batch_rows
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields of an algorithm's `Shape` that it decides, by name."""
        chunks = math.lcm(*self.minibatches)
        return {
            **dict(self.networks),
            "chunks": chunks,
            "alike": len(self.minibatches) == 1,
            "batch_rows": self.batch_rows,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "networks": {
                name: {"widths": shape.widths, "activations": shape.activations, "layer_norms": shape.layer_norms}
                for name, shape in self.networks
            },
            "minibatches": self.minibatches,
            "batch_rows": self.batch_rows,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Padding:
        """Return the padding that `to_json` wrote."""
        networks = tuple(
            (name, TorsoShape(tuple(shape["widths"]), tuple(shape["activations"]), tuple(shape["layer_norms"])))
            for name, shape in stored["networks"].items()
        )
        return cls(networks, tuple(stored["minibatches"]), stored["batch_rows"])


def structure_of(config: AlgorithmConfig) -> Structure:
    """Return the structure of one trial."""
    hyperparam, network = config.hyperparam, config.network
    return Structure(
        tuple((name, frozenset([value.pre_torso])) for name, value in vars(network).items()),
        _asked(hyperparam, "num_minibatches"),
        _asked(hyperparam, "total_batch_size"),
    )


def padding_of(structure: Structure) -> Padding:
    """Return the sizes of the smallest program into which every trial of the structure fits."""
    networks = tuple((name, torso_shape(sorted(torsos, key=repr))) for name, torsos in structure.torsos)
    return Padding(networks, tuple(sorted(structure.minibatches)), max(structure.batch_sizes, default=0))


def _asked(hyperparam: Any, name: str) -> frozenset[int]:
    return frozenset([getattr(hyperparam, name)] if hasattr(hyperparam, name) else [])


def _fits(torso: Torso, shape: TorsoShape) -> bool:
    depth = len(torso.layer_sizes)
    return (
        depth <= len(shape.widths)
        and all(own <= padded for own, padded in zip(torso.layer_sizes, shape.widths, strict=False))
        and (depth == len(shape.widths) or len(set(shape.widths[depth - 1 :])) == 1)
        and torso.activation in shape.activations
        and torso.use_layer_norm in shape.layer_norms
    )
