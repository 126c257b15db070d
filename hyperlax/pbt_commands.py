"""The commands of population-based training. Only what `--help` needs is imported here, see `hyperlax.commands`."""

from __future__ import annotations

from pathlib import Path

from hyperlax.command_parts import log_from, recipe_name
from hyperlax.pbt_flags import PopulationFlags, ReplayFlags


def pbt(flags: PopulationFlags) -> int:
    """Train a population, or go on with the one of --resume-from."""
    from hyperlax.acting import check_acts
    from hyperlax.pbt_arguments import PopulationArguments, resolve, resolve_resumed
    from hyperlax.recipe import load
    from hyperlax.resumed_arguments import load_recipe_of, named_directory, read_arguments

    if flags.resume_from is None:
        directory = None
        recipe = load(recipe_name(flags))
        arguments = resolve(flags, recipe)
    else:
        directory = named_directory(flags.resume_from, "--resume-from")
        stored = PopulationArguments.from_json(
            read_arguments(directory, "--resume-from"), str(directory / "study.json")
        )
        recipe = load_recipe_of(directory, stored)
        arguments = resolve_resumed(flags, stored, recipe)
    check_acts(recipe, arguments.env_config)
    log_from(arguments.log_level)
    from hyperlax.analysis.pages import write_pages
    from hyperlax.study.observer import Pages
    from hyperlax.study.population_run import run_population

    return run_population(arguments, recipe, directory, observers=[Pages(write_pages)])


def pbt_replay(flags: ReplayFlags) -> int:
    """Train fresh agents along a schedule that `pbt` wrote."""
    from hyperlax.acting import check_acts
    from hyperlax.pbt_arguments import resolve_replay
    from hyperlax.recipe import load
    from hyperlax.study.pbt_schedule import read_schedule
    from hyperlax.study.single import path_of_recipe, replay

    schedule = read_schedule(Path(flags.schedule))
    arguments = resolve_replay(flags, schedule)
    recipe = load(path_of_recipe(schedule))
    check_acts(recipe, arguments.env_config)
    log_from(arguments.log_level)
    return replay(arguments, recipe, schedule)
