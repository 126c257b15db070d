"""What the commands of presampled configurations accept, as typed: None is not given. Defaults: `hyperlax.sweep_arguments`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff

from hyperlax.flags import (
    CheckpointSeconds,
    Environment,
    HparamBatchSize,
    Json,
    LogLevel,
    MaxFailureRate,
    NoCompilationCache,
    NumEvalEpisodes,
    NumEvaluations,
    NumSeeds,
    ObjectiveDirections,
    Packing,
    Quiet,
    Recipe,
    RetryFailed,
    RunLengthModifier,
    Seed,
    StudyName,
    Timeout,
    TotalTimesteps,
    Track,
    TrackingExperiment,
    TrackingUri,
    flag,
)

NumSamples = Annotated[int | None, flag("INT", "Configurations to draw.", "default: 64")]
SamplingMethod = Annotated[
    Literal["qmc", "random", "grid"] | None,
    flag(
        "{qmc,random,grid}",
        "How they are drawn: a scrambled Sobol sequence, at random, or all combinations of a finite space, of which evenly "
        "spread ones are taken where there are more than --num-samples.",
        "default: qmc",
    ),
]


@dataclass(frozen=True)
class GenerateFlags:
    """Draw configurations from a recipe's search space into a CSV file, without training them."""

    algo_and_network_config: Recipe = None
    num_samples: NumSamples = None
    sampling_method: SamplingMethod = None
    seed: Annotated[int | None, flag("INT", "The draw follows from it; grid needs none.", "default: 0")] = None
    output: Annotated[str | None, flag("FILE", "Where they go.", "default: <recipe>_samples.csv")] = None
    force: Annotated[
        bool,
        FlagCreatePairsOff,
        flag(None, "Replace FILE if it is there.", "default: it is refused"),
    ] = False


@dataclass(frozen=True)
class SweepFlags:
    """Train configurations that are drawn before the first of them trains, many at once."""

    algo_and_network_config: Recipe = None
    env_config: Environment = None
    study_name: StudyName = None
    num_samples: NumSamples = None
    sampling_method: SamplingMethod = None
    load_hyperparams: Annotated[
        str | None,
        flag(
            "FILE",
            "Train the configurations of this CSV instead, of generate-hp-samples or a study's hyperparams.csv; what has no "
            "column is the recipe's.",
            "default: draw --num-samples",
        ),
    ] = None
    hparam_batch_size: HparamBatchSize = None
    objective_names: Annotated[
        tuple[str, ...] | None,
        flag("NAME [NAME ...]", "Metrics that say which is best.", "default: peak_performance"),
    ] = None
    objective_directions: ObjectiveDirections = None
    packing: Packing = None
    output_root: Annotated[
        str | None, flag("DIR", "The sweep goes to DIR/<recipe>/<environment>.", "default: my_sweeps")
    ] = None
    log_level: LogLevel = None
    resume_from: Annotated[
        str | None,
        flag(
            "DIR",
            "Go on with the sweep of this directory. What is not given is read from its study.json; what is given must "
            "agree, except --timeout, --max-failure-rate, --checkpoint-seconds, --log-level and --hparam-batch-size.",
            "default: start a new sweep",
        ),
    ] = None
    seed: Seed = None
    num_seeds: NumSeeds = None
    total_timesteps: TotalTimesteps = None
    num_evaluations: NumEvaluations = None
    num_eval_episodes: NumEvalEpisodes = None
    run_length_modifier: RunLengthModifier = None
    timeout: Timeout = None
    max_failure_rate: MaxFailureRate = None
    retry_failed: RetryFailed = False
    checkpoint_seconds: CheckpointSeconds = None
    no_compilation_cache: NoCompilationCache = False
    track: Track = None
    tracking_uri: TrackingUri = None
    tracking_experiment: TrackingExperiment = None
    quiet: Quiet = False
    json: Json = False
