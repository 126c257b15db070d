"""The schedule that won in population-based training."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hyperlax.analysis.labels import short_names
from hyperlax.analysis.plots.base import ACCENT, POINT, NothingToShow, Plot, plain
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> go.Figure:
    """Draw the return and every explored hyperparameter, a row each, over the intervals that lead to the final best."""
    record = study.record
    lineage = record.lineage
    if lineage is None or lineage.final is None:
        raise NothingToShow("No interval is complete yet.")
    by_number = {trial.number: trial for trial in record.trials}
    path = [by_number[number] for number in lineage.path(lineage.final)]
    objective, short = next(iter(record.objectives)), short_names(record.space)
    intervals = list(range(1, len(path) + 1))
    figure = make_subplots(rows=1 + len(record.space), cols=1, shared_xaxes=True, vertical_spacing=0.02)
    returns = [trial.values[objective] for trial in path]
    figure.add_scatter(
        x=intervals, y=returns, mode="lines+markers", line={"color": ACCENT}, name="return", row=1, col=1
    )
    figure.update_yaxes(title_text="mean return", row=1, col=1)
    for row, (name, distribution) in enumerate(record.space.items(), start=2):
        categorical = distribution["type"] == "Categorical"
        values = [trial.params[name] for trial in path]
        figure.add_scatter(
            x=intervals,
            y=[str(value) for value in values] if categorical else values,
            mode="lines+markers",
            line={"color": POINT, "shape": "vh"},
            name=plain(short[name]),
            row=row,
            col=1,
        )
        kind = "category" if categorical else "log" if distribution["type"].startswith("Log") else "linear"
        figure.update_yaxes(title_text=plain(short[name]), type=kind, row=row, col=1)
    figure.update_xaxes(title_text="interval", row=1 + len(record.space), col=1)
    figure.update_layout(showlegend=False)
    return figure.update_layout(height=100 + 130 * (1 + len(record.space)))


PLOT = Plot(
    "pbt_winner",
    "The schedule that won",
    "The return and the hyperparameters of the final best member and its ancestors in each interval.",
    _figure,
    applies=lambda record: record.lineage is not None,
    otherwise="is not a population.",
)
