"""The report of a task: the object that its function calls, with checks of the arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex

from hyperlax.errors import counted, did_you_mean, in_one_line
from hyperlax.files import make_directories

_LONGEST = 60
"""Characters of a user's value that are shown."""


class TrialEnded(BaseException):
    """The end of a trial inside its function. `except Exception` does not catch it, `finally` and `with` see it."""


class Report:
    """The callable with which a function reports its measures: `report(step, accuracy=0.9)`.

    A trial that is pruned or interrupted ends inside of this call, by an exception that passes `except Exception`. Of a task with
    one evaluation only the last report counts, whatever its step, as that of the budget.

    budget: the task's. count: number of reports. keeps_last: whether only the last one counts.
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
        self._measures, self._evaluations = tuple(measures), evaluations
        self._directory, self._deliver = directory, deliver
        self._last = -1
        self._kept: dict[str, Any] | None = None
        self.budget, self.count, self.keeps_last = budget, 0, evaluations == 1
        self.ended: TrialEnded | None = None
        self.fault: str | None = None

    @property
    def directory(self) -> Path:
        """The directory where this seed of the trial may keep files, such as checkpoints.

        It stays as it is if the trial is interrupted and starts again, and when it has ended. Reports from before an interruption
        count: a trial need not report again what it does not train again.
        """
        make_directories(self._directory)
        return self._directory

    @property
    def step(self) -> int:
        """The last step; -1 before the first."""
        return self._last

    @property
    def leading(self) -> str:
        """The name of the leading measure."""
        return self._measures[0]

    def end(self, reason: str, is_fault: bool = False) -> NoReturn:
        """End the trial by an exception. is_fault: whether it has failed, for this reason."""
        self.fault = reason if is_fault else None
        self.ended = TrialEnded(reason)
        raise self.ended

    def __call__(self, step: SupportsIndex | float, **values: Any) -> None:
        """Report the measures that were reached at a step. Steps increase."""
        if self.ended is not None:
            raise self.ended
        if self.keeps_last:
            self._last = int(step) if isinstance(step, (int, float)) and math.isfinite(step) else self._last
            self._kept, self.count = values, self.count + 1
        else:
            self._pass_on(step, values)

    def finish(self) -> None:
        """Report what was reported last, if only that counts."""
        if self._kept is not None:
            self._last, self.count = -1, 0
            self._pass_on(self.budget, self._kept)

    def _pass_on(self, step: Any, values: Mapping[str, Any]) -> None:
        try:
            if problem := self._problem_of_step(step) or self._problem_of(values):
                self.end(problem, is_fault=True)
            self.count, self._last = self.count + 1, int(scalar(step))
            self._deliver(self._last, {name: float(scalar(value)) for name, value in values.items()})
        except TrialEnded as error:
            self.ended = error
            raise

    def _problem_of_step(self, step: Any) -> str | None:
        whole = scalar(step)
        if not is_number(whole) or whole != whole // 1 or whole < 0:
            return f"the step {shown(step)} is not a whole number of at least 0"
        if whole <= self._last:
            return f"step {shown(step)} was reported after step {self._last}; steps must increase"
        if whole > self.budget:
            return f"step {shown(step)} was reported, and the task's budget is {self.budget}; raise the budget"
        if self.count == self._evaluations:
            most = counted(self._evaluations, "evaluation")
            return f"more reports than the task's {most}; raise evaluations, or report less often"
        return None

    def _problem_of(self, values: Mapping[str, Any]) -> str | None:
        known = ", ".join(self._measures)
        for name, value in values.items():
            if name not in self._measures:
                hint = did_you_mean(name, self._measures)
                return f"no measure named `{name}`. {hint}The task declares {known}"
            number = scalar(value)
            if not is_number(number) or not math.isfinite(_float(number)):
                return f"{name} is {shown(value)}; report a finite number"
        leading = self._measures[0]
        return None if leading in values else f"a report without {leading}, the leading measure"


def scalar(value: Any) -> Any:
    """Return a number of numpy, jax or torch as Python's; anything else unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float. True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(number: float) -> float:
    """Return a number as a float; infinity for whole numbers that no float holds."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """Return a value in a few words."""
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {tuple(shape)}"
    try:
        value = scalar(value)
        text = str(value) if isinstance(value, (int, float)) else in_one_line(repr(value))
    except Exception:  # a user's object may raise anything
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
