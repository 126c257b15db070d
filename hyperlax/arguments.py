"""The arguments of a command, resolved and checked: what was given, else what study or recipe says, else defaults."""

from __future__ import annotations

import difflib
import errno
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from hyperlax.errors import UsageError
from hyperlax.reading import DAMAGED, fits

if TYPE_CHECKING:
    from hyperlax.flags import SearchFlags
    from hyperlax.recipe import Recipe

SAMPLERS = ("tpe", "nsgaii", "qmc", "random")
LATER_SAMPLERS = {"nsgaiii": "nsgaii", "cmaes": "tpe", "gp": "tpe", "grid": "qmc"}  # and what to use until then
PACKINGS = ("auto", "pad", "split")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OF_THIS_RUN = ("resume_from", "plan_only", "retry_failed")
LARGEST_SEED = 2**31 - 1
RUN_LENGTH = ("total_timesteps", "num_evaluations", "num_eval_episodes")


@dataclass(frozen=True)
class StudyArguments:
    """Every argument of `optuna-hp-search`, none left open; `timeout` is None for no limit."""

    algo_and_network_config: str
    env_config: str
    study_name: str
    n_trials: int
    objective_names: tuple[str, ...]
    objective_directions: tuple[str, ...]
    sampler: str
    optuna_study_batch_size: int
    runner_hparam_batch_size: int | Literal["auto"]
    packing: str
    output_root: str
    log_level: str
    seed: int
    num_seeds: int
    total_timesteps: int
    num_evaluations: int
    num_eval_episodes: int
    timeout: float | None
    max_failure_rate: float
    checkpoint_seconds: float
    compilation_cache: bool

    @property
    def objectives(self) -> dict[str, str]:
        """Name -> "minimize" or "maximize"."""
        return dict(zip(self.objective_names, self.objective_directions, strict=True))

    def to_json(self) -> dict[str, Any]:
        """What `study.json` keeps under `arguments`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], where: str) -> StudyArguments:
        """What `to_json` wrote. UsageError, beginning with `where`, if an argument is missing or unknown."""
        names = [f.name for f in fields(cls)]
        for wrong, what in ((set(names) - set(stored), "lacks"), (set(stored) - set(names), "has the unknown")):
            if wrong:
                raise UsageError(
                    f"{where}: {what} argument {', '.join(sorted(wrong))}. "
                    "It was written by another version of Hyperlax; resume it with that one."
                )
        hints = get_type_hints(cls)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        for name, value in values.items():
            if not fits(value, hints[name]):
                raise UsageError(f"{where}: the argument {name} is {value!r}, which it cannot be. {DAMAGED}")
        return cls(**values)


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
    total_timesteps: int
    num_evaluations: int
    num_eval_episodes: int
    compilation_cache: bool

    def to_json(self) -> dict[str, Any]:
        """The arguments with tuples as lists."""
        return {**asdict(self), "assignments": list(self.assignments)}


def resolve(flags: SearchFlags, recipe: Recipe) -> StudyArguments:
    """The arguments of a new study. UsageError for what cannot run."""
    from hyperlax.envs import slug
    from hyperlax.metrics import METRICS

    environment = required(flags.env_config, "--env-config", "an environment such as gymnax.pendulum")
    given = given_arguments(flags, recipe)
    names = given.get("objective_names", ("peak_performance",))
    directions = tuple(METRICS.get(name, "maximize") for name in names)
    defaults = StudyArguments(
        algo_and_network_config=recipe.name,
        env_config=environment,
        study_name=f"{recipe.name}_{slug(environment)}",
        n_trials=100,
        objective_names=names,
        objective_directions=directions,
        sampler="tpe",
        optuna_study_batch_size=16,
        runner_hparam_batch_size="auto",
        packing="auto",
        output_root="my_optuna_studies",
        log_level="INFO",
        seed=0,
        num_seeds=1,
        **asdict(recipe.config.run_lengths["default"]),
        timeout=None,
        max_failure_rate=0.5,
        checkpoint_seconds=60.0,
        compilation_cache=True,
    )
    return checked(replace(defaults, **given))


def given_arguments(flags: SearchFlags, recipe: Recipe) -> dict[str, Any]:
    """Argument name -> value of what was given, the run length's name resolved to the three that it stands for."""
    given = {f.name: getattr(flags, f.name) for f in fields(flags) if f.name not in OF_THIS_RUN}
    modifier, uncached = given.pop("run_length_modifier"), given.pop("no_compilation_cache")
    given = {name: value for name, value in given.items() if value is not None}
    if modifier:
        given = {**asdict(recipe.config.run_lengths[modifier]), **given}
    if uncached:
        given["compilation_cache"] = False
    if "log_level" in given:
        given["log_level"] = given["log_level"].upper()
    if given.get("algo_and_network_config", "").endswith(".py"):
        given["algo_and_network_config"] = str(Path(given["algo_and_network_config"]).resolve())
    return given


