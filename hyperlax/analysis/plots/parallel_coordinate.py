"""Every trial as one line through all of its hyperparameters."""

from __future__ import annotations

from typing import Any

from hyperlax.analysis.plots.base import SCALE, Coordinate, NothingToShow, Plot, coordinates, several_complete
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import TrialRecord


def _figure(study: StudyData) -> Figure:
    """Draw the objectives first, then the search space; colored by the first objective, the best brightest."""
    record = study.record
    several_complete(record)
    trials = study.drawn
    if not record.space:
        raise NothingToShow("The recipe searches no hyperparameter.")
    dimensions = [_objective(name, trials) for name in record.objectives]
    dimensions += [_parameter(axis, trials) for axis in coordinates(record.space).values()]
    leading, direction = next(iter(record.objectives.items()))
    figure = Figure()
    figure.add(
        kind="parcoords",
        dimensions=dimensions,
        labelangle=-25,
        labelside="top",
        rangefont={"color": "rgba(0,0,0,0)"},
        line={
            "color": [trial.values[leading] for trial in trials],
            "colorscale": SCALE,
            "reversescale": direction == "minimize",
            "showscale": True,
            "colorbar": {"title": {"text": leading.replace("_", " "), "side": "right"}, "thickness": 12},
        },
    )
    figure.layout |= {"height": 560, "margin": {"l": 60, "r": 40, "t": 130, "b": 30}}
    return figure


def _objective(name: str, trials: list[TrialRecord]) -> dict[str, Any]:
    values = [trial.values[name] for trial in trials]
    low, high = min(values), max(values)
    spread = [low - 0.5, high + 0.5] if low == high else [low, high]
    return {"label": name, "values": values, "range": spread}


def _parameter(axis: Coordinate, trials: list[TrialRecord]) -> dict[str, Any]:
    values = [axis.position(trial.params[axis.name]) for trial in trials]
    return {"label": axis.label, "values": values, **axis.settings()}


PLOT = Plot(
    "parallel_coordinate",
    "Parallel coordinates",
    "Each line is a COMPLETE trial. Drag along an axis to keep only the lines that cross there.",
    _figure,
    min_width=1000,
    is_of_points=True,
)
