"""`report.html`: the one page to look at. Every number on it is in the CSV and JSON files beside it."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hyperlax.analysis.certainty import ahead_of_default, how_certain
from hyperlax.analysis.html import Link, render
from hyperlax.analysis.labels import format_distribution, short_names, with_unit
from hyperlax.analysis.plots.base import Drawing
from hyperlax.analysis.sensitivity import cells, in_words
from hyperlax.analysis.study_data import MOST_DRAWN, Cost, MissingFile, StudyData, warn_once
from hyperlax.analysis.tables import best_file, rerun_command, searched_names
from hyperlax.analysis.what_ran import chosen_options, default_options, facts, when
from hyperlax.backends.work import agents_in_words
from hyperlax.errors import counted, format_number, noun
from hyperlax.outputs import said_last
from hyperlax.scale import Words
from hyperlax.study.lock import holder_of
from hyperlax.study.progress import clock
from hyperlax.study.record import Confirmation, Confirmed, StudyRecord, TrialRecord
from hyperlax.study.statistics import compared, gain, in_full, in_short, mean_interval

_log = logging.getLogger(__name__)

_Rows = list[list[Any]]
_MOST_OUTPUTS = 20
"""Failed trials whose last lines are shown."""


def report(study: StudyData, drawings: list[Drawing]) -> str:
    """Return the whole page, plotly.js included: it needs no network and no file beside it."""
    record, best = study.record, study.record.winners
    states = Counter(trial.state for trial in record.trials)
    cost, cost_error = _cost(study)
    sentences, finds_out_more = how_certain(record) if best else ([], "")
    placed = {drawing.name: drawing for drawing in drawings if drawing.name in ("confirmation", "sensitivity")}
    content = {
        "tiles": _tiles(record, states, best, cost),
        "winners": best,
        "states": states,
        "sentences": sentences,
        "finds_out_more": finds_out_more,
        "best_file": best_file(record),
        "cost": cost,
        "cost_error": cost_error,
        "agents": list(study.agents) if cost else [],
        "agents_now": []
        if record.is_finished
        else agents_in_words(record.directory, holder_of(record.directory) is not None),
        "cost_rows": _cost_rows(cost, record.scale.words) if cost else [],
        "failed": [[trial.number, trial.reason] for trial in _by_number(record) if trial.state == "FAIL"],
        "said_last": _said_last(record),
        "pruned": _pruned(record),
        "trials": _trials(record),
        "trials_title": _title(record),
        "when": when(record),
        "chosen": chosen_options(record),
        "at_default": default_options(record),
        "facts": facts(record),
        "drawings": [drawing for drawing in drawings if drawing.name not in placed and not drawing.words],
        "not_shown": _not_shown(drawings),
        "confirmation": None,
        "sensitivity": _sensitivity(study),
        "placed": placed,
    }
    if best:
        path = record.directory / best_file(record)
        content |= {"train_again": rerun_command(record, best[0], path), **_winner(record, best)}
    if record.confirmation and "confirmation" in placed:
        content["confirmation"] = _confirmation(record, record.confirmation)
    return render("report.html.j2", f"{record.study_name} - Hyperlax", record=record, **content)


def _said_last(record: StudyRecord) -> list[tuple[int, str]]:
    """Return failed trials with the last lines that they wrote, without those that wrote nothing."""
    failed = [trial for trial in _by_number(record) if trial.state == "FAIL"]
    said = ((trial.number, said_last(record.directory, trial.number, trial.batch_directory)) for trial in failed)
    return list(islice(((number, "\n".join(lines)) for number, lines in said if lines), _MOST_OUTPUTS))


def _tiles(
    record: StudyRecord, states: Counter[str], best: list[TrialRecord], cost: Cost | None
) -> list[tuple[str, str]]:
    """Return pairs of a value and its label, the winner first if there is one."""
    leading = next(iter(record.objectives))
    infeasible, foreign = len(record.complete) - len(record.feasible), len(record.foreign)
    tiles: list[tuple[str | None, str]] = []
    if best and len(record.objectives) == 1:
        tiles += [(format_number(best[0].values[leading]), f"best {with_unit(leading, record.scale)}"), _gain(record)]
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
        words = record.scale.words
        rate = cost.steps_per_train_second if words.has_programs else None
        tiles += [
            (None if cost.elapsed is None else clock(cost.elapsed), "wall time"),
            (None if cost.duration is None else clock(cost.duration), "duration of training"),
            (None if cost.steps is None else format_number(cost.steps), words.steps),
            (None if rate is None else format_number(round(rate)), "steps per training second"),
        ]
    return [(value, words) for value, words in tiles if value is not None]


def _gain(record: StudyRecord) -> tuple[str | None, str]:
    """Return by how much the best is better than the default configuration, on new seeds if it is confirmed; None if not known."""
    confirmation = record.confirmation
    if confirmation and (best := confirmation.best):
        ahead = gain(confirmation, best)
        other = "" if best.trial == confirmation.winner else f" of {best.words}"
        words = f"gain{other} over the default on new seeds, 95 %: {ahead}"
        return (None, "") if ahead is None else (_signed(ahead.estimate), words)
    found = ahead_of_default(record)
    if found is None:
        return None, ""
    return _signed(found[1]), "gain over the default in the search, not confirmed"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{format_number(value)}"


def _not_shown(drawings: list[Drawing]) -> list[tuple[str, str]]:
    """Return the titles of plots without data, and why they have none; those with the same reason together."""
    titles: dict[str, list[str]] = {}
    for drawing in drawings:
        if drawing.words:
            titles.setdefault(drawing.words, []).append(drawing.title)
    return [(", ".join(own), words) for words, own in titles.items()]


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
    metrics = record.scale.table.rows
    better = {name: "high" if metric.direction == "maximize" else "low" for name, metric in metrics.items()}
    return {
        "is_the_recipes_own": record.is_the_recipes_own(trial) and not record.lineage,
        "searched": _searched(record, trial),
        "metrics": [[with_unit(name, record.scale), trial.metrics.get(name), better[name]] for name in metrics],
    }


def _searched(record: StudyRecord, trial: TrialRecord) -> tuple[list[str], _Rows]:
    """Return a row per searched hyperparameter: its value, the recipe's own value if that is known, and the range."""
    short = short_names(record.space)
    header = ["hyperparameter", "value", *(["default"] if record.base else []), "searched"]
    return header, [
        [
            short[name],
            trial.params.get(name),
            *([record.base.get(name)] if record.base else []),
            format_distribution(searched),
        ]
        for name, searched in record.space.items()
    ]


