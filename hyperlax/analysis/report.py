"""`report.html`: the one page to look at. Every number on it is in the CSV and JSON files beside it."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hyperlax.analysis.html import Link, render
from hyperlax.analysis.labels import AGGREGATE_WORDS, format_distribution, format_number, short_names, with_unit
from hyperlax.analysis.plots.base import Drawing
from hyperlax.analysis.study_data import Cost, MissingFile, StudyData, warn_once
from hyperlax.analysis.tables import best_file, rerun_command, searched_names
from hyperlax.config.option import shell_command
from hyperlax.errors import counted, noun
from hyperlax.metrics import METRICS
from hyperlax.study.progress import clock
from hyperlax.study.record import (
    Confirmation,
    Confirmed,
    StudyRecord,
    TrialRecord,
    complete_trials,
    feasible_trials,
    ranked,
    winners,
)
from hyperlax.study.statistics import (
    best_confirmed,
    complete,
    default_of,
    difference_interval,
    in_full,
    in_short,
    mean_interval,
    of_winner,
)

_log = logging.getLogger(__name__)

_Rows = list[list[Any]]
_EXACT = ("num_parameters",)
"""Objectives that do not depend on luck."""
_RETURNS = ("peak_performance", "final_performance")
"""Objectives that `seed_spread` can be compared with."""


def report(study: StudyData, drawings: list[Drawing]) -> str:
    """Return the whole page, plotly.js included: it needs no network and no file beside it."""
    record, best = study.record, winners(study.record)
    states = Counter(trial.state for trial in record.trials)
    cost, cost_error = _cost(study)
    sentences, finds_out_more = how_certain(record) if best else ([], "")
    of_confirmation = next((drawing for drawing in drawings if drawing.name == "confirmation"), None)
    content = {
        "tiles": _tiles(record, states, best, cost),
        "winners": best,
        "states": states,
        "sentences": sentences,
        "finds_out_more": finds_out_more,
        "best_file": best_file(record),
        "cost": cost,
        "cost_error": cost_error,
        "cost_rows": _cost_rows(cost) if cost else [],
        "failed": [[trial.number, trial.reason] for trial in _by_number(record) if trial.state == "FAIL"],
        "pruned": _pruned(record),
        "trials": _all_trials(record),
        "what_ran": _what_ran(record),
        "drawings": [drawing for drawing in drawings if drawing is not of_confirmation],
        "confirmation": None,
    }
    if best:
        path = record.directory / best_file(record)
        content |= {"train_again": rerun_command(record, best[0], path), **_winner(record, best)}
    if record.confirmation and of_confirmation:
        content["confirmation"] = _confirmation(record, record.confirmation, of_confirmation)
    return render("report.html.j2", f"{record.study_name} - Hyperlax", record=record, **content)


def _tiles(
    record: StudyRecord, states: Counter[str], best: list[TrialRecord], cost: Cost | None
) -> list[tuple[str, str]]:
    """Return pairs of a value and its label, the winner first if there is one."""
    leading = next(iter(record.objectives))
    infeasible, foreign = len(complete_trials(record)) - len(feasible_trials(record)), len(record.foreign)
    tiles: list[tuple[str | None, str]] = []
    if best and len(record.objectives) == 1:
        tiles.append((format_number(best[0].values[leading]), f"best {with_unit(leading)}"))
    elif best:
        tiles.append((format_number(len(best)), f"{noun(len(best), 'trial')} on the Pareto front"))
    tiles += [
        (format_number(states["COMPLETE"]), f"{noun(states['COMPLETE'], 'trial')} complete"),
        (format_number(states["FAIL"]), f"{noun(states['FAIL'], 'trial')} failed"),
        (format_number(states["PRUNED"]) if states["PRUNED"] else None, f"{noun(states['PRUNED'], 'trial')} pruned"),
        (format_number(foreign) if foreign else None, f"{noun(foreign, 'trial')} of other programs"),
        (
            format_number(infeasible) if infeasible else None,
            "misses a constraint" if infeasible == 1 else "miss a constraint",
        ),
    ]
    if cost:
        rate = cost.steps_per_train_second
        tiles += [
            (None if cost.duration is None else clock(cost.duration), "duration of training"),
            (None if cost.steps is None else format_number(cost.steps), "environment steps"),
            (None if rate is None else format_number(round(rate)), "steps per training second"),
        ]
    return [(value, words) for value, words in tiles if value is not None]


def _winner(record: StudyRecord, best: list[TrialRecord]) -> dict[str, Any]:
    """Return the tables of the winner, or of the Pareto front."""
    if len(record.objectives) > 1:
        short = short_names(searched_names(record))
        header = ["trial", *record.objectives, *(short[name] for name in record.space)]
        values = [[trial.values[name] for name in record.objectives] for trial in best]
        rows = [
            [trial.number, *own, *map(trial.params.get, record.space)] for trial, own in zip(best, values, strict=True)
        ]
        return {"front": (header, rows)}
    trial = best[0]
    better = {name: "high" if metric.direction == "maximize" else "low" for name, metric in METRICS.items()}
    return {
        "is_the_recipes_own": record.is_the_recipes_own(trial) and not record.lineage,
        "searched": [
            [name, trial.params.get(name), format_distribution(searched)] for name, searched in record.space.items()
        ],
        "metrics": [[with_unit(name), trial.metrics.get(name), better[name]] for name in METRICS],
    }


def _confirmation(record: StudyRecord, confirmation: Confirmation, drawing: Drawing) -> dict[str, Any]:
    words = (
        f"The best of the search and the recipe's default configuration, trained again on "
        f"{counted(confirmation.seeds, 'seed')} and evaluated on episodes that the search never saw. "
        f"Compared: {with_unit(confirmation.metric)} of each seed. "
        "Intervals: 95 % percentile bootstrap. Every seed's values are in confirmation.csv."
    )
    if (seeds := record.arguments["num_seeds"]) > 1:
        words += (
            f" The search's claim is the {confirmation.metric} of the curve over its {counted(seeds, 'seed')} together, "
            "here it is the mean of each seed's own."
        )
    rows = [_confirmed_row(confirmation, ours) for ours in complete(confirmation)]
    return {"words": words, "sentences": in_full(confirmation), "rows": rows, "drawing": drawing}


def _confirmed_row(confirmation: Confirmation, ours: Confirmed) -> list[Any]:
    values, default = ours.per_seed[confirmation.metric], default_of(confirmation)
    name = "default" if ours.trial is None else f"trial {ours.trial}{' (default)' if ours.is_default else ''}"
    mean = mean_interval(values)
    row: list[Any] = [name, ours.claimed, mean.estimate, mean.low, mean.high]
    if default is None or ours.is_default:
        return [*row, None, None, None]
    ahead = difference_interval(values, default.per_seed[confirmation.metric])
    if confirmation.direction == "minimize":
        return [*row, -ahead.estimate, -ahead.high, -ahead.low]
    return [*row, ahead.estimate, ahead.low, ahead.high]


def _pruned(record: StudyRecord) -> _Rows:
    """Return one row per segment after which trials were pruned."""
    ends: dict[str, list[int]] = {}
    for trial in _by_number(record):
        if trial.state == "PRUNED":
            ends.setdefault(trial.reason.partition(":")[0], []).append(trial.number)
    in_order = sorted(ends.items(), key=lambda end: [int(digits) for digits in re.findall(r"\d+", end[0])])
    return [[words, len(numbers), ", ".join(map(str, numbers))] for words, numbers in in_order]


def _cost(study: StudyData) -> tuple[Cost | None, str]:
    """Return the cost, or the reason why it is not known: a broken timing.json must not prevent the report."""
    try:
        return study.cost, ""
    except MissingFile as missing:
        warn_once(f"the cost could not be summed: {missing}")
        return None, str(missing)
    except Exception as error:
        _log.exception("the cost could not be summed")
        return None, f"{type(error).__name__}: {error}"


def _cost_rows(cost: Cost) -> _Rows:
    rows: _Rows = [
        ["hparam batches", cost.batches],
        ["environment steps, over trials and seeds", cost.steps],
        ["compiling (s)", cost.compile_seconds],
        ["training (s)", cost.train_seconds],
        ["evaluating (s)", cost.evaluate_seconds],
        ["batches from start to end (s)", cost.wall_seconds],
        ["environment steps per second of training", cost.steps_per_train_second],
    ]
    if cost.duration is not None:
        rows.insert(0, ["from the first lane's start to the last one's end (s)", cost.duration])
    if cost.peak_memory_bytes is not None:
        rows.append(["largest peak memory (MiB)", cost.peak_memory_bytes / 2**20])
    return rows


def _all_trials(record: StudyRecord) -> tuple[list[str], _Rows]:
    names = searched_names(record)
    short = short_names(names)
    rows = [
        [_to_files(record, trial), trial.state, *map(trial.metrics.get, METRICS), *map(trial.params.get, names)]
        for trial in record.rows
    ]
    return ["trial", "state", *METRICS, *(short[name] for name in names)], rows


def _to_files(record: StudyRecord, trial: TrialRecord) -> int | Link:
    """Return the trial's number, linked to the files of its batch if there are any."""
    if trial.batch_directory is None:
        return trial.number
    return Link(trial.number, quote(Path(os.path.relpath(trial.batch_directory, record.directory)).as_posix() + "/"))


