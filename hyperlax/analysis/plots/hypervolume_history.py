"""How a search of several objectives went: the space that the trials so far dominate."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from hyperlax.analysis.hypervolume import hypervolume
from hyperlax.analysis.plots.nothing import NothingToShow
from hyperlax.analysis.plots.style import ACCENT, finish
from hyperlax.study.ranking import feasible_trials
from hyperlax.study.record import StudyRecord


def hypervolume_history(record: StudyRecord) -> go.Figure:
    """Share of the box between the worst and the best values of any trial, over trial number."""
    trials = feasible_trials(record)
    if len(trials) < 2:
        raise NothingToShow("Fewer than two trials can win yet.")
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in record.objectives.values()])
    losses = signs * np.array([[trial.values[name] for name in record.objectives] for trial in trials])
    ideal, worst = losses.min(axis=0), losses.max(axis=0)
    flat = [name for name, span in zip(record.objectives, worst - ideal, strict=True) if span == 0]
    if flat:
        raise NothingToShow(f"All trials are equal in {flat[0]}.")
    scaled = (losses - ideal) / (worst - ideal)
    figure = go.Figure()
    figure.add_scatter(
        x=[trial.number for trial in trials],
        y=_shares(scaled),
        mode="lines",
        line={"color": ACCENT, "width": 2.5, "shape": "hv"},
        hovertemplate="until trial %{x}: %{y:.4f}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text="trial number")
    figure.update_yaxes(title_text="hypervolume, of the box", rangemode="tozero")
    return finish(figure, height=360)


def _shares(scaled: np.ndarray) -> list[float]:
    """The hypervolume of the first, the first two, ... of float64[n, objectives] in [0, 1], below ones."""
    shares, front = [], np.empty((0, scaled.shape[1]))
    share, ones = 0.0, np.ones(scaled.shape[1])
    for point in scaled:
        if not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
            share = hypervolume(front, ones)
        shares.append(share)
    return shares
