"""The schedule that won in population-based training."""

from __future__ import annotations

from hyperlax.analysis.labels import short_names
from hyperlax.analysis.plots.base import ACCENT, POINT, NothingToShow, Plot, plain
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> Figure:
    """Draw the score and every explored hyperparameter, a row each, over the intervals that lead to the final best."""
    record = study.record
    lineage = record.lineage
    if lineage is None or lineage.final is None:
        raise NothingToShow("No interval is complete yet.")
    by_number = {trial.number: trial for trial in record.trials}
    path = [by_number[number] for number in lineage.path(lineage.final)]
    objective, short = next(iter(record.objectives)), short_names(record.space)
    intervals = list(range(1, len(path) + 1))
    figure = Figure([(row, 0) for row in range(1 + len(record.space))], gaps=(0.0, 0.02))
    figure.link_x()
    returns = [trial.values[objective] for trial in path]
    figure.add(x=intervals, y=returns, mode="lines+markers", line={"color": ACCENT}, name=record.scale.name)
    figure.update_y(0, title={"text": f"mean {record.scale.name}"})
    for row, (name, distribution) in enumerate(record.space.items(), start=1):
        categorical = distribution["type"] == "Categorical"
        values = [trial.params[name] for trial in path]
        figure.add(
            row,
            x=intervals,
            y=[str(value) for value in values] if categorical else values,
            mode="lines+markers",
            line={"color": POINT, "shape": "vh"},
            name=plain(short[name]),
        )
        kind = "category" if categorical else "log" if distribution["type"].startswith("Log") else "linear"
        figure.update_y(row, title={"text": plain(short[name])}, type=kind)
    figure.update_x(len(record.space), title={"text": "interval"})
    figure.layout |= {"showlegend": False, "height": 100 + 130 * (1 + len(record.space))}
    return figure


PLOT = Plot(
    "pbt_winner",
    "The schedule that won",
    "The score and the hyperparameters of the final best member and its ancestors in each interval.",
    _figure,
    applies=lambda record: record.lineage is not None,
    otherwise="is not a population.",
)
