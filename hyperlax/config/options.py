"""The options of every command that trains: declared once, settled by the recipe, checked, and agreed with on a resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from hyperlax.config.option import (
    FILE,
    HIDDEN,
    MAY_CHANGE,
    POSITIONAL,
    PROCESSES_ONLY,
    PROGRAMS_ONLY,
    REPEATED,
    RL_ONLY,
    SHORTHAND,
    THIS_RUN,
    By,
    Metavar,
    Offered,
    OneOf,
    Range,
    Spelled,
    to_json,
)
from hyperlax.samplers.registry import SAMPLERS
from hyperlax.schedulers.registry import EXPLORERS, PRUNERS

RUN_LENGTH = ("total_timesteps", "num_evaluations", "num_eval_episodes")
LARGEST = 2**31 - 1
SENSITIVITY = "sensitivity"
_SAMPLING_METHODS = ("qmc", "random", "grid", SENSITIVITY, "file")
LEVELS = 5
"""Values of a continuous hyperparameter that a sensitivity study tries."""
AGGREGATES = ("mean", "median", "iqm", "worst")
COUNT = Range(1, LARGEST)
OBJECTIVE = "final_performance"
"""The metric by which the members of a population are ranked."""
SUPER_BATCH, BATCHES_OF_ONE = 64, 4
"""A sweep's super-batch holds 64 trials, or 4 hparam batches if that is more: the analysis follows each."""
USUAL_SUPER_BATCH = 16
"""Trials of a super-batch whose width the number of lanes does not decide."""


def _recipes() -> list[str]:
    from hyperlax.recipe import available

    return available()


def _environments() -> list[str]:
    from hyperlax.envs.catalog import CATALOG

    return list(CATALOG)


def _metrics() -> list[str]:
    from hyperlax.metrics import METRICS

    return list(METRICS)


PRESETS: dict[str, dict[str, Any]] = {
    "quick_test": {"n_trials": 5, "num_seeds": 1, "pruner": "none", "run_length_modifier": "quick"},
    "standard": {"n_trials": 50, "num_seeds": 1, "pruner": "asha", "run_length_modifier": "default"},
    "extensive": {"n_trials": 200, "num_seeds": 3, "pruner": "hyperband", "run_length_modifier": "default"},
    "production": {
        "n_trials": 100,
        "num_seeds": 5,
        "pruner": "asha",
        "run_length_modifier": "long",
        "confirm_top": 3,
        "confirm_seeds": 10,
    },
}
"""Name -> the options of a search that the preset stands for. Options given beside it win over them."""


def _presets() -> list[str]:
    return list(PRESETS)


