"""A recipe's search space in Optuna's terms, and Optuna's parameters back as the values that a recipe means.

What Optuna keeps differs from what a recipe says in two places. Optuna cannot store a list as a choice, so it becomes its JSON
text. A step of a `QUniform` is computed in binary floats, differently from sampler to sampler, so it is put back on
low + i q in decimals: 0.3, not 0.30000000000000004.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hyperlax.space import Categorical, Distribution, Numeric, QUniform


class SearchSpace:
    """Dotted names and distributions, sorted by name so that the order in the recipe does not steer the sampler.

    optuna: dotted name -> Optuna's distribution. Parameters below are dotted name -> the value that Optuna keeps.
    """

    def __init__(self, space: Mapping[str, Distribution]):
        self._space = dict(sorted(space.items()))
        self.optuna = {name: _to_optuna(distribution) for name, distribution in self._space.items()}

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same parameters, steps of a QUniform as exact decimals."""
        return {name: _on_grid(self._space[name], params[name]) for name in self._space}

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether parameters are those of the space, each of its distribution's kind. Values outside its bounds count."""
        try:
            kept = [self.optuna[name].to_internal_repr(value) for name, value in params.items()]
            return len(kept) == len(self.decode(params)) and all(map(math.isfinite, kept))
        except (KeyError, TypeError, ValueError, OverflowError):
            return False

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe's values, lists as lists."""
        return {name: _decode(self._space[name], params[name]) for name in self._space}

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that `decode` turns into these values; ignore other names. Raise ValueError for invalid values."""
        return {name: _encode(distribution, values[name]) for name, distribution in self._space.items()}

    def completed(self, given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return parameters with the values of `base` for those that are not given, as far as the space contains them.

        Return None if there are none, or any does not fit. given: as `fitting` takes them. base: the recipe's values.
        """
        fitting = self.fitting({**base, **given})
        if not given or not fitting.keys() >= given.keys():
            return None
        return {name: _encode(self._space[name], value) for name, value in fitting.items()}

    def fitting(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the recipe's values of those parameters that fit the space, as Optuna keeps them or as the recipe means them."""
        meant = {name: self._meant(name, given[name]) for name in self._space if name in given}
        return {name: value for name, value in meant.items() if self._space[name].contains(value)}

    def values(self) -> dict[str, list[Any]]:
        """Return dotted name -> every value that Optuna keeps, of a finite space."""
        return {
            name: [_at(distribution, place) for place in range(distribution.size() or 0)]
            for name, distribution in self._space.items()
        }

    def _meant(self, name: str, value: Any) -> Any:
        """Return the recipe's value for a choice as Optuna keeps it, and any other value unchanged."""
        distribution = self._space[name]
        if isinstance(distribution, Categorical) and Categorical(_encoded(distribution)).contains(value):
            return _decode(distribution, value)
        return value

    def identity(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a key that is equal for parameters that are the same configuration."""
        return tuple(repr(value) for value in self.canonical(params).values())

    def size(self) -> int | None:
        """Return the number of configurations; None if any distribution is continuous."""
        sizes = [distribution.size() for distribution in self._space.values()]
        counted = [size for size in sizes if size is not None]
        return math.prod(counted) if len(counted) == len(sizes) else None

    def combination(self, index: int) -> dict[str, Any]:
        """Return configuration number `index` of a finite space, the last name varying fastest."""
        params = {}
        for name, distribution in reversed(self._space.items()):
            index, place = divmod(index, distribution.size() or 1)
            params[name] = _at(distribution, place)
        return {name: params[name] for name in self._space}


def _to_optuna(distribution: Distribution) -> BaseDistribution:
    """Return Optuna's distribution with the same values and the same probabilities."""
    if isinstance(distribution, Categorical):
        return CategoricalDistribution(_encoded(distribution))
    assert isinstance(distribution, Numeric)
    low, high = distribution.domain
    if distribution.integral:
        return IntDistribution(int(low), int(high), log=distribution.logarithmic, step=int(distribution.spacing() or 1))
    if isinstance(distribution, QUniform):
        return FloatDistribution(low, high, step=distribution.q)
    return FloatDistribution(low, high, log=distribution.logarithmic)


def _encoded(distribution: Categorical) -> list[Any]:
    """Return the choices as Optuna keeps them: scalars unchanged, lists as JSON text.

    Optuna finds a choice by `==`, and True == 1. If two choices are equal in that sense, all become text.
    """
    plain = [json.dumps(value) if isinstance(value, list) else value for value in distribution.values]
    return plain if len(set(plain)) == len(plain) else [json.dumps(value) for value in distribution.values]


def _decode(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Categorical):
        chosen = distribution.values[_encoded(distribution).index(value)]
        return list(chosen) if isinstance(chosen, list) else chosen
    return _on_grid(distribution, value)


def _encode(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Categorical):
        return _encoded(distribution)[distribution.place(value)]
    if not distribution.contains(value):
        raise ValueError(f"{value!r} is not a value of {distribution}")
    assert isinstance(distribution, Numeric)
    return int(value) if distribution.integral else _on_grid(distribution, float(value))


def _on_grid(distribution: Distribution, value: Any) -> Any:
    if not isinstance(distribution, QUniform):
        return value
    return distribution.at(distribution.place(value))


def _at(distribution: Distribution, place: int) -> Any:
    """Return value number `place` of a finite distribution, as Optuna keeps it."""
    if isinstance(distribution, Categorical):
        return _encoded(distribution)[place]
    return distribution.at(place)
