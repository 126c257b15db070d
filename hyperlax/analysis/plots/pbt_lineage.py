"""Who copied whom in population-based training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import plotly.graph_objects as go

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, MUTED, SCALE, NothingToShow, Plot, hover_texts
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.ranking import complete_trials
from hyperlax.study.record import Lineage


def _figure(study: StudyData) -> go.Figure:
    """Draw members over intervals: a point a trial, colored by its return, a line to it from the one that it continues."""
    record = study.record
    lineage, trials = record.lineage, complete_trials(record)
    if lineage is None or not trials:
        raise NothingToShow("No interval is complete yet.")
    objective = next(iter(record.objectives))
    figure = go.Figure()
    parents = lineage.parents.items()
    kept = [(p, c) for c, p in parents if p % lineage.members == c % lineage.members]
    copied = [(p, c) for c, p in parents if p % lineage.members != c % lineage.members]
    path = lineage.path(lineage.final) if lineage.final is not None else []
    _lines(figure, lineage, kept, "goes on", MUTED, 0.6)
    _lines(figure, lineage, copied, "copies", MUTED, 1.8)
    _lines(figure, lineage, list(itertools.pairwise(path)), "way to the best at the end", ACCENT, 5.0)
    numbers = [trial.number for trial in trials]
    figure.add_scatter(
        x=[number // lineage.members + 1 for number in numbers],
        y=[number % lineage.members for number in numbers],
        mode="markers",
        name="a member at the end of an interval",
        marker={
            "color": [trial.values[objective] for trial in trials],
            "colorscale": SCALE,
            "showscale": True,
            "colorbar": {"title": {"text": with_unit(objective)}},
            "size": 12,
        },
        hovertext=[
            f"member {n % lineage.members}, interval {n // lineage.members + 1}<br>{text}"
            for n, text in zip(numbers, hover_texts(record, trials), strict=True)
        ],
        hoverinfo="text",
    )
    failed = [trial for trial in record.trials if trial.state == "FAIL"]
    if failed:
        figure.add_scatter(
            x=[trial.number // lineage.members + 1 for trial in failed],
            y=[trial.number % lineage.members for trial in failed],
            mode="markers",
            name="failed",
            marker={"symbol": "x", "color": MUTED, "size": 10},
            hovertext=[f"trial {trial.number} failed" for trial in failed],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="interval", dtick=1 if len(trials) <= 20 * lineage.members else None)
    figure.update_yaxes(title_text="member", autorange="reversed")
    figure.update_layout(hovermode="closest", legend=LEGEND_ON_TOP)
    return figure.update_layout(height=220 + 24 * lineage.members)


def _lines(
    figure: go.Figure, lineage: Lineage, pairs: Iterable[tuple[int, int]], name: str, color: str, width: float
) -> None:
    x: list[int | None] = []
    y: list[int | None] = []
    for pair in pairs:
        x += [*(number // lineage.members + 1 for number in pair), None]
        y += [*(number % lineage.members for number in pair), None]
    if x:
        line = {"color": color, "width": width}
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip")


PLOT = Plot(
    "pbt_lineage",
    "Lineage",
    "Each point is a member at the end of an interval; a line leads to it from the member that it continues. Hover for its "
    "hyperparameters.",
    _figure,
    applies=lambda record: record.lineage is not None,
    otherwise="is not a population.",
    min_width=680,
)
