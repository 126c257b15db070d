"""The kinds of tasks: what differs between an RL algorithm in an environment and a task of a recipe, before and around training.

To add a kind, add its class with the methods of the others. What differs in results is in its `Scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperlax.config.option import PROCESSES_ONLY, options_of
from hyperlax.config.options import PbtOptions, RunOptions, SearchOptions, SingleOptions
from hyperlax.envs import canonical, slug
from hyperlax.envs.catalog import CATALOG
from hyperlax.envs.recipes import check_acts
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.fields import HYPERPARAM, dotted, extremes
from hyperlax.hyperparams import AlgorithmConfig, Config, of_algorithm
from hyperlax.measures import Measures, measures_of
from hyperlax.metrics import OF_RL, check_varying
from hyperlax.recipe import Recipe
from hyperlax.scale import Conditions, MetricTable, Scale
from hyperlax.shipped import shipped_folder
from hyperlax.space import Distribution

_COUNTED = ("layer_sizes", "use_layer_norm")
"""The fields of a torso that decide how many parameters it has."""


class BudgetError(OptionError):
    """A budget that is too small for hyperparameters. names: their dotted names."""

    def __init__(self, names: tuple[str, ...], problem: str, *values: object):
        self.names = names
        super().__init__("total_timesteps", problem, *values)


class _Rl:
    """An RL algorithm in an environment. has_programs: whether trials are lanes of compiled programs. table: their metrics."""

    has_programs = True
    table = OF_RL

    def check_environment(self, given: str | None) -> None:
        """Raise OptionError for an environment that is missing, or one too many."""
        if not given:
            raise OptionError("env_config", "{env_config} is required: an environment such as gymnax.pendulum.")

    def scale(self, environment: str) -> Scale:
        """Return what trials are measured by. Makes the environment, with jax, only if it is not in the catalog."""
        from hyperlax.envs import make

        name = canonical(environment)
        return CATALOG[name].reference if name in CATALOG else make(name).reference

    def check_options(self, options: RunOptions, recipe: Recipe) -> None:
        """Raise UsageError for options that the recipe cannot run with."""
        _check_processes(options, recipe)
        check_acts(recipe, options.env_config)

    def check_study(self, options: SearchOptions | PbtOptions, recipe: Recipe, rows: Sequence[Config] | None) -> None:
        """Raise OptionError for a study whose trials cannot learn, or with an objective that is the same for all of them.

        rows: the configurations of a sweep, which trains no others.
        """
        base = of_algorithm(recipe.config.algorithm)
        if rows is None:
            is_elsewhere = any(name.startswith(HYPERPARAM) for name in recipe.changes)
            _check_learns(options, base, recipe.space, "" if is_elsewhere else _place_to_edit(recipe))
        for number, row in enumerate(rows or ()):
            _check_learns(options, of_algorithm(row), {}, f"configuration {number} of the sweep")
        if options.confirm_top:  # the default configuration is confirmed, too
            _check_learns(options, base, {}, _place_to_edit(recipe))
        if isinstance(options, SearchOptions):
            prefix = f"algorithm.network.{base.policy_network}.pre_torso."
            sized = [recipe.space[prefix + name] for name in _COUNTED if prefix + name in recipe.space]
            is_sized = any(distribution.size() != 1 for distribution in sized)
            check_varying(options.objective_names, Conditions(options.num_seeds, options.num_evaluations, is_sized))

    def check_single(self, options: SingleOptions, recipe: Recipe, config: Config) -> None:
        """Raise OptionError for a single training in which nothing can be learned."""
        _check_learns(options, of_algorithm(config), {})


def _check_processes(options: RunOptions, recipe: Recipe) -> None:
    """Raise OptionError for an option of trials in processes."""
    for name, option in options_of(type(options)).items():
        if option.has(PROCESSES_ONLY) and getattr(options, name) != option.default:
            instead = "Give {runner_hparam_batch_size}" if name == "slots" else "Leave it out"
            problem = f"{{{name}}} is for trials in processes; {{0}} trains lanes. {instead}."
            raise OptionError(name, problem, recipe.name)


_INSTEAD = {
    "total_timesteps": "its length is the task's budget. Change that",
    "num_evaluations": "how often it reports is the task's evaluations. Change those",
    "num_eval_episodes": "it has no episodes. Leave it out",
    "runner_hparam_batch_size": "each of its trials has a process. Give {slots}",
    "packing": "it has no compiled programs. Leave it out",
    "devices": "its processes see the GPUs that CUDA_VISIBLE_DEVICES names. Set that",
    "save_agents": "its trials leave no agents. Let it write what should stay into the directory that it is given",
    "compilation_cache": "it has no compiled programs. Leave it out",
}
"""Option that a task may not have -> why, and what to do."""
_OF_LANES = {"save_agents": "its trials leave no agents. Leave it out"}
"""The same where trials are lanes, if it differs."""


@dataclass(frozen=True)
class _OfTask:
    """A task that a recipe returns."""

    measures: Measures

    @property
    def has_programs(self) -> bool:
        return self.measures.has_programs

    @property
    def table(self) -> MetricTable:
        return self.measures.table

    def check_environment(self, given: str | None) -> None:
        if given:
            problem = "{env_config} {0}: the recipe trains a task, which has no environment. Leave it out."
            raise OptionError("env_config", problem, given)

    def scale(self, environment: str) -> Scale:
        return self.measures

    def check_options(self, options: RunOptions, recipe: Recipe) -> None:
        assert recipe.task is not None
        if self.has_programs:
            from hyperlax.algorithms.own_checks import check_functions

            _check_processes(options, recipe)
            check_functions(recipe)
        elif isinstance(options, PbtOptions):
            raise UsageError(
                f"pbt: {recipe.name} trains {recipe.task.noun}, and members of a population copy what is trained in lanes. "
                "Search with a pruner instead."
            )
        if missing := recipe.task.missing():
            place = "" if recipe.source else f"{recipe.path}: "
            raise OptionError("command", "{0}{1}.", place, missing)

    def check_study(self, options: SearchOptions | PbtOptions, recipe: Recipe, rows: Sequence[Config] | None) -> None:
        check_foreign(options, recipe)
        if isinstance(options, PbtOptions):
            return
        conditions = Conditions(options.num_seeds, options.num_evaluations, is_sized=False)
        check_varying(options.objective_names, conditions, self.table)

    def check_single(self, options: SingleOptions, recipe: Recipe, config: Config) -> None:
        check_foreign(options, recipe)


def check_foreign(options: object, recipe: Recipe) -> None:
    """Raise OptionError for an option of a command that the recipe's task does not have, unless it says what is so anyway."""
    if recipe.task is None:
        return
    has_programs, length = kind_of(recipe).has_programs, vars(recipe.config.run_lengths["default"])
    instead = _INSTEAD | _OF_LANES if has_programs else _INSTEAD
    for name, option in options_of(type(options)).items():
        is_foreign = option.is_foreign(False, has_programs)
        if name in instead and is_foreign and getattr(options, name) != length.get(name, option.default):
            problem = f"{{{name}}}: {{0}} trains {recipe.task.noun}, and {instead[name]}."
            raise OptionError(name, problem, recipe.name)


