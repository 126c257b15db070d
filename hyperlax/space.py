"""Distributions that a recipe can give to a hyperparameter. Each checks its arguments at construction.

>>> LogUniform(domain=(1e-4, 1e-2)).contains(1e-3)
True
>>> Categorical(values=[[64, 64], [128]]).size()
2
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from hyperlax.errors import SpelledError, UsageError
from hyperlax.files import plain

_IN_RECIPE = {
    "fixed": "set it in get_base_config() or get_base_params() and drop the entry",
    "booleans": "Categorical(values=[False, True])",
}


def _in_recipe(name: str) -> str:
    """Return a recipe's spelling of a name in a `DistributionError`; `Kind()` stands for a call."""
    if name in _IN_RECIPE:
        return _IN_RECIPE[name]
    kind, is_call, _ = name.partition("()")
    arguments = "values=[...]" if kind == "Categorical" else "domain=(low, high)"
    return f"{kind}({arguments})" if is_call else kind


class DistributionError(SpelledError, UsageError):
    """An invalid distribution. Its text uses the spelling of a recipe."""

    def __init__(self, problem: str, *values: object):
        super().__init__(_in_recipe, problem, *values)


@dataclass(frozen=True)
class Numeric:
    """A distribution between the two bounds of `domain`, both included; they are integers for the discrete distributions."""

    domain: tuple[float, float]

    integral: ClassVar[bool] = False
    logarithmic: ClassVar[bool] = False
    _step_name: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        name = type(self).__name__
        low, high = map(plain, _pair(name, self.domain))
        kind = int if self.integral else float
        for end, bound in (("low", low), ("high", high)):
            _check_bound(name, end, bound, self.integral)
        found = f"got low={low}, high={high}"
        if not low < high:
            rule = "0 < low < high" if self.logarithmic else "low < high"
            hint = "To fix the value instead, {fixed}." if low == high else "Swap the two."
            raise DistributionError(f"{{{name}}} needs {rule}, {found}. {hint}")
        if self.logarithmic and low <= 0:
            linear = "UniformDiscrete" if self.integral else "UniformContinuous"
            raise DistributionError(
                f"{{{name}}} needs 0 < low < high, {found}. For a range that touches zero, use {{{linear}}}."
            )
        object.__setattr__(self, "domain", (kind(low), kind(high)))

    def contains(self, value: Any) -> bool:
        """Return whether the distribution can produce this value; True and False are not numbers."""
        if not (is_integer(value) if self.integral else _is_number(value)):
            return False
        return self.domain[0] <= value <= self.domain[1]

    def middle(self) -> Any:
        """Return the value in the middle of the range, on a logarithmic scale if it has one."""
        low, high = self.domain
        middle = math.sqrt(low) * math.sqrt(high) if self.logarithmic else low / 2 + high / 2
        return min(max(middle, low), high) if self.spacing() is None else self.at(self.place(middle))

    def spacing(self) -> float | None:
        """Return the distance between values; None if there is none."""
        return 1 if self.integral else None

    def size(self) -> int | None:
        """Return the number of values; None if there are infinitely many."""
        spacing = self.spacing()
        return None if spacing is None else round((self.domain[1] - self.domain[0]) / spacing) + 1

    def place(self, value: Any) -> int:
        """Return the index of a value of a finite distribution."""
        return round((value - self.domain[0]) / (self.spacing() or 1))

    def at(self, place: int) -> Any:
        """Return the value of a finite distribution at an index."""
        step = self.spacing() or 1
        if self.integral:
            return int(self.domain[0]) + place * int(step)
        return float(Decimal(str(self.domain[0])) + place * Decimal(str(step)))

    def _check_reached(self) -> None:
        """Raise DistributionError unless the upper bound is one of the steps from the lower one."""
        exact: Any = int if self.integral else lambda x: Decimal(str(x))
        low, high, step = map(exact, (*self.domain, self.spacing()))
        steps, rest = divmod(high - low, step)
        if rest:
            reached = low + steps * step
            raise DistributionError(
                f"{{{type(self).__name__}}} needs high - low to be a multiple of {self._step_name}, got low={self.domain[0]}, "
                f"high={self.domain[1]}, {self._step_name}={self.spacing()}. The nearest high that works: {reached + step}"
                f"{f' or {reached}' if steps else ''}."
            )

    def to_json(self) -> dict[str, Any]:
        """Return `{"type": ..., ...}` with the recipe's arguments; `from_json` reads it."""
        return {"type": type(self).__name__, "domain": list(self.domain)}


@dataclass(frozen=True)
class UniformContinuous(Numeric):
    """Any float between the bounds."""


@dataclass(frozen=True)
class LogUniform(Numeric):
    """Any float between the bounds, its logarithm uniform: for values that span orders of magnitude. The bounds are positive."""

    logarithmic = True


@dataclass(frozen=True)
class UniformDiscrete(Numeric):
    """The integers low, low + step, low + 2 step, ..., high. step divides the range, so that high is one of them."""

    integral = True

    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        step = plain(self.step)
        if not _is_whole(step) or step < 1:
            raise DistributionError(
                "{UniformDiscrete} needs a whole number of at least 1 as its step, got step={0!r}.", step
            )
        object.__setattr__(self, "step", int(step))
        self._check_reached()

    def spacing(self) -> float | None:
        return self.step

    def contains(self, value: Any) -> bool:
        return super().contains(value) and (value - self.domain[0]) % self.step == 0

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), **({} if self.step == 1 else {"step": self.step})}


