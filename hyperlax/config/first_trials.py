"""The first configurations of a study: the recipe's own, then those of `--enqueue`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperlax.config.options import SearchOptions
from hyperlax.errors import UsageError
from hyperlax.fields import check_name, dotted, fields_of, written
from hyperlax.files import decode
from hyperlax.recipe import Recipe

log = logging.getLogger(__name__)

Values = dict[str, Any]


def first_trials(arguments: SearchOptions, recipe: Recipe) -> list[Values]:
    """Return searched dotted name -> value of trials 0, 1, ... of a new study, without duplicates.

    If the space does not contain the recipe's own configuration, it is left out, which is logged. Raises UsageError, naming file,
    entry and name, for a file that cannot be read and for a value that the space does not contain.
    """
    base = {name: dotted(recipe.config.algorithm)[name] for name in recipe.space}
    chosen = [base] if arguments.default_trial and _is_contained(base, recipe) else []
    if arguments.enqueue is not None:
        chosen += _read(arguments.enqueue, base, recipe)
    return list({json.dumps(values): values for values in chosen}.values())


def _is_contained(base: Mapping[str, Any], recipe: Recipe) -> bool:
    outside = [
        f"{name} = {base[name]}, not in {written(distribution)}"
        for name, distribution in recipe.space.items()
        if not distribution.contains(base[name])
    ]
    if outside:
        log.info(
            "The study starts without the recipe's default configuration, which is not in the search space: %s.",
            "; ".join(outside),
        )
    return not outside


def _read(file: str, base: Mapping[str, Any], recipe: Recipe) -> list[Values]:
    found = decode(Path(file), object)
    entries = found if isinstance(found, list) else [found]
    if not entries:
        raise UsageError(f"--enqueue {file}: holds no configuration. Write a list of {{name: value}}.")
    return [
        _configuration(entry, f"--enqueue {file}: entry {index}", base, recipe) for index, entry in enumerate(entries)
    ]


def _configuration(entry: Any, where: str, base: Mapping[str, Any], recipe: Recipe) -> Values:
    """Return an entry, completed with the recipe's values."""
    values = entry.get("params", entry) if isinstance(entry, dict) else entry
    if not isinstance(values, dict):
        raise UsageError(f'{where} is {values!r}. Write {{name: value}}, e.g. {{"{next(iter(base))}": ...}}.')
    config, known = dotted(recipe.config.algorithm), fields_of(recipe.config.algorithm)
    for name in values:
        check_name(name, known, where)
    plain = {name: known[name].plain(value) for name, value in values.items()}
    for name, value in plain.items():
        if name not in recipe.space and value != config[name]:
            raise UsageError(
                f"{where}: {name} = {value}, and the recipe does not search it but has it fixed at {config[name]}. Leave it out."
            )
    complete = {name: plain.get(name, base[name]) for name in recipe.space}
    for name, distribution in recipe.space.items():
        if not distribution.contains(complete[name]):
            left_out = "" if name in values else ", the recipe's value for what is left out,"
            raise UsageError(f"{where}: {name} = {complete[name]!r}{left_out} is not in {written(distribution)}.")
    return complete
