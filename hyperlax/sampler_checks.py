"""Refuses what a sampler cannot do, before anything runs: without Optuna, which would say so later or not at all."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from hyperlax.arguments import StudyArguments
from hyperlax.errors import UsageError
from hyperlax.samplers.registry import SAMPLERS, SamplerRow
from hyperlax.space import Categorical, Distribution

log = logging.getLogger(__name__)


def check_sampler(sampler: str, objectives: Sequence[str], super_batch: int) -> None:
    """UsageError for a sampler that there is not, or that cannot do these objectives or this width."""
    if sampler not in SAMPLERS:
        near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"--sampler: no sampler named `{sampler}`. {hint}There are {', '.join(SAMPLERS)}.")
    row = SAMPLERS[sampler]
    if not row.several_objectives and len(objectives) > 1:
        raise UsageError(
            f"--sampler {sampler} optimizes one objective, got {len(objectives)} ({', '.join(objectives)}). "
            f"For several, use {_others(lambda other: other.several_objectives)}."
        )
    if super_batch < row.smallest_super_batch:
        raise UsageError(
            f"--sampler {sampler} crosses the trials of one super-batch: --optuna-study-batch-size needs at least "
            f"{row.smallest_super_batch}, got {super_batch}. For one trial at a time, use tpe."
        )


def check_search(arguments: StudyArguments, space: Mapping[str, Distribution]) -> None:
    """UsageError if the study's sampler cannot search this space, or the package that it needs is not installed."""
    row = SAMPLERS.get(arguments.sampler)
    if row is None:
        return
    if row.fewest_numbers:
        _check_numbers(arguments.sampler, row, space)
    if row.largest_grid is not None:
        _check_grid(arguments.sampler, row.largest_grid, space)
    if row.package and importlib.util.find_spec(row.package) is None:
        raise UsageError(
            f'--sampler {arguments.sampler} needs the package {row.package}: pip install "hyperlax[{arguments.sampler}]"'
        )


def note_constraints(arguments: StudyArguments) -> None:
    """Log that the sampler does not heed the constraints, where that is so."""
    heeding = [name for name, row in SAMPLERS.items() if row.heeds_constraints]
    if arguments.constraints and arguments.sampler not in heeding:
        log.info(
            "%s does not heed constraints: they only keep trials from being the best. %s do.",
            arguments.sampler,
            ", ".join(heeding),
        )


def _check_numbers(name: str, row: SamplerRow, space: Mapping[str, Distribution]) -> None:
    """CMA-ES adapts a normal distribution over numbers, of two dimensions at least. A single choice is a fixed value."""
    searched = {name: distribution for name, distribution in space.items() if distribution.size() != 1}
    choices = [name for name, distribution in searched.items() if isinstance(distribution, Categorical)]
    if choices:
        raise UsageError(
            f"--sampler {name} searches numbers only, and {_names(choices)} Categorical. Give {_them(choices)} a range or a "
            f"fixed value in the recipe, or use {_others(_takes_any_space)}."
        )
    if len(searched) < row.fewest_numbers:
        raise UsageError(
            f"--sampler {name} needs at least {row.fewest_numbers} hyperparameters to search, the recipe has "
            f"{len(searched)}. Use {_others(_takes_any_space)}."
        )


def _check_grid(name: str, largest: int, space: Mapping[str, Distribution]) -> None:
    continuous = [name for name, distribution in space.items() if not distribution.is_finite()]
    if continuous:
        raise UsageError(
            f"--sampler {name} needs a finite space, and {_names(continuous)} continuous. Give {_them(continuous)} QUniform, "
            f"UniformDiscrete or Categorical in the recipe, or use {_others(_takes_any_space)}."
        )
    size = math.prod(distribution.size() or 1 for distribution in space.values())
    if size > largest:
        raise UsageError(
            f"--sampler {name} lays out at most {largest} configurations, the recipe's space has {size}. Give it fewer "
            f"values, or use {_others(_takes_any_space)}."
        )


def _takes_any_space(row: SamplerRow) -> bool:
    return not row.fewest_numbers and row.largest_grid is None


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _others(would_do: Callable[[SamplerRow], bool]) -> str:
    """Return the samplers that would do, in words."""
    names = [name for name, row in SAMPLERS.items() if would_do(row)]
    return f"{', '.join(names[:-1])} or {names[-1]}"
