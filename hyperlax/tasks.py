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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

from hyperlax.errors import UsageError, did_you_mean

__all__ = ["Function", "Measure", "Report"]

DIRECTIONS = ("maximize", "minimize")
_TAKEN = ("trial", "seed", "step", "state", "reason")
"""Columns of a study's files, which no measure may be named like."""
_LONGEST = 60
"""Characters of a user's value that are shown."""


@dataclass(frozen=True)
class Measure:
    """A number that a task reports, and an objective of its studies.

    Args:
      name: As in `report(step, name=...)`. Any text without spaces, such as val/accuracy, reported by `**{"val/accuracy": ...}`.
      direction: "maximize" or "minimize".
      low, high: A poor and a good value, between which `normalized_auc` and others measure; None if unknown.
    """

    name: str
    direction: str
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
        if self.direction not in DIRECTIONS:
            hint = did_you_mean(str(self.direction), DIRECTIONS, cutoff=0.5)
            raise UsageError(f"{where}: direction is {self.direction!r}. {hint}Use maximize or minimize.")
        for bound in ("low", "high"):
            value = getattr(self, bound)
            if value is not None and (not _is_number(value) or not math.isfinite(value)):
                raise UsageError(f"{where}: {bound} is {_shown(value)}. Give a finite number, or leave it out.")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise UsageError(f"{where}: low must be less than high, got low={self.low} and high={self.high}.")


@dataclass(frozen=True)
class Function:
    """A Python function that trains one configuration, in a worker process.

    It is called as `train(params, report, seed)`, once per seed of a trial. params: the value of each hyperparameter by its name.
    report: a `Report`. seed: the study's --seed for the first seed of every trial, the next numbers for further ones. A
    confirmation uses others.

    Args:
      train: The function.
      measure: The leading measure. A report without it fails the trial.
      measures: Further measures.
      budget: The last step that it reports.
      evaluations: How often it reports; less if it ends early.
      cores: CPU cores of a trial.
      resources: What a trial needs besides cores, by name: `{"gpu": 1}`, or a fraction of one.
      path: The recipe's file, from which workers load the function. It is set when the recipe is loaded.
    """

    train: Callable[[dict[str, Any], Report, int], Any]
    measure: Measure
    measures: Sequence[Measure] = ()
    budget: int = field(kw_only=True)
    evaluations: int = field(kw_only=True)
    cores: int = field(default=1, kw_only=True)
    resources: Mapping[str, float] = field(default_factory=dict, kw_only=True)
    path: Path | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        _check_callable(self.train)
        for name in ("budget", "evaluations", "cores"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"Function needs {name} to be a whole number of at least 1, got {_shown(value)}.")
        if self.budget < self.evaluations:
            raise UsageError(
                f"Function needs at least one step per evaluation, got budget={self.budget} and "
                f"evaluations={self.evaluations}. Raise the first or lower the second."
            )
        self._check_measures()
        self._check_resources()

    @property
    def all_measures(self) -> tuple[Measure, ...]:
        """The leading measure, then the others."""
        return (self.measure, *self.measures)

    def _check_measures(self) -> None:
        if not isinstance(self.measures, (list, tuple)):
            raise UsageError(f"Function needs measures to be a list of Measure(...), got {_shown(self.measures)}.")
        for measure in self.all_measures:
            if not isinstance(measure, Measure):
                raise UsageError(
                    f'Function needs a Measure, got {_shown(measure)}. Write Measure("accuracy", "maximize").'
                )
        names = [measure.name for measure in self.all_measures]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise UsageError(f"Function has the measure {twice} twice. Remove one of the two.")

    def _check_resources(self) -> None:
        if not isinstance(self.resources, Mapping):
            raise UsageError(f'Function needs resources by their names, as {{"gpu": 1}}, got {_shown(self.resources)}.')
        for name, amount in self.resources.items():
            if not isinstance(name, str) or not _is_number(amount) or not 0 < amount < math.inf:
                raise UsageError(f"Function needs resources above 0, got {_shown(name)}: {_shown(amount)}.")


