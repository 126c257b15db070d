"""A plot as a row of the registry, and the plots' common style, axes and hover texts."""

from __future__ import annotations

import html
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperlax.analysis.labels import aggregate_in_words, format_value, short_names
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import BEST_DRAWN, MissingFile, StudyData, warn_once
from hyperlax.errors import HyperlaxError, format_number
from hyperlax.study.record import StudyRecord, TrialRecord

if TYPE_CHECKING:
    import plotly.graph_objects as go

_log = logging.getLogger(__name__)

ACCENT = "#e4572e"
POINT = "#3d7de0"
MUTED = "#98a0b0"
SERIES = ["#e4572e", "#3d7de0", "#2a9d72", "#b0722a", "#8e5bd0", "#d1477f", "#1f9db5", "#7d8b2f", "#6b7280", "#c79a1b"]
SCALE = [[0.0, "#3b4cc0"], [0.35, "#3d8fd1"], [0.65, "#35b28c"], [1.0, "#f0b429"]]
LEGEND_ON_TOP = {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0}


NO_FRONT = "has one objective, so no Pareto front."


class NothingToShow(HyperlaxError):
    """Missing data for a plot; the message takes the plot's place."""


@dataclass(frozen=True)
class Drawing:
    """A plot on a page. Exactly one of `figure` (plotly's JSON), `words` (why there is nothing to show) and `error` is set."""

    name: str
    title: str
    caption: str
    min_width: int
    figure: str = ""
    words: str = ""
    error: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot of a study.

    Args:
      name: Name of its file, without `.html`.
      title: Heading.
      caption: How to read it. In both, {aggregate} is replaced by the name of the aggregate over a trial's seeds, {by} by the order
        of the best trials if there are several objectives, and others by the study's `Words`.
      figure: Draws it. Raises NothingToShow if data is missing.
      applies: Whether a study has such a plot at all.
      otherwise: Reason to show for a study to which it does not apply.
      min_width: Pixels below which the page scrolls.
      is_of_points: Whether it draws a point or a line for each of `StudyData.drawn`. The caption says what that leaves out.
      of_super_batches: Whether it is also written after each super-batch, into its directory.
    """

    name: str
    title: str
    caption: str
    figure: Callable[[StudyData], Figure]
    applies: Callable[[StudyRecord], bool] = lambda record: True
    otherwise: str = ""
    min_width: int = 520
    is_of_points: bool = False
    of_super_batches: bool = True

    def draw(self, study: StudyData) -> go.Figure:
        """Return the figure as an object of plotly."""
        return as_plotly(self.figure(study))

    def drawing(self, study: StudyData) -> Drawing:
        """Draw for a page. If that fails, log the error and return it in the plot's place."""
        record = study.record
        said = {
            "aggregate": aggregate_in_words(record),
            "by": " by the first objective, those of the Pareto front first" if has_front(record) else "",
            **vars(record.scale.words),
        }
        caption = self.caption.format(**said) + (_left_out(study) if self.is_of_points else "")
        frame = (self.name, self.title.format(**said), caption, self.min_width)
        try:
            return Drawing(*frame, figure=self.figure(study).to_json())
        except NothingToShow as nothing:
            return Drawing(*frame, words=str(nothing))
        except MissingFile as missing:
            warn_once(f"{self.name} could not be drawn: {missing}")
            return Drawing(*frame, error=str(missing))
        except Exception as error:  # the other plots are drawn
            _log.exception("%s could not be drawn", self.name)
            return Drawing(*frame, error=f"{type(error).__name__}: {error}")


def as_plotly(figure: Figure) -> go.Figure:
    """Return a figure as an object of plotly, in Hyperlax's style, that of a light page."""
    import plotly.graph_objects as go

    return go.Figure(figure.data, {**figure.layout, "template": template(dark=False)})


def several_complete(record: StudyRecord, fewest: int = 2) -> list[TrialRecord]:
    """Return the COMPLETE trials. Raises NothingToShow if there are too few to compare."""
    trials = record.complete
    if not trials:
        raise NothingToShow("No trial is COMPLETE yet.")
    if len(trials) < fewest:
        raise NothingToShow(f"The plot needs {fewest} COMPLETE trials; the study has {len(trials)}.")
    return trials


def _left_out(study: StudyData) -> str:
    """Say how many trials are drawn, if not all."""
    drawn, every = len(study.drawn), len(study.record.complete)
    if drawn == every:
        return ""
    which = f"the {BEST_DRAWN} best, and others evenly spaced"
    return f" Of {format_number(every)} COMPLETE trials {format_number(drawn)} are drawn: {which}."


def has_front(record: StudyRecord) -> bool:
    """Return whether a study has a Pareto front."""
    return len(record.objectives) > 1 and record.lineage is None


