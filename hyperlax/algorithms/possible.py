"""Bounds of a search space: the largest sizes and the whole structure that its trials can ask for, and a sample of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

from hyperlax.algorithms.padding import Structure
from hyperlax.fields import candidates
from hyperlax.hyperparams import AlgorithmConfig, Torso, rules
from hyperlax.recipe import apply
from hyperlax.space import Categorical, Distribution, Numeric

HYPERPARAM, NETWORK = "algorithm.hyperparam.", "algorithm.network."
_STRUCTURAL = ("total_num_envs", "rollout_length", "epochs", "num_minibatches", "total_batch_size")


def structure_of_space(base: AlgorithmConfig, space: Mapping[str, Distribution]) -> Structure:
    """Return the structure of all trials that this space can produce."""
    torsos = tuple((name, frozenset(_possible_torsos(base, space, name))) for name in vars(base.network))
    return Structure(torsos, _possible_values(base, space, "num_minibatches"), frozenset(_largest_batch(base, space)))


def sample_of_space(base: AlgorithmConfig, space: Mapping[str, Distribution], size: int) -> list[AlgorithmConfig]:
    """Return configurations that differ in what decides a program's sizes and cost, sampled as by random search.

    They are the same in every process: a study's programs follow from them.
    """
    draw = random.Random(0)
    searched = {
        name: distribution
        for name, distribution in sorted(space.items())
        if name.startswith(NETWORK) or name.removeprefix(HYPERPARAM) in _STRUCTURAL
    }
    return [
        apply(base, {name: _draw(distribution, draw) for name, distribution in searched.items()}, "search space")
        for _ in range(size)
    ]


def with_any_activation(structure: Structure, whole: Structure) -> Structure:
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
    distribution: Any = space.get(HYPERPARAM + field)
    if distribution is None:
        return getattr(base.hyperparam, field)
    return int(max(distribution.values) if isinstance(distribution, Categorical) else distribution.bounds()[1])


def _largest_batch(base: AlgorithmConfig, space: Mapping[str, Distribution]) -> list[int]:
    batch = largest(base, space, "total_batch_size")
    return [batch] if batch else []


def _possible_values(base: AlgorithmConfig, space: Mapping[str, Distribution], field: str) -> frozenset[int]:
    if field not in rules(type(base.hyperparam)):
        return frozenset()
    return frozenset(candidates(getattr(base.hyperparam, field), space.get(HYPERPARAM + field)))


def _possible_torsos(base: AlgorithmConfig, space: Mapping[str, Distribution], network: str) -> list[Torso]:
    prefix = f"{NETWORK}{network}.pre_torso."
    default = getattr(base.network, network).pre_torso
    names = [prefix + field.name for field in dataclasses.fields(Torso)]
    choices = [_choices(space.get(name), getattr(default, name.removeprefix(prefix))) for name in names]
    return [
        getattr(apply(base, dict(zip(names, chosen, strict=True)), "search space").network, network).pre_torso
        for chosen in itertools.product(*choices)
    ]


def _choices(distribution: Any, default: Any) -> list[Any]:
    return [default] if distribution is None else list(distribution.values)


def _draw(distribution: Distribution, draw: random.Random) -> Any:
    if isinstance(distribution, Categorical):
        return draw.choice(distribution.values)
    assert isinstance(distribution, Numeric) and distribution.integral
    low, high = distribution.bounds()
    if distribution.logarithmic:
        return min(int(math.exp(draw.uniform(math.log(low), math.log(high + 1)))), int(high))
    return draw.randint(int(low), int(high))
