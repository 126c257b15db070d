"""Plot of the search: each trial's value and the best so far."""

from __future__ import annotations

import numpy as np

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, POINT, Plot, hover_texts, several_complete
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> Figure:
    """Draw values over trial number, a row per objective."""
    record = study.record
    trials = several_complete(record)
    objectives = record.objectives
    figure = Figure([(row, 0) for row in range(len(objectives))], gaps=(0.0, 0.06))
    figure.link_x()
    drawn, texts = study.drawn, hover_texts(record, study.drawn)
    for row, (name, direction) in enumerate(objectives.items()):
        values = np.array([trial.values[name] for trial in trials])
        worst = np.inf if direction == "minimize" else -np.inf
        winning = np.where([trial.feasible for trial in trials], values, worst)
        best = np.minimum.accumulate(winning) if direction == "minimize" else np.maximum.accumulate(winning)
        figure.add(
            row,
            x=[trial.number for trial in drawn],
            y=[trial.values[name] for trial in drawn],
            mode="markers",
            name="trial",
            marker={"color": POINT, "size": 8, "opacity": 0.75},
            hovertext=texts,
            showlegend=row == 0,
        )
        figure.add(
            row,
            x=[trial.number for trial in trials],
            y=[value if np.isfinite(value) else None for value in best.tolist()],
            mode="lines",
            name="best so far",
            line={"color": ACCENT, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
            showlegend=row == 0,
        )
        figure.update_y(row, title={"text": with_unit(name, record.scale)})
    figure.update_x(len(objectives) - 1, title={"text": "trial number"})
    figure.layout |= {"legend": LEGEND_ON_TOP, "height": 120 + 320 * len(objectives)}
    return figure


PLOT = Plot(
    "optimization_history",
    "Optimization history",
    "Each COMPLETE trial's value, and the best value so far.",
    _figure,
    is_of_points=True,
)
