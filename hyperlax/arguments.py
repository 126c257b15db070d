"""The arguments of a command, resolved and checked: what was given, else what study or recipe says, else defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_type_hints

from hyperlax.errors import UsageError
from hyperlax.metrics import METRICS
from hyperlax.reading import DAMAGED, fits

if TYPE_CHECKING:
    from hyperlax.flags import SearchFlags
    from hyperlax.recipe import Recipe
    from hyperlax.sweep_flags import SweepFlags

A = TypeVar("A")
OF_THIS_RUN = (
    "resume_from", "plan_only", "retry_failed", "quiet", "json", "track", "tracking_uri", "tracking_experiment",
)  # fmt: skip
"""Flags that say nothing of what a study is; where it is tracked is kept in `mlflow.json`."""
SWITCHES = ("compilation_cache", "default_trial")
"""What is on unless `--no-...` turns it off."""
TIE_BREAKER = "normalized_auc"
RUN_LENGTH = ("total_timesteps", "num_evaluations", "num_eval_episodes")


@dataclass(frozen=True)
class StudyArguments:
    """Every argument of `optuna-hp-search`, none left open; `timeout` is None for no limit.

    The last two are those of `sweep-hp-samples`, whose studies have them: "qmc", "random", "grid" or "file", and that file.
    """

    algo_and_network_config: str
    env_config: str
    study_name: str
    n_trials: int
    objective_names: tuple[str, ...]
    objective_directions: tuple[str, ...]
    sampler: str
    default_trial: bool
    enqueue: str | None
    constraints: tuple[str, ...]
    pruner: str
    pruner_min_segments: int
    pruner_reduction_factor: int
    pruner_percentile: float
    optuna_study_batch_size: int
    runner_hparam_batch_size: int | Literal["auto"]
    packing: str
    output_root: str
    log_level: str
    seed: int
    num_seeds: int
    aggregate: str
    seed_schedule: str
    total_timesteps: int
    num_evaluations: int
    num_eval_episodes: int
    confirm_top: int
    confirm_seeds: int
    save_agents: str
    timeout: float | None
    max_failure_rate: float
    checkpoint_seconds: float
    compilation_cache: bool
    sampling_method: str | None = None
    load_hyperparams: str | None = None

    @property
    def is_sweep(self) -> bool:
        """Whether its trials were sampled before the first of them trained; `sampling_method` says how."""
        return self.sampling_method is not None

    @property
    def objectives(self) -> dict[str, str]:
        """Name -> "minimize" or "maximize"."""
        return dict(zip(self.objective_names, self.objective_directions, strict=True))

    @property
    def judged(self) -> dict[str, str]:
        """By what trials are pruned, name -> direction: the objectives; of trials equal in a single one, who learnt sooner."""
        if len(self.objectives) > 1 or TIE_BREAKER in self.objectives:
            return self.objectives
        return {**self.objectives, TIE_BREAKER: METRICS[TIE_BREAKER].direction}

    def to_json(self) -> dict[str, Any]:
        """What `study.json` keeps under `arguments`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> StudyArguments:
        """What `to_json` wrote. UsageError, beginning with `where`, if an argument is missing or unknown."""
        return arguments_from_json(cls, stored, where)


@dataclass(frozen=True)
class SingleArguments:
    """Every argument of `run-single-hp`. params, trial and assignments say where the configuration came from."""

    algo_and_network_config: str
    env_config: str
    params: str | None
    trial: int | None
    assignments: tuple[str, ...]
    output_root: str
    log_level: str
    seed: int
    num_seeds: int
    aggregate: str
    total_timesteps: int
    num_evaluations: int
    num_eval_episodes: int
    compilation_cache: bool

    def to_json(self) -> dict[str, Any]:
        """The arguments with tuples as lists."""
        return {**asdict(self), "assignments": list(self.assignments)}


