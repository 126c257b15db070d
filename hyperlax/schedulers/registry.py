"""The schedulers: a row each. To add one, add its row. Options read the names, so a row imports its scheduler when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlax.schedulers.base import Scheduler
    from hyperlax.schedulers.pbt import Explore
    from hyperlax.schedulers.pruning import PruningOptions, Rule


def _by(rule: Callable[[Any, PruningOptions], Rule]) -> Callable[[PruningOptions], Scheduler]:
    """Return a function that makes the pruner of a rule. rule: takes the module `pruning`."""

    def make(options: PruningOptions) -> Scheduler:
        from hyperlax.schedulers import pruning

        return pruning.Pruner(rule(pruning, options), options)

    return make


def _explorer(module: str, name: str) -> Callable[[], Explore]:
    """Return a function that imports an explorer. module: of this folder."""
    return lambda: getattr(import_module(f"hyperlax.schedulers.{module}"), name)


PRUNERS: dict[str, Callable[[PruningOptions], Scheduler]] = {
    "none": _by(lambda rules, options: rules.Rule()),
    "asha": _by(lambda rules, options: rules.SuccessiveHalving(options.min_segments, options.reduction_factor)),
    "median": _by(lambda rules, options: rules.Percentile(options.min_segments, 0.5)),
    "percentile": _by(lambda rules, options: rules.Percentile(options.min_segments, options.percentile / 100)),
    "hyperband": _by(
        lambda rules, options: rules.Hyperband(options.min_segments, options.reduction_factor, options.segments)
    ),
}
"""Choices of --pruner."""

EXPLORERS = {
    "perturb": _explorer("pbt", "perturb_copies"),
    "resample": _explorer("pbt", "resample_copies"),
    "pb2": _explorer("pb2", "suggest"),
}
"""Choices of --explore."""
