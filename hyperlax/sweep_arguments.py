"""The arguments of `generate-hp-samples` and `sweep-hp-samples`. A sweep is a study of which all trials are known beforehand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlax.argument_checks import LARGEST_SEED, checked, required
from hyperlax.config.options import SearchOptions, default_arguments, flag_of, given_arguments
from hyperlax.config.resume import changed, check_agreement
from hyperlax.errors import UsageError

if TYPE_CHECKING:
    from hyperlax.recipe import Recipe
    from hyperlax.sweep_flags import GenerateFlags, SweepFlags

NUM_SAMPLES, METHOD, FROM_FILE = 64, "qmc", "file"
SUPER_BATCH, BATCHES_OF_ONE = 64, 4
"""A super-batch holds so many trials, or so many hparam batches if that is more: the analysis follows each."""
OWN_NAMES = {"n_trials": "num_samples", "runner_hparam_batch_size": "hparam_batch_size"}
"""A study's argument -> what a sweep calls it."""
MAY_CHANGE = ("timeout", "max_failure_rate", "checkpoint_seconds", "log_level", "runner_hparam_batch_size")


@dataclass(frozen=True)
class GenerateOptions:
    """Every argument of `generate-hp-samples`."""

    num_samples: int
    sampling_method: str
    seed: int
    output: Path
    force: bool


def resolve_generate(flags: GenerateFlags, recipe: Recipe) -> GenerateOptions:
    """What to draw and where it goes. UsageError for what cannot be, a file that is there among it."""
    arguments = GenerateOptions(
        num_samples=_num_samples(flags.num_samples),
        sampling_method=flags.sampling_method or METHOD,
        seed=0 if flags.seed is None else flags.seed,
        output=Path(
            required(flags.output, "--output", "a file") if flags.output is not None else _default_output(recipe)
        ),
        force=flags.force,
    )
    if not 0 <= arguments.seed <= LARGEST_SEED:
        raise UsageError(f"--seed needs a number from 0 to {LARGEST_SEED}, got {arguments.seed}.")
    if arguments.output.is_dir():
        raise UsageError(f"--output {arguments.output}: is a directory. Name a file.")
    if arguments.output.exists() and not arguments.force:
        raise UsageError(f"{arguments.output}: is there already. Give --force to replace it, or another --output.")
    return arguments


def _default_output(recipe: Recipe) -> str:
    return f"{recipe.name}_samples.csv"


def resolve_sweep(flags: SweepFlags, recipe: Recipe, loaded: int) -> SearchOptions:
    """The arguments of a new sweep. UsageError for what cannot run.

    loaded: how many rows the file of --load-hyperparams has, 0 where it is not given.
    """
    given = _given(flags, recipe)
    count = loaded or _num_samples(flags.num_samples)
    lanes = given.get("runner_hparam_batch_size", "auto")
    together = min(count, SUPER_BATCH if lanes == "auto" else max(SUPER_BATCH, BATCHES_OF_ONE * lanes))
    _check_lanes(lanes, together)
    defaults = replace(
        default_arguments(flags, recipe),
        n_trials=count,
        sampler="presampled",
        default_trial=False,
        optuna_study_batch_size=together,
        output_root="my_sweeps",
        sampling_method=FROM_FILE if loaded else METHOD,
    )
    return checked(replace(defaults, **given))


def resolve_resumed_sweep(flags: SweepFlags, stored: SearchOptions, recipe: Recipe) -> SearchOptions:
    """The arguments of a sweep that goes on: the stored ones, with those that may change as given now."""
    given = _given(flags, recipe)
    check_agreement(stored, given, MAY_CHANGE, sweep_flag_of)
    _check_lanes(given.get("runner_hparam_batch_size", "auto"), stored.optuna_study_batch_size)
    return checked(changed(stored, given, MAY_CHANGE))


def check_source(flags: SweepFlags) -> None:
    """Refuse configurations that are both loaded and drawn."""
    for name in ("num_samples", "sampling_method"):
        if flags.load_hyperparams is not None and getattr(flags, name) is not None:
            raise UsageError(
                f"--load-hyperparams trains every row of its file; {flag_of(name)} draws others. Leave one of the two out."
            )


def sweep_flag_of(name: str) -> str:
    """The flag by which a sweep takes an argument of a study."""
    return flag_of(OWN_NAMES.get(name, name))


def left_out_of_sweep(arguments: SearchOptions) -> Collection[str]:
    """The arguments of a study that the command line of a sweep does not say."""
    from hyperlax.sweep_flags import SweepFlags

    taken = {f.name.removeprefix("no_") for f in fields(SweepFlags)}
    other = {f.name for f in fields(SearchOptions) if OWN_NAMES.get(f.name, f.name) not in taken}
    return other | ({"n_trials", "sampling_method"} if arguments.load_hyperparams else set())


def _given(flags: SweepFlags, recipe: Recipe) -> dict[str, Any]:
    """A study's argument -> value of what was given; the file of --load-hyperparams by its whole path."""
    given = given_arguments(flags, recipe)
    for name, own in OWN_NAMES.items():
        if own in given:
            given[name] = given.pop(own)
    if "load_hyperparams" in given:
        given["load_hyperparams"] = str(Path(given["load_hyperparams"]).resolve())
    return given


def _num_samples(given: int | None) -> int:
    if given is not None and given < 1:
        raise UsageError(f"--num-samples needs a whole number of at least 1, got {given}.")
    return NUM_SAMPLES if given is None else given


def _check_lanes(lanes: Any, together: int) -> None:
    if lanes == "auto" or 1 <= lanes <= together:
        return
    raise UsageError(
        f"--hparam-batch-size needs a whole number from 1 to {together}, the trials that this sweep asks together, "
        f"got {lanes}; or auto."
    )
