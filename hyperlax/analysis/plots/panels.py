"""A panel per hyperparameter, in rows: four side by side, or two on a narrow page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hyperlax.analysis.labels import short_names
from hyperlax.analysis.plots.base import Coordinate, NothingToShow, coordinate
from hyperlax.study.record import StudyRecord

_WIDE, _NARROW = 4, 2
_HEIGHT = 260
"""Pixels of a row of panels."""


def panels(
    record: StudyRecord,
    titles: Sequence[str],
    traces: Callable[[Coordinate, int], list[dict[str, Any]]],
    share_y: bool,
) -> go.Figure:
    """Return a figure with a block of panels per title of the y axis, in each a panel per hyperparameter.

    Axes follow the search space (log, categories). `meta.narrow` holds the layout for a narrow page.

    Args:
      record: The study.
      titles: The y axis's title of each block.
      traces: Returns the traces of a panel, from its hyperparameter and the index of its block.
      share_y: Whether the panels of a block have one scale.

    Raises:
      NothingToShow: the study searches no hyperparameter.
    """
    if not record.space:
        raise NothingToShow("The recipe searches no hyperparameter.")
    short = short_names(record.space)
    axes = [coordinate(name, short[name], distribution) for name, distribution in record.space.items()]
    figure = _empty(axes, titles, _WIDE, share_y, head=110)
    narrow = _empty(axes, titles, _NARROW, share_y, head=50).update_annotations(font_size=10).to_plotly_json()["layout"]
    figure.update_layout(meta={"narrow": {name: entry for name, entry in narrow.items() if name != "template"}})
    for block in range(len(titles)):
        for index, axis in enumerate(axes):
            cell = _suffix(block * len(axes) + index)
            figure.add_traces([{**trace, "xaxis": f"x{cell}", "yaxis": f"y{cell}"} for trace in traces(axis, block)])
    return figure


def _empty(axes: Sequence[Coordinate], titles: Sequence[str], most: int, share_y: bool, head: int) -> go.Figure:
    """Return the panels without traces, at most so many side by side, below `head` pixels."""
    columns = min(most, len(axes))
    band = math.ceil(len(axes) / columns)
    rows = band * len(titles)
    below = [divmod(index, columns) for index in range(len(axes))]
    places = [(block * band + row + 1, column + 1) for block in range(len(titles)) for row, column in below]
    figure = make_subplots(
        rows=rows,
        cols=columns,
        specs=[
            [{} if (row, column) in places else None for column in range(1, columns + 1)] for row in range(1, rows + 1)
        ],
        vertical_spacing=0.4 / rows,
        horizontal_spacing=0.16 / columns,
        subplot_titles=[axis.label for axis in axes] * len(titles),
    )
    for number, (row, column) in enumerate(places):
        block, index = divmod(number, len(axes))
        figure.update_xaxes(**_axis(axes[index]), row=row, col=column)
        if index and share_y:
            figure.update_yaxes(matches=f"y{_suffix(block * len(axes))}", row=row, col=column)
        if column > 1 and share_y:
            figure.update_yaxes(showticklabels=False, row=row, col=column)
        if column == 1:
            text = titles[block].replace(" (", "<br>(")
            figure.update_yaxes(title={"text": text, "font": {"size": 12}}, row=row, col=1)
    figure.update_annotations(font_size=13)
    return figure.update_layout(height=head + 60 + _HEIGHT * rows, margin={"t": head})


def _suffix(cell: int) -> str:
    """Return what plotly puts after the names of a panel's axes."""
    return str(cell + 1) if cell else ""


def _axis(axis: Coordinate) -> dict[str, Any]:
    low, high = axis.range()
    margin = 0.0 if axis.choices else 0.04 * (high - low)
    settings: dict[str, Any] = {"range": [low - margin, high + margin]}
    ticks = axis.ticks()
    if ticks:
        settings["tickvals"], settings["ticktext"] = ticks
    return settings
