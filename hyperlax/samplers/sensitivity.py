"""The configurations of a sensitivity study: the recipe's default one, then each hyperparameter varied alone."""

from __future__ import annotations

import math
from typing import Any

from hyperlax.config.option import Given
from hyperlax.config.options import LEVELS
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.fields import apply, dotted
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe
from hyperlax.space import Categorical, Distribution, Numeric


def sensitivity_rows(recipe: Recipe, given: Given) -> tuple[Config, ...]:
    """Return the recipe's default configuration, then every other level of each hyperparameter, in the recipe's order.

    given: the given options. The space decides the number of configurations, so another `n_trials` is refused.

    Raises:
      UsageError: Nothing can be varied, a level does not go together with the default configuration, or the number is another.
    """
    base, count = recipe.config.algorithm, given.get("num_levels", LEVELS)
    rows, default = [base], dotted(base)
    for name, distribution in recipe.space.items():
        others = [value for value in _levels(distribution, count) if not _is_level(value, default[name])]
        varied = [apply(base, {name: value}, str(recipe.path)) for value in others]
        rows += [row for row in varied if row != base]
    if len(rows) == 1:
        raise UsageError(
            f"{recipe.path}: no hyperparameter of the search space has a value besides the default one. Give one of them a range "
            "or more choices."
        )
    if given.get("n_trials", len(rows)) != len(rows):
        raise OptionError(
            "n_trials",
            "{0}: {n_trials} {1}: {sampling_method} sensitivity of this space trains {2}: the default one, and each hyperparameter "
            "at its other levels. Give {3}, or leave {n_trials} out.",
            recipe.path,
            given["n_trials"],
            counted(len(rows), "configuration"),
            len(rows),
        )
    return tuple(rows)


def _is_level(value: Any, default: Any) -> bool:
    """Return whether a number is the default one: levels are rounded, and a default such as the middle of a range is not."""
    return isinstance(value, float) and isinstance(default, float) and math.isclose(value, default, rel_tol=1e-9)


def _levels(distribution: Distribution, count: int) -> list[Any]:
    """Return all choices, all of at most `count` numbers, else the numbers at `count` even quantiles, both ends included.

    >>> from hyperlax.space import LogUniform, UniformDiscrete
    >>> _levels(LogUniform(domain=(1e-4, 1e-2)), 3), _levels(UniformDiscrete(domain=(1, 9)), 3)
    ([0.0001, 0.001, 0.01], [1, 5, 9])
    """
    size = distribution.size()
    if isinstance(distribution, Categorical) or (size is not None and size <= count):
        return [distribution.at(place) for place in range(size or 0)]
    assert isinstance(distribution, Numeric)
    quantiles = [place / (count - 1) for place in range(count)]
    if size is not None and not distribution.logarithmic:
        return [distribution.at(round(quantile * (size - 1))) for quantile in quantiles]
    low, high = distribution.domain
    if distribution.logarithmic:
        inner = [low * (high / low) ** quantile for quantile in quantiles[1:-1]]
    else:
        inner = [low + (high - low) * quantile for quantile in quantiles[1:-1]]
    exact = [round(value) if distribution.integral else float(f"{value:.12g}") for value in inner]
    return list(dict.fromkeys((low, *(min(max(value, low), high) for value in exact), high)))
