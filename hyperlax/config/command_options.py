"""The options of a command that is tuned: those of `hyperlax tune`, and the keys that a study's file has beside `command`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hyperlax.config.option import (
    LAST,
    MAY_CHANGE,
    POSITIONAL,
    REPEATED,
    THIS_RUN,
    By,
    Metavar,
    OneOf,
    Range,
    Spelled,
)
from hyperlax.config.options import AGGREGATES, COUNT, SearchOptions


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """A command, what it reports, and what it needs."""

    command: Annotated[
        tuple[str, ...],
        "The program and its words, after --. {{lr}} in a word is replaced by the value of lr; hyperparameters that no word names "
        "are appended as name=value.",
        POSITIONAL,
        LAST,
        THIS_RUN,
        Metavar("COMMAND"),
    ] = ()
    metric: Annotated[
        tuple[str, ...], "What the command reports; the first one is optimized.", THIS_RUN, Metavar("NAME [NAME ...]")
    ] = ()
    mode: Annotated[
        tuple[str, ...],
        "Whether larger or smaller is better, one per metric.",
        OneOf(("max", "min")),
        THIS_RUN,
        By("max"),
    ] = ()
    budget: Annotated[int, "The last step that the command reports.", COUNT, THIS_RUN] = 1
    evaluations: Annotated[int | None, "How often it reports at most.", COUNT, THIS_RUN, By("as {budget}")] = None
    cores: Annotated[int, "CPU cores of a trial.", COUNT, THIS_RUN] = 1
    gpus: Annotated[
        float | None,
        "GPUs of a trial, or a fraction of one.",
        Range(0, above=True),
        THIS_RUN,
        By("no GPU is asked for"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _SpaceOptions:
    """A search space that is typed."""

    space: Annotated[
        tuple[str, ...],
        "Search a hyperparameter: loguniform:LOW:HIGH, uniform:LOW:HIGH, randint:LOW:HIGH[:STEP], quniform:LOW:HIGH:STEP or "
        "choice:A,B,... Takes several, and may be repeated.",
        REPEATED,
        THIS_RUN,
        Metavar("NAME=TYPE:..."),
    ] = ()
    assignments: Annotated[
        tuple[str, ...],
        "Give the command a fixed value, or the value with which a searched hyperparameter begins. Takes several, and may be "
        "repeated.",
        REPEATED,
        THIS_RUN,
        Spelled("set"),
        Metavar("NAME=VALUE"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SearchOptions, _SpaceOptions, CommandOptions):
    """Search the hyperparameters of a command that follows --, without a recipe."""

    fixed = (
        "algo_and_network_config", "env_config", "total_timesteps", "num_evaluations", "num_eval_episodes",
        "run_length_modifier", "compilation_cache", "runner_hparam_batch_size", "packing", "save_agents",
    )  # fmt: skip

    study_name: Annotated[
        str, "Name of the study, and of its directory.", Metavar("NAME"), By("that of the script or function")
    ]
    output_root: Annotated[str, "Write the results to DIR/<study name>.", Metavar("DIR")] = "my_optuna_studies"
    aggregate: Annotated[str, "How to combine what the seeds of a trial reach.", OneOf(AGGREGATES)] = "mean"
    objective_names: Annotated[
        tuple[str, ...], "Metrics to optimize.", Metavar("NAME [NAME ...]"), By("the first of {metric}")
    ] = ()
    default_trial: Annotated[
        bool,
        "Do not start with the values of {set}, and the middle of the ranges of other hyperparameters, as trial 0.",
        By("trial 0 has them"),
    ] = True
    confirm_top: Annotated[
        int,
        "After the search, run this many of the best trials and trial 0's configuration on new seeds.",
        Range(0),
        MAY_CHANGE,
    ] = 0
