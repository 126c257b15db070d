"""A plotly figure as plain data. Plotly's own objects check every value, which takes ten times as long as drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


class Figure:
    """A figure in the form of plotly's JSON: traces, and a layout with a pair of axes per cell.

    Args:
      cells: (row, column) of each cell, from the top left, all of one size. Empty: one cell, if a trace has axes.
      gaps: Space between columns and between rows, as a share of the figure.
      titles: A title above each cell.
      font: Size of the titles.
    """

    def __init__(
        self,
        cells: Sequence[tuple[int, int]] = (),
        gaps: tuple[float, float] = (0.0, 0.0),
        titles: Sequence[str] = (),
        font: int = 16,
    ):
        self.data: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {}
        self._cells = range(len(cells) or 1)
        rows, columns = (1 + max(places) for places in zip(*cells, strict=True)) if cells else (1, 1)
        for cell, (row, column) in enumerate(cells):
            self.update_x(cell, anchor=f"y{suffix(cell)}", domain=_span(column, columns, gaps[0]))
            self.update_y(cell, anchor=f"x{suffix(cell)}", domain=_span(rows - 1 - row, rows, gaps[1]))
        if titles:
            self.layout["annotations"] = [self._title(cell, text, font) for cell, text in enumerate(titles)]

    def add(self, cell: int = 0, kind: str = "scatter", **trace: Any) -> None:
        """Add a trace to a cell. Entries that are None are left to plotly. Of points with hover texts nothing else is shown."""
        axes = {"xaxis": f"x{suffix(cell)}", "yaxis": f"y{suffix(cell)}"} if cell else {}
        hover = {"hoverinfo": "text"} if "hovertext" in trace else {}
        self.data.append({"type": kind, **_known(trace), **hover, **axes})

    def update_x(self, cell: int | None = None, **settings: Any) -> None:
        """Set properties of the x axis of one cell, or of all."""
        self._update("x", cell, settings)

    def update_y(self, cell: int | None = None, **settings: Any) -> None:
        """Set properties of the y axis of one cell, or of all."""
        self._update("y", cell, settings)

    def link_x(self) -> None:
        """Give all cells the x axis of the last one, which alone has labels. For cells in one column."""
        for cell in self._cells[:-1]:
            self.update_x(cell, matches=f"x{suffix(self._cells[-1])}", showticklabels=False)

    def to_json(self) -> str:
        """Return the figure as JSON, without a template. Numbers that are not finite become null."""
        content = {"data": self.data, "layout": self.layout}
        try:
            return json.dumps(content, allow_nan=False)
        except ValueError:
            return json.dumps(_finite(content))

    def _update(self, axis: str, cell: int | None, settings: dict[str, Any]) -> None:
        for each in self._cells if cell is None else [cell]:
            self.layout.setdefault(f"{axis}axis{suffix(each)}", {}).update(_known(settings))

    def _title(self, cell: int, text: str, font: int) -> dict[str, Any]:
        left, right = self.layout[f"xaxis{suffix(cell)}"]["domain"]
        place = {"x": (left + right) / 2, "y": self.layout[f"yaxis{suffix(cell)}"]["domain"][1]}
        frame = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False}
        return {"text": text, "font": {"size": font}, **place, **frame}


def suffix(cell: int) -> str:
    """Return what plotly puts after the names of a cell's axes."""
    return str(cell + 1) if cell else ""


def _span(place: int, places: int, gap: float) -> list[float]:
    """Return both ends of one of several places of equal length on a side of the figure."""
    length = (1 - gap * (places - 1)) / places
    start = place * (length + gap)
    return [start, start + length]


def _known(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if value is not None}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
