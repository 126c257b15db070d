"""Environments of a user's own, in a process that has not loaded the recipe that registers them. Needs no jax."""

from __future__ import annotations

from pathlib import Path

from hyperlax.envs import canonical, is_known
from hyperlax.errors import UsageError
from hyperlax.recipe import load


def registered(name: str, recipe: str | None, where: str) -> str:
    """The one name of an environment, one of a user's own registered by its recipe. recipe: its path, None where that is not known.

    Raises:
      UsageError: that file is gone, cannot be loaded or does not register the environment. `where` begins the message.
    """
    if is_known(name):
        return canonical(name)
    own = f"{where}: environment `{name}` is one of your own"
    if recipe is None:
        raise UsageError(f"{own}, and which recipe registers it was not kept. Give the study's directory.")
    if not Path(recipe).is_file():
        raise UsageError(f"{own}, and {recipe}, which registered it, is gone. Put that file back.")
    load(recipe)
    if not is_known(name):
        raise UsageError(
            f"{own}, and {recipe}, which registered it, no longer does. Put back the file that registers it."
        )
    return canonical(name)
