"""The samplers: a row each. To add one, add its row. Importing this imports neither optuna nor jax."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperlax.samplers.base import derive_seed

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

_LARGEST_GRID = 100_000
"""Configurations that Optuna's grid lays out in memory, all of them at once."""


@dataclass(frozen=True)
class SamplerRow:
    """A choice of --sampler.

    Args:
      name: As `--sampler` takes it.
      help: A phrase for the help of `--sampler`.
      make: Makes Optuna's sampler from the search space (`distributions.SearchSpace`), the seed and the number of trials in a
        super-batch.
      learns: Whether suggestions depend on the results of earlier trials, not on the seed alone.
      uses_constraints: Whether it avoids configurations like those that miss a constraint.
      several_objectives: Whether it can optimize more than one objective.
      smallest_super_batch: Minimum number of trials in a super-batch.
      fewest_numbers: Minimum number of searched hyperparameters, all numeric; 0 if categories are allowed as well.
      largest_grid: Maximum number of configurations of the space, which must be finite; None if any space is allowed.
      package: Package that it imports besides Optuna; the extra of `hyperlax[...]` has the sampler's name.
    """

    name: str
    help: str
    make: Callable[[Any, int, int], BaseSampler]
    learns: bool = True
    uses_constraints: bool = False
    several_objectives: bool = True
    smallest_super_batch: int = 1
    fewest_numbers: int = 0
    largest_grid: int | None = None
    package: str | None = None


def _optuna(kind: str, **options: Any) -> Callable[[Any, int, int], BaseSampler]:
    """Return a function that makes an Optuna sampler from its seed and these options."""

    def make(space: Any, seed: int, super_batch: int) -> BaseSampler:
        import optuna

        return getattr(optuna.samplers, kind)(seed=seed, **options)

    return make


def _genetic(kind: str) -> Callable[[Any, int, int], BaseSampler]:
    """Return a function that makes a genetic Optuna sampler, which breeds a generation per super-batch."""

    def make(space: Any, seed: int, super_batch: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NSGA-III is experimental
            return _optuna(kind, population_size=super_batch)(space, seed, super_batch)

    return make


def _qmc(space: Any, seed: int, super_batch: int) -> BaseSampler:
    from hyperlax.samplers.sobol import SobolByNumber

    return SobolByNumber(space.optuna, seed=derive_seed(seed))


def _grid(space: Any, seed: int, super_batch: int) -> BaseSampler:
    from optuna.samplers import GridSampler

    return GridSampler(space.values(), seed=seed)


_QUIET = {"warn_independent_sampling": False}
# TPE is multivariate for one objective, per parameter for several, and takes trials in flight for bad ones; GP integrates over
# them. So one super-batch does not propose the same point twice.
_ROWS = (
    SamplerRow("tpe", "tree-structured Parzen estimator, a good default", _optuna("TPESampler"), uses_constraints=True),
    SamplerRow(
        "nsgaii",
        "genetic algorithm for several objectives",
        _genetic("NSGAIISampler"),
        uses_constraints=True,
        smallest_super_batch=2,
    ),
    SamplerRow(
        "nsgaiii",
        "genetic algorithm for many objectives",
        _genetic("NSGAIIISampler"),
        uses_constraints=True,
        smallest_super_batch=2,
    ),
    SamplerRow(
        "cmaes",
        "evolution strategy over numbers",
        _optuna("CmaEsSampler", **_QUIET),
        several_objectives=False,
        fewest_numbers=2,
        package="cmaes",
    ),
    SamplerRow(
        "gp",
        "Bayesian optimization with a Gaussian process, slow, for few trials",
        _optuna("GPSampler", **_QUIET),
        uses_constraints=True,
        several_objectives=False,
        package="torch",
    ),
    SamplerRow("qmc", "Sobol sequence, which spreads trials evenly", _qmc, learns=False),
    SamplerRow("random", "independent draws", _optuna("RandomSampler"), learns=False),
    SamplerRow("grid", "every configuration of a finite space once", _grid, learns=False, largest_grid=_LARGEST_GRID),
)
SAMPLERS = {row.name: row for row in _ROWS}
"""Name -> row, in the order in which help and messages name them."""