def _sensitivity(study: StudyData) -> list[tuple[str, list[str], list[str], _Rows]]:
    """Return the name, the sentences and the table of each objective of a sensitivity study; empty for another."""
    record = study.record
    return [
        (with_unit(name, record.scale), in_words(record, name, effects), *cells(record, effects))
        for name, effects in study.sensitivity.items()
    ]


def _confirmation(record: StudyRecord, confirmation: Confirmation) -> dict[str, Any]:
    unseen = " and evaluated on episodes" if record.environment else ""
    words = (
        f"The best of the search and the recipe's default configuration, trained again on "
        f"{counted(confirmation.seeds, 'seed')}{unseen} that the search never saw. "
        f"Compared: {with_unit(confirmation.metric, record.scale)} of each seed. "
        "Intervals: 95 % percentile bootstrap. Every seed's values are in confirmation.csv."
    )
    if (seeds := record.arguments["num_seeds"]) > 1:
        words += (
            f" The search's claim is the {confirmation.metric} of the curve over its {counted(seeds, 'seed')} together, "
            "here it is the mean of each seed's own."
        )
    _, *others = compared(confirmation, record.scale)
    rows = [
        [*_confirmed_row(confirmation, ours), *(float(np.mean(ours.per_seed[name])) for name in others)]
        for ours in confirmation.complete
    ]
    told = in_short(confirmation)
    return {
        "words": words,
        "heading": with_unit(confirmation.metric, record.scale),
        "sentences": [sentence for sentence in in_full(confirmation) if sentence not in told],
        "others": [f"mean {name}" for name in others],
        "rows": rows,
    }


def _confirmed_row(confirmation: Confirmation, ours: Confirmed) -> list[Any]:
    name = "default" if ours.trial is None else f"trial {ours.trial}{' (default)' if ours.is_default else ''}"
    mean, ahead = mean_interval(ours.per_seed[confirmation.metric]), gain(confirmation, ours)
    row = [name, ours.claimed, mean.estimate, str(mean)]
    return [*row, None, None] if ahead is None else [*row, ahead.estimate, str(ahead)]


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


def _cost_rows(cost: Cost, words: Words) -> _Rows:
    rows: _Rows = [
        ["hparam batches", cost.batches],
        [f"{words.steps}, over trials and seeds", cost.steps],
        *([["compiling (s)", cost.compile_seconds]] if words.has_programs else []),
        ["training (s)", cost.train_seconds],
        *([["evaluating (s)", cost.evaluate_seconds]] if words.has_programs else []),
        ["batches from start to end (s)", cost.wall_seconds],
        *([[f"{words.steps} per second of training", cost.steps_per_train_second]] if words.has_programs else []),
    ]
    if cost.duration is not None:
        rows.insert(0, [f"from the first {words.lane}'s start to the last one's end (s)", cost.duration])
    if cost.elapsed is not None:
        rows.insert(0, ["wall time, from each start of the command to its last result (s)", cost.elapsed])
    if cost.peak_memory_bytes is not None:
        rows.append(["largest peak memory (MiB)", cost.peak_memory_bytes / 2**20])
    return rows


def _title(record: StudyRecord) -> str:
    every = len(record.rows)
    if every <= MOST_DRAWN:
        return "All trials"
    return f"The {format_number(MOST_DRAWN)} best of {format_number(every)} {noun(every, 'trial')}"


def _trials(record: StudyRecord) -> tuple[list[str], _Rows]:
    """Return a row per trial, by number; of too many trials only those of the best, best first."""
    shown = record.rows
    if len(shown) > MOST_DRAWN:
        best_before_others = {trial.number: trial for trial in (*record.best_first(), *shown)}
        shown = list(islice(best_before_others.values(), MOST_DRAWN))
    names, objectives = searched_names(record), list(record.objectives)
    short, others = short_names(names), [name for name in record.scale.table.rows if name not in objectives]
    rows = [
        [
            _to_files(record, trial),
            trial.state,
            *map(trial.values.get, objectives),
            *map(trial.params.get, names),
            *map(trial.metrics.get, others),
        ]
        for trial in shown
    ]
    return ["trial", "state", *objectives, *(short[name] for name in names), *others], rows


def _to_files(record: StudyRecord, trial: TrialRecord) -> int | Link:
    """Return the trial's number, linked to the files of its batch if there are any."""
    if trial.batch_directory is None:
        return trial.number
    return Link(trial.number, quote(Path(os.path.relpath(trial.batch_directory, record.directory)).as_posix() + "/"))


def _by_number(record: StudyRecord) -> list[TrialRecord]:
    return sorted(record.trials, key=lambda trial: trial.number)
