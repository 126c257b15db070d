"""Each hyperparameter on its own against each objective."""

from __future__ import annotations

from typing import Any

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import SCALE, Coordinate, Plot, coordinates, hover_texts, several_complete
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.plots.panels import panels
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> Figure:
    """Draw a panel per hyperparameter and objective, later trials brighter."""
    record = study.record
    several_complete(record)
    trials, objectives = study.drawn, list(record.objectives)
    points = _points([trial.number for trial in trials])

    def traces(axis: Coordinate, block: int) -> list[dict[str, Any]]:
        x = [axis.position(trial.params[axis.name]) for trial in trials]
        return [{**points, "x": x, "y": [trial.values[objectives[block]] for trial in trials]}]

    figure = panels(record, [with_unit(name, record.scale) for name in objectives], traces, share_y=True)
    figure.layout["coloraxis"] = _colors()
    return figure


def _points(numbers: list[int]) -> dict[str, Any]:
    marker = {"color": numbers, "coloraxis": "coloraxis", "size": 7, "opacity": 0.8}
    template = "trial %{marker.color}: %{y:.4g}<extra></extra>"
    return {"mode": "markers", "marker": marker, "hovertemplate": template, "showlegend": False}


def _colors() -> dict[str, Any]:
    title = {"text": "trial number", "side": "top"}
    place = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "ypad": 34, "yanchor": "bottom", "len": 0.3}
    return {"colorscale": SCALE, "colorbar": {"title": title, "thickness": 10, **place}}


def metric_vs_param(study: StudyData, name: str, metric: str) -> Figure:
    """Draw a metric of the COMPLETE trials over one searched hyperparameter, with its own values on the axis.

    name: dotted, of the search space. Raises NothingToShow if no trial is COMPLETE.
    """
    record = study.record
    trials = several_complete(record, fewest=1)
    axis = coordinates(record.space)[name]
    values, kind = [trial.params[name] for trial in trials], "log" if axis.logarithmic else "linear"
    figure = Figure()
    if axis.choices:
        values, kind = [axis.choice_labels[int(axis.position(value))] for value in values], "category"
        figure.update_x(categoryorder="array", categoryarray=list(axis.choice_labels))
    points: dict[str, Any] = _points([trial.number for trial in trials]) | {"hovertemplate": None}
    figure.add(
        **points,
        x=values,
        y=[{**trial.metrics, **trial.values}.get(metric) for trial in trials],
        hovertext=hover_texts(record, trials),
    )
    figure.update_x(type=kind, title={"text": axis.label})
    figure.update_y(title={"text": with_unit(metric, record.scale)})
    figure.layout |= {"coloraxis": _colors(), "height": 420, "margin": {"t": 90}}
    return figure


PLOT = Plot(
    "slice",
    "Slices",
    "Each hyperparameter on its own against the objective; brighter points are later trials.",
    _figure,
    min_width=900,
    is_of_points=True,
)
