"""A confirmation: the best of a search, trained again on seeds that the search never saw. Its configurations and results."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.errors import NOT_A_TRIAL, UsageError, numbered
from hyperlax.fields import filled
from hyperlax.files import cell, decode
from hyperlax.hyperparams import Config
from hyperlax.metrics import of_curve
from hyperlax.recipe import apply, dotted
from hyperlax.scale import Scale
from hyperlax.study.batch_files import LearningCurve, read_curves, read_hyperparams, read_trial_results
from hyperlax.study.directory import TIMING_JSON, StudyDirectory, complete_batches
from hyperlax.study.record import Confirmation, Confirmed, StudyRecord, TrialRecord
from hyperlax.trial import Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Configuration:
    """A configuration to confirm. chosen: whether it is among the best of the search; the recipe's default need not be."""

    trial: Trial
    chosen: bool
    is_default: bool
    record: TrialRecord | None


@dataclass(frozen=True)
class _Result:
    """The result of a configuration. curve: without the point before training, None unless COMPLETE."""

    state: str
    reason: str
    curve: LearningCurve | None


def configurations(record: StudyRecord, base: Config) -> list[Configuration]:
    """Return as many of the best trials as `--confirm-top` asks for, best first, or the first of the Pareto front.

    base: the recipe's default configuration when the study began. It comes last, unless it is among the best already. The result is
    empty while no trial is COMPLETE.
    """
    best = record.top(record.arguments["confirm_top"])
    if not best:
        return []
    own = dotted(base)
    twins = [trial for trial in record.trials if dotted(filled(base, trial.params)) == own]
    chosen = [
        Configuration(
            Trial(trial.number, apply(base, trial.params, f"trial {trial.number}")), True, trial in twins, trial
        )
        for trial in best
    ]
    if any(configuration.is_default for configuration in chosen):
        return chosen
    twin = min(twins, key=lambda trial: trial.number, default=None)
    number = twin.number if twin else NOT_A_TRIAL
    return [*chosen, Configuration(Trial(number, base), False, True, twin)]


def confirmation_of(record: StudyRecord, base: Config) -> Confirmation | None:
    """Return the confirmation in the study's directory, None if there is none. base: as in `configurations`."""
    directory, seeds = StudyDirectory(record.directory).confirmation, record.arguments["confirm_seeds"]
    if not complete_batches(directory):
        return None
    wanted = configurations(record, base)
    results = read_results(directory, [c.trial for c in wanted], seeds)
    if not results:
        return None
    leading = next(iter(record.objectives))
    metrics = record.scale.table.rows
    metric = leading if metrics[leading].per_seed else "final_performance"
    direction = record.objectives[leading] if metric == leading else metrics[metric].direction
    budget = record.arguments["total_timesteps"]
    found = [_confirmed(c, results.get(c.trial.number), metric, budget, record.scale) for c in wanted]
    winner = wanted[0].trial.number if wanted and len(record.objectives) == 1 else None
    return Confirmation(metric, direction, leading, seeds, found, winner)


def read_results(directory: Path, trials: Iterable[Trial], seeds: int) -> dict[int, _Result]:
    """Return trial number -> result from the complete batches below a directory, of these configurations on that number of seeds.

    A damaged batch is logged and ignored.
    """
    wanted = {trial.number: trial for trial in trials}
    results: dict[int, _Result] = {}
    for path in complete_batches(directory):
        try:
            results |= _read_batch(path, wanted, seeds)
        except (OSError, UsageError, ValueError, OverflowError, KeyError, csv.Error) as error:
            log.warning("%s is damaged and is ignored (%s).", path, " ".join(str(error).split()))
    return results


def names(configurations: Sequence[Configuration]) -> str:
    """Return the configurations in words, e.g. `trials 3, 8 and the default configuration`."""
    numbers = [c.trial.number for c in configurations if c.chosen]
    parts = [numbered(numbers)] if numbers else []
    if len(numbers) < len(configurations):
        parts.append("the default configuration")
    return " and ".join(parts)


def _read_batch(path: Path, wanted: dict[int, Trial], seeds: int) -> dict[int, _Result]:
    if decode(path / TIMING_JSON, dict[str, Any])["seeds"] != seeds:
        return {}
    ended = {one.number: one for one in read_trial_results(path)}
    asked = {number: trial for number, trial in wanted.items() if number in ended}
    fields = list(dotted(next(iter(asked.values())).config)) if asked else []
    trained, curves = read_hyperparams(path, fields), read_curves(path, asked)
    results = {}
    for number, trial in asked.items():
        if all(trained[number][name] == cell(value) for name, value in dotted(trial.config).items()):
            one = ended[number]
            curve = without_start(curves.get(number), seeds) if one.state == "COMPLETE" else None
            results[number] = _Result(one.state, one.reason, curve)
    return results


def without_start(curve: LearningCurve | None, seeds: int) -> LearningCurve:
    """Return a curve without the point before training. Raises ValueError unless every seed has every step."""
    trained = None if curve is None else curve.trained()
    if (
        trained is None
        or not len(trained.steps)
        or trained.returns.shape[1] != seeds
        or np.isnan(trained.returns).any()
    ):
        raise ValueError("curves.csv lacks rows")
    return trained


def per_seed(curve: LearningCurve, budget: int, scale: Scale) -> dict[str, list[float]]:
    """Return the metrics that a single seed has, for each seed of a curve without the point before training."""
    each = [
        of_curve(curve.steps, returns, budget, scale, {name: values[:, seed] for name, values in curve.others.items()})
        for seed, returns in enumerate(curve.returns.T)
    ]
    return {name: [values[name] for values in each] for name in each[0]}


def _confirmed(
    configuration: Configuration, result: _Result | None, metric: str, budget: int, scale: Scale
) -> Confirmed:
    record = configuration.record
    state, reason = "WAITING", ""
    if result is not None:
        state, reason = result.state, result.reason
    return Confirmed(
        trial=configuration.trial.number if configuration.chosen else None,
        is_default=configuration.is_default,
        claimed=record.metrics.get(metric) if record and record.state == "COMPLETE" else None,
        state=state,
        reason=reason,
        per_seed=per_seed(result.curve, budget, scale) if result and result.curve else {},
    )
