"""The code that a study, an agent or a schedule names. It runs if this user's own run wrote that, or the user names it now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperlax.config.option import shell_command
from hyperlax.config.speech import python_call
from hyperlax.errors import OptionError, UsageError
from hyperlax.recipe import Recipe
from hyperlax.report import shown
from hyperlax.seals import is_sealed, seal
from hyperlax.shipped import shipped

_CODE = ("path", "source")
"""Entries that say which code it is."""


def code_of(recipe: Recipe) -> dict[str, Any]:
    """Return the entries that name a recipe's code, with the mark of this user."""
    code: dict[str, Any] = {"path": str(recipe.path.resolve())}
    if recipe.source is not None:
        code["source"] = recipe.source
    return {**code, "seal": seal(code)}


def recipe_file(kept: Mapping[str, Any], name: str, directory: Path | None, where: str) -> str:
    """Return the name or path of the recipe that a file in a directory names, if it may be loaded.

    Args:
      kept: The entries of `code_of`, which may be anything.
      name: The name or path that the recipe was chosen by.
      directory: That of the study, if it is in one; no code in it is loaded.
      where: Begins the message of an error.

    Raises:
      OptionError: It is neither shipped with Hyperlax nor recorded by a run of this user's, or it is in the directory.
    """
    path = kept.get("path")
    there = path if isinstance(path, str) and _is_file(path) else name
    if is_own(kept) and not _is_below(there, directory):
        return there
    own = {one.name: str(one.path) for one in shipped("recipes")}
    if there in own.values():
        return there
    if name in own and not is_own(kept):
        return own[name]
    why = "in the study's own directory" if _is_below(there, directory) else "and no run of yours wrote that"
    problem = (
        "{0}: names the recipe {1}, {2}. Recipes are code: name one that you trust with {algo_and_network_config}."
    )
    raise OptionError("algo_and_network_config", problem, where, there, why)


def check_source(kept: Mapping[str, Any], where: str, directory: Path, is_sweep: bool) -> None:
    """Raise UsageError, beginning with `where`, for a source that no run of this user's wrote: it says what is run.

    directory: that of the study. is_sweep: whether it is a sweep, which only a file can have begun.
    """
    source = kept.get("source")
    runs_nothing = isinstance(source, dict) and "flow" in source and not {"function", "command"} & source.keys()
    if is_own(kept) or runs_nothing:
        return
    code, again = "a function", python_call("tune", {"resume_from": directory}, "function")
    if not isinstance(source, dict) or "function" not in source:
        code = shown(source.get("command") if isinstance(source, dict) else source)
        tuned = f"{shell_command('tune', '--resume-from', directory)} -- COMMAND"
        again = "\n  ".join([*([] if is_sweep else [tuned]), "hyperlax run-study FILE"])
    raise UsageError(
        f"{where}: its trials run {code}, and no run of yours wrote that. If you trust it, name it again, as the study began, "
        f"and the study is yours:\n  {again}"
    )


def is_own(kept: Mapping[str, Any]) -> bool:
    """Return whether a run of this user's wrote the entries of `code_of`."""
    code = {name: kept[name] for name in _CODE if kept.get(name) is not None}
    return bool(code) and is_sealed(code, kept.get("seal"))


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _is_below(path: str, directory: Path | None) -> bool:
    return directory is not None and path.endswith(".py") and Path(path).resolve().is_relative_to(directory.resolve())
