"""`report.html`: the one page to look at. Every number on it is in the CSV and JSON files beside it."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from hyperlax.analysis.best import BEST_FILE, PARETO_FILE, rerun_command
from hyperlax.analysis.certainty import how_sure
from hyperlax.analysis.confirmed import confirmation_section
from hyperlax.analysis.curves import Cost, total_cost
from hyperlax.analysis.document import Link, Shared, caption, drawing, escape, page, section, table
from hyperlax.analysis.labels import AGGREGATE_WORDS, distribution_text, number, short_names, with_unit
from hyperlax.analysis.lost import LostFile, warn_once
from hyperlax.analysis.plots import Drawing
from hyperlax.analysis.tables import searched_names
from hyperlax.metrics import METRICS
from hyperlax.study.progress import clock
from hyperlax.study.ranking import complete_trials, feasible_trials, winners
from hyperlax.study.record import StudyRecord, TrialRecord

log = logging.getLogger(__name__)


def report(record: StudyRecord, drawings: list[Drawing], confirmed: Drawing | None = None) -> str:
    """The whole page, plotly.js included: it needs no network and no file beside it. confirmed: the plot of the confirmation."""
    cost, error = _cost(record)
    body = [_head(record), _tiles(record, cost), _winners(record)]
    if record.confirmation and confirmed:
        body.append(confirmation_section(record, record.confirmation, confirmed))
    shared = Shared()
    body += [section(drawn.plot.title, caption(drawn.plot.caption), drawing(drawn, shared)) for drawn in drawings]
    body += [_failed(record), _pruned(record), _cost_section(cost, error), _all_trials(record), _what_ran(record)]
    return page(f"{record.study_name} - Hyperlax", "\n".join(body), f"<script>{get_plotlyjs()}</script>", shared)


def _head(record: StudyRecord) -> str:
    goals = ", ".join(f"{direction} {name}" for name, direction in record.objectives.items())
    line = f"{record.recipe} on {record.environment}: {goals}. {record.device}"
    return f'<header><h1>{escape(record.study_name)}</h1><p class="soft">{escape(line)}</p></header>'


def _tiles(record: StudyRecord, cost: Cost | None) -> str:
    states = Counter(trial.state for trial in record.trials)
    best = winners(record)
    tiles = []
    if best and len(record.objectives) == 1:
        name = next(iter(record.objectives))
        tiles.append(_tile(number(best[0].values[name]), f"best {with_unit(name)}", first=True))
    elif best:
        tiles.append(_tile(number(len(best)), "trials on the Pareto front", first=True))
    tiles.append(_tile(number(states["COMPLETE"]), "trials complete"))
    tiles.append(_tile(number(states["FAIL"]), "trial failed" if states["FAIL"] == 1 else "trials failed"))
    if states["PRUNED"]:
        tiles.append(_tile(number(states["PRUNED"]), "trials pruned"))
    if infeasible := len(complete_trials(record)) - len(feasible_trials(record)):
        tiles.append(_tile(number(infeasible), "miss a constraint"))
    if cost:
        if cost.duration is not None:
            tiles.append(_tile(clock(cost.duration), "duration of training"))
        if cost.steps is not None:
            tiles.append(_tile(number(cost.steps), "environment steps"))
        if cost.steps_per_train_second is not None:
            tiles.append(_tile(number(round(cost.steps_per_train_second)), "steps per training second"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(value: str, words: str, first: bool = False) -> str:
    return f'<div class="tile{" first" if first else ""}"><b>{escape(value)}</b><span>{escape(words)}</span></div>'


def _winners(record: StudyRecord) -> str:
    best = winners(record)
    if not best:
        found = "satisfies the constraints" if complete_trials(record) else "is COMPLETE"
        return section("No winner", caption(f"No trial {found}, so there is no best trial and no file with one."))
    if len(record.objectives) == 1:
        return _winner(record, best[0])
    short = short_names(searched_names(record))
    header = ["trial", *record.objectives, *(short[name] for name in record.space)]
    rows = [[trial.number, *_values(record, trial), *map(trial.params.get, record.space)] for trial in best]
    words = f"{len(best)} trials that no other one beats in every objective, also in {PARETO_FILE}."
    command = rerun_command(record, best[0], record.directory / PARETO_FILE)
    again = f"<h3>Train one again</h3><pre>{escape(command)}</pre>"
    return section("The Pareto front", caption(words), _certainty(record), table(header, rows), again)


def _winner(record: StudyRecord, trial: TrialRecord) -> str:
    searched = [
        [name, trial.params.get(name), distribution_text(distribution)] for name, distribution in record.space.items()
    ]
    own = record.is_the_recipes_own(trial) and not record.lineage
    metrics = [
        [with_unit(name), trial.metrics.get(name), "high" if METRICS[name].direction == "maximize" else "low"]
        for name in METRICS
    ]
    return section(
        f"The winner: trial {trial.number}",
        caption(f"Also in {BEST_FILE}." + (" It is the recipe's own configuration." if own else "")),
        _certainty(record),
        '<div class="columns"><div>',
        table(["hyperparameter", "value", "searched"], searched),
        "</div><div>",
        table(["metric", "value", "better"], metrics),
        "</div></div>",
        f"<h3>Train it again</h3><pre>{escape(rerun_command(record, trial, record.directory / BEST_FILE))}</pre>",
    )


def _certainty(record: StudyRecord) -> str:
    """How sure the winner is."""
    sentences, command = how_sure(record)
    if not sentences:
        return ""
    words = f"<h3>How sure is that?</h3><p>{escape(' '.join(sentences))}</p>"
    return words + (f"<pre>{escape(command)}</pre>" if command else "")


def _failed(record: StudyRecord) -> str:
    trials = [trial for trial in _by_number(record) if trial.state == "FAIL"]
    if not trials:
        return section("Failed trials", caption("None."))
    rows = [[trial.number, trial.reason] for trial in trials]
    words = (
        "They never win and no plot shows them. Those that were invalidated keep their metrics in the table of trials; "
        "the mates of those that failed went on unchanged."
    )
    return section("Failed trials", caption(words), table(["trial", "reason"], rows, tall=len(rows) > 12))


def _pruned(record: StudyRecord) -> str:
    """A row for every segment after which trials were pruned; "" where none was."""
    ends: dict[str, list[int]] = {}
    for trial in _by_number(record):
        if trial.state == "PRUNED":
            ends.setdefault(trial.reason.partition(":")[0], []).append(trial.number)
    if not ends:
        return ""
    in_order = sorted(ends.items(), key=lambda end: [int(digits) for digits in re.findall(r"\d+", end[0])])
    rows = [[words, len(numbers), ", ".join(map(str, numbers))] for words, numbers in in_order]
    words = "They stood behind earlier trials at equal segment. They never win; trials.csv says of each by how many it was beaten."
    return section("Pruned trials", caption(words), table(["", "trials", "which"], rows))


def _cost(record: StudyRecord) -> tuple[Cost | None, str]:
    try:
        return total_cost(record), ""
    except LostFile as lost:
        warn_once(f"the cost could not be summed: {lost}")
        return None, str(lost)
    except Exception as error:  # a broken timing.json must not cost the report; it and the log show why
        log.exception("the cost could not be summed")
        return None, f"{type(error).__name__}: {error}"


def _cost_section(cost: Cost | None, error: str) -> str:
    if cost is None:
        return section("Cost", f'<p class="error">The cost could not be summed. {escape(error)}</p>')
    memory = cost.peak_memory_bytes
    rows: list[list[Any]] = [
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
    if memory is not None:
        rows.append(["largest peak memory (MiB)", memory / 2**20])
    words = (
        "Sums of the batches' timing.json, of the search alone. Batches that ran side by side each count their own seconds; the "
        "first line counts them once."
    )
    if cost.broken:
        broken = "1 batch that broke" if cost.broken == 1 else f"{cost.broken} batches that broke"
        words += f" All but the time from start to end is without {broken}."
    return section("Cost", caption(words), table(["", "total"], rows))


def _all_trials(record: StudyRecord) -> str:
    names = searched_names(record)
    short = short_names(names)
    header = ["trial", "state", *METRICS, *(short[name] for name in names)]
    rows = [
        [_to_files(record, trial), trial.state, *map(trial.metrics.get, METRICS), *map(trial.params.get, names)]
        for trial in _by_number(record)
    ]
    words = "Unrounded in trials.csv. A number leads to the files of the trial's batch; a heading sorts."
    return section("All trials", caption(words), table(header, rows, tall=len(rows) > 12, sortable=True))


def _to_files(record: StudyRecord, trial: TrialRecord) -> int | Link:
    """Its number, leading to the files of its batch where there are any."""
    if trial.batch_directory is None:
        return trial.number
    return Link(trial.number, quote(Path(os.path.relpath(trial.batch_directory, record.directory)).as_posix() + "/"))


def _what_ran(record: StudyRecord) -> str:
    reference = record.reference
    rows: list[list[Any]] = [
        ["study", record.study_name],
        ["recipe", record.recipe],
        ["environment", record.environment],
        [
            "reference returns",
            f"random policy {number(reference.lo)}, solved {number(reference.hi)} ({reference.source})",
        ],
        ["objectives", ", ".join(f"{name} ({direction})" for name, direction in record.objectives.items())],
        ["return of several seeds", f"their {AGGREGATE_WORDS[record.arguments['aggregate']]}"],
        ["device", record.device],
    ]
    rows += [[f"version of {name}", version] for name, version in record.versions.items()]
    return section("What was run", f"<pre>{escape(record.command)}</pre>", table(["", ""], rows))


def _by_number(record: StudyRecord) -> list[TrialRecord]:
    return sorted(record.trials, key=lambda trial: trial.number)


def _values(record: StudyRecord, trial: TrialRecord) -> list[float]:
    return [trial.values[name] for name in record.objectives]
