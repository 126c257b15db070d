"""Sizes of a program, padded so that every lane fits, and the sizes that a search space can ask for."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from hyperlax.fields import HYPERPARAM, apply, candidates, extremes
from hyperlax.files import convert
from hyperlax.hyperparams import AlgorithmConfig, Torso, rules
from hyperlax.networks.architecture import TorsoShape, torso_shape
from hyperlax.space import Categorical, Distribution, Numeric

_NETWORK = "algorithm.network."
_STRUCTURAL = ("total_num_envs", "rollout_length", "epochs", "num_minibatches", "total_batch_size")


@dataclass(frozen=True)
class _Structure:
    """The parts of one or several trials that decide how large a program has to be.

    torsos: network name -> the torsos needed, without repetition. minibatches, batch_sizes: the numbers needed, empty if the
    algorithm has none.
    """

    torsos: tuple[tuple[str, frozenset[Torso]], ...]
    minibatches: frozenset[int]
    batch_sizes: frozenset[int]

    def __or__(self, other: _Structure) -> _Structure:
        return _Structure(
            tuple((name, own | theirs) for (name, own), (_, theirs) in zip(self.torsos, other.torsos, strict=True)),
            self.minibatches | other.minibatches,
            self.batch_sizes | other.batch_sizes,
        )


class _StoredShape(TypedDict):
    """A `TorsoShape` as study.json stores it."""

    widths: list[int]
    activations: list[str]
    layer_norms: list[bool]
    exact: bool
    sizes: list[_StoredShape]


class _Stored(TypedDict):
    """A `Padding` as study.json stores it."""

    networks: dict[str, _StoredShape]
    minibatches: list[int]
    batch_rows: int


@dataclass(frozen=True)
class Padding:
    """The sizes of a program.

    networks: network name -> the torso that every lane's fits into. minibatches: the numbers of minibatches that lanes may have.
    batch_rows: the largest batch, 0 where the algorithm has none.
    """

    networks: tuple[tuple[str, TorsoShape], ...]
    minibatches: tuple[int, ...]
    batch_rows: int

    def holds(self, structure: _Structure) -> bool:
        """Return whether every trial of the structure fits."""
        return (
            all(
                shape.holds(torso)
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

    def at_size_of(self, config: AlgorithmConfig) -> Padding:
        """Return the sizes at which a trial computes that runs in this program."""

        def own(name: str, shape: TorsoShape) -> TorsoShape:
            return shape.sizes[shape.size(getattr(config.network, name).pre_torso)] if shape.sizes else shape

        return dataclasses.replace(self, networks=tuple((name, own(name, shape)) for name, shape in self.networks))

    def to_json(self) -> dict[str, Any]:
        """Return the padding as JSON, for `from_json`."""
        return {
            "networks": {name: dataclasses.asdict(shape) for name, shape in self.networks},
            "minibatches": self.minibatches,
            "batch_rows": self.batch_rows,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Padding:
        """Return the padding that `to_json` wrote. Raise UsageError if it is malformed."""
        stored = convert(stored, _Stored, "study.json: `packing`")
        networks = tuple((name, _torso_shape(shape)) for name, shape in stored["networks"].items())
        return cls(networks, tuple(stored["minibatches"]), stored["batch_rows"])


def _torso_shape(stored: Mapping[str, Any]) -> TorsoShape:
    return TorsoShape(
        tuple(stored["widths"]),
        tuple(stored["activations"]),
        tuple(stored["layer_norms"]),
        stored["exact"],
        tuple(map(_torso_shape, stored["sizes"])),
    )


def structure_of(config: AlgorithmConfig) -> _Structure:
    """Return the structure of one trial."""
    hyperparam, network = config.hyperparam, config.network
    return _Structure(
        tuple((name, frozenset([value.pre_torso])) for name, value in vars(network).items()),
        _asked(hyperparam, "num_minibatches"),
        _asked(hyperparam, "total_batch_size"),
    )


def padding_of(structure: _Structure, exact_sizes: bool = False) -> Padding:
    """Return the sizes of the smallest program into which every trial of the structure fits.

    exact_sizes: lanes compute at their own sizes, as far as the shapes of the networks list them.
    """
    networks = tuple((name, torso_shape(sorted(torsos, key=repr), exact_sizes)) for name, torsos in structure.torsos)
    return Padding(networks, tuple(sorted(structure.minibatches)), max(structure.batch_sizes, default=0))


def structure_of_space(base: AlgorithmConfig, space: Mapping[str, Distribution]) -> _Structure:
    """Return the structure of all trials that this space can produce."""
    torsos = tuple((name, frozenset(_possible_torsos(base, space, name))) for name in vars(base.network))
    return _Structure(torsos, _possible_values(base, space, "num_minibatches"), frozenset(_largest_batch(base, space)))


def sample_of_space(base: AlgorithmConfig, space: Mapping[str, Distribution], size: int) -> list[AlgorithmConfig]:
    """Return configurations that differ in the fields that decide a program's sizes and cost, sampled as by random search.

    They are the same in every process: a study's programs follow from them.
    """
    draw = random.Random(0)
    searched = {
        name: distribution
        for name, distribution in sorted(space.items())
        if name.startswith(_NETWORK) or name.removeprefix(HYPERPARAM) in _STRUCTURAL
    }
    return [
        apply(base, {name: draw_from(distribution, draw) for name, distribution in searched.items()}, "search space")
        for _ in range(size)
    ]


def with_any_activation(structure: _Structure, whole: _Structure) -> _Structure:
    """Return the same layer sizes with every activation and layer norm of the space: one program can hold all of them."""

    def widened(own: frozenset[Torso], all_of_them: frozenset[Torso]) -> frozenset[Torso]:
        sizes = {torso.layer_sizes for torso in own}
        return frozenset(torso for torso in all_of_them if torso.layer_sizes in sizes)

    torsos = zip(structure.torsos, whole.torsos, strict=True)
    return dataclasses.replace(structure, torsos=tuple((name, widened(own, all_)) for (name, own), (_, all_) in torsos))


def largest(base: AlgorithmConfig, space: Mapping[str, Distribution], field: str) -> int:
    """Return the largest value that an integer hyperparameter can take; 0 if the algorithm has none of that name."""
    if field not in rules(type(base.hyperparam)):
        return 0
    return extremes(getattr(base.hyperparam, field), space.get(HYPERPARAM + field))[1]


def _largest_batch(base: AlgorithmConfig, space: Mapping[str, Distribution]) -> list[int]:
    batch = largest(base, space, "total_batch_size")
    return [batch] if batch else []


def _possible_values(base: AlgorithmConfig, space: Mapping[str, Distribution], field: str) -> frozenset[int]:
    if field not in rules(type(base.hyperparam)):
        return frozenset()
    return frozenset(candidates(getattr(base.hyperparam, field), space.get(HYPERPARAM + field)))


def _possible_torsos(base: AlgorithmConfig, space: Mapping[str, Distribution], network: str) -> list[Torso]:
    prefix = f"{_NETWORK}{network}.pre_torso."
    default = getattr(base.network, network).pre_torso
    names = [prefix + field.name for field in dataclasses.fields(Torso)]
    choices = [_choices(space.get(name), getattr(default, name.removeprefix(prefix))) for name in names]
    return [
        getattr(apply(base, dict(zip(names, chosen, strict=True)), "search space").network, network).pre_torso
        for chosen in itertools.product(*choices)
    ]


def _choices(distribution: Any, default: Any) -> list[Any]:
    return [default] if distribution is None else list(distribution.values)


def draw_from(distribution: Distribution, draw: random.Random) -> Any:
    """Return a value of a distribution of choices or whole numbers."""
    if isinstance(distribution, Categorical):
        return draw.choice(distribution.values)
    assert isinstance(distribution, Numeric) and distribution.integral
    low, high = distribution.domain
    if distribution.logarithmic:
        return min(int(math.exp(draw.uniform(math.log(low), math.log(high + 1)))), int(high))
    step = int(distribution.spacing() or 1)
    return int(low) + step * draw.randint(0, int(high - low) // step)


def _asked(hyperparam: Any, name: str) -> frozenset[int]:
    return frozenset([getattr(hyperparam, name)] if hasattr(hyperparam, name) else [])
