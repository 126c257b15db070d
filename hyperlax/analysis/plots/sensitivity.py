"""Each hyperparameter varied alone around the default configuration, with the spread over seeds."""

from __future__ import annotations

from typing import Any

from hyperlax.analysis.labels import format_value, with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, POINT, Coordinate, Plot, plain, several_complete
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.plots.panels import panels
from hyperlax.analysis.sensitivity import Effect, Level, is_sensitivity
from hyperlax.analysis.study_data import StudyData
from hyperlax.errors import format_number

_ABOVE = 40
"""Pixels from the first row of panels to the legend, above their titles."""
_BAND = "rgba(228,87,46,0.13)"
"""`ACCENT`, faint."""


def _figure(study: StudyData) -> Figure:
    """Draw a panel per hyperparameter and objective: its levels with their seeds, the default configuration as a line."""
    record, found = study.record, study.sensitivity
    several_complete(record)
    objectives = list(record.objectives)
    effects = [{effect.name: effect for effect in found.get(objective, ())} for objective in objectives]
    first = next(iter(record.space), "")

    def traces(axis: Coordinate, block: int) -> list[dict[str, Any]]:
        effect = effects[block].get(axis.name)
        own = [*_default(axis, effect), *_levels(axis, effect)] if effect else []
        is_in_legend = block == 0 and axis.name == first
        return [{"showlegend": is_in_legend, "legendgroup": trace["name"], **trace} for trace in own]

    figure = panels(record, [with_unit(name, record.scale) for name in objectives], traces, share_y=True)
    above_titles = 1 + _ABOVE / figure.layout["height"]
    figure.layout |= {"hovermode": "closest", "legend": {**LEGEND_ON_TOP, "y": above_titles}}
    return figure


def _default(axis: Coordinate, effect: Effect) -> list[dict[str, Any]]:
    """Return the line of the default configuration, in a band from its lowest seed to its highest."""
    default = next((level for level in effect.levels if level.is_default), None)
    if default is None:
        return []
    x = axis.range()
    low, high = min(default.seeds), max(default.seeds)
    name = "default configuration"
    band = {
        "x": [*x, *x[::-1]],
        "y": [low, low, high, high],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": _BAND,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": name,
        "showlegend": False,
    }
    line = {
        "x": x,
        "y": [default.result] * 2,
        "mode": "lines",
        "line": {"color": ACCENT, "dash": "dash", "width": 1.5},
        "hoverinfo": "skip",
        "name": name,
    }
    return [band, line]


def _levels(axis: Coordinate, effect: Effect) -> list[dict[str, Any]]:
    """Return the seeds of the levels, and their results, joined by a line unless the levels are choices."""
    seeds = [(level, seed, value) for level in effect.levels for seed, value in enumerate(level.seeds)]
    points = {
        "x": [axis.position(level.value) for level, _, _ in seeds],
        "y": [value for _, _, value in seeds],
        "mode": "markers",
        "marker": {"color": POINT, "size": 5, "opacity": 0.4},
        "hovertext": [_hover(axis, level, f"seed {seed}", value) for level, seed, value in seeds],
        "name": "a seed",
    }
    results = {
        "x": [axis.position(level.value) for level in effect.levels],
        "y": [level.result for level in effect.levels],
        "mode": "markers" if axis.choices else "lines+markers",
        "marker": {"color": [ACCENT if level.is_default else POINT for level in effect.levels], "size": 9},
        "line": {"color": POINT, "width": 1.5},
        "hovertext": [_hover(axis, level, "seeds together", level.result) for level in effect.levels],
        "name": "the seeds together",
    }
    return [points, results]


def _hover(axis: Coordinate, level: Level, which: str, value: float) -> str:
    return f"trial {level.trial}, {axis.label} {plain(format_value(level.value))}<br>{which}: {format_number(value)}"


PLOT = Plot(
    "sensitivity",
    "Sensitivity",
    "Each hyperparameter varied alone, all others as by default. Small points: the objective on each seed's own curve. Large "
    "points: their {aggregate}. Dashed line and band: the default configuration, from its lowest seed to its highest.",
    _figure,
    applies=is_sensitivity,
    otherwise="is not a sensitivity study. Sweep with sampling_method sensitivity.",
    min_width=900,
)
