"""HTML pages from the templates beside this file. Each works offline: style, script and data are part of the page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hyperlax.analysis.labels import format_value
from hyperlax.analysis.plots.base import template
from hyperlax.errors import format_number

_LONG_COLUMNS = {
    "reason": "reason",
    "which": "reason",
    "setting": "reason",
    "option": "long",
    "default": "long",
    "hyperparameter": "long",
    "searched": "long",
    "metric": "long",
}
"""Header -> class of the columns whose text may wrap."""
_LONG_LIST = 32
"""Minimum length of a list of numbers that is shared between plots."""


@dataclass(frozen=True)
class Link:
    """A table cell that shows a number and links to a file beside the page."""

    value: float
    href: str


@dataclass
class _Shared:
    """Data that several plots of a page share, each item stored once: hover texts, and long lists of numbers as JSON."""

    texts: dict[str, int] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    def lean(self, figure: str) -> str:
        """Return a figure's JSON with its texts and long lists moved here, and numbers rounded to seven digits."""
        content = json.loads(figure)
        for trace in content["data"]:
            if isinstance(trace.get("hovertext"), list):
                trace["hovertext"] = [self.texts.setdefault(text, len(self.texts)) for text in trace["hovertext"]]
        return _dense(self._shared(content))

    def as_json(self) -> str:
        """Return all shared data for the page's script. `<br>` becomes a line break, since texts are escaped."""
        texts = json.dumps([text.replace("<br>", "\n") for text in self.texts])
        return f'{{"texts":{texts},"lists":[{",".join(self.lists)}]}}'

    def _shared(self, value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.7g}")
        if isinstance(value, dict):
            return {name: self._shared(entry) for name, entry in value.items()}
        if not isinstance(value, list):
            return value
        rounded = [self._shared(entry) for entry in value]
        if len(rounded) < _LONG_LIST or any(type(entry) not in (int, float) for entry in rounded):
            return rounded
        return {"shared": self.lists.setdefault(_dense(rounded), len(self.lists))}


def render(name: str, title: str, plotly_path: str = "", **content: Any) -> str:
    """Return the page that a template renders. plotly_path: path of plotly.js relative to the page; "" embeds plotly.js."""
    page = _environment().get_template(name)
    return page.render(title=title, plotly_path=plotly_path, shared=_Shared(), **content)


@cache
def plotly_source() -> str:
    """Return plotly.js, which comes with plotly. Importing that is left to the first page."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hyperlax.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "long_columns": _LONG_COLUMNS,
        "plotly_source": lambda: Markup(plotly_source()),
        "templates": lambda: json.dumps({"light": template(dark=False), "dark": template(dark=True)}),
    }
    environment.filters |= {
        "breakable": _breakable,
        "format_number": format_number,
        "format_value": format_value,
        "has_numbers": lambda rows, column: any(_is_number(row[column]) for row in rows),
        "in_script": lambda text: Markup(text.replace("<", "\\u003c")),
    }
    environment.tests |= {"link": lambda value: isinstance(value, Link), "numeric": _is_number}
    return environment


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Link)) and not isinstance(value, bool)


def _breakable(text: str) -> Markup:
    """Escape a text, and allow line breaks after the dots and underscores of a name, for narrow columns."""
    return Markup(re.sub(r"(?<=[a-z;])([._])(?=[a-z&])", r"\1<wbr>", str(escape(text))))


def _dense(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
