"""Plot of a search of several objectives: the space that the trials so far dominate."""

from __future__ import annotations

import numpy as np

from hyperlax.analysis.plots.base import ACCENT, NO_FRONT, NothingToShow, Plot, has_front
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.pareto import hypervolume


def _figure(study: StudyData) -> Figure:
    """Draw the share of the box between the worst and the best values of any trial, over trial number."""
    record = study.record
    trials = record.feasible
    if len(trials) < 2:
        raise NothingToShow("Fewer than two trials can win yet.")
    points = record.scores(trials)
    worst, ideal = points.min(axis=0), points.max(axis=0)
    flat = [name for name, span in zip(record.objectives, ideal - worst, strict=True) if span == 0]
    if flat:
        raise NothingToShow(f"All trials are equal in {flat[0]}.")
    figure = Figure()
    figure.add(
        x=[trial.number for trial in trials],
        y=_shares((points - ideal) / (ideal - worst)),
        mode="lines",
        line={"color": ACCENT, "width": 2.5, "shape": "hv"},
        hovertemplate="until trial %{x}: %{y:.4f}<extra></extra>",
        showlegend=False,
    )
    figure.update_x(title={"text": "trial number"})
    figure.update_y(title={"text": "hypervolume, of the box"}, rangemode="tozero")
    figure.layout["height"] = 360
    return figure


def _shares(points: np.ndarray) -> list[float]:
    """Return the hypervolume of the first, the first two, ... of float64[n, objectives] in [-1, 0], above -1."""
    shares, front = [], np.empty((0, points.shape[1]))
    share, worst = 0.0, -np.ones(points.shape[1])
    for point in points:
        if not (front >= point).all(axis=1).any():
            front = np.vstack([front[~(point >= front).all(axis=1)], point])
            share = hypervolume(front, worst)
        shares.append(share)
    return shares


PLOT = Plot(
    "hypervolume_history",
    "Hypervolume",
    "The share of the box between the worst and the best values of all trials that is dominated so far. 1 is the whole box.",
    _figure,
    applies=has_front,
    otherwise=NO_FRONT,
)
