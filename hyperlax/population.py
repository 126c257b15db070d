"""Population-based training put to work: which entries of a recipe's space it explores, and its members on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperlax.errors import UsageError
from hyperlax.fields import PREFIX, check_together
from hyperlax.hyperparams import AlgorithmConfig, rules
from hyperlax.recipe import Recipe, RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial

if TYPE_CHECKING:
    from hyperlax.engine.members import Members

HYPERPARAM = f"{PREFIX}.hyperparam."
UNCHANGEABLE = ("init_alpha", "warmup_rollout_length", "normalize_observations")
"""Traced, and yet of no use while weights are kept: the first two act at the start only, the third is what the weights were
learnt on."""


def explored(recipe: Recipe) -> tuple[dict[str, Distribution], list[str]]:
    """The entries of the space that can change while weights are kept, and the names of the others, which stay at the recipe's.

    Raises:
      UsageError: nothing can change; what can does not go together with the recipe's value of what cannot.
    """
    algorithm = recipe.config.algorithm
    kinds = {name: rule.kind for name, rule in rules(type(algorithm.hyperparam)).items()}

    def changes(name: str) -> bool:
        field = name.removeprefix(HYPERPARAM)
        return kinds.get(field) == "traced" and field not in UNCHANGEABLE

    space = {name: distribution for name, distribution in recipe.space.items() if changes(name)}
    if not space:
        raise UsageError(
            f"{recipe.path}: nothing of the search space can change while weights are kept. Give "
            f"{HYPERPARAM}{next(name for name in kinds if changes(HYPERPARAM + name))} a distribution, or search with "
            "optuna-hp-search."
        )
    check_together(algorithm, space, str(recipe.path))
    return space, [name for name in recipe.space if name not in space]


def make_members(
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    trials: Sequence[Trial],
    *,
    environment: str,
    run_length: RunLength,
    seed: int,
    num_seeds: int,
    compilation_cache: bool,
) -> Members:
    """A population on this machine's first device. space: what the hyperparameters can become in any interval.

    Raises:
      UsageError: the algorithm cannot act in the environment; the budget is smaller than the intervals need; jax was started so
        that it would hang.
    """
    from hyperlax.algorithms.workload import Workload
    from hyperlax.engine import device
    from hyperlax.engine.members import Members

    device.prepare_jax(compilation_cache)
    slot: Any = device.slot_devices()[0]
    workload = Workload(base, space, environment, run_length)
    return Members(workload, trials, seed=seed, num_seeds=num_seeds, slot=slot)