def template(dark: bool) -> dict[str, Any]:
    """Return the light or dark part of the template; the page's script picks one before it draws."""
    ink, grid, card = ("#d9deea", "#30384a", "#1b2130") if dark else ("#232936", "#e4e7ee", "#ffffff")
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": grid,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return {
        "layout": {
            "font": {"color": ink, "size": 13, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": SERIES,
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": card, "bordercolor": grid, "font": {"color": ink}, "align": "left"},
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ink},
            "margin": {"l": 70, "r": 24, "t": 40, "b": 60},
        }
    }


def plain(text: str) -> str:
    """Escape text for plotly, which reads tags such as <b> in labels."""
    return html.escape(text, quote=False)


def hover_texts(record: StudyRecord, trials: list[TrialRecord]) -> list[str]:
    """Return the hover text of each trial: its number, objectives and searched hyperparameters."""
    short = short_names(record.space)
    return [_hover_text(record, trial, short) for trial in trials]


def _hover_text(record: StudyRecord, trial: TrialRecord, short: dict[str, str]) -> str:
    lines = [f"<b>trial {trial.number}</b>"]
    lines += [f"{plain(name)}: <b>{format_number(trial.values[name])}</b>" for name in record.objectives]
    lines += [f"{plain(short.get(name, name))}: {plain(format_value(value))}" for name, value in trial.params.items()]
    return "<br>".join(lines)


@dataclass(frozen=True)
class Coordinate:
    """An axis. name: dotted. label: short. logarithmic: positions are log10. choices: JSON text of each category, in order."""

    name: str
    label: str
    logarithmic: bool
    domain: tuple[float, float]
    choices: tuple[str, ...]
    choice_labels: tuple[str, ...]

    def position(self, value: Any) -> float:
        """Return the position of a value on the axis. Raise ValueError for a choice that the axis does not have."""
        if self.choices:
            text = json.dumps(value)
            if text not in self.choices:
                raise ValueError(f"{self.name}: {text} is not one of its choices {', '.join(self.choices)}.")
            return float(self.choices.index(text))
        return math.log10(value) if self.logarithmic else float(value)

    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Return tick positions and texts for categories and log axes; None leaves them to plotly."""
        if self.choices:
            return list(map(float, range(len(self.choices)))), list(self.choice_labels)
        if not self.logarithmic:
            return None
        values = _log_ticks(*self.domain)
        return [math.log10(value) for value in values], [_short(value) for value in values]

    def range(self, margin: float = 0.0) -> list[float]:
        """Return both ends of the axis. margin: of an axis of numbers, as a share of it; categories get half a place."""
        if self.choices:
            return [-0.5, len(self.choices) - 0.5]
        low, high = map(self.position, self.domain)
        more = margin * (high - low) if low < high else 0.5
        return [low - more, high + more]

    def settings(self, margin: float = 0.0) -> dict[str, Any]:
        """Return the range and the ticks, as plotly names them. margin: as in `range`."""
        return {"range": self.range(margin), **dict(zip(("tickvals", "ticktext"), self.ticks() or (), strict=False))}


def coordinates(space: dict[str, dict[str, Any]]) -> dict[str, Coordinate]:
    """Return the axis of each entry of a search space."""
    short = short_names(space)
    return {name: _coordinate(name, short[name], distribution) for name, distribution in space.items()}


def _coordinate(name: str, label: str, distribution: dict[str, Any]) -> Coordinate:
    if distribution["type"] == "Categorical":
        choices = tuple(json.dumps(value) for value in distribution["values"])
        labels = tuple(plain(format_value(value)) for value in distribution["values"])
        return Coordinate(name, plain(label), False, (0.0, float(len(choices) - 1)), choices, labels)
    low, high = distribution["domain"]
    return Coordinate(name, plain(label), distribution["type"].startswith("Log"), (low, high), (), ())


def _short(value: float) -> str:
    """Write at most three digits, in the shorter of `0.001` and `1e-5`."""
    plain_form, mantissa = f"{value:.3g}", f"{value:.2e}".split("e")
    power_form = f"{float(mantissa[0]):g}e{int(mantissa[1])}"
    return power_form if len(power_form) < len(plain_form) else plain_form


def _log_ticks(low: float, high: float) -> list[float]:
    """Return both ends and about seven powers of ten between them at most, none within a tenth of the axis of an end."""
    start, end = math.log10(low), math.log10(high)
    margin = (end - start) / 10
    decades = [power for power in range(math.ceil(start), math.floor(end) + 1) if start + margin < power < end - margin]
    every = max(1, math.ceil(len(decades) / 5))
    return [low, *(10.0**power for power in decades[::every]), high]
