"""Refuses what cannot be pruned, or raced, before anything runs."""

from __future__ import annotations

import difflib
import math

from hyperlax.arguments import StudyArguments, flag_of
from hyperlax.errors import UsageError
from hyperlax.schedulers.registry import PRUNERS

SEED_SCHEDULES = ("fixed", "racing")


def check_pruning(arguments: StudyArguments) -> None:
    """UsageError for a pruner or a race over seeds that there is not, or that can do nothing in this study."""
    _one_of(arguments.pruner, tuple(PRUNERS), "pruner")
    _one_of(arguments.seed_schedule, SEED_SCHEDULES, "seed_schedule")
    for name, least in (("pruner_min_segments", 1), ("pruner_reduction_factor", 2)):
        if getattr(arguments, name) < least:
            raise UsageError(
                f"{flag_of(name)} needs a whole number of at least {least}, got {getattr(arguments, name)}."
            )
    if not (math.isfinite(arguments.pruner_percentile) and 0 < arguments.pruner_percentile < 100):
        raise UsageError(
            f"--pruner-percentile needs a number above 0 and below 100, got {arguments.pruner_percentile:g}: the best of this "
            "share go on."
        )
    if arguments.pruner != "none" and arguments.pruner_min_segments >= arguments.num_evaluations:
        raise UsageError(
            f"--pruner {arguments.pruner}: of {arguments.num_evaluations} evaluations every trial is left "
            f"{arguments.pruner_min_segments}, so none is ever pruned. Raise --num-evaluations, or lower --pruner-min-segments."
        )
    if arguments.seed_schedule == "racing" and arguments.num_seeds < 2:
        raise UsageError("--seed-schedule racing needs at least 2 seeds to race over. Raise --num-seeds.")
    compares = arguments.pruner != "none" or arguments.seed_schedule == "racing"
    if compares and "train_seconds" in arguments.objective_names:
        raise UsageError(
            "train_seconds cannot be an objective of trials that are pruned or raced: it is a share of lanes that come and go. "
            "Leave it out of --objective-names, or prune nothing."
        )
    if compares and any("train_seconds" in constraint for constraint in arguments.constraints):
        raise UsageError(
            "train_seconds cannot be a constraint of trials that are pruned or raced: it is a share of lanes that come and go. "
            "Leave it out of --constraint, or prune nothing."
        )


def _one_of(value: str, known: tuple[str, ...], name: str) -> None:
    if value in known:
        return
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(f"{flag_of(name)}: nothing named {value!r}. {hint}Use {', '.join(known)}.")
