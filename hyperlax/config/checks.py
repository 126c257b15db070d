"""Checks that options can run together. Each option declares by itself what it accepts."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hyperlax.config.constraints import parse_constraint
from hyperlax.config.option import Given, options_of
from hyperlax.config.options import SENSITIVITY, PbtOptions, RunOptions, SearchOptions
from hyperlax.config.ray_options import check_address, parse_resources
from hyperlax.config.speech import spoken
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.metrics import OF_RL, check_objectives
from hyperlax.samplers.registry import SAMPLERS, SamplerRow
from hyperlax.scale import MetricTable
from hyperlax.space import Categorical, Distribution

R = TypeVar("R", bound=RunOptions)


def checked(options: R, table: MetricTable = OF_RL) -> R:
    """Return the same options. Raises OptionError for an invalid option or combination. table: the metrics of the trials."""
    for name, option in options_of(type(options)).items():
        option.read(getattr(options, name))
    length = "num_intervals" if isinstance(options, PbtOptions) else "num_evaluations"
    if options.total_timesteps < getattr(options, length):
        problem = f"{{total_timesteps}} {{0}} is less than one step for each of {{{length}}} {{1}}."
        problem += " Raise the first or lower the second."
        raise OptionError("total_timesteps", problem, options.total_timesteps, getattr(options, length))
    _check_output_root(options.output_root)
    if isinstance(options, (SearchOptions, PbtOptions)):
        _check_study_name(options.study_name, options.algo_and_network_config)
    if isinstance(options, SearchOptions):
        _check_search(options, table)
    if isinstance(options, PbtOptions) and options.explore == "pb2" and not _is_installed("sklearn"):
        raise OptionError(
            "explore",
            '{explore} pb2 needs scikit-learn, which is not installed: pip install "hyperlax[pb2]". Or use perturb.',
        )
    return options


def check_space(options: SearchOptions, space: Mapping[str, Distribution]) -> None:
    """Raise OptionError if the sampler cannot search this space, or if its package is not installed."""
    entry = SAMPLERS.get(options.sampler)
    if entry is None:
        return
    if entry.fewest_numbers:
        _check_numbers(entry, space)
    if entry.largest_grid is not None:
        _check_grid(entry, entry.largest_grid, space)
    if entry.package and not _is_installed(entry.package):
        problem = '{sampler} {0} needs the package {1}: pip install "hyperlax[{0}]"'
        raise OptionError("sampler", problem, entry.name, entry.package)


def check_searched(recipe_path: Path, space: Mapping[str, Distribution]) -> None:
    """Raise UsageError for a recipe without a search space."""
    if not space:
        raise UsageError(
            f"{recipe_path}: get_base_hyperparam_distributions() is empty, there is nothing to search. "
            "Add an entry, or train its defaults with run-single-hp."
        )


def check_levels(given: Given) -> None:
    """Raise OptionError if the number of levels is given for another sampling method than sensitivity."""
    if "num_levels" in given and given.get("sampling_method") != SENSITIVITY:
        raise OptionError(
            "num_levels",
            "{num_levels} says how many values {sampling_method} sensitivity tries of a range. Give that as well, or leave "
            "{num_levels} out.",
        )


def ignored_constraints(options: SearchOptions) -> str:
    """Return a sentence if the sampler does not use the constraints, else ""."""
    using = [entry.name for entry in SAMPLERS.values() if entry.uses_constraints]
    if not options.constraints or options.sampler in using:
        return ""
    return (
        f"{spoken('sampler')} {options.sampler} ignores constraints when it suggests trials; they only decide which is the best. "
        f"{', '.join(using)} use them."
    )


def _check_study_name(name: str, recipe: str) -> None:
    if not name.strip():
        raise OptionError("study_name", "{study_name} is empty. Name the study, or leave it out.")
    if not name.isprintable():
        problem = "{study_name} {0!r} has characters that cannot be printed. Leave them out."
        raise OptionError("study_name", problem, name)
    if "/" in name and name != recipe:
        problem = "{study_name} {0!r} has a /, so it cannot name a directory. Leave it out."
        raise OptionError("study_name", problem, name)


def _check_search(options: SearchOptions, table: MetricTable) -> None:
    check_objectives(options.objective_names, options.objective_directions, table)
    _check_batches(options)
    _check_engine(options)
    if options.is_sweep:
        return
    for text in options.constraints:
        parse_constraint(text, table.rows)
    _check_sampler(options)
    _check_pruning(options, table)


def _check_batches(options: SearchOptions) -> None:
    together, lanes = options.super_batch, options.runner_hparam_batch_size
    if lanes == "auto" or together is None or lanes <= together:
        return
    more = "{runner_hparam_batch_size} {0} is more than the {2} "
    if options.is_sweep:
        problem = f"{more}that this sweep asks together. Use 1 to {{1}}, or auto."
    else:
        problem = f"{more}of {{optuna_study_batch_size}}. Lower the first, raise the second, or use auto."
    raise OptionError("runner_hparam_batch_size", problem, lanes, together, counted(together, "trial"))


def _check_engine(options: SearchOptions) -> None:
    if options.engine == "local":
        for name in ("agent_resources", "ray_address"):
            if (value := getattr(options, name)) is not None:
                problem = f"{{{name}}} {{0}}: is for {{engine}} ray. Give that as well, or leave {{{name}}} out."
                raise OptionError(name, problem, value)
        return
    if options.agents == 0:
        raise OptionError("agents", "{agents} 0: with {engine} ray nothing would train. Give at least 1, or none.")
    parse_resources(options.agent_resources)
    check_address(options.ray_address)


def _check_sampler(options: SearchOptions) -> None:
    entry, objectives = SAMPLERS[options.sampler], options.objective_names
    if not entry.several_objectives and len(objectives) > 1:
        others = _others(lambda other: other.several_objectives)
        problem = f"{{sampler}} {entry.name} optimizes one objective, got {len(objectives)} ({{0}}). For several, use {others}."
        raise OptionError("sampler", problem, ", ".join(objectives))
    if options.super_batch is not None and options.super_batch < entry.smallest_super_batch:
        raise OptionError(
            "sampler",
            f"{{sampler}} {entry.name} breeds each generation from one super-batch: {{optuna_study_batch_size}} needs at least "
            f"{entry.smallest_super_batch}, got {options.super_batch}. For one trial at a time, use tpe.",
        )


def _check_pruning(options: SearchOptions, table: MetricTable) -> None:
    if options.pruner != "none" and options.pruner_min_segments >= options.num_evaluations:
        evaluations = counted(options.num_evaluations, "evaluation")
        raise OptionError(
            "pruner",
            f"{{pruner}} {options.pruner}: every trial keeps {options.pruner_min_segments} of its {evaluations}, so none is ever "
            f"pruned. Raise {table.evaluations}, or lower {{pruner_min_segments}}.",
        )
    is_race = options.seed_schedule == "racing"
    if is_race and options.num_seeds < 2:
        raise OptionError(
            "seed_schedule", "{seed_schedule} racing needs at least 2 seeds to race over. Raise {num_seeds}."
        )
    if options.pruner == "none" and not is_race:
        if options.in_flight is not None:
            problem = "{in_flight} {0} is for studies with {pruner} or {seed_schedule} racing. Without them "
            problem += "{optuna_study_batch_size} says how many trials train at once."
            raise OptionError("in_flight", problem, options.in_flight)
        return
    for option, what, texts in (
        ("objective_names", "an objective", options.objective_names),
        ("constraints", "a constraint", options.constraints),
    ):
        if any("train_seconds" in text for text in texts):
            raise OptionError(
                option,
                f"train_seconds cannot be {what} of trials that are pruned or raced: it is not comparable, because lanes are "
                f"refilled. Leave it out of {{{option}}}, or turn pruning off.",
            )


def _check_output_root(given: str) -> None:
    if not given.strip():
        raise OptionError("output_root", "{output_root} is empty. Name a directory, or leave it out.")
    root = Path(given)
    try:
        existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    except OSError as error:
        text = given if len(given) <= 60 else f"{given[:60]}..."
        other = "a shorter name" if error.errno == errno.ENAMETOOLONG else "another directory"
        raise OptionError("output_root", "{output_root} {0}: {1}. Choose {2}.", text, error.strerror, other) from error
    if not existing.is_dir():
        problem = "{output_root} {0}: {1} is a file. Choose a directory; it is created if it does not exist."
        raise OptionError("output_root", problem, root, existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        problem = "{output_root} {0}: {1} cannot be written to. Choose another directory."
        raise OptionError("output_root", problem, root, existing)


def _check_numbers(entry: SamplerRow, space: Mapping[str, Distribution]) -> None:
    """Raise OptionError unless the space has enough numbers and nothing else. A single choice is a fixed value.

    CMA-ES adapts a normal distribution over numbers, of two dimensions at least.
    """
    searched = {name: distribution for name, distribution in space.items() if distribution.size() != 1}
    if choices := [name for name, distribution in searched.items() if isinstance(distribution, Categorical)]:
        verb = "has" if len(choices) == 1 else "have"
        problem = f"searches numbers only, and {{1}} {verb} choices. Give {{2}} a range or a fixed value, or use"
        raise _unsuited(entry, problem, ", ".join(choices), _them(choices))
    if len(searched) < entry.fewest_numbers:
        problem = "needs at least {1} hyperparameters to search, the recipe has {2}. Use"
        raise _unsuited(entry, problem, entry.fewest_numbers, len(searched))


def _check_grid(entry: SamplerRow, largest: int, space: Mapping[str, Distribution]) -> None:
    if endless := [name for name, distribution in space.items() if distribution.size() is None]:
        verb = "is" if len(endless) == 1 else "are"
        problem = (
            f"needs a finite space, and {{1}} {verb} continuous. Give {{2}} choices, whole numbers or a step, or use"
        )
        raise _unsuited(entry, problem, ", ".join(endless), _them(endless))
    size = math.prod(distribution.size() or 1 for distribution in space.values())
    if size > largest:
        problem = "supports at most {1} configurations, the recipe's space has {2}. Give it fewer values, or use"
        raise _unsuited(entry, problem, largest, size)


def _unsuited(entry: SamplerRow, problem: str, *values: object) -> OptionError:
    """Return the error for a space that a sampler cannot search. problem: ends before the samplers that search any."""
    others = _others(lambda other: not other.fewest_numbers and other.largest_grid is None)
    return OptionError("sampler", f"{{sampler}} {{0}} {problem} {{3}}.", entry.name, *values, others)


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _others(would_do: Callable[[SamplerRow], bool]) -> str:
    """Return the samplers that can be used instead, in words."""
    names = [entry.name for entry in SAMPLERS.values() if would_do(entry)]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