def _what_ran(record: StudyRecord) -> _Rows:
    lo, hi, source = record.reference.lo, record.reference.hi, record.reference.source
    rows: _Rows = [
        ["study", record.study_name],
        ["recipe", record.recipe],
        ["environment", record.environment],
        ["reference returns", f"random policy {format_number(lo)}, solved {format_number(hi)} ({source})"],
        ["objectives", ", ".join(f"{name} ({direction})" for name, direction in record.objectives.items())],
        ["return of several seeds", f"their {AGGREGATE_WORDS[record.arguments['aggregate']]}"],
        ["device", record.device],
    ]
    return [*rows, *([f"version of {name}", version] for name, version in record.versions.items())]


def _by_number(record: StudyRecord) -> list[TrialRecord]:
    return sorted(record.trials, key=lambda trial: trial.number)


def how_certain(record: StudyRecord) -> tuple[list[str], str]:
    """Return sentences on how certain the winner or the Pareto front is, and the shell command that finds out more.

    The study needs a winner or a front. Objectives that do not depend on luck get no sentence. The command is "" if nothing is
    left to find out, or if the command that made the study cannot confirm.
    """
    if all(name in _EXACT for name in record.objectives):
        return [], ""
    if record.confirmation and best_confirmed(record.confirmation):
        leading = winners(record)[0].number
        return [*of_winner(record.confirmation, leading), *in_short(record.confirmation)], ""
    sentences = [_of_luck(record), *(_of_rivals(record) if len(record.objectives) == 1 else [])]
    if not _can_be_confirmed(record.arguments):
        return sentences, ""
    sentences.append("Its performance on new seeds is not known. This finds out:")
    return sentences, shell_command("optuna-hp-search", "--resume-from", record.directory, "--confirm-top", 3)


