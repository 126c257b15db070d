"""The two hyperparameters that moved the objective most, together."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import SCALE, Coordinate, NothingToShow, Plot, coordinates, hover_texts
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES, StudyRecord, TrialRecord

_CELLS = 40
"""Number of cells along a numeric axis; on an axis of choices, each choice is a cell."""
_FAR = 2.5
"""Distance to the nearest trial, in bandwidths, beyond which a cell stays empty."""


def _figure(study: StudyData) -> Figure:
    """Draw the first objective over the two most important hyperparameters: trials, over a map of the values of trials nearby.

    The map is a heat map without smoothing, which a browser draws at once.
    """
    record = study.record
    trials, (leading, direction) = record.complete, next(iter(record.objectives.items()))
    shares = record.importances.get(leading, {})
    if len(shares) < 2:
        raise NothingToShow(
            "The two most important hyperparameters are not known. That takes two that are searched and at least "
            f"{FEWEST_FOR_IMPORTANCES} COMPLETE trials with values that differ; the study has {len(trials)}."
        )
    axes = coordinates(record.space)
    across, up = (axes[name] for name in sorted(shares, key=lambda name: shares[name], reverse=True)[:2])
    x, y = ([axis.position(trial.params[axis.name]) for trial in trials] for axis in (across, up))
    values = np.array([trial.values[leading] for trial in trials])
    colors = {"colorscale": SCALE, "reversescale": direction == "minimize"}
    figure = Figure()
    figure.add(**_areas((across, up), np.array([x, y]), values, with_unit(leading, record.scale), colors))
    figure.add(**_points(record, (across, up), study.drawn, (values.min(), values.max()), colors))
    figure.update_x(title={"text": across.label}, showgrid=False, **across.settings(margin=0.02))
    figure.update_y(title={"text": up.label}, showgrid=False, **up.settings(margin=0.02))
    figure.layout["height"] = 520
    return figure


def _areas(
    axes: tuple[Coordinate, Coordinate], positions: np.ndarray, values: np.ndarray, title: str, colors: dict[str, Any]
) -> dict[str, Any]:
    means = surface(axes, positions, values)
    return {
        "kind": "heatmap",
        "x": _edges(axes[0]).tolist(),
        "y": _edges(axes[1]).tolist(),
        "z": [[None if np.isnan(value) else float(f"{value:.6g}") for value in row] for row in means],
        "zmin": values.min(),
        "zmax": values.max(),
        "zsmooth": False,
        "opacity": 0.6,
        "hoverinfo": "skip",
        "colorbar": {"title": {"text": title.replace(" (", "<br>("), "side": "right"}, "thickness": 12},
        **colors,
    }


def _points(
    record: StudyRecord,
    axes: tuple[Coordinate, Coordinate],
    trials: list[TrialRecord],
    ends: tuple[float, float],
    colors: dict[str, Any],
) -> dict[str, Any]:
    x, y = ([axis.position(trial.params[axis.name]) for trial in trials] for axis in axes)
    leading, line = next(iter(record.objectives)), {"width": 1, "color": "#ffffff"}
    marker = {"color": [trial.values[leading] for trial in trials], "cmin": ends[0], "cmax": ends[1], "size": 8}
    return {
        "x": x,
        "y": y,
        "mode": "markers",
        "marker": {**marker, "line": line, **colors},
        "hovertext": hover_texts(record, trials),
        "showlegend": False,
    }


def surface(axes: tuple[Coordinate, Coordinate], positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return float64[cells up, cells across]: the mean of the trials' values, weighted by nearness; nan if no trial is near.

    positions: float64[2, trials], across and up; values: float64[trials]. Normal weights, so the mean lies between the lowest and
    the highest value (Nadaraya, 1964; Watson, 1964); the bandwidth follows Scott's rule (1992) for trials spread evenly over both
    axes. Choices are all equally far from one another, as far as the two ends of an axis.
    """
    bandwidth = len(values) ** (-1 / 6) / np.sqrt(12)
    # [cells, trials]
    over, upward = (_distances(axis, own) / bandwidth for axis, own in zip(axes, positions, strict=True))
    means = np.full((len(upward), len(over)), np.nan)
    # a row of cells at a time: all together take a gigabyte for 10,000 trials
    for row, own in zip(means, upward, strict=True):
        squared = over**2 + own**2
        nearest = squared.min(axis=1, keepdims=True)
        weights = np.exp((nearest - squared) / 2)
        is_near = nearest[:, 0] <= _FAR**2
        row[is_near] = ((weights * values).sum(axis=1) / weights.sum(axis=1))[is_near]
    return means


def _distances(axis: Coordinate, positions: np.ndarray) -> np.ndarray:
    """Return float64[cells, trials], in lengths of the axis."""
    edges = _edges(axis)
    centers = (edges[1:] + edges[:-1]) / 2
    apart = np.abs(centers[:, None] - positions[None, :])
    return (apart > 0.5).astype(np.float64) if axis.choices else apart / (edges[-1] - edges[0])


def _edges(axis: Coordinate) -> np.ndarray:
    """Return float64[cells + 1]: the ends of the cells."""
    low, high = axis.range()
    return np.linspace(low, high, (len(axis.choices) or _CELLS) + 1)


PLOT = Plot(
    "contour",
    "The two most important hyperparameters",
    "Each point is a COMPLETE trial. The map behind the points is an estimate, a weighted mean of nearby trials. It is empty "
    "where no trial is near. Hover for a trial's hyperparameters.",
    _figure,
    is_of_points=True,
)
