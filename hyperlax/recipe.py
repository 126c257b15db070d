"""A recipe: the Python file that names an algorithm and its network, or a task, with defaults, and declares what is searched.

>>> load("sac_mlp").config.run_lengths["default"].num_evaluations
10
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hyperlax.algorithms.registry import ALGORITHMS
from hyperlax.errors import UsageError, did_you_mean
from hyperlax.fields import apply, check, check_name, check_params, check_together, dotted, fields_of, fitted
from hyperlax.files import PUT_BACK
from hyperlax.functions import Placed, stored_place
from hyperlax.functions import load as load_function
from hyperlax.hyperparams import Config, Params
from hyperlax.measures import RESERVED
from hyperlax.shipped import shipped_folder
from hyperlax.space import DISTRIBUTIONS, Distribution
from hyperlax.space import from_json as distribution_from_json
from hyperlax.tasks import Lanes, Task
from hyperlax.tasks import from_source as task_from_source
from hyperlax.user_code import located

__all__ = [
    "Changes",
    "ExperimentConfig",
    "Recipe",
    "RunLength",
    "available",
    "load",
    "searching",
]

Changes = Mapping[str, Distribution | None]
"""Changes to a search space, by dotted name: the new distribution, None for a field that is not searched any more."""

RUN_LENGTHS = ("quick", "default", "long")
_COUNTER = itertools.count()


@dataclass(frozen=True)
class RunLength:
    """The length of a training run: environment steps of one seed, number of evaluations, and episodes of each."""

    total_timesteps: int
    num_evaluations: int
    num_eval_episodes: int

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"RunLength needs {f.name} to be a whole number of at least 1, got {value!r}.")
        if self.total_timesteps < self.num_evaluations:
            raise UsageError(
                f"RunLength needs at least one step per evaluation, got total_timesteps={self.total_timesteps} and "
                f"num_evaluations={self.num_evaluations}. Raise the first or lower the second."
            )


@dataclass(frozen=True)
class ExperimentConfig:
    """The configuration of fields that are not searched. run_lengths has the keys quick, default and long.

    algorithm: that of an algorithm, or the `Params` of a task.
    """

    algorithm: Config
    run_lengths: Mapping[str, RunLength]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: every name of `space` is a field, and every value that it can produce is valid.

    changes: how `space` differs from the recipe's file; see `searching`. task: what it trains; None for an RL algorithm.
    source: JSON from which `from_source` makes the recipe again, without changes; None if `path` is the recipe's file. code: a
    digest of the file that has its code, as it was when the recipe was made; "" if there is none.
    """

    name: str
    path: Path
    config: ExperimentConfig
    space: dict[str, Distribution]
    changes: Changes = field(default_factory=dict, kw_only=True)
    task: Task | None = field(default=None, kw_only=True)
    source: Mapping[str, Any] | None = field(default=None, kw_only=True)
    code: str = field(default="", kw_only=True, compare=False)


def load(name_or_path: str) -> Recipe:
    """Read and check `recipes/NAME.py` of the working directory, else the shipped one; or a path that ends in `.py`.

    Raises:
      UsageError: Something in it cannot run. Names file and field.
    """
    path = _find(name_or_path)
    where = shown_path(path)
    code = _digest_of(path)
    module = _run(path, where)
    if _is_of_task(module):
        return replace(_task_recipe(module, path, where), code=code)
    config = _call(module, "get_base_config", path, where)
    space = _call(module, "get_base_hyperparam_distributions", path, where)
    config = _checked_config(config, where)
    return Recipe(path.stem, path, config, _checked_space(config.algorithm, space, where), code=code)


