"""A study as the text of a YAML file that gives it again."""

from __future__ import annotations

from typing import Any

import yaml

from hyperlax.config.options import SWITCHES, SearchOptions, flag_of
from hyperlax.config.space_entries import entry_of
from hyperlax.recipe import Recipe

WRITTEN_BY_US = "# This study in full, for `hyperlax run-study`: every argument, and all that is searched.\n"


def key_of(name: str) -> str:
    """An argument of a study, or a field of its flags, as a file names it: as its flag, with underscores.

    >>> key_of("n_trials"), key_of("constraints"), key_of("compilation_cache")
    ('n_trials', 'constraint', 'no_compilation_cache')
    """
    return flag_of(name).removeprefix("--").replace("-", "_")


def in_full(arguments: SearchOptions, recipe: Recipe) -> str:
    """A search as a file: nothing in it depends on presets, on defaults, or on what the recipe searches."""
    said: dict[str, Any] = {}
    for name, value in arguments.to_json().items():
        if name in SWITCHES:
            said |= {} if value else {key_of(name): True}
        elif value is not None and value != []:
            said[key_of(name)] = value
    left_out = {name: None for name, change in recipe.changes.items() if change is None}
    said["space"] = {name: entry_of(distribution) for name, distribution in recipe.space.items()} | left_out
    return WRITTEN_BY_US + yaml.safe_dump(said, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
