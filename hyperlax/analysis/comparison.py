"""Studies side by side on one page: their best, their progress, and the learning curves of their best trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperlax.analysis.html import render
from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import SERIES, Drawing, plain
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import MissingFile, StudyData, readable_curves
from hyperlax.errors import UsageError
from hyperlax.metrics import aggregated
from hyperlax.study.record import StudyRecord
from hyperlax.study.statistics import Interval, mean_interval

_HEADER = ["study", "recipe", "environment", "state", "trials", "best", "trial", "confirmed", "95 % from", "95 % to"]


@dataclass(frozen=True)
class Compared:
    """A study under the name that tells it from the others, and how far it is."""

    name: str
    record: StudyRecord
    state: str


def comparison(studies: Sequence[Compared]) -> str:
    """Return the whole page; it needs no network and no file beside it.

    Raises:
      UsageError: the studies differ in their first objective or its direction.
    """
    leading, direction = _common_objective(studies)
    goal = f"Compared by {with_unit(leading, studies[0].record.scale)}, {direction}d."
    environments = sorted({one.record.environment for one in studies} - {""})
    if len(environments) > 1:
        goal += f" They are on different environments: {', '.join(environments)}."
    drawings = [
        _drawing(
            "Best so far",
            "The best value up to each trial. A study that rises early found good hyperparameters early.",
            _history(studies, leading, direction),
        ),
        _drawing(
            "What the best learned",
            "The learning curve of each study's best trial: its seeds' aggregate.",
            _curves(studies),
        ),
    ]
    header, rows = [*_HEADER, _steps(studies), "training (s)"], [_row(one, leading) for one in studies]
    if not environments:
        place = header.index("environment")
        for line in (header, *rows):
            del line[place]
    return render(
        "comparison.html.j2", "Studies compared - Hyperlax", goal=goal, header=header, rows=rows, drawings=drawings
    )


def _steps(studies: Sequence[Compared]) -> str:
    """Return the word for the studies' steps."""
    words = {one.record.scale.words.steps for one in studies}
    return words.pop() if len(words) == 1 else "steps"


def _drawing(title: str, caption: str, figure: Figure) -> Drawing:
    return Drawing("", title, caption, 620, figure=figure.to_json())


def names_of(directories: Sequence[str]) -> list[str]:
    """Return the parts of paths in which they differ.

    >>> names_of(["a/ppo_mlp/gymnax_cartpole", "b/ppo_mlp/gymnax_cartpole", "b/sac_mlp/gymnax_cartpole"])
    ['a/ppo_mlp', 'b/ppo_mlp', 'b/sac_mlp']
    """
    parts = [path.strip("/").split("/") for path in directories]
    while all(len(path) > 1 for path in parts) and len({path[-1] for path in parts}) == 1:
        parts = [path[:-1] for path in parts]
    while all(len(path) > 1 for path in parts) and len({path[0] for path in parts}) == 1:
        parts = [path[1:] for path in parts]
    return ["/".join(path) for path in parts]


def _common_objective(studies: Sequence[Compared]) -> tuple[str, str]:
    first = [next(iter(one.record.objectives.items())) for one in studies]
    for one, found in zip(studies, first, strict=True):
        if found != first[0]:
            raise UsageError(
                f"compare: {one.name} has the first objective {found[0]} ({found[1]}), {studies[0].name} has {first[0][0]} "
                f"({first[0][1]}). Studies are compared by one objective."
            )
    return first[0]


def _row(one: Compared, leading: str) -> list[Any]:
    record, best = one.record, one.record.ranked[:1]
    finished = sum(trial.state != "RUNNING" for trial in record.trials)
    row: list[Any] = [one.name, record.recipe, record.environment, one.state, finished]
    row += [best[0].values[leading], best[0].number] if best else [None, None]
    interval = _confirmed(record)
    row += [interval.estimate, interval.low, interval.high] if interval else [None] * 3
    try:
        cost = StudyData(record).cost
    except MissingFile:
        return [*row, None, None]
    return [*row, cost.steps, cost.train_seconds]


def _confirmed(record: StudyRecord) -> Interval | None:
    best = record.confirmation.best if record.confirmation else None
    return mean_interval(best.per_seed[record.confirmation.metric]) if best and record.confirmation else None


def _history(studies: Sequence[Compared], leading: str, direction: str) -> Figure:
    figure = Figure()
    for place, one in enumerate(studies):
        trials = one.record.feasible
        values = np.array([trial.values[leading] for trial in trials])
        best = np.minimum.accumulate(values) if direction == "minimize" else np.maximum.accumulate(values)
        numbers = [trial.number for trial in trials]
        figure.add(x=numbers, y=best.tolist(), **_line(place, one.name, "until trial %{x}", "hv"))
    figure.update_x(title={"text": "trial number"})
    figure.update_y(title={"text": with_unit(leading, studies[0].record.scale)})
    figure.layout["height"] = 440
    return figure


def _curves(studies: Sequence[Compared]) -> Figure:
    figure = Figure()
    for place, one in enumerate(studies):
        for trial, curve in readable_curves(one.record.ranked[:1]).items():
            line = aggregated(curve.returns, one.record.arguments["aggregate"], one.record.scale.sign).tolist()
            name = f"{one.name}, trial {trial}"
            figure.add(x=curve.steps.tolist(), y=line, **_line(place, name, "%{x} steps", "linear"))
    shown = sorted({one.record.scale.words.curve for one in studies})
    figure.update_x(title={"text": f"{_steps(studies)} of one seed"}, tickformat="~s")
    figure.update_y(title={"text": ", ".join(shown)})
    figure.layout["height"] = 440
    return figure


def _line(place: int, name: str, where: str, shape: str) -> dict[str, Any]:
    """Return the line style of a study, the same in every plot."""
    return {
        "mode": "lines",
        "name": plain(name),
        "line": {"color": SERIES[place % len(SERIES)], "width": 2.5, "shape": shape},
        "showlegend": True,
        "hovertemplate": f"{plain(name)}<br>{where}: %{{y:.4g}}<extra></extra>",
    }
