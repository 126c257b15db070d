"""Recipes that are not files: a task, and entries of its search space as a study's file or Python has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperlax.config.option import RL_ONLY, exponent, options_of
from hyperlax.config.options import SearchOptions
from hyperlax.config.space_entries import entry_of, searched
from hyperlax.config.speech import python_call
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import OptionError, UsageError
from hyperlax.recipe import Recipe, of_task
from hyperlax.report import is_number
from hyperlax.space import Distribution, is_integer
from hyperlax.tasks import Function, Task


def recipe_of(
    task: Task, name: str, path: Path, params: Mapping[str, Any], space: Mapping[str, Entry], where: str
) -> Recipe:
    """Return the recipe of a task, with a `source` if the task has one.

    params: values by name, of what is not searched, and of what is, where a search begins. There it begins in the middle of ranges
    and with the first choice of what has no value.

    Raises UsageError, naming the entry, or beginning with `where`.
    """
    if name.startswith(".") or not name.strip():
        raise OptionError("study_name", "{study_name} {0!r} cannot name a directory. Choose another.", name)
    values = {**params, **{short: _typed(short, entry, params.get(short)) for short, entry in space.items()}}
    found = searched(space, {}, of_task(name, path, task, values, {}, where), where).space
    values |= {short: found[short].middle() for short in found if short not in params}
    return of_task(name, path, task, values, found, where)


def tune_call(options: SearchOptions, recipe: Recipe) -> str:
    """Return the call of `hyperlax.tune` that begins a study of a function, with everything that is not a default."""
    task, source = recipe.task, recipe.source
    assert isinstance(task, Function) and source is not None
    measures = [one.name if one.low is one.high is None else one for one in task.all_measures]
    said = {
        "space": {name: entry_of(distribution) for name, distribution in recipe.space.items()},
        "params": source["params"],
        "metric": measures if task.measures else measures[0],
        "mode": [one.direction[:3] for one in task.all_measures] if task.measures else task.measure.direction[:3],
    }
    if task.budget > 1:
        said |= {"budget": task.budget, "evaluations": task.evaluations}
    if task.cores > 1 or task.resources:
        said["resources"] = {"cpu": task.cores, **task.resources}
    name = (source["function"] or "function").rpartition(":")[2]
    leading = task.measure
    settled = {
        "study_name": name.rpartition(".")[2],
        "objective_names": (leading.name,),
        "objective_directions": (leading.direction,),
    }
    for option in options_of(SearchOptions).values():
        value, default = getattr(options, option.name), settled.get(option.name, option.default)
        if (
            option.is_offered
            and not option.has(RL_ONLY)
            and option.name != "algo_and_network_config"
            and value != default
        ):
            said[option.key if option.is_switched_off else option.name] = True if option.type is bool else value
    return python_call("tune", said, name)


def _typed(name: str, entry: Entry, given: Any) -> Any:
    """Return a value of the type that an entry of a search space has, the given one if there is any."""
    example = _example(entry.value)
    if given is None:
        return example
    if is_number(example) and not (is_integer(given) or (is_number(given) and isinstance(example, float))):
        wanted = "a number" if isinstance(example, float) else "a whole number"
        raise UsageError(
            f"{entry.where}: {name} is searched, and the value with which it begins is {given!r}. Give {wanted}."
        )
    return float(given) if isinstance(example, float) else given


def _example(entry: Any) -> Any:
    """Return a value of the type that an entry of a search space has; any for one that is not valid, which is refused later."""
    if isinstance(entry, Distribution):
        return entry.middle()
    if not isinstance(entry, dict):
        return _first(entry if isinstance(entry, list) else [entry])
    parts = {name: exponent(part.value) for name, part in entry.items()}
    if isinstance(choices := parts.get("values"), list):
        return _first(choices)
    numbers = [parts[name] for name in ("low", "high", "q") if name in parts]
    is_whole = parts.get("type") == "randint" or (parts.get("type") == "quniform" and all(map(is_integer, numbers)))
    return 0 if is_whole else 0.0


def _first(choices: list[Any]) -> Any:
    """Return the first choice, as a float if any of them is one."""
    choices = [exponent(choice) for choice in choices]
    first = next((choice for choice in choices if choice is not None), 0.0)
    return float(first) if is_integer(first) and any(isinstance(one, float) for one in choices) else first
