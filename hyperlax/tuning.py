"""The recipe of a function that `hyperlax.tune` is given, from what it is given with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

from hyperlax.config.own_recipes import recipe_of
from hyperlax.config.space_entries import entries_of
from hyperlax.config.stored import RESUMED, load_recipe_of, named_directory, read_stored
from hyperlax.errors import UsageError
from hyperlax.functions import OneReport, Placed, accepts, file_of, name_of
from hyperlax.recipe import Recipe
from hyperlax.report import is_number, scalar, shown
from hyperlax.space import Distribution
from hyperlax.tasks import Function, Measure

_MODES = {"max": "maximize", "min": "minimize", "maximize": "maximize", "minimize": "minimize"}
_WHERE = "tune()"


@dataclass(frozen=True)
class Tuning:
    """The arguments of `hyperlax.tune` that make a recipe; None and () if not given."""

    space: Mapping[str, Any] | None
    metric: str | Measure | None
    mode: str
    measures: Mapping[str, str] | Sequence[Measure]
    params: Mapping[str, Any] | None
    budget: int | None
    evaluations: int | None
    resources: Mapping[str, float] | None

    def recipe(self, function: Placed, resumed: str | None) -> Recipe:
        """Return the recipe of a function. resumed: the directory of a study that continues; its recipe, if no space is given.

        Raises UsageError.
        """
        if resumed is None or self.space is not None:
            return self._new(function)
        given = [f.name for f in fields(self) if f.name not in ("space", "mode") and getattr(self, f.name)]
        if given:
            raise _refusal(f"{given[0]} is given without space. To continue a study, give both again, or neither")
        directory = named_directory(resumed, RESUMED)
        return load_recipe_of(directory, read_stored(directory, RESUMED), function)

    def _new(self, function: Placed) -> Recipe:
        fixed, searched = self._space()
        params = fixed | self._named("params", {} if self.params is None else self.params, '{"lr": 0.01}')
        values = {name: scalar(value) for name, value in params.items()}
        entries, path = entries_of(searched, f"{_WHERE}: space"), file_of(function.place)
        return recipe_of(self._task(function), name_of(function.call), path, values, entries, _WHERE)

    def _space(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the values that are fixed, and the entries of what is searched."""
        fixed, searched = {}, {}
        for name, value in self._named("space", self.space, '{"lr": LogUniform(domain=(1e-4, 1e-1))}').items():
            if isinstance(value, (Distribution, Mapping, list, tuple, range)) or getattr(value, "shape", ()):
                searched[name] = value
            elif isinstance(scalar(value), (bool, int, float, str)):
                fixed[name] = value
            else:
                raise _refusal(
                    f"space[{name!r}] needs a distribution of hyperlax.space, a list of choices, or a number, a text, True or False "
                    f"that is fixed, got {shown(value)}"
                )
        if not searched:
            raise _refusal("space has nothing to search. Give a hyperparameter a distribution, or a list of choices")
        return fixed, searched

    def _task(self, function: Placed) -> Function:
        cores, resources = self._cores()
        more = {"cores": cores, "resources": resources, "place": function.place, **self._length(function)}
        measures = self._measures()
        try:
            return Function(function.call, self._measure(), measures, **more)
        except UsageError as error:
            raise error if str(error).startswith(_WHERE) else UsageError(f"{_WHERE}: {error}") from error

    def _measure(self) -> Measure:
        if self.metric is None:
            raise _refusal('metric is required: the measure to optimize, e.g. metric="accuracy"')
        return self.metric if isinstance(self.metric, Measure) else Measure(self.metric, _direction("mode", self.mode))

    def _measures(self) -> tuple[Measure, ...]:
        if isinstance(self.measures, Mapping):
            return tuple(Measure(name, _direction(f"measures[{name!r}]", mode)) for name, mode in self.measures.items())
        if not isinstance(self.measures, (list, tuple)) or not all(isinstance(one, Measure) for one in self.measures):
            raise _refusal(
                f'measures needs further measures and their better directions, e.g. {{"loss": "min"}}, got {shown(self.measures)}'
            )
        return tuple(self.measures)

    def _length(self, function: Placed) -> dict[str, int]:
        name = name_of(function.call)
        if isinstance(function.call, OneReport):
            if self.budget or self.evaluations:
                raise _refusal(
                    f"{name}(params) returns its only result, so it has no budget and evaluations. Leave them out"
                )
            return {"budget": 1, "evaluations": 1}
        if self.budget is None:
            raise _refusal(
                f"{name} reports, so give budget=, the last step that it reports, and evaluations=, how often it reports if that is "
                "not at every step from 1 on"
            )
        return {"budget": self.budget, "evaluations": self.budget if self.evaluations is None else self.evaluations}

    def _cores(self) -> tuple[int, dict[str, float]]:
        """Return the cores of a trial and its other resources."""
        resources = dict(self._named("resources", self.resources or {}, '{"cpu": 2}'))
        cores = scalar(resources.pop("cpu", 1))
        if not is_number(cores) or cores < 1 or cores != cores // 1:
            raise _refusal(f"resources needs a whole number of cpu of at least 1, got {shown(cores)}")
        return int(cores), {name: scalar(amount) for name, amount in resources.items()}

    def _named(self, argument: str, value: Any, example: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            found = "nothing" if value is None else shown(value)
            raise _refusal(f"{argument} needs a dictionary, e.g. {example}, got {found}")
        return value


def check_function(function: Any) -> None:
    """Raise UsageError for what cannot be tuned."""
    example = "def train(params): ..., or def train(params, report, seed): ..."
    if not callable(function):
        raise _refusal(f"needs a function, got {shown(function)}. Write {example}")
    if not accepts(function, 3) and not accepts(function, 1):
        raise _refusal(f"{name_of(function)} takes {signature(function)}. Write {example}")


def _direction(argument: str, mode: Any) -> str:
    if not isinstance(mode, str) or mode not in _MODES:
        raise _refusal(f"{argument} needs max or min, got {shown(mode)}")
    return _MODES[mode]


def _refusal(problem: str) -> UsageError:
    return UsageError(f"{_WHERE}: {problem}.")
