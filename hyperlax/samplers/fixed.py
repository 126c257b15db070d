"""Studies whose trials are all known before the first one trains: their configurations, search space and sampler.

The configurations are the study's `samples.csv`. Optuna needs a distribution for every parameter that it is told, and the engine
the largest sizes that it will meet, so the space of a sweep is made of its samples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperlax.config.configurations import read_samples
from hyperlax.config.kinds import kind_of
from hyperlax.config.option import Given
from hyperlax.config.options import LEVELS
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.fields import Field, apply, check_together, dotted, fields_of
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe
from hyperlax.samplers.base import AskedTrial, Known, Sampler
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.space import (
    Categorical,
    Distribution,
    LogUniform,
    LogUniformDiscrete,
    Numeric,
    UniformContinuous,
    UniformDiscrete,
)

_GOLDEN = (math.sqrt(5) - 1) / 2
_MOST_LISTED = 16
"""Maximum number of different integers for which a column becomes a list of choices, each of which may need its own program."""
_ORDERS_OF_MAGNITUDE = 100
"""Ratio of the largest to the smallest value from which a column of positive numbers is logarithmic."""


@dataclass(frozen=True)
class Presampled(Recipe):
    """A recipe with the configurations to train, trial by trial. Its space contains them all."""

    samples: tuple[Config, ...]


@dataclass
class FixedSampler(Sampler):
    """A sampler that suggests row n as trial n."""

    space: SearchSpace
    rows: tuple[Config, ...]
    super_batch: int
    learns: bool = False

    def suggest(self, start: int, count: int, known: Known, saved: Mapping[str, Any] | None = None) -> list[AskedTrial]:
        """Return the rows from `start` to before `start + count`; a repeated row trains with its own random numbers."""
        return [AskedTrial(self.space.encode(dotted(row)), {}, {}) for row in self.rows[start : start + count]]


def presampled(recipe: Recipe, rows: tuple[Config, ...], where: str) -> Presampled:
    """Return the recipe with these samples instead of a search. Raise UsageError, naming `where`, for an invalid space."""
    space = _space_of(recipe, rows)
    check_together(recipe.config.algorithm, space, where)
    return Presampled(recipe.name, recipe.path, recipe.config, space, rows, task=recipe.task, source=recipe.source)


def stored(recipe: Recipe, path: Path) -> Presampled:
    """Return the recipe with the samples of a sweep's file. Raise UsageError if they cannot be read."""
    return presampled(recipe, read_samples(path, recipe.config.algorithm, kind_of(recipe).table.rows), str(path))


def digest_of(recipe: Recipe) -> str | None:
    """Return the SHA-256 of a sweep's configurations, for study.json; None for a search."""
    if not isinstance(recipe, Presampled):
        return None
    return hashlib.sha256(json.dumps([dotted(row) for row in recipe.samples]).encode()).hexdigest()


def draw(recipe: Recipe, method: str, count: int, seed: int) -> tuple[Config, ...]:
    """Return configurations drawn by "qmc", "random" or "grid", all different; fewer than `count` if a grid has no more.

    qmc and random draw the configurations that a search with that sampler would try in one super-batch.

    Raises:
      UsageError: The method cannot draw that many from the space.
    """
    space = SearchSpace(recipe.space)
    if method == "grid":
        _check_finite(recipe)
        size = space.size() or 1
        params = [space.combination(place) for place in spread(size, min(count, size))]
    else:
        _check_room(recipe, space, count, method)
        asked = OptunaSampler(space=space, sampler=method, directions=("maximize",), seed=seed, super_batch=count)
        params = [suggestion.params for suggestion in asked.suggest(0, count, lambda start: [])]
    base = recipe.config.algorithm
    return tuple(apply(base, space.decode(one), str(recipe.path)) for one in params)


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


def spread(size: int, count: int) -> list[int]:
    """Return `count` of the numbers 0 ... size - 1, increasing, one out of each of `count` stretches of equal length.

    The place within a stretch follows a Fibonacci lattice (Niederreiter, 1992, section 5.1): with the same place everywhere, the
    hyperparameters that vary fastest along the numbers would not vary at all.
    """
    step = max(1, round(count * _GOLDEN))
    while math.gcd(step, count) > 1:
        step += 1
    starts = [place * size // count for place in range(count + 1)]
    return [
        start + (stop - start) * (place * step % count) // count
        for place, (start, stop) in enumerate(itertools.pairwise(starts))
    ]


def _check_finite(recipe: Recipe) -> None:
    endless = [name for name, distribution in recipe.space.items() if distribution.size() is None]
    if endless:
        raise OptionError(
            "sampling_method",
            "{0}: {sampling_method} grid needs a finite space, and {1} {2} continuous. Give {3} choices, whole numbers "
            "or a step, or use qmc or random.",
            recipe.path,
            ", ".join(endless),
            "is" if len(endless) == 1 else "are",
            "it" if len(endless) == 1 else "them",
        )


def _check_room(recipe: Recipe, space: SearchSpace, count: int, method: str) -> None:
    size = space.size()
    if size is not None and count > size:
        raise OptionError(
            "n_trials",
            "{0}: {n_trials} {1}: the search space has {2}, and {3} samples none twice. Give at most {4}.",
            recipe.path,
            count,
            counted(size, "configuration"),
            method,
            size,
        )


def _space_of(recipe: Recipe, rows: Sequence[Config]) -> dict[str, Distribution]:
    """Return a distribution for each field that differs from the recipe in any row, ordered as in the recipe if possible."""
    base, known = dotted(recipe.config.algorithm), fields_of(recipe.config.algorithm)
    values = [dotted(row) for row in rows]
    columns = {name: [row[name] for row in values] for name in dict.fromkeys((*recipe.space, *known))}
    return {
        name: _distribution(known[name], column, recipe.space.get(name))
        for name, column in columns.items()
        if any(value != base[name] for value in column)
    }


def _distribution(field: Field, values: list[Any], declared: Distribution | None) -> Distribution:
    """Return the recipe's distribution if it has every value exactly; else a range of numbers, or the list of values."""
    if declared is not None and _produces(declared, values):
        return declared
    distinct = list({json.dumps(value): value for value in values}.values())
    listed = 1 if field.type == "float" else _MOST_LISTED
    if field.type not in ("float", "int") or len(distinct) <= listed:
        return Categorical(values=distinct if field.type in ("str", "bool", "list") else sorted(distinct))
    low, high = min(distinct), max(distinct)
    logarithmic = low > 0 and (high >= _ORDERS_OF_MAGNITUDE * low or _is_logarithmic(declared))
    if field.type == "float":
        return (LogUniform if logarithmic else UniformContinuous)(domain=(low, high))
    return (LogUniformDiscrete if logarithmic else UniformDiscrete)(domain=(low, high))


def _produces(distribution: Distribution, values: list[Any]) -> bool:
    space = SearchSpace({"": distribution})
    try:
        return all(space.decode(space.encode({"": value}))[""] == value for value in values)
    except ValueError:
        return False


def _is_logarithmic(distribution: Distribution | None) -> bool:
    return isinstance(distribution, Numeric) and distribution.logarithmic
