"""What the commands that train one configuration accept, as typed: None is not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from hyperlax.flags import (
    Aggregate,
    Environment,
    LogLevel,
    NoCompilationCache,
    NumEvalEpisodes,
    NumEvaluations,
    NumSeeds,
    Recipe,
    RunLengthModifier,
    Seed,
    TotalTimesteps,
    flag,
)

SingleRoot = Annotated[str | None, flag("DIR", "The run goes to a directory under DIR.", "default: my_single_runs")]


@dataclass(frozen=True)
class SingleFlags:
    """Train one configuration: the recipe's defaults, a trial that a study found, or values of your own."""

    algo_and_network_config: Recipe = None
    env_config: Environment = None
    params: Annotated[
        str | None,
        flag(
            "FILE",
            "Hyperparameters of a study: its best_optuna_params.json or pareto_front_params.json.",
            "default: the recipe's",
        ),
    ] = None
    trial: Annotated[
        int | None, flag("INT", "Which trial of FILE, where it holds several.", "default: the only one")
    ] = None
    assignments: Annotated[
        tuple[str, ...],
        UseAppendAction,
        flag(
            "NAME=VALUE",
            "Set one hyperparameter, e.g. algorithm.hyperparam.gamma=0.98; wins over --params.",
            "may be repeated",
            "set",
        ),
    ] = ()
    output_root: SingleRoot = None
    log_level: LogLevel = None
    seed: Seed = None
    num_seeds: NumSeeds = None
    aggregate: Aggregate = None
    total_timesteps: TotalTimesteps = None
    num_evaluations: NumEvaluations = None
    num_eval_episodes: NumEvalEpisodes = None
    run_length_modifier: RunLengthModifier = None
    no_compilation_cache: NoCompilationCache = False


@dataclass(frozen=True)
class TrainFlags:
    """Train the winner of a study again: longer, on more seeds, or elsewhere; what is not given is as in the study."""

    from_: Annotated[str, flag("DIR", "The study's directory.", "required", "from")]
    trial: Annotated[int | None, flag("INT", "Another of its trials.", "default: the best")] = None
    env_config: Annotated[str | None, flag("SUITE.NAME", "Another environment.", "default: the study's")] = None
    output_root: SingleRoot = None
    log_level: LogLevel = None
    seed: Annotated[int | None, flag("INT", "Every random number follows from it.", "default: the study's")] = None
    num_seeds: Annotated[int | None, flag("INT", "Training runs, side by side.", "default: the study's")] = None
    aggregate: Annotated[
        str | None, flag("{mean,median,iqm,worst}", "What of the seeds' returns is the score.", "default: the study's")
    ] = None
    total_timesteps: Annotated[
        int | None, flag("INT", "Environment steps that each seed trains.", "default: the study's")
    ] = None
    num_evaluations: Annotated[
        int | None, flag("INT", "Evaluations, evenly spaced over training.", "default: the study's")
    ] = None
    num_eval_episodes: Annotated[int | None, flag("INT", "Episodes of each evaluation.", "default: the study's")] = None
    no_compilation_cache: NoCompilationCache = False


@dataclass(frozen=True)
class PlayFlags:
    """Watch a trained agent: its return over new episodes, and one of them as an animated GIF."""

    path: Annotated[
        str,
        Positional,
        arg(metavar="PATH", help="The directory of a study or of a single run, or an agent's .safetensors file."),
    ]
    trial: Annotated[int | None, flag("INT", "Of a study, another of its trials.", "default: the best")] = None
    training_seed: Annotated[
        int | None, flag("INT", "Which of the trial's seeds.", "default: the one with the best return")
    ] = None
    episodes: Annotated[int, flag("INT", "How many it plays.", "default: 100")] = 100
    seed: Annotated[int, flag("INT", "The episodes' beginnings follow from it.", "default: 0")] = 0
    gif: Annotated[
        str | None,
        flag(
            "FILE",
            "The film; gymnax's classic-control environments can be drawn.",
            "default: <agent>.gif beside the agent, if one can be made",
        ),
    ] = None
    no_gif: Annotated[bool, FlagCreatePairsOff, flag(None, "Make no film.", "default: one if it can be made")] = False
