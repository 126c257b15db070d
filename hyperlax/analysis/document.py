"""HTML pages that work offline: the shell, tables, and plots as plain data for one script to draw."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperlax.analysis.labels import number, value_text
from hyperlax.analysis.look import SCRIPT, STYLE
from hyperlax.analysis.plots import Drawing
from hyperlax.analysis.plots.style import template

if TYPE_CHECKING:
    import plotly.graph_objects as go

LONG_COLUMNS = {"reason": "reason", "which": "reason", "hyperparameter": "long", "searched": "long", "metric": "long"}
"""Header -> class of the columns whose text may wrap."""
FILTER = (
    '<input class="filter" type="search" placeholder="Filter rows, e.g. COMPLETE tanh" aria-label="Filter rows"> '
    '<output class="soft"></output>'
)


LONG_LIST = 32
"""Numbers from which on a list is worth sharing between plots."""


@dataclass
class Shared:
    """What several plots of a page show of the same trials, each once: texts on hover, and long lists of numbers as JSON."""

    texts: dict[str, int] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    def place_of_text(self, text: str) -> int:
        """Where a text is."""
        return self.texts.setdefault(text, len(self.texts))

    def place_of_list(self, numbers: list[float]) -> int:
        """Where a list is."""
        return self.lists.setdefault(_dense(numbers), len(self.lists))

    def as_json(self) -> str:
        """For the page's script; `<br>` of a text as a line's end, since it is escaped."""
        texts = json.dumps([text.replace("<br>", "\n") for text in self.texts])
        return f'{{"texts":{texts},"lists":[{",".join(self.lists)}]}}'


def page(title: str, body: str, plotly_script: str, shared: Shared | None = None) -> str:
    """A whole page. shared: by its drawings.

    `plotly_script` is the script element that brings plotly.js, before the page's own script.
    """
    templates = json.dumps({"light": template(dark=False), "dark": template(dark=True)})
    once = _data((shared or Shared()).as_json(), "shared")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"{once}\n"
        f"{plotly_script}\n<script>{SCRIPT.replace('TEMPLATES', templates)}</script>\n</body>\n</html>\n"
    )


def drawing(drawn: Drawing, shared: Shared | None = None) -> str:
    """A plot's place on a page: the figure, the words that stand for it, or the error that it met.

    With `shared`, to which its texts and lists are added, the figure is smaller: numbers have seven digits.
    """
    if drawn.error:
        return f'<p class="error">This plot could not be drawn. {escape(drawn.error)}</p>'
    if drawn.words:
        return f'<p class="soft">{escape(drawn.words)}</p>'
    figure = drawn.figure if shared is None else _lean(drawn.figure, shared)
    return _plot(figure, drawn.plot.min_width)


def figure_on_page(figure: go.Figure, min_width: int) -> str:
    """A figure's place on a page."""
    return _plot(str(figure.to_json()), min_width)


def _plot(figure: str, min_width: int) -> str:
    return f'<div class="scroll"><div class="plot" style="min-width:{min_width}px"></div>{_data(figure)}</div>'


def _data(text: str, identity: str = "") -> str:
    """JSON for the page's script."""
    named = f' id="{identity}"' if identity else ""
    return f'<script type="application/json"{named}>' + text.replace("<", "\\u003c") + "</script>"


def _lean(figure: str, shared: Shared) -> str:
    """A figure whose texts and long lists are places in `shared` and whose numbers have seven digits."""
    content = json.loads(figure)
    for trace in content["data"]:
        if isinstance(trace.get("hovertext"), list):
            trace["hovertext"] = [shared.place_of_text(text) for text in trace["hovertext"]]
    return _dense(_rounded(content, shared))


def _rounded(value: Any, shared: Shared) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        rounded = [_rounded(entry, shared) for entry in value]
        if len(rounded) < LONG_LIST or any(type(entry) not in (int, float) for entry in rounded):
            return rounded
        return {"shared": shared.place_of_list(rounded)}
    return {name: _rounded(entry, shared) for name, entry in value.items()} if isinstance(value, dict) else value


def _dense(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def section(title: str, *parts: str) -> str:
    """A card with a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}\n</section>"


def caption(text: str) -> str:
    """A sentence under a heading."""
    return f'<p class="soft">{escape(text)}</p>'


@dataclass(frozen=True)
class Link:
    """A cell that shows a number and leads to a file beside the page."""

    value: float
    href: str


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, tall: bool = False, sortable: bool = False) -> str:
    """A table; numbers to the right, rounded to six digits, the exact ones on hover. None is an empty cell.

    sortable: by a click on a heading, with a field to filter its rows; at most one in a section.
    """
    rows = [list(row) for row in rows]
    numeric = [any(_is_number(row[index]) for row in rows) for index in range(len(header))]
    heads = "".join(
        f"<th{_number_class(right)}>{escape(name)}</th>" for name, right in zip(header, numeric, strict=True)
    )
    lines = "\n".join("<tr>" + "".join(map(_cell, header, row)) + "</tr>" for row in rows)
    kind = "scroll tall" if tall else "scroll"
    opening, field = ('<table class="sortable">', FILTER) if sortable else ("<table>", "")
    inner = f"{opening}\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"
    return f'{field}<div class="{kind}">{inner}</div>'


def escape(text: str) -> str:
    """Text for HTML, quotes included."""
    return html.escape(text, quote=True)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, Link):
        return f'<td{_exact(value.value)}><a href="{escape(value.href)}">{number(value.value)}</a></td>'
    if _is_number(value):
        return f"<td{_exact(value)}>{number(value)}</td>"
    return f'<td class="{LONG_COLUMNS.get(name, "short")}">{_breakable(escape(value_text(value)))}</td>'


def _exact(value: float) -> str:
    """The exact value to be shown on hover, where the cell itself does not show it."""
    return "" if repr(value) == number(value) else f' title="{value!r}"'


def _breakable(escaped: str) -> str:
    """Let a dotted name break after its dots, where a narrow column needs it."""
    return re.sub(r"(?<=[a-z_])\.(?=[a-z_])", ".<wbr>", escaped)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Link)) and not isinstance(value, bool)


def _number_class(right: bool) -> str:
    return ' class="number"' if right else ""
