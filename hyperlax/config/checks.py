"""Refuses what a sampler cannot do, before anything runs: without Optuna, which would say so later or not at all."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence

from hyperlax.config.options import SearchOptions
from hyperlax.errors import UsageError
from hyperlax.space import Categorical, Distribution

log = logging.getLogger(__name__)

SAMPLERS = ("tpe", "nsgaii", "nsgaiii", "cmaes", "gp", "qmc", "random", "grid")
CONSTRAINED = ("tpe", "nsgaii", "nsgaiii", "gp")
"""Samplers that heed constraints."""
PACKAGES = {"cmaes": "cmaes", "gp": "torch"}
"""What a sampler imports besides Optuna; the extra of `hyperlax[...]` has the sampler's name."""
LARGEST_GRID = 100_000
"""Configurations that Optuna's grid lays out in memory, all of them at once."""


def check_sampler(sampler: str, objectives: Sequence[str], super_batch: int) -> None:
    """UsageError for a sampler that there is not, or that cannot do these objectives or this width."""
    if sampler not in SAMPLERS:
        near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"--sampler: no sampler named `{sampler}`. {hint}There are {', '.join(SAMPLERS)}.")
    if sampler in ("cmaes", "gp") and len(objectives) > 1:
        raise UsageError(
            f"--sampler {sampler} optimizes one objective, got {len(objectives)} ({', '.join(objectives)}). "
            f"For several, use {_others('cmaes', 'gp')}."
        )
    if sampler in ("nsgaii", "nsgaiii") and super_batch < 2:
        raise UsageError(
            f"--sampler {sampler} crosses the trials of one super-batch: --optuna-study-batch-size needs at least 2, got "
            f"{super_batch}. For one trial at a time, use tpe."
        )


def check_search(arguments: SearchOptions, space: Mapping[str, Distribution]) -> None:
    """UsageError if the study's sampler cannot search this space, or the package that it needs is not installed."""
    if arguments.sampler == "cmaes":
        _check_numbers(space)
    if arguments.sampler == "grid":
        _check_grid(space)
    package = PACKAGES.get(arguments.sampler)
    if package and importlib.util.find_spec(package) is None:
        raise UsageError(
            f'--sampler {arguments.sampler} needs the package {package}: pip install "hyperlax[{arguments.sampler}]"'
        )


def note_constraints(arguments: SearchOptions) -> None:
    """Log that the sampler does not heed the constraints, where that is so."""
    if arguments.constraints and arguments.sampler not in CONSTRAINED:
        log.info(
            "%s does not heed constraints: they only keep trials from being the best. %s do.",
            arguments.sampler,
            ", ".join(CONSTRAINED),
        )


def _check_numbers(space: Mapping[str, Distribution]) -> None:
    """CMA-ES adapts a normal distribution over numbers, of two dimensions at least. A single choice is a fixed value."""
    searched = {name: distribution for name, distribution in space.items() if distribution.size() != 1}
    choices = [name for name, distribution in searched.items() if isinstance(distribution, Categorical)]
    if choices:
        raise UsageError(
            f"--sampler cmaes searches numbers only, and {_names(choices)} Categorical. Give {_them(choices)} a range or a "
            f"fixed value in the recipe, or use {_others('cmaes', 'grid')}."
        )
    if len(searched) < 2:
        raise UsageError(
            f"--sampler cmaes needs at least 2 hyperparameters to search, the recipe has {len(searched)}. "
            f"Use {_others('cmaes', 'grid')}."
        )


def _check_grid(space: Mapping[str, Distribution]) -> None:
    continuous = [name for name, distribution in space.items() if not distribution.is_finite()]
    if continuous:
        raise UsageError(
            f"--sampler grid needs a finite space, and {_names(continuous)} continuous. Give {_them(continuous)} QUniform, "
            f"UniformDiscrete or Categorical in the recipe, or use {_others('cmaes', 'grid')}."
        )
    size = math.prod(distribution.size() or 1 for distribution in space.values())
    if size > LARGEST_GRID:
        raise UsageError(
            f"--sampler grid lays out at most {LARGEST_GRID} configurations, the recipe's space has {size}. Give it fewer "
            f"values, or use {_others('cmaes', 'grid')}."
        )


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _others(*wrong: str) -> str:
    """The samplers that would do."""
    rest = [name for name in SAMPLERS if name not in wrong]
    return f"{', '.join(rest[:-1])} or {rest[-1]}"
