"""Whether a recipe can act in an environment: known for every shipped environment without starting jax."""

from __future__ import annotations

from hyperlax.envs import action_kind
from hyperlax.errors import UsageError
from hyperlax.recipe import Recipe, available, load


def check_acts(recipe: Recipe, environment: str) -> None:
    """Refuse an environment whose actions the recipe's algorithm cannot take, naming the recipes that can."""
    kind = action_kind(environment)
    algorithm = recipe.config.algorithm
    if kind in algorithm.action_kinds:
        return
    able = [name for name in available() if _takes(name, kind)]
    advice = f"Recipes that can: {', '.join(able)}." if able else "No recipe here can."
    raise UsageError(
        f"{recipe.name}: {type(algorithm).__name__} takes {' or '.join(algorithm.action_kinds)} actions only, those of "
        f"{environment} are {kind}. {advice}"
    )


def _takes(name: str, kind: str) -> bool:
    """Whether a recipe by name takes such actions; one that cannot be read is no advice."""
    try:
        return kind in load(name).config.algorithm.action_kinds
    except UsageError:
        return False
