"""The configuration that `run-single-hp` trains: the recipe's, with the values of a params file and of --set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperlax.config.option import flags_of
from hyperlax.config.options import SingleOptions
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.files import decode
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import Recipe, apply


def configured(options: SingleOptions, recipe: Recipe) -> AlgorithmConfig:
    """Return the recipe's configuration, overridden by the values of the params file, then by those of --set."""
    algorithm = recipe.config.algorithm
    if options.params is not None:
        algorithm = apply(algorithm, _read_params(Path(options.params), options.trial), options.params)
    elif options.trial is not None:
        problem = "{trial} {0} chooses from a file. Name the file with {params}."
        raise OptionError("trial", problem, options.trial)
    return apply(algorithm, _parse_assignments(options.assignments), flags_of(SingleOptions)("assignments"))


def _read_params(path: Path, trial: int | None) -> dict[str, Any]:
    """Return dotted name -> value of a trial in best_optuna_params.json (one) or pareto_front_params.json (a list)."""
    found: Any = decode(path, object)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("params"), dict) or "trial" not in entry:
            raise UsageError(
                f"{path}: holds no trial with its params. Give a study's best_optuna_params.json "
                "or pareto_front_params.json."
            )
    numbers = ", ".join(str(entry["trial"]) for entry in entries) or "none"
    chosen = [entry for entry in entries if trial is None or entry["trial"] == trial]
    if len(chosen) == 1:
        return chosen[0]["params"]
    if trial is None:
        problem = "{0}: holds {1} ({2}). Choose one with {trial}."
        raise OptionError("trial", problem, path, counted(len(entries), "trial"), numbers)
    raise UsageError(f"{path}: holds no trial {trial}. It holds {numbers}.")


def _parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return dotted name -> value of `NAME=VALUE` texts. A value that is not JSON is a string."""
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            problem = "{assignments} needs NAME=VALUE, got {0!r}. Write {assignments} algorithm.hyperparam.gamma=0.98."
            raise OptionError("assignments", problem, text)
        if name in values:
            problem = "{assignments}: {0} is given more than once. Give each name once."
            raise OptionError("assignments", problem, name)
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # not JSON, or a whole number of thousands of digits
        return text
