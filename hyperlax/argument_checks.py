"""Refuses arguments that cannot run, alone or together, before anything does."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.config.checks import check_sampler
from hyperlax.config.options import RUN_LENGTH, SearchOptions, SingleOptions, flag_of
from hyperlax.errors import UsageError
from hyperlax.pruning_checks import check_pruning

if TYPE_CHECKING:
    from hyperlax.pbt_arguments import PopulationOptions

PACKINGS = ("auto", "pad", "split")
SAVE_AGENTS = ("best", "all", "none")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LARGEST_SEED = 2**31 - 1


def checked(arguments: SearchOptions) -> SearchOptions:
    """The same arguments. UsageError for any that cannot run, alone or together."""
    from hyperlax.config.constraints import parse_constraint
    from hyperlax.metrics import check_objectives

    check_run(arguments)
    if not arguments.study_name.strip():
        raise UsageError("--study-name is empty. Name the study, or leave the flag out.")
    if not arguments.study_name.isprintable():
        raise UsageError(
            f"--study-name {arguments.study_name!r} has characters that cannot be printed. Leave them out."
        )
    at_least(arguments.n_trials, 1, "n_trials")
    check_objectives(arguments.objective_names, arguments.objective_directions)
    _check_batches(arguments)
    if not arguments.is_sweep:
        check_sampler(arguments.sampler, arguments.objective_names, arguments.optuna_study_batch_size)
    for text in arguments.constraints:
        parse_constraint(text)
    check_pruning(arguments)
    _check_confirmation(arguments)
    if arguments.save_agents not in SAVE_AGENTS:
        raise UsageError(f"--save-agents: nothing named {arguments.save_agents!r}. Use {', '.join(SAVE_AGENTS)}.")
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


def check_run(arguments: SearchOptions | SingleOptions | PopulationOptions) -> None:
    """Refuse what no training can run with: the part that all commands share."""
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
    _check_aggregate(arguments.aggregate)
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


def _check_aggregate(aggregate: str) -> None:
    from hyperlax.metrics import AGGREGATES

    if aggregate not in AGGREGATES:
        raise UsageError(f"--aggregate: nothing named {aggregate!r}. Use {', '.join(AGGREGATES)}.")


def _check_confirmation(arguments: SearchOptions) -> None:
    at_least(arguments.confirm_top, 0, "confirm_top")
    if not 2 <= arguments.confirm_seeds <= LARGEST_SEED:
        raise UsageError(
            f"--confirm-seeds needs a number from 2 to {LARGEST_SEED}, got {arguments.confirm_seeds}: of one seed there is no "
            "interval."
        )


def _check_batches(arguments: SearchOptions) -> None:
    together, lanes = arguments.optuna_study_batch_size, arguments.runner_hparam_batch_size
    at_least(together, 1, "optuna_study_batch_size")
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
