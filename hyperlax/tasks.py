"""Tasks: what a recipe trains if it is not an RL algorithm. A recipe returns one from `get_task()`.

>>> def train(params, report, seed):
...     for epoch in range(1, 4):
...         report(epoch, accuracy=1 - params["rate"] / epoch)
>>> Function(train, Measure("accuracy", "maximize"), budget=3, evaluations=3).measure.name
'accuracy'
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from hyperlax.errors import UsageError, did_you_mean
from hyperlax.functions import Placed, accepts, load
from hyperlax.hyperparams import Rule, check_declared, rules
from hyperlax.placeholders import check_places, missing_file, split
from hyperlax.report import Report, is_number, shown

__all__ = ["Command", "Function", "Lanes", "Measure", "Report", "Task"]

Direction = Literal["maximize", "minimize"]
_DIRECTIONS = get_args(Direction)
_TAKEN = ("trial", "seed", "step", "state", "reason")
"""Columns of a study's files, which no measure may be named like."""


@dataclass(frozen=True)
class Measure:
    """A number that a task reports, and an objective of its studies.

    Args:
      name: As in `report(step, name=...)`. Any text without spaces, such as val/accuracy, reported by `**{"val/accuracy": ...}`.
      direction: "maximize" or "minimize".
      low, high: A poor and a good value, between which `normalized_auc` and others measure; None if unknown.
    """

    name: str
    direction: Direction
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        name, where = self.name, f"Measure({self.name!r})"
        if not isinstance(name, str) or not name.isprintable() or not name or any(c in name for c in " ,\"'="):
            raise UsageError(f"{where}: the name must be a text without spaces, commas, quotes and =, as in accuracy.")
        if name in _TAKEN:
            raise UsageError(
                f"{where}: the files of a study have a column of this name. Choose another, e.g. my_{name}."
            )
        if self.direction not in _DIRECTIONS:
            hint = did_you_mean(str(self.direction), _DIRECTIONS, cutoff=0.5)
            raise UsageError(f"{where}: direction is {self.direction!r}. {hint}Use maximize or minimize.")
        for bound in ("low", "high"):
            value = getattr(self, bound)
            if value is not None and (not is_number(value) or not math.isfinite(value)):
                raise UsageError(f"{where}: {bound} is {shown(value)}. Give a finite number, or leave it out.")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise UsageError(f"{where}: low must be less than high, got low={self.low} and high={self.high}.")


