"""The two hyperparameters that moved the objective most, together."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from hyperlax.analysis.best import complete_trials
from hyperlax.analysis.labels import short_names, with_unit
from hyperlax.analysis.plots.coordinates import Coordinate, coordinate
from hyperlax.analysis.plots.hover import hover_texts
from hyperlax.analysis.plots.nothing import NothingToShow
from hyperlax.analysis.plots.style import SCALE, finish
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES, StudyRecord

CELLS = 40


def contour_plot(record: StudyRecord) -> go.Figure:
    """The first objective over the two most important hyperparameters: trials as points, between them a weighted mean."""
    trials, leading = complete_trials(record), next(iter(record.objectives))
    shares = record.importances.get(leading, {})
    if len(shares) < 2:
        raise NothingToShow(
            f"The two most important hyperparameters are not known: that needs two that are searched, and at least "
            f"{FEWEST_FOR_IMPORTANCES} COMPLETE trials with values that differ."
        )
    short = short_names(record.space)
    across, up = (
        coordinate(name, short[name], record.space[name])
        for name in sorted(shares, key=lambda name: shares[name], reverse=True)[:2]
    )
    x, y = (np.array([axis.position(trial.params[axis.name]) for trial in trials]) for axis in (across, up))
    z = np.array([trial.values[leading] for trial in trials])
    figure = go.Figure()
    grid_x, grid_y = (np.linspace(axis.range()[0], axis.range()[1], CELLS) for axis in (across, up))
    surface = _weighted(x, y, z, grid_x, grid_y)
    colors: dict[str, Any] = {"coloraxis": "coloraxis", "hoverinfo": "skip", "showlegend": False}
    figure.add_contour(x=grid_x, y=grid_y, z=surface, line={"width": 0.5}, opacity=0.75, **colors)
    figure.add_scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="markers",
        marker={"color": z.tolist(), "coloraxis": "coloraxis", "size": 9, "line": {"width": 1, "color": "#232936"}},
        hovertext=hover_texts(record, trials),
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(**_axis(across))
    figure.update_yaxes(**_axis(up))
    title = with_unit(leading).replace(" (", "<br>(")
    figure.update_layout(
        coloraxis={"colorscale": SCALE, "colorbar": {"title": {"text": title, "side": "top"}, "thickness": 12}}
    )
    return finish(figure, height=520)


def _weighted(x: np.ndarray, y: np.ndarray, z: np.ndarray, grid_x: np.ndarray, grid_y: np.ndarray) -> np.ndarray:
    """float64[y, x]: the mean of all z by inverse square distance, both axes scaled to 1 (Shepard, 1968)."""
    wide, high = np.ptp(grid_x) or 1.0, np.ptp(grid_y) or 1.0
    far_x = (grid_x[None, :, None] - x) / wide
    far_y = (grid_y[:, None, None] - y) / high
    weights = 1 / (far_x**2 + far_y**2 + 1e-4)
    return (weights * z).sum(axis=2) / weights.sum(axis=2)


def _axis(axis: Coordinate) -> dict[str, Any]:
    settings: dict[str, Any] = {"title_text": axis.label, "range": axis.range()}
    if ticks := axis.ticks():
        settings["tickvals"], settings["ticktext"] = ticks
    return settings
