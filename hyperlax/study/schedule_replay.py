"""`pbt-replay`: fresh agents that follow the schedule of a population's winner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.arguments import SingleArguments
from hyperlax.errors import UsageError
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.population import make_members
from hyperlax.recipe import Recipe
from hyperlax.study.directory import SCHEDULE
from hyperlax.study.pbt_schedule import Schedule, changing, configurations
from hyperlax.study.single import run_single
from hyperlax.study.training import run_length
from hyperlax.trial import Trial

if TYPE_CHECKING:
    from hyperlax.engine.scheduled import ScheduleRunner


def replay(arguments: SingleArguments, recipe: Recipe, schedule: Schedule) -> int:
    """Train `num_seeds` agents from scratch along a schedule, write their files, print their metrics. Returns the exit status.

    arguments: `params` names the schedule's file. UsageError, before anything runs, for a schedule that cannot be followed.
    """
    where = str(arguments.params)
    configs = configurations(schedule, recipe.config.algorithm, where)
    runner = runner_of_schedule(arguments, schedule, configs, where)
    beside = {SCHEDULE: {**vars(schedule), "schedule": list(schedule.schedule)}}
    return run_single(arguments, recipe, configs[0], runner, kind="replay", beside=beside)


def runner_of_schedule(
    arguments: SingleArguments, schedule: Schedule, configs: list[AlgorithmConfig], where: str
) -> ScheduleRunner:
    """What trains. UsageError if the steps of the schedule are not the ends of its segments."""
    from hyperlax.engine.scheduled import ScheduleRunner

    members = make_members(
        configs[0],
        changing(configs),
        [Trial(0, configs[0])],
        environment=arguments.env_config,
        run_length=run_length(arguments),
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
        compilation_cache=arguments.compilation_cache,
    )
    steps = members.schedule.steps()
    for entry, start, end in zip(schedule.schedule, steps[:-1], steps[1:], strict=True):
        if (entry.get("from_step"), entry.get("to_step")) != (start, end):
            raise UsageError(
                f"{where}: interval {entry['interval']} goes from step {entry.get('from_step')} to {entry.get('to_step')}; in a "
                f"budget of {schedule.total_timesteps} steps and {len(schedule.schedule)} intervals it is {start} to {end}."
            )
    return ScheduleRunner(members, configs)


def path_of_recipe(schedule: Schedule) -> str:
    """The recipe that the run began with, by its name where its file is gone."""
    return schedule.recipe if Path(schedule.recipe).is_file() else schedule.algo_and_network_config
