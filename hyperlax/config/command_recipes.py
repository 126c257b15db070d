"""The recipe of a command that is tuned, from the options of `hyperlax tune` or the keys of a study's file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperlax.config.command_options import TuneOptions
from hyperlax.config.option import Given, flags_of, parted, value_of
from hyperlax.config.own_recipes import recipe_of
from hyperlax.config.space_entries import ARGUMENTS
from hyperlax.config.yaml_file import Entry
from hyperlax.errors import OptionError, did_you_mean
from hyperlax.recipe import Recipe
from hyperlax.tasks import Command, Direction, Measure

DIRECTION_OF: dict[str, Direction] = {"max": "maximize", "min": "minimize"}
"""Value of `mode` -> direction of a measure."""
_SMALLER_IS_BETTER = re.compile(
    r"loss|error|err\b|rmse|mse|mae|perplexity|ppl|latency|seconds|time|regret|cost", re.IGNORECASE
)
_EXAMPLE = "lr=loguniform:1e-4:1e-1"


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
    words = {long: short for short, long in DIRECTION_OF.items()}
    return {
        "command": list(task.command),
        "metric": [measure.name for measure in task.all_measures],
        "mode": [words[measure.direction] for measure in task.all_measures],
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
