"""The commands that train. Only what `--help` needs is imported at the top, see `hyperlax.cli.commands`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.config.option import Given, completed, flags_of, options_of
from hyperlax.config.options import (
    GenerateOptions,
    ReplayOptions,
    SingleOptions,
    TrainOptions,
)
from hyperlax.errors import OptionError, counted

if TYPE_CHECKING:
    from hyperlax.recipe import Recipe


def starting(command: str) -> Callable[[Given], int]:
    """Return the function of a command that starts a study, or continues the one of --resume-from."""

    def run(given: Given) -> int:
        from hyperlax.studies import planned_study

        return planned_study(command, given).run()

    return run


def tune(given: Given) -> int:
    """Search the hyperparameters of a command, or continue."""
    from hyperlax.config.command_options import TuneOptions
    from hyperlax.config.options import SearchOptions
    from hyperlax.config.own_recipes import tuned
    from hyperlax.config.stored import RESUMED, SEARCH, check_command, load_again, named_directory
    from hyperlax.studies import planned_study

    kept = options_of(SearchOptions)
    own = [name for name in options_of(TuneOptions) if name in given and name not in kept]
    rest = {name: value for name, value in given.items() if name in kept}
    recipe = None
    if "resume_from" not in given or ("command" in own and len(own) > 1):
        recipe = tuned(given)
    elif own == ["command"]:
        directory = named_directory(given["resume_from"], RESUMED)
        check_command(directory, SEARCH)
        recipe = load_again(directory, given["command"])
    elif own:
        problem = f"{{resume_from}} {{0}}: the study has its command. Leave {{{own[0]}}} out, or start a new study."
        raise OptionError("resume_from", problem, given["resume_from"])
    return planned_study(SEARCH, rest, recipe=recipe).run()


def run_study(given: Given) -> int:
    """Run the studies of files, or print their plans, one after another."""
    from hyperlax.file_studies import run_files

    rest = {name: value for name, value in given.items() if name != "files"}
    return run_files(given.get("files", ()), rest)


def generate_hp_samples(given: Given) -> int:
    """Draw configurations into a file."""
    from hyperlax.config.checks import check_levels, check_searched
    from hyperlax.config.configurations import write_samples
    from hyperlax.config.options import SENSITIVITY
    from hyperlax.files import STDOUT, is_too_long, printed_if_stdout
    from hyperlax.samplers.fixed import draw, sensitivity_rows
    from hyperlax.studies import load_recipe
    from hyperlax.study.io_errors import writing

    recipe = load_recipe(given)
    options = completed(GenerateOptions, {"output": f"{recipe.name}_samples.csv", **given})
    if not options.output:
        raise OptionError("output", "{output} is required: a file.")
    path = Path(options.output)
    if is_too_long(path):
        raise OptionError("output", "{output} {0}: is longer than the system allows. Choose a shorter name.", path)
    is_file = path != STDOUT
    if is_file and path.exists() and not path.is_file():
        found = "a directory" if path.is_dir() else "a device"
        raise OptionError("output", "{output} {0}: is {1}. Name a file.", path, found)
    if is_file and path.exists() and not options.force:
        raise OptionError("output", "{0}: exists already. Give {force} to replace it, or another {output}.", path)
    check_levels(given)
    check_searched(recipe.path, recipe.space)
    if options.sampling_method == SENSITIVITY:
        drawn = sensitivity_rows(recipe, given)
    else:
        drawn = draw(recipe, options.sampling_method, options.n_trials, options.seed)
    with writing(path), printed_if_stdout(path) as place:
        write_samples(place, drawn)
    if is_file:
        print(f"{counted(len(drawn), 'configuration')} of {recipe.name} ({options.sampling_method}): {path}")
    return 0


def run_single_hp(given: Given) -> int:
    """Train one configuration."""
    from hyperlax.config.settling import settled
    from hyperlax.studies import load_recipe

    recipe = load_recipe(given)
    options = settled(SingleOptions, [given], recipe)
    which = "" if options.trial is None else f"trial {options.trial} of "
    base = "the recipe's default configuration" if options.params is None else f"{which}{options.params}"
    return _run_single(options, recipe, f"{base}, changed by hand" if options.assignments else base)


def train(given: Given) -> int:
    """Train a study's winner, or another of its trials, once more. Options that are not given are the study's.

    Its recipe is only loaded for a task or a user's own environment; study.json stores everything else.
    """
    from hyperlax.config.options import RUN_LENGTH
    from hyperlax.config.settling import settled
    from hyperlax.config.stored import named_directory
    from hyperlax.study.view import load_study, recipe_as_it_was

    if "from_" not in given:
        raise OptionError("from_", "{from_} is required: the study's directory.")
    directory = named_directory(given["from_"], "{from_}")
    record = load_study(directory, "{from_}").record
    if record.lineage:
        problem = "{from_} {0}: holds a population. Train along its schedule:\n  {1}"
        raise OptionError("from_", problem, directory, record.lineage.replay)
    number = given.get("trial")
    trial = record.the_best("{from_}") if number is None else record.trial(number)
    environment = given.get("env_config") or record.environment
    recipe = recipe_as_it_was(record, environment, given.get("algo_and_network_config"))
    as_then = {name: record.arguments[name] for name in ("seed", "num_seeds", "aggregate", *RUN_LENGTH)}
    again = {
        **as_then,
        **{name: value for name, value in given.items() if name not in ("from_", "trial")},
        "algo_and_network_config": recipe.name if recipe.source else str(recipe.path),
        "env_config": _environment(
            given.get("env_config"), record.environment, recipe, f"{flags_of(TrainOptions)('from_')} {directory}"
        ),
        "assignments": tuple(f"{name}={json.dumps(value)}" for name, value in trial.params.items()),
    }
    return _run_single(settled(SingleOptions, [again], recipe), recipe, f"trial {trial.number} of {directory}")


def pbt_replay(given: Given) -> int:
    """Train new agents along a schedule that `pbt` wrote."""
    from hyperlax.analysis.pages import write_learning_curve
    from hyperlax.recipe import load
    from hyperlax.study.lineage import read_schedule
    from hyperlax.study.single import path_of_recipe, replay

    if "schedule" not in given:
        raise OptionError("schedule", "{schedule} is required: the run's pbt_schedule.json.")
    schedule = read_schedule(Path(given["schedule"]))
    as_then = {
        "params": given["schedule"],
        "algo_and_network_config": schedule.algo_and_network_config,
        "env_config": schedule.env_config,
        "seed": schedule.seed + 1,
        "total_timesteps": schedule.total_timesteps,
        "num_evaluations": len(schedule.schedule),
        "num_eval_episodes": schedule.num_eval_episodes,
    }
    recipe = load(given.get("algo_and_network_config") or path_of_recipe(schedule, Path(given["schedule"])))
    options = ReplayOptions(**{**as_then, **given})
    _prepare(options, recipe)
    return replay(options, recipe, schedule, write_learning_curve)


def _run_single(options: SingleOptions, recipe: Recipe, source: str) -> int:
    """Train one configuration. source: where it is from, in words."""
    from hyperlax.analysis.pages import write_learning_curve
    from hyperlax.config.configurations import configured
    from hyperlax.config.kinds import kind_of
    from hyperlax.study.single import run_single

    _prepare(options, recipe)
    algorithm = configured(options, recipe)
    kind_of(recipe).check_single(options, recipe, algorithm)
    return run_single(options, recipe, algorithm, write_learning_curve, source=source)


def _prepare(options: SingleOptions, recipe: Recipe) -> None:
    """Raise UsageError if a single training cannot run with these options. Log from their level on."""
    from hyperlax.config.checks import checked
    from hyperlax.config.kinds import kind_of
    from hyperlax.studies import log_from

    checked(options)
    kind_of(recipe).check_options(options, recipe)
    log_from(options.log_level)


def _environment(given: str | None, of_study: str, recipe: Recipe, where: str) -> str:
    """Return the environment to train in: the study's, or another that its recipe may register. Raise as `registered` does."""
    from hyperlax.envs import is_known
    from hyperlax.envs.recipes import registered
    from hyperlax.recipe import load

    if recipe.task:
        return given or ""
    if given is None:
        return registered(of_study, str(recipe.path), where)
    if not is_known(given) and recipe.path.is_file():
        load(str(recipe.path))
    return given
