"""Moves in a search space: how the hyperparameters of a copied member change. Pure functions of random numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from hyperlax.errors import UsageError
from hyperlax.fields import PREFIX, check_together
from hyperlax.hyperparams import rules
from hyperlax.recipe import Recipe
from hyperlax.space import Categorical, Distribution, Numeric, QUniform

_FACTORS = (0.8, 1.2)
"""Down and up, for values that span orders of magnitude (Jaderberg et al., appendix A)."""
_STEP = 0.1
"""Down or up, as a share of a linear range: a fifth of its middle, as the factors are of a value. The factors would carry a
discount factor past both ends of any range worth searching."""
_RESAMPLED = 0.25
"""Probability that a perturbation samples a hyperparameter instead of moving it."""

Params = dict[str, Any]
"""Dotted name of a hyperparameter -> its value."""

_HYPERPARAM = f"{PREFIX}.hyperparam."
_UNCHANGEABLE = ("init_alpha", "warmup_rollout_length", "normalize_observations")
"""Traced, but useless while weights are kept: the first two act at the start only, the third is what the weights were learnt
on."""


def stream(*place: int) -> np.random.Generator:
    """Return a random generator seeded by these whole numbers."""
    return np.random.default_rng(place)


def resample(space: Mapping[str, Distribution], random: np.random.Generator) -> Params:
    """Sample every hyperparameter."""
    return {name: sample(space[name], random) for name in sorted(space)}


def perturb(space: Mapping[str, Distribution], params: Params, random: np.random.Generator) -> Params:
    """Move every hyperparameter a little, up or down; sample it with probability `_RESAMPLED`."""
    moved: Params = {}
    for name in sorted(space):
        is_sampled, up = random.random() < _RESAMPLED, bool(random.random() < 0.5)
        moved[name] = sample(space[name], random) if is_sampled else neighbour(space[name], params[name], up)
    return moved


def sample(distribution: Distribution, random: np.random.Generator) -> Any:
    """Sample a value of a distribution."""
    size = distribution.size()
    assert isinstance(distribution, (Numeric, Categorical))
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        low, high = distribution.bounds()
        slack = 0.5 if distribution.integral else 0.0
        return _within(distribution, math.exp(random.uniform(math.log(low - slack), math.log(high + slack))))
    if size is not None:
        return _value_at(distribution, int(random.integers(size)))
    assert isinstance(distribution, Numeric)
    return _within(distribution, random.uniform(*distribution.bounds()))


def neighbour(distribution: Distribution, value: Any, up: bool) -> Any:
    """Return the value one move up or down, kept within the distribution.

    Logarithmic: times 1.2 or 0.8; integers move by at least 1. Linear: a tenth of the range. On a grid: that, rounded to steps, at
    least 1. A category: the choice beside it in the recipe's list.
    """
    sign = 1 if up else -1
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        moved = value * _FACTORS[up]
        if distribution.integral:
            moved = max(moved, value + 1) if up else min(moved, value - 1)
        return _within(distribution, moved)
    size = distribution.size()
    if size is not None:
        steps = 1 if isinstance(distribution, Categorical) else max(1, round(_STEP * (size - 1)))
        return _value_at(distribution, min(max(_place(distribution, value) + sign * steps, 0), size - 1))
    assert isinstance(distribution, Numeric)
    low, high = distribution.bounds()
    return _within(distribution, value + sign * _STEP * (high - low))


def _within(distribution: Numeric, value: float) -> Any:
    low, high = distribution.bounds()
    return min(max(round(value) if distribution.integral else float(value), low), high)


def _place(distribution: Distribution, value: Any) -> int:
    """Return the index of a value in a finite distribution."""
    if isinstance(distribution, Categorical):
        return distribution.place(value)
    assert isinstance(distribution, Numeric)
    step = distribution.q if isinstance(distribution, QUniform) else 1
    return round((value - distribution.bounds()[0]) / step)


def _value_at(distribution: Distribution, place: int) -> Any:
    """Return the value of a finite distribution at an index."""
    if isinstance(distribution, Categorical):
        return distribution.values[place]
    assert isinstance(distribution, Numeric)
    low = distribution.bounds()[0]
    if isinstance(distribution, QUniform):
        return float(Decimal(str(low)) + place * Decimal(str(distribution.q)))
    return int(low) + place


def explored(recipe: Recipe) -> tuple[dict[str, Distribution], list[str]]:
    """Return the entries of the space that can change while weights are kept, and the names of the others.

    The others keep the recipe's values.

    Raises:
      UsageError: No entry can change, or the changing entries do not go together with the recipe's values of the others.
    """
    algorithm = recipe.config.algorithm
    kinds = {name: rule.kind for name, rule in rules(type(algorithm.hyperparam)).items()}

    def changes(name: str) -> bool:
        field = name.removeprefix(_HYPERPARAM)
        return kinds.get(field) == "traced" and field not in _UNCHANGEABLE

    space = {name: distribution for name, distribution in recipe.space.items() if changes(name)}
    if not space:
        raise UsageError(
            f"{recipe.path}: nothing of the search space can change while weights are kept. Give "
            f"{_HYPERPARAM}{next(name for name in kinds if changes(_HYPERPARAM + name))} a distribution, or search with "
            "optuna-hp-search."
        )
    check_together(algorithm, space, str(recipe.path))
    return space, [name for name in recipe.space if name not in space]
