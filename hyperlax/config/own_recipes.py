"""Recipes that are not files: a command or a function, its search space as a command line, a file or Python has it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperlax.config.command_options import TuneOptions
from hyperlax.config.option import RL_ONLY, Given, exponent, flags_of, options_of, parted, value_of
from hyperlax.config.options import SearchOptions
from hyperlax.config.space_entries import ARGUMENTS, entry_of, searched
from hyperlax.config.speech import python_call
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import OptionError, did_you_mean
from hyperlax.recipe import Recipe, of_task
from hyperlax.report import is_number
from hyperlax.space import Distribution, is_integer
from hyperlax.tasks import Command, Direction, Function, Measure, Task

DIRECTION_OF: dict[str, Direction] = {"max": "maximize", "min": "minimize"}
"""Value of `mode` -> direction of a measure."""
_SMALLER_IS_BETTER = re.compile(
    r"loss|error|err\b|rmse|mse|mae|perplexity|ppl|latency|seconds|time|regret|cost", re.IGNORECASE
)
_EXAMPLE = "lr=loguniform:1e-4:1e-1"


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


def tuned(given: Given) -> Recipe:
    """Return the recipe that the options of `hyperlax tune` describe. Raises OptionError, or UsageError with their flags."""
    flags, task = flags_of(TuneOptions), command_of(given)
    space = dict(map(_space_entry, given.get("space", ())))
    if len(space) < len(given.get("space", ())):
        raise OptionError("space", "{space} names a hyperparameter twice. Give each name once.")
    if not space:
        problem = "{space} is required: what is searched, e.g. {space} {0}."
        raise OptionError("space", problem, _EXAMPLE)
    params = {}
    for text in given.get("assignments", ()):
        name, value = parted(text, "epochs=3")
        params[name] = value_of(value)
    return command_recipe(task, given.get("study_name"), params, space, flags("space"))


def command_recipe(
    task: Command, name: str | None, params: Mapping[str, Any], space: Mapping[str, Entry], where: str
) -> Recipe:
    """Return the recipe of a command. name: by default that of its script. params: values by name.

    Raises UsageError, naming the entry, or beginning with `where`.
    """
    return recipe_of(task, name or _name_of(task.command), Path(_script_of(task.command)), params, space, where)


def command_of(given: Given) -> Command:
    """Return the command of `CommandOptions`, and of a text that is split into words."""
    names, modes = given.get("metric", ()), given.get("mode", ())
    if "command" not in given:
        raise OptionError("command", "a command is required: give it after all options, e.g. -- python train.py.")
    if not names:
        raise OptionError("metric", "{metric} is required: what the command reports, e.g. accuracy.")
    measure, *measures = measures_for(names, modes)
    budget = given.get("budget", 1)
    evaluations = given.get("evaluations") or budget
    if evaluations > budget:
        problem = (
            "{budget} {0} is less than one step for each of {evaluations} {1}. Raise the first or lower the second."
        )
        raise OptionError("budget", problem, budget, evaluations)
    return Command(
        given["command"],
        measure,
        tuple(measures),
        budget=budget,
        evaluations=evaluations,
        cores=given.get("cores", 1),
        resources={"gpu": given["gpus"]} if given.get("gpus") else {},
        directory=os.getcwd(),
    )


def measures_for(metrics: Sequence[str | Measure], modes: Sequence[str]) -> list[Measure]:
    """Return the measures of metrics, the leading one first. modes: max or min of each, empty if not given.

    Raises OptionError, and UsageError for a name that no measure can have.
    """
    if modes and len(modes) != len(metrics):
        names = (one.name if isinstance(one, Measure) else one for one in metrics)
        problem = "{mode} needs max or min for each {metric}, got {0} for {1}."
        raise OptionError("mode", problem, " ".join(modes), " ".join(names))
    return [_measure(one, mode) for one, mode in zip(metrics, modes or [None] * len(metrics), strict=True)]


def _measure(metric: str | Measure, mode: str | None) -> Measure:
    if isinstance(metric, Measure):
        if mode and DIRECTION_OF[mode] != metric.direction:
            raise OptionError("mode", "{mode} is {0}, and the {metric} is {1}. Leave {mode} out.", mode, metric)
        return metric
    if mode is None and _SMALLER_IS_BETTER.search(metric):
        problem = "{mode} is required for a {metric} named {0}: say whether max or min is better."
        raise OptionError("mode", problem, metric)
    return Measure(metric, DIRECTION_OF[mode or "max"])


def command_entries(recipe: Recipe) -> dict[str, Any]:
    """Return what a study's file says about the command of a recipe."""
    task = recipe.task
    assert isinstance(task, Command)
    return {
        "command": list(task.command),
        "metric": [measure.name for measure in task.all_measures],
        "mode": [measure.direction[:3] for measure in task.all_measures],
        "budget": task.budget,
        "evaluations": task.evaluations,
        "cores": task.cores,
        **({"gpus": task.resources["gpu"]} if task.resources else {}),
        "params": dict(getattr(recipe.config.algorithm, "values", {})),
    }


def _script_of(words: Sequence[str]) -> str:
    """Return the word that names the command: the first file with an extension after the program, or a module, else the program."""
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return next((word for word in words[1:] if Path(word).suffix and Path(word).is_file()), *module or [words[0]])


def _name_of(words: Sequence[str]) -> str:
    script = _script_of(words)
    return Path(script).stem if Path(script).is_file() else Path(script).name


def _space_entry(text: str) -> tuple[str, Entry]:
    """Return name and entry of a text such as lr=loguniform:1e-4:1e-1."""
    name, equals, value = (part.strip() for part in text.partition("="))
    kind, *texts = value.split(":") if equals else [""]
    if not name or not equals:
        raise OptionError("space", "{space} needs NAME=TYPE:..., got {0!r}. Write {space} {1}.", text, _EXAMPLE)
    if kind not in ARGUMENTS:
        hint = did_you_mean(kind, ARGUMENTS)
        rest = "To give the command a fixed value, use {assignments}." if not texts else ""
        problem = f"{{space}} {{0}}: no type {{1}}. {hint}There are {', '.join(ARGUMENTS)}. {rest}"
        raise OptionError("space", problem.rstrip(), text, kind or "at all")
    where = f"{flags_of(TuneOptions)('space')} {text}"
    if kind == "choice" and not any(texts):
        raise OptionError("space", "{space} {0}: needs the form {1}=choice:A,B,...", text, name)
    if kind == "choice":
        parts: dict[str, Any] = {"values": _choices(":".join(texts))}
    else:
        names = ARGUMENTS[kind]
        most = len(names) + (kind == "randint")
        if not len(names) <= len(texts) <= most:
            form = ":".join((kind, *(one.upper() for one in names))) + ("[:STEP]" if kind == "randint" else "")
            raise OptionError("space", "{space} {0}: needs the form {1}={2}.", text, name, form)
        parts = dict(zip((*names, "step"), map(value_of, texts), strict=False))
    return name, Entry(where, {"type": Entry(where, kind), **{part: Entry(where, one) for part, one in parts.items()}})


def _choices(text: str) -> list[Any]:
    """Return the choices of a text with commas. If they are not all numbers, or all true or false, they are texts."""
    texts = [one.strip() for one in text.split(",")]
    values = [value_of(one) for one in texts]
    kinds = {type(value) for value in values}
    return values if kinds <= {int, float} or kinds == {bool} else texts


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
        raise entry.refusal(f"{name} is searched, and the value with which it begins is {given!r}. Give {wanted}.")
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