_Recipe = Annotated[str, Metavar("RECIPE"), Offered(_recipes)]
_Environment = Annotated[str, Metavar("SUITE.NAME"), Offered(_environments)]
_Seed = Annotated[int, "Seed of all random numbers.", Range(0, LARGEST)]
_Aggregate = Annotated[str, "How to combine the returns of a trial's seeds.", OneOf(AGGREGATES)]
_TotalTimesteps = Annotated[
    int, "Environment steps that each seed trains.", COUNT, By("by {run_length_modifier}"), RL_ONLY
]
_NumEvalEpisodes = Annotated[int, "Episodes of each evaluation.", COUNT, By("by {run_length_modifier}"), RL_ONLY]
_StudyName = Annotated[str, "Name of the study in its database.", Metavar("NAME")]
_NumEvaluations = Annotated[
    int, "Evaluations, evenly spaced over training.", COUNT, By("by {run_length_modifier}"), RL_ONLY
]
TrialNumber = Annotated[int | None, Range(0)]
Devices = Annotated[
    tuple[int, ...],
    "Devices to train on, by their numbers, e.g. 0,1.",
    Range(0, note="Count devices from 0."),
    Metavar("N[,N...]"),
    THIS_RUN,
    PROGRAMS_ONLY,
    By("all that JAX sees"),
]
_Lanes = Annotated[
    int | Literal["auto"],
    "Maximum number of trials that share one compiled call; auto fits it to the device.",
    Range(1),
    MAY_CHANGE,
    PROGRAMS_ONLY,
]
_DrawnTrials = Annotated[
    int,
    "Number of configurations to sample.",
    Range(1),
    Spelled("num_samples"),
    By("64; sensitivity: as many as the space has"),
]
_NumLevels = Annotated[
    int | None,
    "With {sampling_method} sensitivity: values of each range, at even quantiles from its low to its high end. Choices, and whole "
    "numbers or steps if there are no more of them, are all tried.",
    Range(2, 100),
    By(str(LEVELS)),
]
_HOW_SAMPLED = (
    "Sampling method: a scrambled Sobol sequence (qmc), random draws (random), all combinations of a finite space (grid), an "
    "evenly spread subset if there are more than {num_samples}, or the recipe's default configuration and each hyperparameter "
    "varied alone (sensitivity)"
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of every training: a recipe, an environment for an RL algorithm, seeds, a length, a place for the results.

    fixed: options of the classes above that a command leaves at their defaults, without a flag.
    """

    fixed: ClassVar[tuple[str, ...]] = ()

    algo_and_network_config: Annotated[
        _Recipe,
        "Recipe: its name (recipes/NAME.py of the working directory first, then those shipped: ppo_mlp, sac_mlp, dqn_mlp) or the "
        "path of a .py file.",
    ]
    env_config: Annotated[
        _Environment,
        "Environment of an RL algorithm (a task has none), e.g. gymnax.pendulum or gymnax.Pendulum-v1.",
        RL_ONLY,
    ]
    seed: _Seed = 0
    num_seeds: Annotated[int, "Number of training runs per configuration.", COUNT] = 1
    aggregate: _Aggregate = "mean"
    total_timesteps: _TotalTimesteps
    num_eval_episodes: _NumEvalEpisodes
    run_length_modifier: Annotated[
        str | None,
        "The recipe's preset for training steps, evaluations and episodes per evaluation; an option given explicitly wins.",
        OneOf(("quick", "default", "long")),
        SHORTHAND,
        By("default"),
        RL_ONLY,
    ] = None
    output_root: Annotated[str, "Write the results to DIR/<recipe>/<environment>.", Metavar("DIR")] = (
        "my_optuna_studies"
    )
    log_level: Annotated[
        str,
        "Lowest level of messages to print.",
        OneOf(("DEBUG", "INFO", "WARNING", "ERROR"), str.upper),
        MAY_CHANGE,
    ] = "INFO"
    compilation_cache: Annotated[
        bool, "Do not keep compiled programs on disk for later runs.", By("they are kept"), PROGRAMS_ONLY
    ] = True

    def to_json(self) -> dict[str, Any]:
        """Return the entry `arguments` of `study.json`."""
        return to_json(self)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(RunOptions):
    """Search hyperparameters with Optuna, training many trials at once."""

    preset: Annotated[
        str | None,
        "Preset for the number of trials and seeds, pruner, run length and confirmation; options given explicitly win.",
        OneOf(tuple(PRESETS)),
        SHORTHAND,
        By("none"),
    ] = None
    num_evaluations: _NumEvaluations
    study_name: Annotated[_StudyName, By("<recipe>_<environment>")]
    n_trials: Annotated[int, "Total number of finished trials.", Range(1), MAY_CHANGE] = 100
    objective_names: Annotated[
        tuple[str, ...],
        "Metrics to optimize; those of a task are its measures, too, and its leading one is the default.",
        Metavar("NAME [NAME ...]"),
        Offered(_metrics),
    ] = ("peak_performance",)
    objective_directions: Annotated[
        tuple[str, ...],
        "minimize or maximize, one per objective.",
        OneOf(("minimize", "maximize")),
        Metavar("DIRECTION [DIRECTION ...]"),
        By("each metric's better direction"),
    ]
    sampler: Annotated[
        str,
        f"Optuna sampler that suggests trials: {', '.join(f'{row.name} ({row.help})' for row in SAMPLERS.values())}.",
        OneOf(tuple(SAMPLERS)),
    ] = "tpe"
    default_trial: Annotated[
        bool,
        "Do not start with the recipe's default configuration as trial 0.",
        By("trial 0 is the default configuration if the space contains it"),
    ] = True
    enqueue: Annotated[
        str | None,
        "Start with the configurations of this JSON or CSV file, or JSON text, in order.",
        FILE,
        Metavar("FILE"),
    ] = None
    constraints: Annotated[
        tuple[str, ...],
        "Constraints that the best trial must satisfy, e.g. 'num_parameters <= 20000'. tpe, nsgaii, nsgaiii and gp also use "
        "them for suggestions.",
        Metavar("'METRIC <= NUMBER' [...]"),
        Spelled("constraint"),
    ] = ()
    pruner: Annotated[
        str, "Pruner that stops bad trials early; their lanes are given to new trials.", OneOf(tuple(PRUNERS))
    ] = "none"
    pruner_min_segments: Annotated[int, "Evaluations before a trial may be pruned.", Range(1)] = 3
    pruner_reduction_factor: Annotated[
        int,
        "Reduction factor: the best 1/INT of trials continue past each rung (asha, hyperband), or get their next seed "
        "({seed_schedule} racing).",
        Range(2),
    ] = 3
    pruner_percentile: Annotated[
        float,
        "Share of trials that continue past each evaluation (percentile).",
        Range(0, 100, above=True, below=True),
        Metavar("PERCENT"),
    ] = 25.0
    optuna_study_batch_size: Annotated[
        int | Literal["auto"],
        "Trials that the sampler suggests together; auto: as many as train at once, and the next ones while they train. With a "
        "number, the next ones follow once all of them have ended. More is faster, but searches less well.",
        Range(1),
    ] = "auto"
    runner_hparam_batch_size: _Lanes = "auto"
    packing: Annotated[
        str,
        "Programs for trials of different sizes: one for all (pad), one per size (split), or whichever is predicted to "
        "take the least time (auto).",
        OneOf(("auto", "pad", "split")),
        PROGRAMS_ONLY,
    ] = "auto"
    in_flight: Annotated[
        int | None,
        "Trials that train at once, on all machines together, in a study with {pruner} or {seed_schedule} racing. What the "
        "sampler suggests follows from it.",
        Range(1),
        By("as many as one machine trains at once"),
    ] = None
    slots: Annotated[
        int | None,
        "Trials of a task that train at once, each in a process of its own.",
        Range(1),
        MAY_CHANGE,
        PROCESSES_ONLY,
        By("as many as there are cores for"),
    ] = None
    devices: Devices = ()
    agents: Annotated[
        int | Literal["none"],
        "Train in agents, which hyperlax agent DIR starts on any machine that sees the study's directory, and start this many "
        "of them here, which share its devices and cores; 0 only leads. With none, this process trains. With {engine} ray: the "
        "most agents; none for as many as the cluster has room for.",
        Range(0),
        MAY_CHANGE,
    ] = "none"
    engine: Annotated[
        str,
        "Where trials train: on this machine and in the agents that join it (local), or in agents in a Ray cluster, whose nodes "
        "may come and go (ray).",
        OneOf(("local", "ray")),
        MAY_CHANGE,
    ] = "local"
    agent_resources: Annotated[
        str | None,
        "What each agent reserves with {engine} ray: cpu=4, cpu=2,gpu=1, cpu=1,gpu=0.25, or resources that nodes have by names of "
        "their own.",
        Metavar("NAME=AMOUNT[,...]"),
        MAY_CHANGE,
        By("what a trial of a task needs; else cpu=1"),
    ] = None
    ray_address: Annotated[
        str | None,
        "Ray cluster of {engine} ray: HOST:PORT of its head, auto for the one that this machine is in, or local to start one here.",
        Metavar("ADDRESS"),
        THIS_RUN,
        By("RAY_ADDRESS, else local"),
    ] = None
    plan_only: Annotated[
        bool, "Print the plan of the next super-batch and exit, without changing the study.", THIS_RUN, By("run it")
    ] = False
    resume_from: Annotated[
        str | None,
        "Continue the study in this directory. Options that are not given are read from its study.json. Given ones must agree "
        "with it, except options that may change.",
        Metavar("DIR"),
        THIS_RUN,
        By("start a new study"),
    ] = None
    seed_schedule: Annotated[
        str,
        "Train all seeds of a trial at once (fixed), or one after another as long as the trial ranks among the best (racing).",
        OneOf(("fixed", "racing")),
    ] = "fixed"
    confirm_top: Annotated[
        int,
        "After the search, retrain this many of the best trials and the recipe's default configuration on new seeds.",
        Range(0),
        MAY_CHANGE,
    ] = 0
    confirm_seeds: Annotated[
        int,
        "Number of new seeds for {confirm_top}.",
        Range(2, LARGEST, note="One seed gives no interval."),
        MAY_CHANGE,
    ] = 10
    save_agents: Annotated[
        str,
        "Trials whose trained networks are kept in the study's agents/ directory, for hyperlax play.",
        OneOf(("best", "all", "none")),
        MAY_CHANGE,
        RL_ONLY,
    ] = "best"
    timeout: Annotated[
        float | None,
        "Start no new hparam batch after this time; applies to this run only.",
        Range(0, above=True, unit="seconds", note="Leave it out for no limit."),
        Metavar("SECONDS"),
        MAY_CHANGE,
        By("no limit"),
    ] = None
    trial_timeout: Annotated[
        float | None,
        "Seconds after which a trial of a task has failed; its process is ended.",
        Range(0, above=True, unit="seconds", note="Leave it out for no limit."),
        Metavar("SECONDS"),
        MAY_CHANGE,
        PROCESSES_ONLY,
        By("no limit"),
    ] = None
    max_failure_rate: Annotated[
        float,
        "Stop if more than this share of at least 8 finished trials have failed.",
        Range(0, 1, unit="a share", note="1 never stops it."),
        Metavar("SHARE"),
        MAY_CHANGE,
    ] = 0.5
    retry_failed: Annotated[
        bool,
        "With {resume_from}: run failed trials again, under their own numbers and parameters.",
        THIS_RUN,
        By("they stay FAIL"),
    ] = False
    checkpoint_seconds: Annotated[
        float,
        "Minimum seconds between checkpoints; 0 saves at every evaluation.",
        Range(0, unit="seconds", note="0 saves at every evaluation."),
        Metavar("SECONDS"),
        MAY_CHANGE,
    ] = 60.0
    track: Annotated[
        str | None,
        "Also log the study to MLflow, one run with a child run per trial; none turns it off for this run.",
        OneOf(("none", "mlflow")),
        THIS_RUN,
        By("none, or as before for a study that was tracked"),
    ] = None
    tracking_uri: Annotated[
        str | None,
        "MLflow store or server: sqlite:///FILE, http://HOST:PORT, ...",
        Metavar("URI"),
        THIS_RUN,
        By("MLFLOW_TRACKING_URI, else sqlite:///mlflow.db"),
    ] = None
    tracking_experiment: Annotated[
        str | None,
        "MLflow experiment; created if it does not exist.",
        Metavar("NAME"),
        THIS_RUN,
        By("the study's name"),
    ] = None
    mirror: Annotated[
        str | None,
        "Also add finished trials to this Optuna storage, under the study's name: sqlite:///FILE, postgresql://..., or the "
        "path of a journal file; none turns it off for this run.",
        Metavar("STORAGE"),
        THIS_RUN,
        By("HYPERLAX_MIRROR, or as before for a study that was mirrored; else none"),
    ] = None
    quiet: Annotated[
        bool,
        "Print no progress, only warnings and the result.",
        THIS_RUN,
        By("a progress line; without a terminal a line per batch and every 30 s"),
    ] = False
    json: Annotated[
        bool,
        "Write one JSON object per line to standard output, everything else to standard error.",
        THIS_RUN,
        By("text"),
    ] = False
    sampling_method: Annotated[str | None, HIDDEN] = None
    load_hyperparams: Annotated[str | None, HIDDEN] = None

    @property
    def is_sweep(self) -> bool:
        """True if its trials were sampled before the first of them trained; `sampling_method` says how."""
        return self.sampling_method is not None

    @property
    def super_batch(self) -> int | None:
        """Trials that are suggested together; None if as many as train at once, and the next ones while they train."""
        if self.optuna_study_batch_size != "auto":
            return self.optuna_study_batch_size
        sampler = SAMPLERS[self.sampler]
        return None if sampler.learns and sampler.smallest_super_batch == 1 else USUAL_SUPER_BATCH

    @property
    def objectives(self) -> dict[str, str]:
        """Name -> "minimize" or "maximize"."""
        return dict(zip(self.objective_names, self.objective_directions, strict=True))


@dataclass(frozen=True, kw_only=True)
class SweepOptions(SearchOptions):
    """Train many configurations at once that are sampled in advance or read from a file."""

    fixed = (
        "preset", "aggregate", "enqueue", "constraints", "pruner", "pruner_min_segments", "pruner_reduction_factor",
        "pruner_percentile", "in_flight", "plan_only", "seed_schedule", "confirm_top", "confirm_seeds", "save_agents",
    )  # fmt: skip

    n_trials: _DrawnTrials = 64
    sampling_method: Annotated[
        str, f"{_HOW_SAMPLED}; file with {{load_hyperparams}}.", OneOf(_SAMPLING_METHODS), By("qmc")
    ] = "qmc"
    num_levels: _NumLevels = None
    load_hyperparams: Annotated[
        str | None,
        "Train the configurations of this CSV file instead, from generate-hp-samples or a study's hyperparams.csv; fields without "
        "a column take the recipe's values.",
        FILE,
        Metavar("FILE"),
        By("sample {num_samples}"),
    ] = None
    runner_hparam_batch_size: Annotated[_Lanes, Spelled("hparam_batch_size")] = "auto"
    output_root: Annotated[str, "Write the sweep to DIR/<recipe>/<environment>.", Metavar("DIR")] = "my_sweeps"
    sampler: Annotated[str, HIDDEN] = "presampled"
    default_trial: Annotated[bool, HIDDEN] = False
    optuna_study_batch_size: Annotated[int, HIDDEN] = SUPER_BATCH


@dataclass(frozen=True, kw_only=True)
class RunStudyOptions(SearchOptions):
    """Run studies from YAML files, one after another. Flags override the files."""

    fixed = ("resume_from", "retry_failed")

    files: Annotated[
        tuple[str, ...], "YAML files, one per study.", POSITIONAL, THIS_RUN, FILE, Metavar("FILE [FILE ...]")
    ]
    assignments: Annotated[
        tuple[str, ...],
        "Replace one value of the files, e.g. space.gamma.low=0.95 or n_trials=8. Takes several, and may be repeated.",
        REPEATED,
        THIS_RUN,
        Spelled("set"),
        Metavar("NAME=VALUE"),
    ] = ()
    space: Annotated[
        str | None,
        "Search space of a file that has several under search_spaces.",
        THIS_RUN,
        Metavar("NAME"),
        By("the only one"),
    ] = None
    preset: Annotated[
        str | None,
        f"Preset of the file's experiments, or one of {', '.join(PRESETS)}; flags given explicitly win.",
        SHORTHAND,
        Offered(_presets),
        Metavar("NAME"),
        By("none"),
    ] = None
    join: Annotated[
        bool,
        "Train in agents, one of them here unless {agents} says otherwise. If another process runs the study, train for it, and "
        "run the study if that process ends before it does.",
        THIS_RUN,
        By("the study is refused while another process runs it"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Sample configurations from a recipe's search space to a CSV file, without training them."""

    algo_and_network_config: Annotated[_Recipe, "Recipe, by name or path."]
    n_trials: _DrawnTrials = 64
    sampling_method: Annotated[str, f"{_HOW_SAMPLED}.", OneOf(_SAMPLING_METHODS[:-1])] = "qmc"
    num_levels: _NumLevels = None
    seed: Annotated[int, "Seed of qmc and random; the others need none.", Range(0, LARGEST)] = 0
    output: Annotated[
        str | None, "The CSV file; - is standard output.", Metavar("FILE"), By("<recipe>_samples.csv")
    ] = None
    force: Annotated[bool, "Replace FILE if it exists.", By("it must not exist")] = False


@dataclass(frozen=True, kw_only=True)
class SingleOptions(RunOptions):
    """Train one configuration: the recipe's defaults, a study's trial, or your own values."""

    num_evaluations: _NumEvaluations
    params: Annotated[
        str | None,
        "Hyperparameters to train: a study's best_optuna_params.json or pareto_front_params.json, or a CSV, e.g. hyperparams.csv.",
        FILE,
        Metavar("FILE"),
        By("the recipe's"),
    ] = None
    trial: Annotated[TrialNumber, "Number of the trial in FILE, if it has several.", By("the only one")] = None
    assignments: Annotated[
        tuple[str, ...],
        "Set one hyperparameter, e.g. algorithm.hyperparam.gamma=0.98 or gamma=0.98; overrides {params}. Takes several, and may "
        "be repeated.",
        REPEATED,
        Spelled("set"),
        Metavar("NAME=VALUE"),
    ] = ()
    output_root: Annotated[str, "Write the run to a new directory below DIR.", Metavar("DIR")] = "my_single_runs"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(SingleOptions):
    """Train a study's best trial again, e.g. for longer or on more seeds. Other settings are the study's."""

    fixed = ("params", "assignments", "run_length_modifier")

    from_: Annotated[str, "The study's directory.", THIS_RUN, Spelled("from"), Metavar("DIR")]
    trial: Annotated[TrialNumber, "Number of the trial.", By("the best")] = None
    algo_and_network_config: Annotated[_Recipe, "Recipe, by name or path.", By("the study's, if it is your own")]
    env_config: Annotated[_Environment, "Environment to train in.", By("the study's")]
    seed: Annotated[_Seed, By("the study's")] = 0
    num_seeds: Annotated[int, "Number of training runs.", COUNT, By("the study's")] = 1
    aggregate: Annotated[_Aggregate, "How to combine the returns of the seeds.", By("the study's")] = "mean"
    total_timesteps: Annotated[_TotalTimesteps, By("the study's")]
    num_evaluations: Annotated[_NumEvaluations, By("the study's")]
    num_eval_episodes: Annotated[_NumEvalEpisodes, By("the study's")]


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(SingleOptions):
    """Train new agents along the winning hyperparameter schedule of a pbt run."""

    fixed = (
        "params", "assignments", "trial", "env_config", "total_timesteps", "num_evaluations", "run_length_modifier",
    )  # fmt: skip

    schedule: Annotated[str, "The run's pbt_schedule.json.", POSITIONAL, THIS_RUN, FILE, Metavar("FILE")]
    algo_and_network_config: Annotated[_Recipe, "Recipe, by name or path.", By("the run's, if it is your own")]
    seed: Annotated[_Seed, By("the run's seed + 1, for new episodes")] = 0
    num_seeds: Annotated[int, "Number of agents to train.", COUNT] = 5
    num_eval_episodes: Annotated[_NumEvalEpisodes, By("the run's")]
    output_root: Annotated[str, "Write the replay to a new directory below DIR.", Metavar("DIR")] = "my_pbt_replays"


@dataclass(frozen=True, kw_only=True)
class PbtOptions(RunOptions):
    """Train a population that copies its best members and changes hyperparameters during training."""

    study_name: Annotated[_StudyName, By("<recipe>_<environment>_pbt")]
    population_size: Annotated[int, "Number of members, all lanes of one compiled program.", Range(2)] = 16
    num_intervals: Annotated[
        int,
        "Number of intervals; after each, members are evaluated and the worst copy the best.",
        Range(2, LARGEST),
        By("the evaluations of {run_length_modifier}"),
    ]
    explore: Annotated[
        str,
        "Change of a copy's hyperparameters: by a step (perturb), resampled (resample), or chosen by a Gaussian process (pb2).",
        OneOf(tuple(EXPLORERS)),
    ] = "perturb"
    quantile: Annotated[
        float,
        "The worst SHARE of the members copy the best SHARE.",
        Range(0, 0.5, above=True, unit="a share", note="No member may be among the worst and the best at once."),
        Metavar("SHARE"),
    ] = 0.25
    direction: Annotated[str, HIDDEN] = "maximize"
    output_root: Annotated[str, "Write the run to DIR/<recipe>/<environment>.", Metavar("DIR")] = "my_pbt_runs"
    resume_from: Annotated[
        str | None,
        "Continue the run in this directory. Options that are not given are read from its study.json. Given ones must agree with "
        "it, except {log_level}.",
        Metavar("DIR"),
        THIS_RUN,
        By("start a new run"),
    ] = None

    @property
    def n_trials(self) -> int:
        """Number of trials, each a member over an interval."""
        return self.population_size * self.num_intervals

    @property
    def num_evaluations(self) -> int:
        """Number of evaluations, one at the end of every interval."""
        return self.num_intervals

    @property
    def confirm_top(self) -> int:
        """Zero, since a population has no confirmation."""
        return 0

    @property
    def objectives(self) -> dict[str, str]:
        """Objective of a population: the return at the end of an interval, the only point of a trial's curve."""
        return {OBJECTIVE: self.direction}
