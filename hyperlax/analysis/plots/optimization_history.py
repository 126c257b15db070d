"""Plot of the search: each trial's value and the best so far."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, POINT, Plot, hover_texts, several_complete
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> go.Figure:
    """Draw values over trial number, a row per objective."""
    record = study.record
    trials = several_complete(record)
    objectives = record.objectives
    figure = make_subplots(rows=len(objectives), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    numbers, texts = [trial.number for trial in trials], hover_texts(record, trials)
    for row, (name, direction) in enumerate(objectives.items(), start=1):
        values = np.array([trial.values[name] for trial in trials])
        worst = np.inf if direction == "minimize" else -np.inf
        winning = np.where([trial.feasible for trial in trials], values, worst)
        best = np.minimum.accumulate(winning) if direction == "minimize" else np.maximum.accumulate(winning)
        figure.add_scatter(
            x=numbers,
            y=values.tolist(),
            mode="markers",
            name="trial",
            marker={"color": POINT, "size": 8, "opacity": 0.75},
            hovertext=texts,
            hoverinfo="text",
            showlegend=row == 1,
            row=row,
            col=1,
        )
        figure.add_scatter(
            x=numbers,
            y=[value if np.isfinite(value) else None for value in best.tolist()],
            mode="lines",
            name="best so far",
            line={"color": ACCENT, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
            showlegend=row == 1,
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text=with_unit(name), row=row, col=1)
    figure.update_xaxes(title_text="trial number", row=len(objectives), col=1)
    figure.update_layout(legend=LEGEND_ON_TOP)
    return figure.update_layout(height=120 + 320 * len(objectives))


PLOT = Plot(
    "optimization_history",
    "Optimization history",
    "Each COMPLETE trial's value, and the best value so far.",
    _figure,
)