@dataclass(frozen=True)
class LogUniformDiscrete(Numeric):
    """Any integer from low to high, both included, its logarithm uniform. The bounds are positive."""

    integral = True
    logarithmic = True


_MOST_STEPS = 1e12
"""Steps of a grid: more are too fine for float64, which has 16 digits."""


@dataclass(frozen=True)
class QUniform(Numeric):
    """The floats low, low + q, low + 2 q, ..., high. q divides the range, so that high is one of them."""

    q: float

    _step_name = "q"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.domain
        object.__setattr__(self, "q", plain(self.q))
        if not _is_number(self.q) or not self.q > 0:
            problem = "{QUniform} needs a step q > 0, got q={0!r}. For a range without steps, use {UniformContinuous}."
            raise DistributionError(problem, self.q)
        object.__setattr__(self, "q", float(self.q))
        if (high - low) / self.q > _MOST_STEPS:
            raise DistributionError(
                f"{{QUniform}} needs steps that a float can tell apart, got low={low}, high={high}, q={self.q}. "
                "For so fine a grid, use {UniformContinuous}."
            )
        self._check_reached()

    def contains(self, value: Any) -> bool:
        if not super().contains(value):
            return False
        steps = (value - self.domain[0]) / self.q
        return abs(steps - round(steps)) < 1e-8

    def spacing(self) -> float | None:
        return self.q

    def in_whole_numbers(self) -> UniformDiscrete | None:
        """Return the same values as integers; None if any has a fraction."""
        low, high = self.domain
        if not all(map(_is_whole, (low, high, self.q))):
            return None
        return UniformDiscrete(domain=(int(low), int(high)), step=int(self.q))

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "q": self.q}


@dataclass(frozen=True)
class Categorical:
    """One of the values, unordered. A value is a number, a string, a bool or a list of those; tuples are kept as lists.

    It has the methods of `Numeric`.

    A single value is allowed: it fixes the field and shows in every table.
    """

    values: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", plain(self.values))
        if isinstance(self.values, str) or not isinstance(self.values, Sequence):
            raise DistributionError(
                "{Categorical} needs a list of values, got {0!r}. Write {Categorical()}.", self.values
            )
        if not self.values:
            raise DistributionError(
                "{Categorical} needs at least one value, got an empty list. Name the choices, or drop the entry."
            )
        seen: dict[Any, Any] = {}
        for value in self.values:
            key = _identity(value)
            if key in seen:
                problem = "{Categorical} needs different values, got {0!r} and {1!r}, which are the same choice. "
                raise DistributionError(f"{problem}Drop one of the two.", seen[key], value)
            seen[key] = value
        object.__setattr__(self, "values", tuple(plain(value) for value in self.values))

    def contains(self, value: Any) -> bool:
        try:
            self.place(value)
        except ValueError:
            return False
        return True

    def place(self, value: Any) -> int:
        """Return the index of a value among the choices. Raise ValueError if it is not one of them."""
        return [_identity(choice) for choice in self.values].index(_identity(value))

    def at(self, place: int) -> Any:
        return self.values[place]

    def middle(self) -> Any:
        """Return the first choice."""
        return self.values[0]

    def size(self) -> int:
        return len(self.values)

    def to_json(self) -> dict[str, Any]:
        return {"type": "Categorical", "values": [plain(value) for value in self.values]}


Distribution = Numeric | Categorical
"""The values of a searched hyperparameter."""
DISTRIBUTIONS: dict[str, type[Distribution]] = {
    kind.__name__: kind
    for kind in (LogUniform, UniformContinuous, UniformDiscrete, LogUniformDiscrete, QUniform, Categorical)
}


def from_json(text: dict[str, Any]) -> Distribution:
    """Return the distribution that `to_json` wrote. Raise UsageError for anything else."""
    arguments = dict(text)
    kind = arguments.pop("type", None)
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        raise UsageError(f"No distribution named {kind!r}. There are {', '.join(DISTRIBUTIONS)}.")
    try:
        return DISTRIBUTIONS[kind](**arguments)
    except UsageError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{kind} cannot be made of {arguments}: {error}.") from error


def _pair(name: str, domain: Any) -> tuple[Any, Any]:
    if not isinstance(domain, (tuple, list)) or len(domain) != 2:
        raise DistributionError(f"{{{name}}} needs a domain of two numbers, got {{0!r}}. Write {{{name}()}}.", domain)
    return domain[0], domain[1]


def _check_bound(name: str, end: str, bound: Any, integral: bool) -> None:
    if not _is_number(bound):
        problem = f"{{{name}}} needs finite numbers as bounds, got {end}={{0!r}}. Write {{{name}()}}."
        raise DistributionError(problem, bound)
    if integral and not _is_whole(bound):
        other = "LogUniform" if name == "LogUniformDiscrete" else "UniformContinuous"
        problem = f"{{{name}}} needs whole numbers as bounds, got {end}={{0!r}}. For fractions, use {{{other}}}."
        raise DistributionError(problem, bound)


def is_integer(value: Any) -> bool:
    """Return whether a value is an int; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == value // 1


def _is_number(value: Any) -> bool:
    return (is_integer(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


def _identity(value: Any) -> Any:
    """Return a hashable key, equal for choices that mean the same ([64, 64] and (64, 64), 1 and 1.0, not 1 and True)."""
    if isinstance(value, (list, tuple)):
        return ("list", *(_identity(item) for item in value))
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return ("str", value)
    if _is_number(value):
        return ("number", value)
    raise DistributionError(
        "{Categorical} needs numbers, strings, bools or lists of those as values, got {0!r}. "
        "Leave it out, or write it as one of them.",
        value,
    )
