"""The kinds of tasks: what differs between an RL algorithm in an environment and a task of a recipe, before and around training.

To add a kind, add its class. What differs in results is in its `Scale`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperlax.config.option import PROCESSES_ONLY, options_of
from hyperlax.config.options import PbtOptions, RunOptions, SearchOptions, SingleOptions
from hyperlax.config.recipe_checks import check_learns, check_study
from hyperlax.envs import canonical, slug
from hyperlax.envs.catalog import CATALOG
from hyperlax.envs.recipes import check_acts
from hyperlax.errors import OptionError, UsageError
from hyperlax.hyperparams import Config, of_algorithm
from hyperlax.measures import Measures, measures_of
from hyperlax.metrics import OF_RL, check_varying
from hyperlax.recipe import Recipe
from hyperlax.scale import Conditions, MetricTable, Scale


class Kind(ABC):
    """The decisions that depend on the kind of task. has_programs: whether trials are lanes of compiled programs."""

    has_programs: bool

    @property
    @abstractmethod
    def table(self) -> MetricTable:
        """Metrics of its trials."""

    @abstractmethod
    def check_environment(self, given: str | None) -> None:
        """Raise OptionError for an environment that is missing, or one too many."""

    @abstractmethod
    def environment(self, given: str) -> str:
        """Return the canonical name of the environment, "" if the kind has none."""

    @abstractmethod
    def name(self, recipe: str, environment: str) -> str:
        """Return the default name of a study."""

    @abstractmethod
    def place(self, root: str, recipe: str, environment: str) -> Path:
        """Return the directory of results below the output root."""

    @abstractmethod
    def scale(self, environment: str) -> Scale:
        """Return what trials are measured by."""

    @abstractmethod
    def check_options(self, options: RunOptions, recipe: Recipe) -> None:
        """Raise UsageError for options that the recipe cannot run with."""

    @abstractmethod
    def check_study(self, options: SearchOptions | PbtOptions, recipe: Recipe, rows: Sequence[Config] | None) -> None:
        """Raise OptionError for a study from which nothing can be learned. rows: the configurations of a sweep."""

    @abstractmethod
    def check_single(self, options: SingleOptions, recipe: Recipe, config: Config) -> None:
        """Raise OptionError for a single training in which nothing can be learned."""


class _Rl(Kind):
    """An RL algorithm in an environment."""

    has_programs = True

    @property
    def table(self) -> MetricTable:
        return OF_RL

    def check_environment(self, given: str | None) -> None:
        if not given:
            raise OptionError("env_config", "{env_config} is required: an environment such as gymnax.pendulum.")

    def environment(self, given: str) -> str:
        return canonical(given)

    def name(self, recipe: str, environment: str) -> str:
        return f"{recipe}_{slug(environment)}"

    def place(self, root: str, recipe: str, environment: str) -> Path:
        return Path(root) / recipe / slug(environment)

    def scale(self, environment: str) -> Scale:
        """Return the reference returns. Makes the environment, with jax, only if it is not in the catalog."""
        from hyperlax.envs import make

        name = canonical(environment)
        return CATALOG[name].reference if name in CATALOG else make(name).reference

    def check_options(self, options: RunOptions, recipe: Recipe) -> None:
        _check_processes(options, recipe)
        check_acts(recipe, options.env_config)

    def check_study(self, options: SearchOptions | PbtOptions, recipe: Recipe, rows: Sequence[Config] | None) -> None:
        check_study(options, recipe, rows)

    def check_single(self, options: SingleOptions, recipe: Recipe, config: Config) -> None:
        check_learns(options, of_algorithm(config), {})


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
class _OfTask(Kind):
    """A task that a recipe returns. noun: what it trains."""

    measures: Measures
    noun: str

    @property
    def has_programs(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.measures.has_programs

    @property
    def table(self) -> MetricTable:
        return self.measures.table

    def check_environment(self, given: str | None) -> None:
        if given:
            problem = "{env_config} {0}: the recipe trains a task, which has no environment. Leave it out."
            raise OptionError("env_config", problem, given)

    def environment(self, given: str) -> str:
        return ""

    def name(self, recipe: str, environment: str) -> str:
        return recipe

    def place(self, root: str, recipe: str, environment: str) -> Path:
        return Path(root) / recipe

    def scale(self, environment: str) -> Scale:
        return self.measures

    def check_options(self, options: RunOptions, recipe: Recipe) -> None:
        if self.has_programs:
            from hyperlax.algorithms.own_checks import check_functions

            _check_processes(options, recipe)
            check_functions(recipe)
        elif isinstance(options, PbtOptions):
            raise UsageError(
                f"pbt: {recipe.name} trains {self.noun}, and members of a population copy what is trained in lanes. "
                "Search with a pruner instead."
            )
        assert recipe.task is not None
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


def kind_of(recipe: Recipe) -> Kind:
    """Return the kind of what a recipe trains."""
    return _Rl() if recipe.task is None else _OfTask(measures_of(recipe.task), recipe.task.noun)
