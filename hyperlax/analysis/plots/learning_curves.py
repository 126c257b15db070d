"""Plot of the learning curves of the best trials."""

from __future__ import annotations

import math

from hyperlax.analysis.plots.base import MUTED, SERIES, NothingToShow, Plot
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData, read_curves
from hyperlax.errors import format_number
from hyperlax.metrics import aggregated
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.record import TrialRecord

_SHOWN = 10


def _figure(study: StudyData) -> Figure:
    """Draw the ten best trials by the first objective, of several objectives those of the Pareto front first.

    A line is the seeds' aggregate, in a band from the lowest seed to the highest.
    """
    record = study.record
    trials = record.best_first()[:_SHOWN]
    if not trials:
        raise NothingToShow(f"No trial {'satisfies the constraints' if record.complete else 'is COMPLETE'} yet.")
    curves = read_curves(trials)
    leading = next(iter(record.objectives))
    figure = Figure()
    for rank in reversed(range(len(trials))):
        trial = trials[rank]
        curve = curves[trial.number]
        line = aggregated(curve.returns, record.arguments["aggregate"], record.scale.sign)
        _add(figure, trial, curve, line.tolist(), rank, leading)
    end = max(int(curve.steps[-1]) for curve in curves.values())
    low, high = sorted(record.scale.sign * bound for bound in record.scale.bounds)
    words = record.scale.words
    if not math.isnan(low):
        _add_reference(figure, words.high, high, end)
        _add_reference(figure, words.low, low, end)
    figure.update_x(title={"text": f"{words.steps} of one seed"}, tickformat="~s")
    figure.update_y(title={"text": words.curve})
    legend = {"title": {"text": leading.replace("_", " ")}}
    figure.layout |= {"hovermode": "closest", "legend": legend, "height": 520}
    return figure


def _add(figure: Figure, trial: TrialRecord, curve: LearningCurve, line: list[float], rank: int, leading: str) -> None:
    color, group, steps = SERIES[rank], str(trial.number), curve.steps.tolist()
    if curve.returns.shape[1] > 1:
        low, high = curve.returns.min(axis=1).tolist(), curve.returns.max(axis=1).tolist()
        figure.add(
            x=steps + steps[::-1],
            y=high + low[::-1],
            fill="toself",
            fillcolor=_faint(color, 0.18 if rank == 0 else 0.08),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            legendgroup=group,
            showlegend=False,
        )
    name = f"trial {trial.number}"
    figure.add(
        x=steps,
        y=line,
        mode="lines",
        name=f"{name}: {format_number(trial.values[leading])}",
        line={"color": color, "width": 3 if rank == 0 else 1.6},
        legendgroup=group,
        legendrank=rank,
        hovertemplate=f"{name}<br>%{{x}} steps: %{{y:.4g}}<extra></extra>",
    )


def _add_reference(figure: Figure, name: str, value: float, end: int) -> None:
    label = f"{name}: {format_number(value)}"
    figure.add(
        x=[0, end],
        y=[value, value],
        mode="lines",
        name=label,
        line={"color": MUTED, "dash": "dot", "width": 1.5},
        legendrank=2000,
        hovertemplate=f"{label}<extra></extra>",
    )


def _faint(color: str, opacity: float) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


PLOT = Plot(
    "learning_curves",
    "Learning curves",
    "The best trials{by}, ten at most. Line: {aggregate} over seeds. Band: lowest to highest seed.",
    _figure,
    min_width=680,
)