class TrialEnded(BaseException):
    """The end of a trial inside its function. `except Exception` does not catch it, `finally` and `with` see it."""


class Report:
    """What a function calls to report its measures: `report(step, accuracy=0.9)`.

    A trial that is pruned or interrupted ends inside of this call, by an exception that passes `except Exception`.
    """

    def __init__(
        self,
        measures: Sequence[str],
        budget: int,
        evaluations: int,
        directory: Path,
        deliver: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    ):
        """Make a report. measures: names, the leading one first. deliver: gets the step and the values of every sound report."""
        self._measures, self._budget, self._evaluations = tuple(measures), budget, evaluations
        self._directory, self._deliver = directory, deliver
        self._count, self._last = 0, -1
        self.ended: TrialEnded | None = None
        self.fault: str | None = None

    @property
    def directory(self) -> Path:
        """The directory where this seed of the trial may keep files, such as checkpoints.

        It stays as it is if the trial is interrupted and starts again, and when it has ended. Reports from before an interruption
        count: a trial need not report again what it does not train again.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    @property
    def step(self) -> int:
        """The last sound step; -1 before the first."""
        return self._last

    def __call__(self, step: SupportsIndex | float, **values: Any) -> None:
        """Report the measures that were reached at a step. Steps increase."""
        if self.ended is not None:
            raise self.ended
        try:
            self.fault = self._problem_of_step(step) or self._problem_of(values)
            if self.fault:
                raise TrialEnded(self.fault)
            self._count, self._last = self._count + 1, int(_scalar(step))
            self._deliver(self._last, {name: float(_scalar(value)) for name, value in values.items()})
        except TrialEnded as error:
            self.ended = error
            raise

    def _problem_of_step(self, step: Any) -> str | None:
        whole = _scalar(step)
        if not _is_number(whole) or whole != whole // 1 or whole < 0:
            return f"the step {_shown(step)} is not a whole number of at least 0"
        if whole <= self._last:
            return f"step {_shown(step)} was reported after step {self._last}; steps must increase"
        if whole > self._budget:
            return f"step {_shown(step)} was reported, the task's budget is {self._budget}; raise budget="
        if self._count == self._evaluations:
            return f"more reports than the task's evaluations={self._evaluations}; raise it, or report less often"
        return None

    def _problem_of(self, values: Mapping[str, Any]) -> str | None:
        known = ", ".join(self._measures)
        for name, value in values.items():
            if name not in self._measures:
                hint = did_you_mean(name, self._measures)
                return f"no measure named `{name}`. {hint}The task declares {known}"
            number = _scalar(value)
            if not _is_number(number) or not math.isfinite(_float(number)):
                return f"{name} is {_shown(value)}; report a finite number"
        leading = self._measures[0]
        return None if leading in values else f"a report without {leading}, the leading measure"


def _check_callable(train: Any) -> None:
    if not callable(train):
        raise UsageError(f"Function needs a function, got {_shown(train)}. Write def train(params, report, seed): ...")
    try:
        signature = inspect.signature(train)
    except (TypeError, ValueError):
        return
    try:
        signature.bind({}, None, 0)
    except TypeError:
        name = getattr(train, "__name__", "train")
        raise UsageError(
            f"Function calls {name}(params, report, seed), but it takes {signature}. Give it these three."
        ) from None


def _scalar(value: Any) -> Any:
    """Return a number of numpy, jax or torch as Python's; anything else unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(number: float) -> float:
    """Return a number as a float; infinity for whole numbers that no float holds."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    """Return a value in a few words."""
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {tuple(shape)}"
    try:
        value = _scalar(value)
        text = str(value) if isinstance(value, (int, float)) else " ".join(repr(value).split())
    except Exception:
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