def _can_be_confirmed(arguments: Mapping[str, Any]) -> bool:
    """Return whether these arguments, from flags or a file, are those of a search, not of a sweep or a population."""
    return arguments.get("sampling_method") is None and "population_size" not in arguments


def _of_luck(record: StudyRecord) -> str:
    seeds, pruned = record.arguments["num_seeds"], sum(trial.state == "PRUNED" for trial in record.trials)
    compared = len(complete_trials(record)) + pruned
    on = "one seed" if seeds == 1 else counted(seeds, "seed")
    trials = f"{counted(compared, 'trial')} on {on}" + (f", {pruned} of them pruned" if pruned else "")
    if compared == 1:
        return f"It is the only COMPLETE trial, trained on {on}."
    if len(record.objectives) > 1:
        return (
            f"The front is that of {trials}. A trial is on it partly by luck: the values are probably too good, and other seeds "
            "would give another front."
        )
    return f"It is the best of {trials}. The larger a search, the more of its best value is luck: the value is probably too good."


def _of_rivals(record: StudyRecord) -> list[str]:
    """Name the second-best trial, and count the trials that are closer to the best than the spread over seeds."""
    best, *others = ranked(record)
    if not others:
        return []
    ((name, _),) = record.objectives.items()
    equal = sum(trial.values[name] == best.values[name] for trial in others)
    also = f"has the very same value, as have {equal - 1} more" if equal > 1 else "has the very same value"
    value = format_number(others[0].values[name])
    sentences = [f"Trial {others[0].number} {also}." if equal else f"Next comes trial {others[0].number} with {value}."]
    spread = best.metrics.get("seed_spread")
    if record.arguments["num_seeds"] > 1 and name in _RETURNS and spread is not None:
        close = sum(abs(best.values[name] - trial.values[name]) <= spread for trial in others)
        sentences.append(
            f"The final performance of its seeds has a standard deviation of {format_number(spread)}. Other trials within that "
            f"distance of the best: {close} of {len(others)}."
        )
    return sentences
