"""Plot of how much each hyperparameter changed the objective."""

from __future__ import annotations

from hyperlax.analysis.labels import short_names
from hyperlax.analysis.plots.base import POINT, NothingToShow, Plot, plain
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData


def _figure(study: StudyData) -> Figure:
    """Draw bars, longest on top, a row per objective that has importances."""
    record = study.record
    shown = {name: record.importances[name] for name in record.objectives if record.importances.get(name)}
    if not shown:
        raise NothingToShow(record.without_importances())
    short = short_names(record.space)
    titles = [name.replace("_", " ") for name in shown] if len(record.objectives) > 1 else ()
    figure = Figure([(row, 0) for row in range(len(shown))], (0.0, 0.2 / len(shown) + 0.03), titles)
    for row, shares in enumerate(shown.values()):
        rising = sorted(shares.items(), key=lambda item: item[1])
        figure.add(
            row,
            kind="bar",
            x=[share for _, share in rising],
            y=[plain(short.get(name, name)) for name, _ in rising],
            orientation="h",
            marker={"color": POINT},
            text=[f"{share:.2f}" for _, share in rising],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
            showlegend=False,
        )
    figure.update_x(len(shown) - 1, title={"text": "share"})
    longest = max(max(shares.values()) for shares in shown.values())
    figure.update_x(range=[0, 1.15 * longest])
    figure.update_y(showgrid=False)
    figure.layout |= {"height": 130 + sum(40 + 28 * len(shares) for shares in shown.values())}
    return figure


PLOT = Plot(
    "param_importances",
    "Hyperparameter importances",
    "How much each searched hyperparameter decides whether a trial is among the best tenth (PED-ANOVA). The shares sum to 1.",
    _figure,
)
