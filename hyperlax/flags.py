"""What the commands accept, as typed: None is not given, so that a resume can tell. Defaults: `hyperlax.config.options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg


def flag(metavar: str | None, text: str, default: str, name: str | None = None) -> Any:
    return arg(name=name, metavar=metavar, help=text, help_behavior_hint=f"({default})")


Recipe = Annotated[
    str | None,
    flag(
        "RECIPE",
        "Recipe name (recipes/NAME.py of the working directory first, then those shipped: ppo_mlp, sac_mlp, dqn_mlp), "
        "or a path to a .py file.",
        "required",
    ),
]
Environment = Annotated[
    str | None, flag("SUITE.NAME", "Environment, e.g. gymnax.pendulum or gymnax.Pendulum-v1.", "required")
]
Seed = Annotated[int | None, flag("INT", "Every random number follows from it.", "default: 0")]
NumSeeds = Annotated[
    int | None,
    flag("INT", "Training runs per configuration; its score is their mean, or their --aggregate.", "default: 1"),
]
Aggregate = Annotated[
    str | None,
    flag("{mean,median,iqm,worst}", "What of the seeds' returns is the trial's.", "default: mean"),
]
TotalTimesteps = Annotated[
    int | None, flag("INT", "Environment steps that each seed trains.", "default: by --run-length-modifier")
]
NumEvaluations = Annotated[
    int | None, flag("INT", "Evaluations, evenly spaced over training.", "default: by --run-length-modifier")
]
NumEvalEpisodes = Annotated[
    int | None, flag("INT", "Episodes of each evaluation.", "default: by --run-length-modifier")
]
RunLengthModifier = Annotated[
    Literal["quick", "default", "long"] | None,
    flag(
        "{quick,default,long}",
        "The recipe's set of the three flags above; one given by itself wins.",
        "default: default",
    ),
]
LogLevel = Annotated[str | None, flag("{DEBUG,INFO,WARNING,ERROR}", "What is printed while it runs.", "default: INFO")]
NoCompilationCache = Annotated[
    bool,
    FlagCreatePairsOff,
    flag(None, "Do not keep compiled programs on disk for later runs.", "default: they are kept"),
]

Quiet = Annotated[
    bool,
    FlagCreatePairsOff,
    flag(
        None, "Print no progress, only warnings and how it ended.", "default: a line that is rewritten, or one a batch"
    ),
]
Json = Annotated[
    bool,
    FlagCreatePairsOff,
    flag(None, "Write a JSON object a line to standard output, everything else to standard error.", "default: text"),
]

StudyName = Annotated[str | None, flag("NAME", "Name of the study in its database.", "default: <recipe>_<environment>")]
ObjectiveDirections = Annotated[
    tuple[str, ...] | None,
    flag("DIRECTION [DIRECTION ...]", "minimize or maximize, one per objective.", "default: what is better for each"),
]
HparamBatchSize = Annotated[
    int | Literal["auto"] | None,
    flag("INT|auto", "Trials that share one compiled call; auto sizes it for the machine.", "default: auto"),
]
Packing = Annotated[
    str | None,
    flag(
        "{auto,pad,split}",
        "How trials of different size share programs: one that holds all (pad), one per size (split), or what is "
        "predicted to take least time.",
        "default: auto",
    ),
]
Timeout = Annotated[
    float | None,
    flag("SECONDS", "Start no further hparam batch after this time; holds for this run alone.", "default: no limit"),
]
MaxFailureRate = Annotated[
    float | None,
    flag("SHARE", "Give up when more than this share of at least 8 finished trials failed.", "default: 0.5"),
]
RetryFailed = Annotated[
    bool,
    FlagCreatePairsOff,
    flag(
        None,
        "With --resume-from: run failed trials again, under their own numbers and parameters.",
        "default: they stay FAIL",
    ),
]
SaveAgents = Annotated[
    str | None,
    flag(
        "{best,all,none}",
        "Whose trained policies are kept in the study's `agents` directory, see `hyperlax play`.",
        "default: best",
    ),
]
CheckpointSeconds = Annotated[
    float | None,
    flag(
        "SECONDS",
        "Save batches in the middle of their training, at an evaluation, at most so often; 0 at every one.",
        "default: 60",
    ),
]
Track = Annotated[
    Literal["none", "mlflow"] | None,
    flag(
        "{none,mlflow}",
        "Write the study to MLflow as well, a run with one under it for each trial; none leaves that out this time.",
        "default: none; a study that was tracked goes on so",
    ),
]
TrackingUri = Annotated[
    str | None,
    flag(
        "URI",
        "MLflow's store or server: sqlite:///FILE, http://HOST:PORT, ...",
        "default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db",
    ),
]
TrackingExperiment = Annotated[
    str | None, flag("NAME", "The experiment in MLflow; it is made if there is none.", "default: the study's name")
]


@dataclass(frozen=True)
class SearchFlags:
    """Search hyperparameters with Optuna, training many trials at once."""

    algo_and_network_config: Recipe = None
    env_config: Environment = None
    study_name: StudyName = None
    n_trials: Annotated[
        int | None, flag("INT", "Finished trials that the study ends with, in all.", "default: 100")
    ] = None
    objective_names: Annotated[
        tuple[str, ...] | None, flag("NAME [NAME ...]", "Metrics to optimize.", "default: peak_performance")
    ] = None
    objective_directions: ObjectiveDirections = None
    sampler: Annotated[
        str | None, flag("{tpe,nsgaii,nsgaiii,cmaes,gp,qmc,random,grid}", "Who suggests the trials.", "default: tpe")
    ] = None
    no_default_trial: Annotated[
        bool,
        FlagCreatePairsOff,
        flag(
            None,
            "Do not begin with the recipe's own configuration as trial 0.",
            "default: trial 0 is the recipe's, where the space contains it",
        ),
    ] = False
    enqueue: Annotated[
        str | None,
        flag("FILE", "Begin with the configurations of this JSON file, in its order.", "default: none"),
    ] = None
    constraints: Annotated[
        tuple[str, ...] | None,
        flag(
            "'METRIC <= NUMBER' [...]",
            "What a trial has to satisfy to be the best, e.g. 'num_parameters <= 20000'; tpe, nsgaii, nsgaiii and gp heed it.",
            "default: nothing",
            "constraint",
        ),
    ] = None
    pruner: Annotated[
        str | None,
        flag(
            "{none,asha,median,percentile,hyperband}",
            "Ends trials that do badly at an evaluation; their lanes go to the next ones.",
            "default: none",
        ),
    ] = None
    pruner_min_segments: Annotated[
        int | None, flag("INT", "Evaluations that every trial is left, whatever they show.", "default: 3")
    ] = None
    pruner_reduction_factor: Annotated[
        int | None, flag("INT", "Of asha and hyperband: one trial in so many goes on from each rung.", "default: 3")
    ] = None
    pruner_percentile: Annotated[
        float | None,
        flag("PERCENT", "Of percentile: the best of this share go on at each evaluation.", "default: 25"),
    ] = None
    optuna_study_batch_size: Annotated[
        int | None,
        flag("INT", "Trials asked from the sampler together. Wider is faster and searches less well.", "default: 16"),
    ] = None
    runner_hparam_batch_size: HparamBatchSize = None
    packing: Packing = None
    plan_only: Annotated[
        bool,
        FlagCreatePairsOff,
        flag(
            None, "Print what the next super-batch would run, and stop; the study is left as it is.", "default: run it"
        ),
    ] = False
    output_root: Annotated[
        str | None, flag("DIR", "The study goes to DIR/<recipe>/<environment>.", "default: my_optuna_studies")
    ] = None
    log_level: LogLevel = None
    resume_from: Annotated[
        str | None,
        flag(
            "DIR",
            "Continue the study of this directory until it holds --n-trials finished trials. What is not given is read "
            "from its study.json; what is given must agree, except --n-trials, --timeout, --max-failure-rate, "
            "--checkpoint-seconds, --log-level, --runner-hparam-batch-size, --confirm-top, --confirm-seeds and --save-agents.",
            "default: start a new study",
        ),
    ] = None
    seed: Seed = None
    num_seeds: NumSeeds = None
    aggregate: Aggregate = None
    seed_schedule: Annotated[
        str | None,
        flag(
            "{fixed,racing}",
            "Train all seeds of a trial at once, or one after another while the trial is among the better ones.",
            "default: fixed",
        ),
    ] = None
    total_timesteps: TotalTimesteps = None
    num_evaluations: NumEvaluations = None
    num_eval_episodes: NumEvalEpisodes = None
    run_length_modifier: RunLengthModifier = None
    confirm_top: Annotated[
        int | None,
        flag(
            "INT",
            "After the search, train so many of the best and the recipe's own configuration again on new seeds.",
            "default: 0",
        ),
    ] = None
    confirm_seeds: Annotated[int | None, flag("INT", "New seeds of --confirm-top.", "default: 10")] = None
    save_agents: SaveAgents = None
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


@dataclass(frozen=True)
class RepairFlags:
    """Build the damaged or lost database of a study again, from its backup and the batches on disk."""

    directory: Annotated[str, Positional, arg(metavar="DIR", help="The study's directory.")]


@dataclass(frozen=True)
class InvalidateFlags:
    """Take trials out of a study's ranking, keeping their record, and choose the best anew."""

    directory: Annotated[str, Positional, arg(metavar="DIR", help="The study's directory.")]
    trials: Annotated[
        tuple[int, ...],
        Positional,
        arg(metavar="TRIAL [TRIAL ...]", help="Numbers of COMPLETE trials.", help_behavior_hint="(required)"),
    ]
    reason: Annotated[
        str | None, flag("TEXT", "Why; kept with each of them.", "default: the reason is just `invalidated`")
    ] = None
