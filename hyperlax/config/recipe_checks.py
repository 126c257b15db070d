"""Checks that options suit an RL algorithm: that something can be learnt, and that every objective can vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperlax.config.options import PbtOptions, SearchOptions, SingleOptions
from hyperlax.errors import OptionError, counted
from hyperlax.fields import HYPERPARAM, dotted, extremes
from hyperlax.hyperparams import AlgorithmConfig, Config, of_algorithm
from hyperlax.metrics import Conditions, check_varying
from hyperlax.recipe import Recipe
from hyperlax.shipped import shipped_folder
from hyperlax.space import Distribution

_COUNTED = ("layer_sizes", "use_layer_norm")
"""The fields of a torso that decide how many parameters it has."""


class BudgetError(OptionError):
    """A budget that is too small for hyperparameters. names: their dotted names."""

    def __init__(self, names: tuple[str, ...], problem: str, *values: object):
        self.names = names
        super().__init__("total_timesteps", problem, *values)


def check_study(options: SearchOptions | PbtOptions, recipe: Recipe, rows: Sequence[Config] | None) -> None:
    """Raise OptionError if trials of the search space cannot learn, or if an objective is the same for all of them.

    rows: the configurations of a sweep, which trains no others.
    """
    base = of_algorithm(recipe.config.algorithm)
    if rows is None:
        is_elsewhere = any(name.startswith(HYPERPARAM) for name in recipe.changes)
        check_learns(options, base, recipe.space, "" if is_elsewhere else _place_to_edit(recipe))
    for number, row in enumerate(rows or ()):
        check_learns(options, of_algorithm(row), {}, f"configuration {number} of the sweep")
    if options.confirm_top:  # the default configuration is confirmed, too
        check_learns(options, base, {}, _place_to_edit(recipe))
    if isinstance(options, SearchOptions):
        prefix = f"algorithm.network.{base.policy_network}.pre_torso."
        sized = [recipe.space[prefix + name] for name in _COUNTED if prefix + name in recipe.space]
        is_sized = any(distribution.size() != 1 for distribution in sized)
        check_varying(options.objective_names, Conditions(options.num_seeds, options.num_evaluations, is_sized))


def _place_to_edit(recipe: Recipe) -> str:
    """Return where the recipe's values can be changed: its file, or a copy of it if it is one of those installed."""
    path = recipe.path.resolve()
    if not path.is_relative_to(shipped_folder("recipes").resolve()) or path.is_relative_to(Path.cwd()):
        return str(recipe.path)
    return f"a copy of the recipe (hyperlax recipes copy {recipe.name})"


def check_learns(
    options: SearchOptions | PbtOptions | SingleOptions,
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    where: str = "",
) -> None:
    """Raise BudgetError if the budget ends before the first update of any configuration of the space.

    Before it pass a whole rollout, and the algorithm's warm-up in each environment. where: the origin of `base`, "" if the user
    has given its values.
    """
    budget, of = options.total_timesteps, _Largest(base, space)
    envs, rollout = of["total_num_envs"], of["rollout_length"]
    rest = "Raise {total_timesteps} to at least {4}"
    least = max(envs * rollout, envs * rollout * (options.num_evaluations - 1) + 1)
    if base.warm_up and of[base.warm_up]:
        least = max(least, envs * of[base.warm_up] + 1)
    in_place = f" in {where}" if where else ""
    if budget < envs * rollout:
        raise BudgetError(
            (HYPERPARAM + "rollout_length", HYPERPARAM + "total_num_envs"),
            "{total_timesteps} {0}: nothing can be learnt in less than one rollout, which takes {1} x {2} = {3} steps. "
            f"{rest} for {{6}}, or lower one of the two{{5}}.",
            budget,
            of.said("rollout_length"),
            of.said("total_num_envs"),
            envs * rollout,
            least,
            in_place,
            counted(options.num_evaluations, "evaluation"),
        )
    if base.warm_up and 0 < of[base.warm_up] * envs >= budget:
        raise BudgetError(
            (HYPERPARAM + base.warm_up, HYPERPARAM + "total_num_envs"),
            "{total_timesteps} {0}: nothing can be learnt in the warm-up, which takes {1} x {2} = {3} steps. "
            f"{rest}, or lower {{5}} to at most {{6}}{{7}}.",
            budget,
            of.said(base.warm_up),
            of.said("total_num_envs"),
            of[base.warm_up] * envs,
            least,
            HYPERPARAM + base.warm_up,
            (budget - 1) // envs,
            in_place,
        )


class _Largest:
    """The largest values of integer hyperparameters that a space reaches."""

    def __init__(self, base: AlgorithmConfig, space: Mapping[str, Distribution]):
        self._base, self._space = dotted(base), space

    def __getitem__(self, field: str) -> int:
        name = HYPERPARAM + field
        return extremes(self._base[name], self._space.get(name))[1]

    def said(self, field: str) -> str:
        """Return a field and its largest value, in words."""
        return f"{field} ({'up to ' if HYPERPARAM + field in self._space else ''}{self[field]})"