class Task:
    """The base of what a recipe can train besides an RL algorithm. A form of task is a frozen dataclass with these fields.

    Args:
      measure: The leading measure. A report without it fails the trial.
      measures: Further measures.
      budget: The last step that a trial reports.
      evaluations: How often it reports; less if it ends early.
      cores: CPU cores of a trial.
      resources: What a trial needs besides cores, by name: `{"gpu": 1}`, or a fraction of one.
      path: The recipe's file, from which it was loaded.

    noun: What it trains, in words. has_programs: Whether its trials are lanes of compiled programs.
    """

    noun: ClassVar[str]
    has_programs: ClassVar[bool] = False

    measure: Measure
    measures: Sequence[Measure]
    budget: int
    evaluations: int
    cores: int
    resources: Mapping[str, float]
    path: Path | None

    def loaded_from(self, path: Path) -> Task:
        """Return the task of a recipe's file."""
        return replace(self, path=path)  # pyright: ignore[reportArgumentType]  (every form is a dataclass)

    def check_params(self, params: Mapping[str, Any], where: str) -> None:
        """Raise UsageError, beginning with `where`, for hyperparameters that do not suit the task."""

    def missing(self) -> str | None:
        """Return what it needs of this machine and does not find, in a sentence and what to do; None if it can run."""
        return None

    def source(self) -> dict[str, Any] | None:
        """Return its form as JSON, from which `from_source` makes the task again; None if only a recipe's file can."""
        return None

    def lengths(self) -> dict[str, Any]:
        """Return the fields that all forms have, as JSON."""
        measure, *measures = (asdict(one) for one in self.all_measures)
        counts = {name: getattr(self, name) for name in ("budget", "evaluations", "cores")}
        return {"measure": measure, "measures": measures, **counts, "resources": dict(self.resources)}

    def check(self) -> None:
        """Raise UsageError for counts, measures or resources that are not valid."""
        form = type(self).__name__
        for name in ("budget", "evaluations", "cores"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{form} needs {name} to be a whole number of at least 1, got {shown(value)}.")
        if self.budget < self.evaluations:
            raise UsageError(
                f"{form} needs at least one step per evaluation, got budget={self.budget} and "
                f"evaluations={self.evaluations}. Raise the first or lower the second."
            )
        self._check_measures()
        self._check_resources()

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Valid values of the hyperparameters that have a rule."""
        return {}

    @property
    def all_measures(self) -> tuple[Measure, ...]:
        """The leading measure, then the others."""
        return (self.measure, *self.measures)

    def _check_measures(self) -> None:
        form = type(self).__name__
        if not isinstance(self.measures, (list, tuple)):
            raise UsageError(f"{form} needs measures to be a list of Measure(...), got {shown(self.measures)}.")
        for measure in self.all_measures:
            if not isinstance(measure, Measure):
                raise UsageError(
                    f'{form} needs a Measure, got {shown(measure)}. Write Measure("accuracy", "maximize").'
                )
        names = [measure.name for measure in self.all_measures]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise UsageError(f"{form} has the measure {twice} twice. Remove one of the two.")

    def _check_resources(self) -> None:
        form = type(self).__name__
        if not isinstance(self.resources, Mapping):
            raise UsageError(f'{form} needs resources by their names, as {{"gpu": 1}}, got {shown(self.resources)}.')
        for name, amount in self.resources.items():
            if not isinstance(name, str) or not is_number(amount) or not 0 < amount < math.inf:
                raise UsageError(f"{form} needs resources above 0, got {shown(name)}: {shown(amount)}.")


@dataclass(frozen=True)
class Function(Task):
    """A Python function that trains one configuration, in a worker process.

    It is called as `train(params, report, seed)`, once per seed of a trial. params: the value of each hyperparameter by its name.
    report: a `Report`. seed: the study's --seed for the first seed of every trial, the next numbers for further ones. A
    confirmation uses others.

    Args, besides those of every task:
      train: The function.
      path: The recipe's file, from which workers load the function. It is set when the recipe is loaded.
      place: Where workers find a function that is not a recipe's, see `hyperlax.functions`.
    """

    noun: ClassVar[str] = "a function"

    train: Callable[[dict[str, Any], Report, int], Any]
    measure: Measure
    measures: Sequence[Measure] = ()
    budget: int = field(kw_only=True)
    evaluations: int = field(kw_only=True)
    cores: int = field(default=1, kw_only=True)
    resources: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    path: Path | None = field(default=None, kw_only=True, compare=False)
    place: str = field(default="", kw_only=True, compare=False)

    def __post_init__(self) -> None:
        _check_callable("Function", "train", self.train, ("params", "report", "seed"))
        self.check()

    def source(self) -> dict[str, Any] | None:
        """Return its form as JSON; None for a recipe's."""
        return {"function": self.place, **self.lengths()} if self.place else None


@dataclass(frozen=True)
class Lanes(Task):
    """A JAX program that trains one configuration. Trials are lanes of one compiled program, side by side.

    The functions are pure, and are called for one seed of one lane. The state is any pytree of arrays; its shapes and types do not
    change. `hypers` has the lane's own values: of a traced field a scalar, of a static one Python's value, of a padded one a
    `hyperlax.algorithms.own.Padded`.

    Args, besides those of every task:
      hypers: An instance of a frozen dataclass with the defaults. Its fields are declared by `traced`, `static` and `padded` of
        `hyperlax.hyperparams`.
      init: `init(key, hypers)` returns the state before training.
      step: `step(state, hypers, key)` returns the state after one more of `budget` steps.
      evaluate: `evaluate(state, hypers, key)` returns the value of every measure by its name. Its key is the same for all trials,
        at every evaluation.
      path: The recipe's file. It is set when the recipe is loaded.
    """

    noun: ClassVar[str] = "a JAX program"
    has_programs: ClassVar[bool] = True

    hypers: Any
    init: Callable[[Any, Any], Any] = field(kw_only=True)
    step: Callable[[Any, Any, Any], Any] = field(kw_only=True)
    evaluate: Callable[[Any, Any, Any], Any] = field(kw_only=True)
    measure: Measure = field(kw_only=True)
    measures: Sequence[Measure] = field(default=(), kw_only=True)
    budget: int = field(kw_only=True)
    evaluations: int = field(kw_only=True)
    cores: int = field(default=1, init=False)
    resources: Mapping[str, float] = field(default_factory=dict, init=False)
    path: Path = field(default=Path("Lanes"), kw_only=True, compare=False)

    def __post_init__(self) -> None:
        check_declared(self.hypers)
        _check_callable("Lanes", "init", self.init, ("key", "hypers"))
        _check_callable("Lanes", "step", self.step, ("state", "hypers", "key"))
        _check_callable("Lanes", "evaluate", self.evaluate, ("state", "hypers", "key"))
        self.check()

    @property
    def defaults(self) -> dict[str, Any]:
        """Default of each field, by its name. A whole number of a field that is annotated as float is a float."""
        floats = [f.name for f in fields(self.hypers) if f.type in ("float", float)]
        values = {f.name: getattr(self.hypers, f.name) for f in fields(self.hypers)}
        return {
            n: float(v) if n in floats and isinstance(v, int) and not isinstance(v, bool) else v
            for n, v in values.items()
        }

    @property
    def rules(self) -> dict[str, Rule]:
        """Kind and valid values of each field."""
        return rules(type(self.hypers))


@dataclass(frozen=True)
class Command(Task):
    """A command that trains one configuration, in a process group of its own. No shell runs.

    It is run once per seed of a trial. Its environment has HYPERLAX_TRIAL, HYPERLAX_SEED and HYPERLAX_DIRECTORY, where it may keep
    files. It says what it reached by lines such as `hyperlax: step=3 accuracy=0.91` on standard output.

    Args, besides those of every task:
      command: A text, which is split as a shell would, or a list of words. `{lr}` in a word is replaced by the value of this
        hyperparameter; the others are appended as `name=value`.
      directory: Where it runs; None for the working directory.
    """

    noun: ClassVar[str] = "a command"

    command: str | Sequence[str]
    measure: Measure
    measures: Sequence[Measure] = ()
    budget: int = field(default=1, kw_only=True)
    evaluations: int = field(default=1, kw_only=True)
    cores: int = field(default=1, kw_only=True)
    resources: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    directory: str | None = field(default=None, kw_only=True)
    path: Path | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", split(self.command))
        self.check()

    def check_params(self, params: Mapping[str, Any], where: str) -> None:
        """Raise UsageError for a `{name}` in the command without a hyperparameter of this name."""
        check_places(self.command, params, where)

    def missing(self) -> str | None:
        """Return the program or the script that does not exist, or cannot be run."""
        return missing_file(self.command, self.directory)

    def source(self) -> dict[str, Any]:
        """Return its form as JSON."""
        return {"command": list(self.command), "directory": self.directory, **self.lengths()}


def from_source(source: Mapping[str, Any], function: Placed | None = None) -> Task:
    """Return the task whose `source()` this is. Raises UsageError, KeyError or TypeError for anything else.

    function: that of the source if it has one and is loaded already.
    """
    lengths = {name: source[name] for name in ("budget", "evaluations", "cores", "resources")}
    measure, *measures = (Measure(**one) for one in (source["measure"], *source["measures"]))
    if "function" in source:
        function = function or load(source["function"])
        return Function(function.call, measure, tuple(measures), place=function.place, **lengths)
    return Command(source["command"], measure, tuple(measures), directory=source["directory"], **lengths)


def _check_callable(form: str, role: str, function: Any, arguments: tuple[str, ...]) -> None:
    """Raise UsageError unless a function can be called with these arguments."""
    wanted = f"{role}({', '.join(arguments)})"
    if not callable(function):
        raise UsageError(f"{form} needs a function, got {shown(function)}. Write def {wanted}: ...")
    if not accepts(function, len(arguments)):
        name, numbers = getattr(function, "__name__", role), {2: "two", 3: "three"}
        raise UsageError(
            f"{form} calls {name}({', '.join(arguments)}), but it takes {inspect.signature(function)}. "
            f"Give it these {numbers[len(arguments)]}."
        )
