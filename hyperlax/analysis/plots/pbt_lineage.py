"""Plot of the copies in population-based training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, MUTED, SCALE, NothingToShow, Plot, hover_texts
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.record import Lineage, TrialRecord


def _figure(study: StudyData) -> Figure:
    """Draw members over intervals: a point per trial, colored by its return, with a line from the trial that it continues."""
    record = study.record
    lineage, trials = record.lineage, record.complete
    if lineage is None or not trials:
        raise NothingToShow("No interval is complete yet.")
    objective = next(iter(record.objectives))
    figure = Figure()
    parents = lineage.parents.items()
    kept = [(p, c) for c, p in parents if p % lineage.members == c % lineage.members]
    copied = [(p, c) for c, p in parents if p % lineage.members != c % lineage.members]
    path = lineage.path(lineage.final) if lineage.final is not None else []
    _lines(figure, lineage, kept, "continues", MUTED, 0.6)
    _lines(figure, lineage, copied, "copies", MUTED, 1.8)
    _lines(figure, lineage, list(itertools.pairwise(path)), "way to the best at the end", ACCENT, 5.0)
    color = {"color": [trial.values[objective] for trial in trials], "colorscale": SCALE, "showscale": True}
    colorbar = {"colorbar": {"title": {"text": with_unit(objective, record.scale)}}, "size": 12}
    texts = [
        f"member {trial.number % lineage.members}, interval {trial.number // lineage.members + 1}<br>{text}"
        for trial, text in zip(trials, _texts(study, trials, path), strict=True)
    ]
    _points(figure, lineage, trials, "a member at the end of an interval", {**color, **colorbar}, texts)
    failed = [trial for trial in record.trials if trial.state == "FAIL"]
    marker = {"symbol": "x", "color": MUTED, "size": 10}
    _points(figure, lineage, failed, "failed", marker, [f"trial {trial.number} failed" for trial in failed])
    figure.update_x(title={"text": "interval"}, dtick=1 if len(trials) <= 20 * lineage.members else None)
    figure.update_y(title={"text": "member"}, autorange="reversed")
    figure.layout |= {"hovermode": "closest", "legend": LEGEND_ON_TOP, "height": 220 + 24 * lineage.members}
    return figure


def _texts(study: StudyData, trials: list[TrialRecord], path: list[int]) -> list[str]:
    """Return the hover text of each trial. Of too many, only those that other plots draw, or on the path, have it in full."""
    numbers = {*path, *(trial.number for trial in study.drawn)}
    full = [trial for trial in trials if trial.number in numbers]
    texts = dict(zip((trial.number for trial in full), hover_texts(study.record, full), strict=True))
    return [texts.get(trial.number) or f"<b>trial {trial.number}</b>: see trials.csv" for trial in trials]


def _points(
    figure: Figure,
    lineage: Lineage,
    trials: list[TrialRecord],
    name: str,
    marker: dict[str, object],
    texts: list[str],
) -> None:
    if trials:
        figure.add(
            x=[trial.number // lineage.members + 1 for trial in trials],
            y=[trial.number % lineage.members for trial in trials],
            mode="markers",
            name=name,
            marker=marker,
            hovertext=texts,
        )


def _lines(
    figure: Figure, lineage: Lineage, pairs: Iterable[tuple[int, int]], name: str, color: str, width: float
) -> None:
    x: list[int | None] = []
    y: list[int | None] = []
    for pair in pairs:
        x += [*(number // lineage.members + 1 for number in pair), None]
        y += [*(number % lineage.members for number in pair), None]
    if x:
        line = {"color": color, "width": width}
        figure.add(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip")


PLOT = Plot(
    "pbt_lineage",
    "Lineage",
    "Each point is a member at the end of an interval; a line leads to it from the member that it continues. Hover for its "
    "hyperparameters.",
    _figure,
    applies=lambda record: record.lineage is not None,
    otherwise="is not a population.",
    min_width=680,
)