def arguments_from_json(kind: type[A], stored: Mapping[str, Any], where: str) -> A:
    """Arguments of a class, as their `to_json` wrote them. UsageError, beginning with `where`, for anything else."""
    names = [f.name for f in fields(cast(Any, kind))]
    for wrong, what in ((set(names) - set(stored), "lacks"), (set(stored) - set(names), "has the unknown")):
        if wrong:
            raise UsageError(
                f"{where}: {what} argument {', '.join(sorted(wrong))}. "
                "It was written by another version of Hyperlax; resume it with that one."
            )
    hints = get_type_hints(kind)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise UsageError(f"{where}: the argument {name} is {value!r}, which it cannot be. {DAMAGED}")
    return kind(**values)


def resolve(flags: SearchFlags, recipe: Recipe) -> StudyArguments:
    """The arguments of a new study. UsageError for what cannot run."""
    return resolve_layers([flags], recipe)


def resolve_layers(layers: Sequence[SearchFlags], recipe: Recipe) -> StudyArguments:
    """The arguments of a new study of which several say something, the last one winning. UsageError for what cannot run.

    A run length stands for its three numbers where it is given. Directions are of the objectives beside which they are given.
    """
    from hyperlax.argument_checks import checked
    from hyperlax.flags import SearchFlags

    given: dict[str, Any] = {}
    for flags in layers:
        own = given_arguments(flags, recipe)
        if "objective_names" in own:
            given.pop("objective_directions", None)
        given |= own
    named = SearchFlags(env_config=given.get("env_config"), objective_names=given.get("objective_names"))
    return checked(replace(default_arguments(named, recipe), **given))


def default_arguments(flags: SearchFlags | SweepFlags, recipe: Recipe) -> StudyArguments:
    """The arguments of a new study where nothing but recipe, environment and objectives is given. UsageError without them."""
    from hyperlax.argument_checks import required
    from hyperlax.envs import slug
    from hyperlax.metrics import METRICS

    environment = required(flags.env_config, "--env-config", "an environment such as gymnax.pendulum")
    names = flags.objective_names or ("peak_performance",)
    directions = tuple(METRICS[name].direction if name in METRICS else "maximize" for name in names)
    return StudyArguments(
        algo_and_network_config=recipe.name,
        env_config=environment,
        study_name=f"{recipe.name}_{slug(environment)}",
        n_trials=100,
        objective_names=names,
        objective_directions=directions,
        sampler="tpe",
        default_trial=True,
        enqueue=None,
        constraints=(),
        pruner="none",
        pruner_min_segments=3,
        pruner_reduction_factor=3,
        pruner_percentile=25.0,
        optuna_study_batch_size=16,
        runner_hparam_batch_size="auto",
        packing="auto",
        output_root="my_optuna_studies",
        log_level="INFO",
        seed=0,
        num_seeds=1,
        aggregate="mean",
        seed_schedule="fixed",
        confirm_top=0,
        confirm_seeds=10,
        save_agents="best",
        **asdict(recipe.config.run_lengths["default"]),
        timeout=None,
        max_failure_rate=0.5,
        checkpoint_seconds=60.0,
        compilation_cache=True,
    )


def given_arguments(flags: SearchFlags | SweepFlags, recipe: Recipe) -> dict[str, Any]:
    """Argument name -> value of what was given, the run length's name resolved to the three that it stands for."""
    given = {f.name: getattr(flags, f.name) for f in fields(flags) if f.name not in OF_THIS_RUN}
    modifier = given.pop("run_length_modifier")
    switched_off = [name for name in SWITCHES if given.pop(f"no_{name}", False)]
    given = {name: value for name, value in given.items() if value is not None}
    if modifier:
        given = {**asdict(recipe.config.run_lengths[modifier]), **given}
    given |= dict.fromkeys(switched_off, False)
    if "log_level" in given:
        given["log_level"] = given["log_level"].upper()
    if given.get("algo_and_network_config", "").endswith(".py"):
        given["algo_and_network_config"] = str(Path(given["algo_and_network_config"]).resolve())
    return given


def flag_of(name: str) -> str:
    """An argument's flag."""
    if name in SWITCHES:
        return "--no-" + name.replace("_", "-")
    return "--constraint" if name == "constraints" else "--" + name.replace("_", "-")
