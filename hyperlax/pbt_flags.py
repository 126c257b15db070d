"""What `pbt` and `pbt-replay` accept, as typed: None is not given, so that a resume can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from hyperlax.flags import (
    Aggregate,
    Environment,
    LogLevel,
    NoCompilationCache,
    NumEvalEpisodes,
    NumSeeds,
    Recipe,
    RunLengthModifier,
    Seed,
    TotalTimesteps,
    flag,
)


@dataclass(frozen=True)
class PopulationFlags:
    """Train a population that copies its best members and changes their hyperparameters while they learn."""

    algo_and_network_config: Recipe = None
    env_config: Environment = None
    population_size: Annotated[
        int | None, flag("INT", "Members, all of them lanes of one compiled program.", "default: 16")
    ] = None
    num_intervals: Annotated[
        int | None,
        flag(
            "INT",
            "Parts of the training; after each the members are evaluated and the worst copy the best.",
            "default: the evaluations of --run-length-modifier",
        ),
    ] = None
    explore: Annotated[
        str | None,
        flag(
            "{perturb,resample,pb2}",
            "How a copy's hyperparameters change: a little, drawn anew, or where a Gaussian process expects most.",
            "default: perturb",
        ),
    ] = None
    quantile: Annotated[
        float | None,
        flag("SHARE", "Of the members: so many of the worst copy from so many of the best.", "default: 0.25"),
    ] = None
    output_root: Annotated[
        str | None, flag("DIR", "The run goes to DIR/<recipe>/<environment>.", "default: my_pbt_runs")
    ] = None
    log_level: LogLevel = None
    resume_from: Annotated[
        str | None,
        flag(
            "DIR",
            "Go on with the run of this directory. What is not given is read from its study.json; what is given must "
            "agree, except --log-level.",
            "default: start a new run",
        ),
    ] = None
    seed: Seed = None
    num_seeds: NumSeeds = None
    aggregate: Aggregate = None
    total_timesteps: TotalTimesteps = None
    num_eval_episodes: NumEvalEpisodes = None
    run_length_modifier: RunLengthModifier = None
    no_compilation_cache: NoCompilationCache = False


@dataclass(frozen=True)
class ReplayFlags:
    """Train fresh agents that follow the hyperparameter schedule which won a `pbt` run."""

    schedule: Annotated[str, Positional, arg(metavar="FILE", help="The run's pbt_schedule.json.")]
    output_root: Annotated[
        str | None, flag("DIR", "The replay goes to a directory under DIR.", "default: my_pbt_replays")
    ] = None
    log_level: LogLevel = None
    seed: Annotated[
        int | None,
        flag(
            "INT",
            "Every random number follows from it.",
            "default: the run's seed + 1, so that no episode of its selection is met again",
        ),
    ] = None
    num_seeds: Annotated[int | None, flag("INT", "Agents to train.", "default: 5")] = None
    aggregate: Aggregate = None
    num_eval_episodes: Annotated[int | None, flag("INT", "Episodes of each evaluation.", "default: the run's")] = None
    no_compilation_cache: NoCompilationCache = False
