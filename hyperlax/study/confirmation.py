"""A confirmation: the best of a search, trained again on seeds that the search never saw. Its configurations and results."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.errors import NOT_A_TRIAL, UsageError, in_one_line
from hyperlax.fields import apply, dotted, filled
from hyperlax.files import cell, decode
from hyperlax.hyperparams import Config
from hyperlax.metrics import of_curve
from hyperlax.study.batch_files import LearningCurve, read_curves, read_hyperparams, read_trial_results
from hyperlax.study.directory import TIMING_JSON, StudyDirectory, complete_batches
from hyperlax.study.record import Confirmation, Confirmed, StudyRecord
from hyperlax.trial import Trial

log = logging.getLogger(__name__)


def configurations(record: StudyRecord, base: Config) -> list[tuple[Trial, Confirmed]]:
    """Return the configurations to confirm, each with what is known of it: the trial to train, and its results so far.

    They are as many of the best trials as `--confirm-top` asks for, best first, or the first of the Pareto front.
    base: the recipe's default configuration when the study began. It comes last, unless it is among the best already. The list is
    empty while no trial is COMPLETE.
    """
    best = record.top(record.arguments["confirm_top"])
    if not best:
        return []
    own, metric = dotted(base), _metric(record)
    twins = [trial for trial in record.trials if dotted(filled(base, trial.params)) == own]
    chosen = [
        (
            Trial(trial.number, apply(base, trial.params, f"trial {trial.number}")),
            Confirmed(trial.number, trial in twins, trial.metrics.get(metric), "WAITING", "", {}),
        )
        for trial in best
    ]
    if not any(one.is_default for _, one in chosen):
        twin = min(twins, key=lambda trial: trial.number, default=None)
        claimed = twin.metrics.get(metric) if twin and twin.state == "COMPLETE" else None
        default = Trial(twin.number if twin else NOT_A_TRIAL, base)
        chosen.append((default, Confirmed(None, True, claimed, "WAITING", "", {})))
    results = _read_results(record, {trial.number: trial for trial, _ in chosen})
    return [(trial, replace(one, **results.get(trial.number, {}))) for trial, one in chosen]


def confirmation_of(record: StudyRecord, base: Config) -> Confirmation | None:
    """Return the confirmation in the study's directory, None if there is none. base: as in `configurations`."""
    if not complete_batches(StudyDirectory(record.directory).confirmation):
        return None
    found = [one for _, one in configurations(record, base)]
    if all(one.state == "WAITING" for one in found):
        return None
    leading, metric = next(iter(record.objectives)), _metric(record)
    direction = record.objectives[leading] if metric == leading else record.scale.table.rows[metric].direction
    winner = found[0].trial if len(record.objectives) == 1 else None
    return Confirmation(metric, direction, leading, record.arguments["confirm_seeds"], found, winner)


def per_seed(curve: LearningCurve | None, seeds: int, record: StudyRecord) -> dict[str, list[float]]:
    """Return the metrics that a single seed has, for each seed of a trial. Raises ValueError unless every seed has every step."""
    curve = None if curve is None else curve.trained()
    if curve is None or not len(curve.steps) or curve.returns.shape[1] != seeds or np.isnan(curve.returns).any():
        raise ValueError("curves.csv lacks rows")
    budget, scale = record.arguments["total_timesteps"], record.scale
    each = [
        of_curve(curve.steps, returns, budget, scale, {name: values[:, seed] for name, values in curve.others.items()})
        for seed, returns in enumerate(curve.returns.T)
    ]
    return {name: [values[name] for values in each] for name in each[0]}


def _metric(record: StudyRecord) -> str:
    """Return the metric by which configurations are compared."""
    leading = next(iter(record.objectives))
    return leading if record.scale.table.rows[leading].per_seed else "final_performance"


def _read_results(record: StudyRecord, wanted: Mapping[int, Trial]) -> dict[int, dict[str, Any]]:
    """Return trial number -> what is known of it in `Confirmed`, from the complete batches of these configurations.

    A damaged batch is logged and ignored.
    """
    results: dict[int, dict[str, Any]] = {}
    for path in complete_batches(StudyDirectory(record.directory).confirmation):
        try:
            results |= _read_batch(path, record, wanted)
        except (OSError, UsageError, ValueError, OverflowError, KeyError, csv.Error) as error:
            log.warning("%s is damaged and is ignored (%s).", path, in_one_line(error))
    return results


def _read_batch(path: Path, record: StudyRecord, wanted: Mapping[int, Trial]) -> dict[int, dict[str, Any]]:
    """Return the results in a batch, empty if it is one of other seeds."""
    seeds = record.arguments["confirm_seeds"]
    if decode(path / TIMING_JSON, dict[str, Any])["seeds"] != seeds:
        return {}
    ended = {one.number: one for one in read_trial_results(path)}
    asked = {number: dotted(trial.config) for number, trial in wanted.items() if number in ended}
    trained, curves = read_hyperparams(path, list(next(iter(asked.values()), ()))), read_curves(path, asked)
    results = {}
    for number, config in asked.items():
        if all(trained[number][name] == cell(value) for name, value in config.items()):
            one = ended[number]
            measured = per_seed(curves.get(number), seeds, record) if one.state == "COMPLETE" else {}
            results[number] = {"state": one.state, "reason": one.reason, "per_seed": measured}
    return results
