"""Environments that a recipe can act in, and those that its own file registers. Needs no jax."""

from __future__ import annotations

from pathlib import Path

from hyperlax.envs import action_kind, canonical, is_known
from hyperlax.errors import UsageError
from hyperlax.hyperparams import AlgorithmConfig, of_algorithm
from hyperlax.recipe import Recipe, available, load


def check_acts(recipe: Recipe, environment: str) -> None:
    """Raise UsageError if the recipe's algorithm cannot take the environment's actions; name the recipes that can."""
    kind = action_kind(environment)
    algorithm = of_algorithm(recipe.config.algorithm)
    if kind in algorithm.action_kinds:
        return
    able = [name for name in available() if _takes(name, kind)]
    advice = f"Recipes that can: {', '.join(able)}." if able else "No recipe here can."
    raise UsageError(
        f"{recipe.name}: {type(algorithm).__name__} takes {' or '.join(algorithm.action_kinds)} actions only, those of "
        f"{environment} are {kind}. {advice}"
    )


def registered(name: str, recipe: str | None, where: str) -> str:
    """Return the canonical name of an environment. Load the recipe that registers it, if a user's own is not registered yet.

    Args:
      recipe: The recipe's path, None if it is not known.
      where: Begins the message of an error.

    Raises:
      UsageError: The recipe's file is gone, cannot be loaded or does not register the environment.
    """
    if is_known(name):
        return canonical(name)
    own = f"{where}: environment `{name}` is one of your own"
    if recipe is None:
        raise UsageError(f"{own}, and its file does not name the recipe that registers it.")
    if not Path(recipe).is_file():
        raise UsageError(f"{own}, and {recipe}, which registered it, is gone. Put that file back.")
    load(recipe)
    if not is_known(name):
        raise UsageError(
            f"{own}, and {recipe}, which registered it, no longer does. Put back the file that registers it."
        )
    return canonical(name)


def _takes(name: str, kind: str) -> bool:
    """Return whether the recipe of this name takes such actions; False if it cannot be read."""
    try:
        algorithm = load(name).config.algorithm
    except UsageError:
        return False
    return isinstance(algorithm, AlgorithmConfig) and kind in algorithm.action_kinds
