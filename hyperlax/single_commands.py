"""The commands that train one configuration. Only what `--help` needs is imported here, see `hyperlax.commands`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyperlax.command_parts import log_from, recipe_name
from hyperlax.errors import UsageError
from hyperlax.single_flags import SingleFlags, TrainFlags

if TYPE_CHECKING:
    from hyperlax.study.record import StudyRecord, TrialRecord


def run_single_hp(flags: SingleFlags) -> int:
    """Train one configuration."""
    from hyperlax.acting import check_acts
    from hyperlax.recipe import load
    from hyperlax.single_arguments import configured, resolve_single

    recipe = load(recipe_name(flags))
    arguments = resolve_single(flags, recipe)
    check_acts(recipe, arguments.env_config)
    algorithm = configured(arguments, recipe)
    log_from(arguments.log_level)
    from hyperlax.study.single import run_single

    return run_single(arguments, recipe, algorithm)


def train(flags: TrainFlags) -> int:
    """Train a study's winner, or another of its trials, once more: as the study did where the flags say nothing else."""
    from hyperlax.arguments import RUN_LENGTH
    from hyperlax.resumed_arguments import named_directory
    from hyperlax.study.opened import open_study, recipe_file

    directory = named_directory(flags.from_, "--from")
    record = open_study(directory, "--from").record
    if record.lineage:
        raise UsageError(
            f"--from {directory}: holds a population. Train along its schedule:\n  {record.lineage.replay}"
        )
    trial = _chosen(record, flags.trial)
    shared = ("seed", "num_seeds", "aggregate", *RUN_LENGTH)
    given = {name: record.arguments[name] if getattr(flags, name) is None else getattr(flags, name) for name in shared}
    return run_single_hp(
        SingleFlags(
            algo_and_network_config=recipe_file(directory),
            env_config=flags.env_config or record.arguments["env_config"],
            assignments=tuple(f"{name}={json.dumps(value)}" for name, value in trial.params.items()),
            output_root=flags.output_root,
            log_level=flags.log_level,
            no_compilation_cache=flags.no_compilation_cache,
            **given,
        )
    )


def _chosen(record: StudyRecord, number: int | None) -> TrialRecord:
    """The trial of that number, by default the best. UsageError if there is no such trial, or more than one best."""
    from hyperlax.analysis.best import winners

    if number is not None:
        found = [trial for trial in record.trials if trial.number == number]
        if not found:
            raise UsageError(f"--trial {number}: {record.directory} has no such trial; it has {len(record.trials)}.")
        return found[0]
    best = winners(record)
    if not best:
        raise UsageError(f"--from {record.directory}: no trial can win yet. Choose one with --trial.")
    if len(best) > 1:
        numbers = ", ".join(str(trial.number) for trial in best)
        raise UsageError(
            f"--from {record.directory}: the Pareto front has the trials {numbers}. Choose one with --trial."
        )
    return best[0]
