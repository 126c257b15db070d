"""The trials between which only a person can choose."""

from __future__ import annotations

import itertools

import plotly.graph_objects as go
from plotly.subplots import make_subplots

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
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import StudyRecord, TrialRecord, complete_trials, pareto_front


def _figure(study: StudyData) -> go.Figure:
    """Draw each pair of objectives: the front highlighted, the other trials gray. Two objectives are joined by a staircase."""
    record = study.record
    trials = complete_trials(record)
    if not trials:
        raise NothingToShow("No trial is COMPLETE yet.")
    front = pareto_front(record)
    on_front = {trial.number for trial in front}
    others = [trial for trial in trials if trial.number not in on_front]
    beaten = "dominated" if all(trial.feasible for trial in trials) else "dominated, or missing a constraint"
    pairs = list(itertools.combinations(record.objectives, 2))
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, vertical_spacing=0.3 / rows, horizontal_spacing=0.14)
    for index, (across, up) in enumerate(pairs):
        row, column = index // columns + 1, index % columns + 1
        cell = {"row": row, "col": column}
        first = index == 0
        _add(figure, record, others, across, up, cell, {"color": MUTED, "size": 7, "opacity": 0.55}, beaten, first)
        if len(record.objectives) == 2:
            _add_staircase(figure, record, front, across, up)
        _add(figure, record, front, across, up, cell, {"color": ACCENT, "size": 11}, "Pareto front", first)
        figure.update_xaxes(title_text=_goal(record, across), row=row, col=column)
        figure.update_yaxes(title_text=_goal(record, up), row=row, col=column)
    figure.update_layout(legend=LEGEND_ON_TOP)
    return figure.update_layout(height=120 + 420 * rows)


def _add(
    figure: go.Figure,
    record: StudyRecord,
    trials: list[TrialRecord],
    across: str,
    up: str,
    cell: dict[str, int],
    marker: dict[str, object],
    name: str,
    legend: bool,
) -> None:
    figure.add_scatter(
        x=[trial.values[across] for trial in trials],
        y=[trial.values[up] for trial in trials],
        mode="markers",
        marker=marker,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertext=hover_texts(record, trials),
        hoverinfo="text",
        **cell,
    )


def _add_staircase(figure: go.Figure, record: StudyRecord, front: list[TrialRecord], across: str, up: str) -> None:
    """Add the edge of the dominated region: between two front trials, the corner that both dominate."""
    line = sorted((trial.values[across], trial.values[up]) for trial in front)
    shape = "hv" if record.objectives[across] == "minimize" else "vh"
    figure.add_scatter(
        x=[x for x, _ in line],
        y=[y for _, y in line],
        mode="lines",
        line={"color": ACCENT, "width": 1.2, "dash": "dot", "shape": shape},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=1,
    )


def _goal(record: StudyRecord, name: str) -> str:
    return f"{with_unit(name)}, {record.objectives[name]}"


PLOT = Plot(
    "pareto_front",
    "Pareto front",
    "No trial is better than a highlighted one in every objective. Hover for its hyperparameters.",
    _figure,
    applies=has_front,
    otherwise=NO_FRONT,
)
