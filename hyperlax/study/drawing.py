"""Configurations drawn from a recipe's search space before any of them trains."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import optuna

from hyperlax.config import samples
from hyperlax.errors import UsageError
from hyperlax.fields import apply
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import Recipe
from hyperlax.study.distributions import SearchSpace
from hyperlax.study.refusals import writing
from hyperlax.study.suggest import Questioner

GOLDEN = (math.sqrt(5) - 1) / 2


def generate(path: Path, recipe: Recipe, method: str, count: int, seed: int) -> int:
    """Draw configurations, write them, print where they are. Returns 0; UsageError if there are not so many to draw."""
    drawn = draw(recipe, method, count, seed)
    with writing(path):
        samples.write(path, drawn)
    print(f"{len(drawn)} configurations of {recipe.name} ({method}): {path}")
    return 0


def draw(recipe: Recipe, method: str, count: int, seed: int) -> tuple[AlgorithmConfig, ...]:
    """Configurations by "qmc", "random" or "grid", all of them different; fewer than `count` where a grid has no more.

    qmc and random draw what a search with that sampler would try in one super-batch. UsageError for a space that the method
    cannot draw from, or not so often.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = SearchSpace(recipe.space)
    if method == "grid":
        _check_finite(recipe)
        size = space.size() or 1
        params = [space.combination(place) for place in spread(size, min(count, size))]
    else:
        _check_room(recipe, space, count, method)
        asked = Questioner(space=space, sampler=method, directions=("maximize",), seed=seed, super_batch=count)
        params = [suggestion.params for suggestion in asked.suggest(0, count, lambda start: [])]
    base = recipe.config.algorithm
    return tuple(apply(base, space.decode(one), str(recipe.path)) for one in params)


def spread(size: int, count: int) -> list[int]:
    """`count` of the numbers 0 ... size - 1, increasing, one out of each of `count` stretches as long as the others.

    Where in its stretch goes round by a Fibonacci lattice (Niederreiter, 1992, section 5.1): were it the same place everywhere,
    the hyperparameters that vary fastest along the numbers would not vary at all.
    """
    step = max(1, round(count * GOLDEN))
    while math.gcd(step, count) > 1:
        step += 1
    starts = [place * size // count for place in range(count + 1)]
    return [
        start + (stop - start) * (place * step % count) // count
        for place, (start, stop) in enumerate(itertools.pairwise(starts))
    ]


def _check_finite(recipe: Recipe) -> None:
    endless = [name for name, distribution in recipe.space.items() if not distribution.is_finite()]
    if endless:
        raise UsageError(
            f"{recipe.path}: --sampling-method grid needs values that can be counted, and {', '.join(endless)} "
            f"{'has' if len(endless) == 1 else 'have'} none. Give QUniform, UniformDiscrete or Categorical there, or use "
            "qmc or random."
        )


def _check_room(recipe: Recipe, space: SearchSpace, count: int, method: str) -> None:
    size = space.size()
    if size is not None and count > size:
        raise UsageError(
            f"{recipe.path}: --num-samples {count}: the search space has {size} configurations, and {method} draws none "
            f"twice. Give at most {size}."
        )
