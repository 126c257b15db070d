"""The schedulers: a row each. To add one, add its row. Options read the names, so a row imports its scheduler when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlax.schedulers.base import Scheduler
    from hyperlax.schedulers.pbt import Explore
    from hyperlax.schedulers.pruning import Rule


@dataclass(frozen=True)
class PruningOptions:
    """Options of a pruner.

    Args:
      directions: "minimize" or "maximize", for each column of `Shown.values`.
      objectives: Number of columns that are objectives, the first ones.
      segments: Segments of one training run.
      min_segments: Segments before a trial may be pruned.
      reduction_factor: The best 1/N of trials continue (asha, hyperband, racing seeds).
      percentile: Trials among the best this many percent continue (percentile).
      seeds: Training runs of a trial that follow one another; 1 where its seeds train side by side.
    """

    directions: Sequence[str]
    objectives: int
    segments: int
    min_segments: int = 3
    reduction_factor: int = 3
    percentile: float = 25.0
    seeds: int = 1


def _by(rule: Callable[[Any, PruningOptions], Rule]) -> Callable[[PruningOptions], Scheduler]:
    """Return a function that makes the pruner of a rule. rule: takes the module `pruning`."""

    def make(options: PruningOptions) -> Scheduler:
        from hyperlax.schedulers import pruning

        raced = pruning.Racing(rule(pruning, options), options.segments, options.reduction_factor)
        return pruning.Pruner(raced, options.segments * options.seeds, options.directions, options.objectives)

    return make


def _perturb() -> Explore:
    from hyperlax.schedulers.pbt import perturb_copies

    return perturb_copies


def _resample() -> Explore:
    from hyperlax.schedulers.pbt import resample_copies

    return resample_copies


def _pb2() -> Explore:
    from hyperlax.schedulers.pb2 import suggest

    return suggest


PRUNERS: dict[str, Callable[[PruningOptions], Scheduler]] = {
    "none": _by(lambda rules, options: rules.NoPruning()),
    "asha": _by(lambda rules, options: rules.SuccessiveHalving(options.min_segments, options.reduction_factor)),
    "median": _by(lambda rules, options: rules.Percentile(options.min_segments, 0.5)),
    "percentile": _by(lambda rules, options: rules.Percentile(options.min_segments, options.percentile / 100)),
    "hyperband": _by(
        lambda rules, options: rules.Hyperband(options.min_segments, options.reduction_factor, options.segments)
    ),
}
"""Choices of --pruner."""

EXPLORERS: dict[str, Callable[[], Explore]] = {"perturb": _perturb, "resample": _resample, "pb2": _pb2}
"""Choices of --explore."""
