"""One look for every plot: colors that read on light and dark pages, axes without clutter."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

ACCENT = "#e4572e"
POINT = "#3d7de0"
MUTED = "#98a0b0"
SERIES = ["#e4572e", "#3d7de0", "#2a9d72", "#b0722a", "#8e5bd0", "#d1477f", "#1f9db5", "#7d8b2f", "#6b7280", "#c79a1b"]
SCALE = [[0.0, "#3b4cc0"], [0.35, "#3d8fd1"], [0.65, "#35b28c"], [1.0, "#f0b429"]]


def template(dark: bool) -> dict[str, Any]:
    """What differs between a light and a dark page; the page's script picks one before it draws."""
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


def finish(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure its height and the light template (plotly's own would add 7 kB to each)."""
    figure.update_layout(template=template(dark=False), height=height)
    return figure


def plain(text: str) -> str:
    """Text for plotly, which reads tags such as <b> in labels."""
    return html.escape(text, quote=False)
