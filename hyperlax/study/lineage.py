"""The lineage of a population's trials, and `pbt_schedule.json`, the hyperparameters of its best member by interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.option import shell_command
from hyperlax.config.options import OBJECTIVE, PbtOptions
from hyperlax.config.trusted import code_of
from hyperlax.envs import canonical
from hyperlax.errors import UsageError
from hyperlax.fields import apply, dotted
from hyperlax.files import decode
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe
from hyperlax.space import Categorical, Distribution
from hyperlax.study.batch_files import read_curves
from hyperlax.study.directory import SCHEDULE
from hyperlax.study.record import Lineage, TrialRecord

MEMBER, INTERVAL, PARENT = "member", "interval", "parent"
"""User attributes of a trial. A trial of interval 0 has the parent None."""


def finished_intervals(trials: Sequence[FrozenTrial], members: int) -> list[FrozenTrial]:
    """Return the trials of the intervals that have ended."""
    return list(trials[: sum(trial.state.is_finished() for trial in trials) // members * members])


def lineage_of(trials: Sequence[FrozenTrial], options: PbtOptions, root: Path) -> Lineage:
    """Return the lineage of the trials of whole intervals. root: the study's directory."""
    members, sign = options.population_size, sign_of(options)
    parents = {trial.number: parent for trial in trials if (parent := trial.user_attrs.get(PARENT)) is not None}
    last = trials[-members:] if trials else []
    best = max(
        last,
        key=lambda trial: (-math.inf if math.isnan(score_of(trial)) else sign * score_of(trial), -trial.number),
        default=None,
    )
    final = None if best is None or math.isnan(score_of(best)) else best.number
    return Lineage(members, parents, final, replay_command(root / SCHEDULE))


def score_of(trial: FrozenTrial) -> float:
    """Return the value of a trial that is COMPLETE, else nan."""
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan


def sign_of(options: PbtOptions) -> float:
    """Return 1.0 if higher scores are better, else -1.0."""
    return 1.0 if options.direction == "maximize" else -1.0


@dataclass(frozen=True)
class HyperparameterSchedule:
    """The content of `pbt_schedule.json`.

    recipe: its path. seal: this user's mark of it. config: the values of all its fields when the run began. trial, final_return:
    those of the best member at the end. schedule: one {interval, from_step, to_step, hyperparams} per interval, in order; steps are
    environment steps of one seed.
    """

    algo_and_network_config: str
    recipe: str
    env_config: str
    seed: int
    num_seeds: int
    population_size: int
    total_timesteps: int
    num_eval_episodes: int
    trial: int
    final_return: float
    config: dict[str, Any]
    schedule: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    seal: str = ""


_GIVEN = ("algo_and_network_config", "seed", "num_seeds", "population_size", "total_timesteps", "num_eval_episodes")
"""Entries of a schedule that are options of the run."""


def describe_schedule(options: PbtOptions, recipe: Recipe, path: Sequence[TrialRecord]) -> HyperparameterSchedule:
    """Return the schedule of a run. path: one trial per interval, leading to the best trial at the end."""
    entries: list[dict[str, Any]] = []
    for interval, trial in enumerate(path):
        assert trial.batch_directory is not None
        first = entries[-1]["to_step"] if entries else 0
        last = int(read_curves(trial.batch_directory, [trial.number])[trial.number].steps[-1])
        entries.append({"interval": interval, "from_step": first, "to_step": last, "hyperparams": trial.params})
    code = code_of(recipe)
    return HyperparameterSchedule(
        **{name: getattr(options, name) for name in _GIVEN},
        recipe=code["path"],
        env_config=options.env_config and canonical(options.env_config),
        trial=path[-1].number,
        final_return=path[-1].values[OBJECTIVE],
        config=dotted(recipe.config.algorithm),
        schedule=tuple(entries),
        seal=code["seal"],
    )


def read_schedule(path: Path) -> HyperparameterSchedule:
    """Read a schedule. Raises UsageError if the file does not hold one."""
    return decode(path, HyperparameterSchedule, f"Give the {SCHEDULE} of a pbt run.")


def configurations(schedule: HyperparameterSchedule, algorithm: Config, where: str) -> list[Config]:
    """Return the whole configuration of every interval. Raises UsageError, beginning with `where`, for invalid values."""
    base = apply(algorithm, schedule.config, where)
    found = []
    for number, entry in enumerate(schedule.schedule):
        if not isinstance(entry.get("hyperparams"), dict) or entry.get("interval") != number:
            raise UsageError(f"{where}: entry {number} of `schedule` needs its interval and hyperparams.")
        found.append(apply(base, entry["hyperparams"], f"{where}: interval {number}"))
    return found


def changing(configs: Sequence[Config]) -> dict[str, Distribution]:
    """Return dotted name -> the values in turn, for the fields that change."""
    tables = [dotted(config) for config in configs]
    values = {name: [] for name in tables[0]}
    for table in tables:
        for name, value in table.items():
            if value not in values[name]:
                values[name].append(value)
    return {name: Categorical(found) for name, found in values.items() if len(found) > 1}


def replay_command(schedule: Path) -> str:
    """Return the command line that trains new agents along a schedule."""
    return shell_command("pbt-replay", schedule)