def checked(arguments: StudyArguments) -> StudyArguments:
    """The same arguments. UsageError for any that cannot run, alone or together."""
    from hyperlax.metrics import check_objectives

    check_run(arguments)
    if not arguments.study_name.strip():
        raise UsageError("--study-name is empty. Name the study, or leave the flag out.")
    at_least(arguments.n_trials, 1, "n_trials")
    check_objectives(arguments.objective_names, arguments.objective_directions)
    _check_sampler(arguments.sampler)
    _check_batches(arguments)
    if arguments.packing not in PACKINGS:
        raise UsageError(f"--packing: nothing named {arguments.packing!r}. Use {', '.join(PACKINGS)}.")
    if arguments.timeout is not None and not (arguments.timeout > 0 and math.isfinite(arguments.timeout)):
        raise UsageError(f"--timeout needs seconds above 0, got {arguments.timeout}. Leave it out for no limit.")
    if not 0 <= arguments.max_failure_rate <= 1:
        raise UsageError(
            f"--max-failure-rate needs a share from 0 to 1, got {arguments.max_failure_rate}. 1 never gives up."
        )
    if not (arguments.checkpoint_seconds >= 0 and math.isfinite(arguments.checkpoint_seconds)):
        raise UsageError(
            f"--checkpoint-seconds needs seconds of at least 0, got {arguments.checkpoint_seconds}. "
            "0 saves at every evaluation."
        )
    return arguments


def check_run(arguments: StudyArguments | SingleArguments) -> None:
    """Refuse what no training can run with: the part that both commands share."""
    at_least(arguments.seed, 0, "seed")
    if arguments.seed > LARGEST_SEED:
        raise UsageError(f"--seed needs a number from 0 to {LARGEST_SEED}, got {arguments.seed}.")
    for name in ("num_seeds", *RUN_LENGTH):
        at_least(getattr(arguments, name), 1, name)
        if getattr(arguments, name) > LARGEST_SEED:
            raise UsageError(
                f"{flag_of(name)} needs a number from 1 to {LARGEST_SEED}, got {getattr(arguments, name)}."
            )
    if arguments.total_timesteps < arguments.num_evaluations:
        raise UsageError(
            f"--total-timesteps {arguments.total_timesteps} is less than one step for each of --num-evaluations "
            f"{arguments.num_evaluations}. Raise the first or lower the second."
        )
    if arguments.log_level not in LOG_LEVELS:
        raise UsageError(f"--log-level: no level named {arguments.log_level!r}. Use {', '.join(LOG_LEVELS)}.")
    _check_output_root(arguments.output_root)


def at_least(value: int, least: int, name: str) -> None:
    """Refuse a count that is too small, naming its flag."""
    if value < least:
        raise UsageError(f"{flag_of(name)} needs a whole number of at least {least}, got {value}.")


def required(value: str | None, flag: str, what: str) -> str:
    """The value. UsageError if the flag was not given."""
    if not value:
        raise UsageError(f"{flag} is required: {what}.")
    return value


def _check_sampler(sampler: str) -> None:
    if sampler in SAMPLERS:
        return
    listed = ", ".join(SAMPLERS)
    if sampler in LATER_SAMPLERS:
        raise UsageError(
            f"--sampler {sampler} is not available yet; use {LATER_SAMPLERS[sampler]}. There are {listed}."
        )
    near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(f"--sampler: no sampler named `{sampler}`. {hint}There are {listed}.")


def _check_batches(arguments: StudyArguments) -> None:
    together, lanes = arguments.optuna_study_batch_size, arguments.runner_hparam_batch_size
    at_least(together, 1, "optuna_study_batch_size")
    if arguments.sampler == "nsgaii" and together < 2:
        raise UsageError(
            "--sampler nsgaii crosses the trials of one super-batch: --optuna-study-batch-size needs at least 2, got "
            f"{together}. For one trial at a time, use tpe."
        )
    if lanes == "auto":
        return
    at_least(lanes, 1, "runner_hparam_batch_size")
    if lanes > together:
        raise UsageError(
            f"--runner-hparam-batch-size {lanes} is more than the {together} trials of --optuna-study-batch-size. "
            "Lower the first, raise the second, or use auto."
        )


def _check_output_root(given: str) -> None:
    if not given.strip():
        raise UsageError("--output-root is empty. Name a directory, or leave the flag out.")
    root = Path(given)
    try:
        nearest = next(path for path in (root, *root.absolute().parents) if path.exists())
    except OSError as error:
        shown = given if len(given) <= 60 else f"{given[:60]}..."
        other = "a shorter name" if error.errno == errno.ENAMETOOLONG else "another directory"
        raise UsageError(f"--output-root {shown}: {error.strerror}. Choose {other}.") from error
    if not nearest.is_dir():
        raise UsageError(
            f"--output-root {root}: {nearest} is a file. Choose a directory; it is made if it is not there."
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"--output-root {root}: {nearest} cannot be written to. Choose another directory.")


def flag_of(name: str) -> str:
    """An argument's flag."""
    return "--no-compilation-cache" if name == "compilation_cache" else "--" + name.replace("_", "-")