def left_out(options: RunOptions, recipe: Recipe) -> list[str]:
    """Return the options that the recipe's kind does not have."""
    kind = recipe.task is None, kind_of(recipe).has_programs
    return [name for name, option in options_of(type(options)).items() if option.is_foreign(*kind)]


def environment_of(options: RunOptions) -> str:
    """Return the canonical name of the environment, "" without one."""
    return canonical(options.env_config) if options.env_config else ""


def place_of(options: RunOptions, recipe: Recipe) -> Path:
    """Return the directory of results below the output root."""
    root = Path(options.output_root) / recipe.name
    return root / slug(options.env_config) if options.env_config else root


def kind_of(recipe: Recipe) -> _Rl | _OfTask:
    """Return the kind of what a recipe trains."""
    return _Rl() if recipe.task is None else _OfTask(measures_of(recipe.task))


def _place_to_edit(recipe: Recipe) -> str:
    """Return where the recipe's values can be changed: its file, or a copy of it if it is one of those installed."""
    path = recipe.path.resolve()
    if not path.is_relative_to(shipped_folder("recipes").resolve()) or path.is_relative_to(Path.cwd()):
        return str(recipe.path)
    return f"a copy of the recipe (hyperlax recipes copy {recipe.name})"


def _check_learns(
    options: SearchOptions | PbtOptions | SingleOptions,
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    where: str = "",
) -> None:
    """Raise BudgetError if the budget ends before the first update of any configuration of the space.

    Before it pass a whole rollout, and the algorithm's warm-up in each environment. where: the origin of `base`, "" if the user
    has given its values.
    """
    budget, values = options.total_timesteps, dotted(base)

    def largest(field: str) -> int:
        return extremes(values[HYPERPARAM + field], space.get(HYPERPARAM + field))[1]

    def said(field: str) -> str:
        return f"{field} ({'up to ' if HYPERPARAM + field in space else ''}{largest(field)})"

    envs, rollout = largest("total_num_envs"), largest("rollout_length")
    warm_up = largest(base.warm_up) if base.warm_up else 0
    least = max(envs * rollout, envs * rollout * (options.num_evaluations - 1) + 1)
    if warm_up:
        least = max(least, envs * warm_up + 1)
    rest, in_place = f"Raise {{total_timesteps}} to at least {least}", f" in {where}" if where else ""
    if budget < envs * rollout:
        takes = f"{said('rollout_length')} x {said('total_num_envs')} = {envs * rollout} steps"
        raise BudgetError(
            (HYPERPARAM + "rollout_length", HYPERPARAM + "total_num_envs"),
            f"{{total_timesteps}} {budget}: nothing can be learnt in less than one rollout, which takes {takes}. {rest} for "
            f"{counted(options.num_evaluations, 'evaluation')}, or lower one of the two{{0}}.",
            in_place,
        )
    if base.warm_up and 0 < warm_up * envs >= budget:
        name = HYPERPARAM + base.warm_up
        takes = f"{said(base.warm_up)} x {said('total_num_envs')} = {warm_up * envs} steps"
        raise BudgetError(
            (name, HYPERPARAM + "total_num_envs"),
            f"{{total_timesteps}} {budget}: nothing can be learnt in the warm-up, which takes {takes}. {rest}, or lower {name} "
            f"to at most {(budget - 1) // envs}{{0}}.",
            in_place,
        )
