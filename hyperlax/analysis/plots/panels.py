"""A panel per hyperparameter, in rows: four side by side, or two on a narrow page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from hyperlax.analysis.plots.base import Coordinate, NothingToShow, coordinates
from hyperlax.analysis.plots.figure import Figure, suffix
from hyperlax.study.record import StudyRecord

_WIDE, _NARROW = 4, 2
_HEIGHT = 260
"""Pixels of a row of panels."""


def panels(
    record: StudyRecord,
    titles: Sequence[str],
    traces: Callable[[Coordinate, int], list[dict[str, Any]]],
    share_y: bool,
) -> Figure:
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
    axes = list(coordinates(record.space).values())
    figure = _empty(axes, titles, _WIDE, share_y, head=110, font=13)
    figure.layout["meta"] = {"narrow": _empty(axes, titles, _NARROW, share_y, head=50, font=10).layout}
    for block in range(len(titles)):
        for index, axis in enumerate(axes):
            for trace in traces(axis, block):
                figure.add(**trace, cell=block * len(axes) + index)
    return figure


def _empty(axes: Sequence[Coordinate], titles: Sequence[str], most: int, share_y: bool, head: int, font: int) -> Figure:
    """Return the panels without traces, at most so many side by side, below `head` pixels. font: size of their titles."""
    columns = min(most, len(axes))
    band = math.ceil(len(axes) / columns)
    rows = band * len(titles)
    below = [divmod(index, columns) for index in range(len(axes))]
    places = [(block * band + row, column) for block in range(len(titles)) for row, column in below]
    figure = Figure(places, (0.16 / columns, 0.4 / rows), [axis.label for axis in axes] * len(titles), font)
    for cell, (_, column) in enumerate(places):
        block, index = divmod(cell, len(axes))
        figure.update_x(cell, **axes[index].settings(margin=0.04))
        if index and share_y:
            figure.update_y(cell, matches=f"y{suffix(block * len(axes))}")
        if column and share_y:
            figure.update_y(cell, showticklabels=False)
        if not column:
            figure.update_y(cell, title={"text": titles[block].replace(" (", "<br>("), "font": {"size": 12}})
    figure.layout |= {"height": head + 60 + _HEIGHT * rows, "margin": {"t": head}}
    return figure
