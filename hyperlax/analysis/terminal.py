"""Studies as text: one line per study, the best trials with their learning curves, all about one trial."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hyperlax.analysis.labels import format_value, short_names
from hyperlax.analysis.sensitivity import cells, in_words
from hyperlax.analysis.study_data import StudyData, readable_curves
from hyperlax.errors import counted, format_number
from hyperlax.metrics import aggregated, final_performance, peak_performance
from hyperlax.outputs import directory_of, said_last
from hyperlax.printable import without_breaks
from hyperlax.study.record import StudyRecord, TrialRecord

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-~=+*#"
_NUMBERS = ("range", "range by chance", "spread over seeds", "levels")
"""Columns of the table of a sensitivity study that are numbers."""


def sparkline(values: ArrayLike, low: float, high: float, blocks: str = BLOCKS) -> str:
    """Return one character per value, by its position between `low` and `high`; a space for a value that is not finite.

    >>> sparkline([0.0, 5.0, 10.0], 0.0, 10.0)
    '▁▅█'
    """
    places = (np.asarray(values, np.float64) - low) / ((high - low) or 1.0) * len(blocks)
    return "".join(blocks[min(max(int(place), 0), len(blocks) - 1)] if np.isfinite(place) else " " for place in places)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> str:
    """Return a table in columns as wide as their widest cell; columns named in `right` are right-aligned.

    >>> print(aligned(["trial", "state"], [["7", "FAIL"]], right=["trial"]))
    trial  state
        7  FAIL
    """
    table = [list(map(without_breaks, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    to_right = [name in set(right) for name in header]
    lines = (
        "  ".join(
            cell.rjust(width) if ends else cell.ljust(width)
            for cell, width, ends in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in table
    )
    return "\n".join(lines)


def best_in_words(record: StudyRecord) -> str:
    """Name the best trial and its value, or the size of the Pareto front."""
    best = record.winners
    if not best:
        return "no trial satisfies the constraints" if record.complete else "nothing yet"
    if len(record.objectives) > 1:
        return f"Pareto front of {counted(len(best), 'trial')}"
    leading = next(iter(record.objectives))
    return f"{leading} {format_number(best[0].values[leading])} (trial {best[0].number})"


def counts(record: StudyRecord, total: int, is_cell: bool = False) -> str:
    """Return a phrase with the number of finished trials of all, how many were pruned or failed, and how many rows are foreign.

    is_cell: whether it stands in a table, under "trials".
    """
    states = Counter(trial.state for trial in record.trials)
    finished = states.total() - states["RUNNING"]
    lost = [f"{states[state]} {words}" for state, words in (("PRUNED", "pruned"), ("FAIL", "failed")) if states[state]]
    lost += [f"{len(record.foreign)} foreign"] if record.foreign else []
    return f"{finished}/{total if is_cell else counted(total, 'trial')}" + (f" ({', '.join(lost)})" if lost else "")


def study_text(record: StudyRecord, state: str, total: int, count: int, agents: Sequence[str] = ()) -> str:
    """Describe a study: its settings, its progress, and its `count` best trials with their curves on one scale.

    agents: a line for each of its agents.
    """
    goals = ", ".join(f"{direction} {name}" for name, direction in record.objectives.items())
    head = [
        record.full_name,
        f"{state}, {counts(record, total)}; {goals}",
        f"Best: {best_in_words(record)}",
        *(f"Agent {agent}." for agent in agents),
    ]
    best = record.top(count)
    if not best:
        return "\n".join(head)
    aggregate = record.arguments["aggregate"]
    sign = record.scale.sign
    lines = {trial: aggregated(curve.returns, aggregate, sign) for trial, curve in readable_curves(best).items()}
    low, high = _range(lines.values())
    names = list(record.objectives)
    rows = [
        [
            str(trial.number),
            *(format_number(trial.values[name]) for name in names),
            sparkline(lines[trial.number], low, high, _blocks())
            if trial.number in lines
            else "files are gone or damaged",
        ]
        for trial in best
    ]
    scale = f"learning curve, {format_number(low)} to {format_number(high)}" if lines else "learning curve"
    if len(lines) == len(best) and all(len(line) == 1 for line in lines.values()):
        scale, rows = "", [row[:-1] for row in rows]  # a value is not a curve
    table = aligned(["trial", *names, *filter(None, [scale])], rows, right=["trial", *names])
    return "\n".join([*head, "", table, *_sensitivity(record)])


def trial_text(record: StudyRecord, trial: TrialRecord) -> str:
    """Describe a trial: its state, its metrics, its searched hyperparameters, and its curve by seed."""
    parts = [
        f"Trial {trial.number} of {record.study_name}: {trial.state}{f' ({trial.reason})' if trial.reason else ''}"
    ]
    if trial.metrics:
        rows = [[name, format_number(trial.metrics[name])] for name in record.scale.table.rows if name in trial.metrics]
        parts.append(aligned(["metric", "value"], rows, right=["value"]))
    short = short_names(trial.params)
    rows = [[short[name], format_value(value)] for name, value in trial.params.items()]
    if rows:
        parts.append(aligned(["hyperparameter", "value"], rows))
    if trial.state == "FAIL" and (lines := said_last(record.directory, trial.number, trial.batch_directory)):
        parts.append("\n".join(["It wrote last:", *(f"  {line}" for line in lines)]))
    if trial.batch_directory is not None:
        parts += [*_by_seed(trial, record.scale.sign), f"Files: {trial.batch_directory}"]
    if (own := directory_of(record.directory, trial.number)).is_dir():
        parts.append(f"Own files: {own}")
    return "\n\n".join(parts)


def _sensitivity(record: StudyRecord) -> list[str]:
    """Return the lines about each objective of a sensitivity study; none for another."""
    lines = []
    for name, effects in StudyData(record).sensitivity.items():
        header, rows = cells(record, effects)
        texts = [[format_number(cell) if isinstance(cell, float) else cell or "" for cell in row] for row in rows]
        lines += [
            "",
            f"Sensitivity of {name}:",
            aligned(header, texts, right=_NUMBERS),
            *in_words(record, name, effects),
        ]
    return lines


def _by_seed(trial: TrialRecord, sign: float) -> list[str]:
    curves = readable_curves([trial])
    if trial.number not in curves:
        return ["No curve: it ended before its first evaluation, or the files of its batch are gone or damaged."]
    curve = curves[trial.number]
    low, high = _range(curve.returns.T)
    start, trained = int(curve.has_start), curve.trained().returns.T
    rows = [
        [
            str(seed),
            *map(format_number, column[:start]),
            *_peak_and_final(trained[seed], sign),
            sparkline(column, low, high, _blocks()),
        ]
        for seed, column in enumerate(curve.returns.T)
    ]
    header = [
        "seed",
        *["untrained"][:start],
        "peak",
        "final",
        f"{format_number(low)} to {format_number(high)}, {format_number(int(curve.steps[-1]))} steps",
    ]
    return [aligned(header, rows, right=header[:-1])]


def _peak_and_final(column: np.ndarray, sign: float) -> list[str]:
    """Return the metrics of a seed's finite evaluations after training began."""
    trained = column[np.isfinite(column)]
    if not len(trained):
        return ["", ""]
    return [format_number(sign * peak_performance(sign * trained)), format_number(final_performance(trained))]


def _range(lines: Iterable[np.ndarray]) -> tuple[float, float]:
    """Return the lowest and highest of all finite values."""
    together = np.concatenate([np.zeros(0), *lines])
    finite = together[np.isfinite(together)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _blocks() -> str:
    """Return the block characters if the output can encode them."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN
    return BLOCKS
