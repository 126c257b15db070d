"""The schedulers: a row each. To add one, add its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyperlax.schedulers import pb2
from hyperlax.schedulers.base import Scheduler
from hyperlax.schedulers.pbt import Explore, perturb_copies, resample_copies
from hyperlax.schedulers.pruning import Hyperband, NoPruning, Percentile, Pruner, Rule, SuccessiveHalving
from hyperlax.schedulers.racing import Racing


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


@dataclass(frozen=True)
class PrunerRow:
    """A choice of --pruner. help: one line."""

    help: str
    make: Callable[[PruningOptions], Scheduler]


@dataclass(frozen=True)
class _ExploreRow:
    """A choice of --explore. help: one line."""

    help: str
    explore: Explore


def _by(rule: Callable[[PruningOptions], Rule]) -> Callable[[PruningOptions], Scheduler]:
    """Return a function that makes the pruner of a rule."""

    def make(options: PruningOptions) -> Scheduler:
        raced = Racing(rule(options), options.segments, options.reduction_factor)
        return Pruner(raced, options.segments * options.seeds, options.directions, options.objectives)

    return make


PRUNERS = {
    "none": PrunerRow("Prune nothing.", _by(lambda options: NoPruning())),
    "asha": PrunerRow(
        "The best 1/N of trials continue past each rung.",
        _by(lambda options: SuccessiveHalving(options.min_segments, options.reduction_factor)),
    ),
    "median": PrunerRow(
        "Trials worse than the median of earlier trials stop.",
        _by(lambda options: Percentile(options.min_segments, 0.5)),
    ),
    "percentile": PrunerRow(
        "Trials outside the best percentile of earlier trials stop.",
        _by(lambda options: Percentile(options.min_segments, options.percentile / 100)),
    ),
    "hyperband": PrunerRow(
        "As asha, in brackets that begin at different rungs.",
        _by(lambda options: Hyperband(options.min_segments, options.reduction_factor, options.segments)),
    ),
}

EXPLORERS = {
    "perturb": _ExploreRow("Move each hyperparameter a little, or sample it.", perturb_copies),
    "resample": _ExploreRow("Sample each hyperparameter.", resample_copies),
    "pb2": _ExploreRow("Choose where a Gaussian process expects the largest gain.", pb2.suggest),
}
