"""A recipe as JSON for a machine that does not see its file: its code travels as text.

The leader has loaded that code itself, for the user who started it, and the receiver is a process that the leader has started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperlax.errors import UsageError
from hyperlax.recipe import Recipe, from_source, load
from hyperlax.space import from_json as distribution_from_json


def send(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON.

    Raises UsageError for a function that is in no file.
    """
    check_in_file(recipe)
    source = recipe.source
    sent = {"source": source, "space": {name: one.to_json() for name, one in recipe.space.items()}}
    if source is not None and "function" in source:
        path = Path(source["function"].rpartition(":")[0])
    elif source is None:
        path = recipe.path.resolve()
    else:
        return sent
    return {**sent, "path": str(path), "text": path.read_text(encoding="utf-8")}


def check_in_file(recipe: Recipe) -> None:
    """Raise UsageError for a function that only this process can call."""
    if recipe.source is not None and "function" in recipe.source and recipe.source["function"] is None:
        raise UsageError("The function is in no file, so agents cannot load it. Move it to the top level of one.")


def receive(sent: Mapping[str, Any], directory: Path) -> Recipe:
    """Return a recipe that was sent. Its code is put into a directory, unless this machine has the same file.

    Raises UsageError if it cannot be loaded here.
    """
    source = sent["source"]
    if "path" in sent:
        path = _placed(Path(sent["path"]), sent["text"], directory)
    if source is None:
        recipe = load(str(path))
    else:
        own = dict[str, Any]()
        if "function" in source:
            own["function"] = f"{path}:{source['function'].rpartition(':')[2]}"
        elif source["directory"] and not Path(source["directory"]).is_dir():
            own["directory"] = os.getcwd()
        recipe = from_source({**source, **own}, source["path"])
    if recipe.task is not None and (missing := recipe.task.missing()):
        raise UsageError(missing)
    return replace(recipe, space={name: distribution_from_json(one) for name, one in sent["space"].items()})


def _placed(path: Path, text: str, directory: Path) -> Path:
    """Return the path of a file with this text: `path` if it has it, so that imports of its neighbours work."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return path
    except (OSError, UnicodeDecodeError):
        pass
    directory.mkdir(parents=True, exist_ok=True)
    (placed := directory / path.name).write_text(text, encoding="utf-8")
    return placed