def from_source(source: Mapping[str, Any], where: str, function: Placed | None = None) -> Recipe:
    """Return the recipe of a `Recipe.source`. Raises UsageError, beginning with `where`, if it is damaged.

    function: instead of the one that the source names.
    """
    check_no_flow(source, where)
    if "function" in source and function is None:
        function = _function_of(source, where)
    try:
        space = {name: distribution_from_json(text) for name, text in source["space"].items()}
        task, path = task_from_source(source, function), Path(source["path"])
        recipe = of_task(source["name"], path, task, source["params"], space, where)
    except (UsageError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{where}: `source` is not what Hyperlax writes there ({error}). {PUT_BACK}") from error
    return replace(recipe, source=source)


def check_no_flow(source: Mapping[str, Any], where: str) -> None:
    """Raise UsageError, beginning with `where`, for the source of a study of a Metaflow flow."""
    if "flow" in source:
        raise UsageError(
            f"{where}: its trials are tasks of the Metaflow flow {source['flow']}, which Hyperlax cannot train. Run or resume "
            "that flow."
        )


def _function_of(source: Mapping[str, Any], where: str) -> Placed:
    if not isinstance(place := source["function"], str):
        raise UsageError(
            f"{where}: its function is in no file, so it cannot be loaded. Give it again in Python: hyperlax.tune(function, "
            "resume_from=...)."
        )
    return load_function(place)


def _digest_of(path: Path) -> str:
    """Return a digest of a file of text, "" if it cannot be read."""
    with suppress(OSError, ValueError):
        return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()[:12]
    return ""


def of_task(
    name: str, path: Path, task: Task, values: Any, space: Any, where: str, of_values: str | None = None
) -> Recipe:
    """Return the recipe of a task. values: the value of each hyperparameter by its name. path: what messages about it begin with.

    It has a `source` if the task has one; a recipe's file replaces that by None. Raises UsageError, beginning with `where`, or
    with `of_values` for a value.
    """
    params = Params(dict(values), task.rules)
    check_params(params, of_values or where)
    check(params, of_values or where)
    task.check_params(params.values, where)
    length = RunLength(task.budget, task.evaluations, 1)
    config = ExperimentConfig(params, dict.fromkeys(RUN_LENGTHS, length))
    recipe = Recipe(name, path, config, _checked_space(params, space, where), task=task)
    _check_names(task, recipe, where)
    if (form := task.source()) is None:
        return recipe
    if "function" in form:
        form["function"] = stored_place(form["function"])
    searched = {name: distribution.to_json() for name, distribution in recipe.space.items()}
    source = {"name": name, "path": str(path), **form, "params": dict(params.values), "space": searched}
    place = form.get("function") or ""
    return replace(recipe, source=source, code=_digest_of(Path(place.rpartition(":")[0])))


def searching(recipe: Recipe, changes: Changes, where: str) -> Recipe:
    """Return the recipe with another search space. Entries equal to the recipe's own do not count as changes.

    Raises:
      UsageError: A name is unknown, or fields do not accept values, alone or together. Begins with `where`.
    """
    known, space = fields_of(recipe.config.algorithm), dict(recipe.space)
    real: dict[str, Distribution | None] = {}
    for name, distribution in changes.items():
        check_name(name, known, where)
        new = None if distribution is None else fitted(name, known[name], distribution, where)
        if _written(new) == _written(space.get(name)):
            continue
        real[name] = new
        if new is None:
            del space[name]
        else:
            space[name] = new
    check_together(recipe.config.algorithm, space, where)
    changed = replace(recipe, space=space, changes=real)
    if recipe.task:
        _check_names(recipe.task, changed, where)
    return changed


def available() -> list[str]:
    """Return the names that `load` finds from the working directory."""
    found = {path.stem for folder in _folders() for path in folder.glob("*.py") if not path.stem.startswith("_")}
    return sorted(found)


def _written(distribution: Distribution | None) -> str | None:
    """Return a distribution as text that tells 1 from True."""
    return None if distribution is None else json.dumps(distribution.to_json())


def _folders() -> list[Path]:
    """Return the folders in which names are looked up; the first match wins."""
    return [Path("recipes"), shipped_folder("recipes")]


def _find(name_or_path: str) -> Path:
    names = available()
    hint = did_you_mean(Path(name_or_path).name.lower().removesuffix(".py"), names)
    if name_or_path.endswith(".py"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(
                f"{name_or_path}: no such recipe file. {hint}Recipes by name: {', '.join(names)}; "
                "hyperlax recipes describes those shipped."
            )
        return path
    if name_or_path in names:
        return next(path for folder in _folders() if (path := folder / f"{name_or_path}.py").is_file())
    raise UsageError(
        f"no recipe named `{name_or_path}` in ./recipes or among those shipped. {hint}"
        f"There are {', '.join(names)}, which hyperlax recipes describes; a path to a .py file works too."
    )


def shown_path(path: Path) -> str:
    """Return the path relative to the working directory if it lies below it, else in full."""
    here = Path.cwd()
    full = path.resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)


def _run(path: Path, where: str) -> types.ModuleType:
    """Return the recipe's module, compiled from source each time: cached bytecode can miss an edit of the same second."""
    module = types.ModuleType(f"hyperlax_recipe_{path.stem}_{next(_COUNTER)}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        with located(path, where):
            exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)  # noqa: S102 - a recipe is code
    except UsageError:
        del sys.modules[module.__name__]
        raise
    return module


def _call(module: types.ModuleType, name: str, path: Path, where: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        needs = (
            "A recipe of a task needs get_task(), get_base_params() and get_base_hyperparam_distributions()."
            if _is_of_task(module)
            else "A recipe needs it; for an example: hyperlax recipes show ppo_mlp."
        )
        raise UsageError(f"{where}: defines no function {name}(). {needs}")
    with located(path, where):
        return function()


def _is_of_task(module: types.ModuleType) -> bool:
    """Return whether a recipe defines anything that only a task needs."""
    return hasattr(module, "get_task") or hasattr(module, "get_base_params")


def _task_recipe(module: types.ModuleType, path: Path, where: str) -> Recipe:
    """Return the recipe of a task."""
    if hasattr(module, "get_base_config"):
        raise UsageError(
            f"{where}: defines get_task() and get_base_config(). A recipe trains a task or an RL algorithm: remove one of the two."
        )
    task = _call(module, "get_task", path, where)
    if not isinstance(task, Task):
        forms = ", ".join(form.__name__ for form in Task.__subclasses__() if not form.__name__.startswith("_"))
        raise UsageError(f"{where}: get_task() must return one of {forms}, got {type(task).__name__}.")
    values, of_values = _base_values(module, task, path, where)
    space = _call(module, "get_base_hyperparam_distributions", path, where)
    recipe = of_task(path.stem, path, task.loaded_from(path.resolve()), values, space, where, of_values)
    return replace(recipe, source=None)


def _base_values(module: types.ModuleType, task: Task, path: Path, where: str) -> tuple[Mapping[str, Any], str]:
    """Return the value of each hyperparameter of a task, and where it is from. Those of `Lanes` are in its own class."""
    if isinstance(task, Lanes):
        own = type(task.hypers).__name__
        if hasattr(module, "get_base_params"):
            raise UsageError(
                f"{where}: defines get_base_params(), but the values of Lanes are those of {own}. Remove it."
            )
        return task.defaults, f"{where}: {own}"
    values = _call(module, "get_base_params", path, where)
    if not isinstance(values, Mapping):
        raise UsageError(
            f"{where}: get_base_params() must return a dictionary of names and values, got {type(values).__name__}."
        )
    return values, f"{where}: get_base_params()"


def _check_names(task: Task, recipe: Recipe, where: str) -> None:
    """Raise UsageError for a measure or a hyperparameter whose name stands for something else in a study's files.

    Those files have no values of hyperparameters that are not searched.
    """
    measures = {measure.name for measure in task.all_measures}
    searched = RESERVED - {"seed"} | measures
    for kind, names, taken in (
        ("measure", measures, RESERVED),
        ("hyperparameter", recipe.space, searched),
        ("hyperparameter", dotted(recipe.config.algorithm), {"trial"} | measures),
    ):
        for name in names:
            if kind == "hyperparameter" and name in measures:
                raise UsageError(
                    f"{where}: the {kind} {name} has the name of a metric. Choose another for one of them."
                )
            if name in taken or name.startswith("objective."):
                raise UsageError(
                    f"{where}: the {kind} {name} has a name that a study's files use for something else. Choose another."
                )


def _checked_config(config: Any, where: str) -> ExperimentConfig:
    """Return the configuration with its numbers in the types of their fields."""
    if not isinstance(config, ExperimentConfig):
        raise UsageError(f"{where}: get_base_config() must return an ExperimentConfig, got {type(config).__name__}.")
    if isinstance(config.algorithm, Params) or type(config.algorithm) not in ALGORITHMS:
        known = ", ".join(algorithm.__name__ for algorithm in ALGORITHMS)
        raise UsageError(f"{where}: algorithm must be one of {known}, got {type(config.algorithm).__name__}.")
    _check_shape(config.algorithm, type(config.algorithm)(), "algorithm", where)
    for key in RUN_LENGTHS:
        length = config.run_lengths.get(key) if isinstance(config.run_lengths, Mapping) else None
        if not isinstance(length, RunLength):
            raise UsageError(
                f"{where}: run_lengths needs a RunLength for each of {', '.join(RUN_LENGTHS)}, got {length!r} for {key}."
            )
    return ExperimentConfig(apply(config.algorithm, dotted(config.algorithm), where), config.run_lengths)


def _check_shape(node: Any, pattern: Any, name: str, where: str) -> None:
    """Raise UsageError for a part of the configuration that has the wrong class, such as a tuple instead of a Torso."""
    for f in fields(pattern):
        part, wanted = getattr(node, f.name), getattr(pattern, f.name)
        if not is_dataclass(wanted):
            continue
        if type(part) is not type(wanted):
            raise UsageError(f"{where}: {name}.{f.name} must be a {type(wanted).__name__}, got {part!r}.")
        _check_shape(part, wanted, f"{name}.{f.name}", where)


def _checked_space(algorithm: Config, space: Any, where: str) -> dict[str, Distribution]:
    """Return the search space with its values in the types of their fields."""
    if not isinstance(space, Mapping):
        raise UsageError(
            f"{where}: get_base_hyperparam_distributions() must return a dictionary of dotted names and distributions, "
            f"got {type(space).__name__}."
        )
    known, checked = fields_of(algorithm), {}
    for name, distribution in space.items():
        if not isinstance(name, str):
            raise UsageError(
                f"{where}: a name of the search space is {name!r}. Use dotted names, e.g. {next(iter(known))}."
            )
        check_name(name, known, where)
        if not isinstance(distribution, Distribution):
            base = "get_base_config()"
            if isinstance(algorithm, Params):
                base = "the default of its field" if algorithm.rules else "get_base_params()"
            raise UsageError(
                f"{where}: {name} needs a distribution ({', '.join(DISTRIBUTIONS)}), got {distribution!r}. "
                f"To fix the value, set it in {base} and drop the entry."
            )
        checked[name] = fitted(name, known[name], distribution, where)
    check_together(algorithm, checked, where)
    return checked
