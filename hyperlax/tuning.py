"""The recipe of a function that `hyperlax.tune` is given, from what it is given with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any

from hyperlax.config.option import Given
from hyperlax.config.own_recipes import DIRECTION_OF, measures_for, recipe_of
from hyperlax.config.space_entries import entries_of
from hyperlax.config.stored import RESUMED, load_again, named_directory
from hyperlax.errors import OptionError, UsageError
from hyperlax.functions import OneReport, Placed, accepts, file_of, name_of
from hyperlax.recipe import Recipe
from hyperlax.report import is_number, scalar, shown
from hyperlax.tasks import Function, Measure

_WHERE = "tune()"


@dataclass(frozen=True)
class Tuning:
    """The arguments of `hyperlax.tune` that make a recipe; None if not given."""

    space: Mapping[str, Any] | None
    metric: str | Measure | Sequence[str | Measure] | None
    mode: str | Sequence[str] | None
    params: Mapping[str, Any] | None
    budget: int | None
    evaluations: int | None
    resources: Mapping[str, float] | None

    def recipe(self, function: Placed, given: Given) -> Recipe:
        """Return the recipe of a function, for a study that continues its own one if no space is given. given: options.

        Raises UsageError.
        """
        if "resume_from" not in given or self.space is not None:
            return self._new(function, given.get("study_name") or name_of(function.call))
        others = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if others:
            raise _refusal(f"{others[0]} is given without space. To continue a study, give both again, or neither")
        return load_again(named_directory(given["resume_from"], RESUMED), function)

    def _new(self, function: Placed, name: str) -> Recipe:
        fixed, searched = self._space()
        params = _named("params", {} if self.params is None else self.params, '{"lr": 0.01}')
        values = {name: scalar(value) for name, value in {**fixed, **params}.items()}
        entries = entries_of(searched, f"{_WHERE}: space")
        return recipe_of(self._task(function), name, file_of(function.place), values, entries, _WHERE)

    def _space(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the values that are fixed, and the entries of what is searched."""
        fixed, searched = {}, {}
        for name, value in _named("space", self.space, '{"lr": LogUniform(domain=(1e-4, 1e-1))}').items():
            is_fixed = isinstance(scalar(value), (bool, int, float, str))
            (fixed if is_fixed else searched)[name] = value
        if not searched:
            raise _refusal("space has nothing to search. Give a hyperparameter a distribution, or a list of choices")
        return fixed, searched

    def _task(self, function: Placed) -> Function:
        cores, resources = self._cores()
        more: dict[str, Any] = {
            "cores": cores,
            "resources": resources,
            "place": function.place,
            **self._length(function),
        }
        try:
            measure, *measures = self._measures()
            return Function(function.call, measure, tuple(measures), **more)
        except OptionError:
            raise
        except UsageError as error:
            raise UsageError(f"{_WHERE}: {error}") from error

    def _measures(self) -> list[Measure]:
        """Return what the function reaches, the leading one first."""
        metrics, modes = ([] if one is None else _several(one) for one in (self.metric, self.mode))
        if not metrics or not all(isinstance(one, (str, Measure)) for one in metrics):
            found = "" if self.metric is None else f", got {shown(self.metric)}"
            raise UsageError(f'metric needs the name of what is optimized, e.g. "accuracy"{found}.')
        if wrong := next((mode for mode in modes if mode not in DIRECTION_OF), None):
            raise UsageError(f"mode needs max or min, got {shown(wrong)}.")
        return measures_for(metrics, modes)

    def _length(self, function: Placed) -> dict[str, int]:
        name = name_of(function.call)
        if isinstance(function.call, OneReport):
            if self.budget or self.evaluations:
                raise _refusal(
                    f"{name}(params) returns its only result, so it has no budget and evaluations. Leave them out"
                )
            return {"budget": 1, "evaluations": 1}
        if self.budget is None:
            if self.evaluations:
                raise _refusal("evaluations is given without budget, the last step that is reported. Give both")
            return {"budget": 1, "evaluations": 1}
        return {"budget": self.budget, "evaluations": self.budget if self.evaluations is None else self.evaluations}

    def _cores(self) -> tuple[int, dict[str, float]]:
        """Return the cores of a trial and its other resources."""
        resources = dict(_named("resources", {} if self.resources is None else self.resources, '{"cpu": 2}'))
        cores = scalar(resources.pop("cpu", 1))
        if not is_number(cores) or cores < 1 or cores != cores // 1:
            raise _refusal(f"resources needs a whole number of cpu of at least 1, got {shown(cores)}")
        return int(cores), {name: scalar(amount) for name, amount in resources.items()}


def check_function(function: Any) -> None:
    """Raise UsageError for what cannot be tuned."""
    example = "Write def train(params): ..., or def train(params, report, seed): ..."
    if not callable(function):
        raise UsageError(f"{_WHERE}: needs a function, got {shown(function)}. {example}")
    if not accepts(function, 3) and not accepts(function, 1):
        raise UsageError(f"{_WHERE}: {name_of(function)} takes {signature(function)}. {example}")


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _named(argument: str, value: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        found = "nothing" if value is None else shown(value)
        raise _refusal(f"{argument} needs a dictionary, e.g. {example}, got {found}")
    if wrong := [name for name in value if not isinstance(name, str)]:
        raise _refusal(f"{argument} needs names that are texts, e.g. {example}, got the name {shown(wrong[0])}")
    return value


def _refusal(problem: str) -> UsageError:
    return UsageError(f"{_WHERE}: {problem}.")
