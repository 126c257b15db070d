"""Plot of where the trials and the best of them lie on each hyperparameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, MUTED, Coordinate, Plot, several_complete
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.plots.panels import panels
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import TrialRecord

_BINS = 12
"""Bars along a numeric axis, at most for whole numbers, of which each bar has equally many. Each choice has its own bar."""
_FEWEST = 8
"""COMPLETE trials below which the best quarter is a single trial."""


def _figure(study: StudyData) -> Figure:
    """Draw a histogram per hyperparameter, of all COMPLETE trials and of the best quarter of those that can win."""
    record = study.record
    trials = several_complete(record, _FEWEST)
    best = record.ranked
    best = best[: max(1, len(best) // 4)]

    def traces(axis: Coordinate, block: int) -> list[dict[str, Any]]:
        drawn = (("COMPLETE", trials, MUTED, 0.45), ("best quarter", best, ACCENT, 0.9))
        is_whole = record.space[axis.name]["type"] == "UniformDiscrete"
        bars = [_bars(axis, is_whole, own, name, color, opacity) for name, own, color, opacity in drawn]
        return [{**bar, "showlegend": axis.name == next(iter(record.space))} for bar in bars]

    figure = panels(record, ["trials"], traces, share_y=False)
    figure.layout |= {"barmode": "overlay", "bargap": 0.08, "legend": {**LEGEND_ON_TOP, "y": 1.08}}
    return figure


def _bars(
    axis: Coordinate, is_whole: bool, trials: list[TrialRecord], name: str, color: str, opacity: float
) -> dict[str, Any]:
    """Return a histogram. is_whole: whether the hyperparameter takes whole numbers, on an axis that is not logarithmic."""
    (low, high), bins = axis.range(), len(axis.choices) or _BINS
    if is_whole:
        width = math.ceil((high - low + 1) / _BINS)
        bins = math.ceil((high - low + 1) / width)
        low, high = low - 0.5, low - 0.5 + bins * width
    counts, edges = np.histogram([axis.position(trial.params[axis.name]) for trial in trials], bins, (low, high))
    return {
        "kind": "bar",
        "x": ((edges[1:] + edges[:-1]) / 2).tolist(),
        "y": counts.tolist(),
        "width": np.diff(edges).tolist(),
        "name": name,
        "legendgroup": name,
        "marker": {"color": color, "opacity": opacity},
        "hovertemplate": f"{name}: %{{y}}<extra></extra>",
    }


PLOT = Plot(
    "param_distributions",
    "Parameter distributions",
    "How many of all COMPLETE trials, and of the best quarter of them by the first objective, have a value there. Where the "
    "search looked more often, more of its best lie too.",
    _figure,
    min_width=900,
)
