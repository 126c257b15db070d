"""Each hyperparameter on its own against each objective."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hyperlax.analysis.labels import short_names, with_unit
from hyperlax.analysis.plots.base import SCALE, Coordinate, NothingToShow, Plot, coordinate
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import complete_trials

_COLUMNS = 4


def _figure(study: StudyData) -> go.Figure:
    """Draw a cell per hyperparameter and objective, later trials brighter. Axes follow the search space (log, categories)."""
    record = study.record
    trials = complete_trials(record)
    if not trials:
        raise NothingToShow("No trial is COMPLETE yet.")
    if not record.space:
        raise NothingToShow("The recipe searches no hyperparameter.")
    short = short_names(record.space)
    axes = [coordinate(name, short[name], distribution) for name, distribution in record.space.items()]
    columns = min(_COLUMNS, len(axes))
    band = math.ceil(len(axes) / columns)
    rows = band * len(record.objectives)
    blank = [""] * (band * columns - len(axes))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=0.32 / rows,
        horizontal_spacing=0.16 / columns,
        subplot_titles=([axis.label for axis in axes] + blank) * len(record.objectives),
    )
    points = _points([trial.number for trial in trials])
    for block, name in enumerate(record.objectives):
        values = [trial.values[name] for trial in trials]
        for index, axis in enumerate(axes):
            row, column = block * band + index // columns + 1, index % columns + 1
            x = [axis.position(trial.params[axis.name]) for trial in trials]
            figure.add_scatter(x=x, y=values, **points, row=row, col=column)
            figure.update_xaxes(**_axis(axis), row=row, col=column)
            if column == 1:
                figure.update_yaxes(
                    title={"text": with_unit(name).replace(" (", "<br>("), "font": {"size": 12}}, row=row, col=1
                )
            else:
                figure.update_yaxes(showticklabels=False, row=row, col=column)
    figure.update_annotations(font_size=13)
    return figure.update_layout(coloraxis=_colors(), height=170 + 270 * rows, margin={"t": 110})


def _points(numbers: list[int]) -> dict[str, Any]:
    marker = {"color": numbers, "coloraxis": "coloraxis", "size": 7, "opacity": 0.8}
    template = "trial %{marker.color}: %{y:.6g}<extra></extra>"
    return {"mode": "markers", "marker": marker, "hovertemplate": template, "showlegend": False}


def _axis(axis: Coordinate) -> dict[str, Any]:
    low, high = axis.range()
    margin = 0.0 if axis.choices else 0.04 * (high - low)
    settings: dict[str, Any] = {"range": [low - margin, high + margin]}
    ticks = axis.ticks()
    if ticks:
        settings["tickvals"], settings["ticktext"] = ticks
    return settings


def _colors() -> dict[str, Any]:
    title = {"text": "trial number", "side": "top"}
    place = {
        "orientation": "h",
        "x": 1,
        "xanchor": "right",
        "y": 1,
        "ypad": 34,
        "yanchor": "bottom",
        "len": 0.3,
        "thickness": 10,
    }
    return {"colorscale": SCALE, "colorbar": {"title": title, **place}}


PLOT = Plot(
    "slice",
    "Slices",
    "Each hyperparameter on its own against the objective; brighter points are later trials.",
    _figure,
    min_width=900,
)
