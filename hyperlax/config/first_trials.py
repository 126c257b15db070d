"""The first configurations of a study: the recipe's own, then those of `--enqueue`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperlax.config.options import SearchOptions
from hyperlax.errors import OptionError, UsageError
from hyperlax.fields import check_name, dotted, written
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
            "The study begins without the recipe's own configuration, which it does not search: %s.", "; ".join(outside)
        )
    return not outside


def _read(file: str, base: Mapping[str, Any], recipe: Recipe) -> list[Values]:
    found = decode(Path(file), object)
    entries = found if isinstance(found, list) else [found]
    if not entries:
        raise OptionError(
            "enqueue", "{enqueue} {0}: holds no configuration. Write a list of {1}.", file, "{name: value}"
        )
    try:
        return [_configuration(entry, f"entry {index}", base, recipe) for index, entry in enumerate(entries)]
    except UsageError as error:
        raise OptionError("enqueue", "{enqueue} {0}: {1}", file, error) from error


def _configuration(entry: Any, where: str, base: Mapping[str, Any], recipe: Recipe) -> Values:
    """Return an entry, completed with the recipe's values."""
    values = entry.get("params", entry) if isinstance(entry, dict) else entry
    if not isinstance(values, dict):
        raise UsageError(f'{where} is {values!r}. Write {{name: value}}, e.g. {{"{next(iter(base))}": ...}}.')
    config = dotted(recipe.config.algorithm)
    for name, value in values.items():
        check_name(name, config, where)
        if name not in recipe.space and value != config[name]:
            raise UsageError(
                f"{where}: {name} = {value}, and the recipe does not search it but has it fixed at {config[name]}. Leave it out."
            )
    complete = {name: _plain(values.get(name, base[name]), base[name]) for name in recipe.space}
    for name, distribution in recipe.space.items():
        if not distribution.contains(complete[name]):
            left_out = "" if name in values else ", the recipe's value for what is left out,"
            raise UsageError(f"{where}: {name} = {complete[name]!r}{left_out} is not in {written(distribution)}.")
    return complete


def _plain(value: Any, like: Any) -> Any:
    """Return a whole number given for a float as that float, so that equal configurations are equal."""
    is_whole = isinstance(like, float) and type(value) is int and abs(value) < sys.float_info.max
    return float(value) if is_whole else value
