"""The schedule that won in population-based training."""

from __future__ import annotations

from hyperlax.analysis.plots.base import ACCENT, POINT, NothingToShow, Plot, coordinates
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
    objective = next(iter(record.objectives))
    intervals = list(range(1, len(path) + 1))
    figure = Figure([(row, 0) for row in range(1 + len(record.space))], gaps=(0.0, 0.02))
    figure.link_x()
    returns = [trial.values[objective] for trial in path]
    figure.add(x=intervals, y=returns, mode="lines+markers", line={"color": ACCENT}, name=record.scale.name)
    figure.update_y(0, title={"text": f"mean {record.scale.name}"})
    for row, axis in enumerate(coordinates(record.space).values(), start=1):
        values = [trial.params[axis.name] for trial in path]
        figure.add(
            row,
            x=intervals,
            y=[str(value) for value in values] if axis.choices else values,
            mode="lines+markers",
            line={"color": POINT, "shape": "vh"},
            name=axis.label,
        )
        kind = "category" if axis.choices else "log" if axis.logarithmic else "linear"
        figure.update_y(row, title={"text": axis.label}, type=kind)
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
