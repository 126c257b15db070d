"""The trials between which only a person can choose."""

from __future__ import annotations

import itertools

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import (
    ACCENT,
    LEGEND_ON_TOP,
    MUTED,
    NO_FRONT,
    NothingToShow,
    Plot,
    has_front,
    hover_texts,
)
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import StudyRecord, TrialRecord


def _figure(study: StudyData) -> Figure:
    """Draw each pair of objectives: the front highlighted, the other trials gray. Two objectives are joined by a staircase."""
    record = study.record
    trials = record.complete
    if not trials:
        raise NothingToShow("No trial is COMPLETE yet.")
    front = record.front
    on_front = {trial.number for trial in front}
    others = [trial for trial in study.drawn if trial.number not in on_front]
    beaten = "dominated" if all(trial.feasible for trial in trials) else "dominated, or missing a constraint"
    pairs = list(itertools.combinations(record.objectives, 2))
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure([divmod(cell, columns) for cell in range(len(pairs))], gaps=(0.14, 0.3 / rows))
    for cell, (across, up) in enumerate(pairs):
        first = cell == 0
        _add(figure, record, others, across, up, cell, {"color": MUTED, "size": 7, "opacity": 0.55}, beaten, first)
        if len(record.objectives) == 2:
            _add_staircase(figure, record, front, across, up)
        _add(figure, record, front, across, up, cell, {"color": ACCENT, "size": 11}, "Pareto front", first)
        figure.update_x(cell, title={"text": _goal(record, across)})
        figure.update_y(cell, title={"text": _goal(record, up)})
    figure.layout |= {"legend": LEGEND_ON_TOP, "height": 120 + 420 * rows}
    return figure


def _add(
    figure: Figure,
    record: StudyRecord,
    trials: list[TrialRecord],
    across: str,
    up: str,
    cell: int,
    marker: dict[str, object],
    name: str,
    legend: bool,
) -> None:
    figure.add(
        cell,
        x=[trial.values[across] for trial in trials],
        y=[trial.values[up] for trial in trials],
        mode="markers",
        marker=marker,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertext=hover_texts(record, trials),
    )


def _add_staircase(figure: Figure, record: StudyRecord, front: list[TrialRecord], across: str, up: str) -> None:
    """Add the edge of the dominated region: between two front trials, the corner that both dominate."""
    line = sorted((trial.values[across], trial.values[up]) for trial in front)
    shape = "hv" if record.objectives[across] == "minimize" else "vh"
    figure.add(
        x=[x for x, _ in line],
        y=[y for _, y in line],
        mode="lines",
        line={"color": ACCENT, "width": 1.2, "dash": "dot", "shape": shape},
        hoverinfo="skip",
        showlegend=False,
    )


def _goal(record: StudyRecord, name: str) -> str:
    return f"{with_unit(name, record.scale)}, {record.objectives[name]}"


PLOT = Plot(
    "pareto_front",
    "Pareto front",
    "No trial is better than a highlighted one in every objective. Hover for its hyperparameters.",
    _figure,
    applies=has_front,
    is_of_points=True,
    otherwise=NO_FRONT,
)
