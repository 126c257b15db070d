"""The trials of each lane over time."""

from __future__ import annotations

from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, MUTED, POINT, NothingToShow, Plot
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import MOST_DRAWN, Bar, StudyData, Timeline
from hyperlax.errors import counted, format_number

_COLORS = {"COMPLETE": POINT, "PRUNED": MUTED, "FAIL": ACCENT}
_MOST_WITH_NUMBERS = 120
"""Maximum number of bars that show their trial's number; more bars would be too narrow."""
_MOST_LABELS = 48
_PIXELS = 500
"""Parts of the axis between which no gap is seen."""
_Lane = tuple[str, int, int, int]
"""A lane: its agent, "" without agents, slot, pool and index."""


def _figure(study: StudyData) -> Figure:
    """Draw a row per lane and a bar per trial, from its entry to its last evaluation there, colored by its state."""
    if study.record.lineage:
        raise NothingToShow("All members train from the first interval to the last; the lineage shows them.")
    found = study.timeline
    if not found.bars:
        raise NothingToShow(
            "No batch says when its trials trained: the times were not recorded, or the files are missing."
        )
    word = study.record.scale.words.lane
    lanes = sorted({_lane(bar) for bar in found.bars})
    place = {lane: index for index, lane in enumerate(lanes)}
    figure = Figure()
    joined = _joined(found.bars, len(lanes))
    for state, color in _COLORS.items():
        if own := [bars for bars in joined if bars[0].state == state]:
            _add(figure, own, place, state, color, word, with_numbers=len(found.bars) <= _MOST_WITH_NUMBERS)
    line = {"type": "line", "yref": "y domain", "y0": 0, "y1": 1, "line": {"color": MUTED, "dash": "dot", "width": 1.5}}
    figure.layout["shapes"] = [{**line, "x0": start, "x1": start} for start in found.starts[1:]]
    every = -(-len(lanes) // _MOST_LABELS)
    several = {
        "slot": len({(bar.agent, bar.slot) for bar in found.bars}) > len({bar.agent for bar in found.bars}),
        "pool": any(bar.pool for bar in found.bars),
        "lane": word == "lane",
    }
    figure.update_y(
        tickvals=list(range(0, len(lanes), every)),
        ticktext=[_name(lane, several) for lane in lanes[::every]],
        range=[len(lanes) - 0.5, -0.5],
        showgrid=False,
    )
    title = _axis_title(found, word) + (
        "<br>short bars beside each other are drawn as one" if len(joined) < len(found.bars) else ""
    )
    figure.update_x(title={"text": title}, rangemode="tozero")
    figure.layout |= {"barmode": "overlay", "hovermode": "closest", "legend": LEGEND_ON_TOP}
    figure.layout["height"] = 150 + max(90, min(26 * len(lanes), 720))
    return figure


def _joined(bars: list[Bar], lanes: int) -> list[list[Bar]]:
    """Return the bars that are drawn as one: of a large study those of a lane and state without a visible gap between them."""
    pixel = max(bar.ended for bar in bars) / _PIXELS if len(bars) > MOST_DRAWN else 0.0
    longest = pixel * max(1.0, lanes * _PIXELS / MOST_DRAWN)
    joined: dict[_Lane, list[list[Bar]]] = {}
    for bar in bars:
        own = joined.setdefault(_lane(bar), [])
        last = own[-1] if own else [bar]
        is_beside = bar.state == last[0].state and bar.began - last[-1].ended < pixel
        if own and is_beside and bar.ended - last[0].began < longest:
            last.append(bar)
        else:
            own.append([bar])
    return [together for own in joined.values() for together in own]


def _add(
    figure: Figure,
    joined: list[list[Bar]],
    place: dict[_Lane, int],
    state: str,
    color: str,
    word: str,
    with_numbers: bool,
) -> None:
    figure.add(
        kind="bar",
        orientation="h",
        base=[round(bars[0].began, 3) for bars in joined],
        x=[round(bars[-1].ended - bars[0].began, 3) for bars in joined],
        y=[place[_lane(bars[0])] for bars in joined],
        width=0.8,
        name=state,
        marker={"color": color, "opacity": 0.85, "line": {"width": 1, "color": "rgba(255,255,255,0.7)"}},
        text=[str(bars[0].trial) for bars in joined] if with_numbers else None,
        textposition="inside" if with_numbers else "none",
        insidetextanchor="middle",
        textangle=0,
        constraintext="both",
        hovertext=[_text(bars, word) for bars in joined],
        showlegend=True,
    )


def _lane(bar: Bar) -> _Lane:
    return bar.agent, bar.slot, bar.pool, bar.lane


def _name(lane: _Lane, several: dict[str, bool]) -> str:
    """Return the name of a lane. It names the slot and the pool only if there are several; a slot without lanes by its number."""
    agent, slot, pool, index = lane
    words = [agent] if agent else []
    words += [f"slot {slot}"] if several["slot"] or not several["lane"] else []
    words += [f"pool {pool}"] if several["pool"] else []
    words += [f"lane {index}"] if several["lane"] else []
    return ", ".join(words)


def _text(bars: list[Bar], word: str) -> str:
    bar, last = bars[0], bars[-1]
    where = _name(_lane(bar), {"slot": True, "pool": bar.pool > 0, "lane": word == "lane"})
    times = f"{format_number(round(bar.began, 1))} s to {format_number(round(last.ended, 1))} s"
    which = f"trial {bar.trial}" if bar is last else f"{counted(len(bars), 'trial')}, {bar.trial} to {last.trial}"
    return f"<b>{which}</b>: {bar.state}<br>{where}<br>{times}"


def _axis_title(found: Timeline, word: str) -> str:
    title = f"seconds since the first {word} began"
    if len(found.starts) > 1:
        title += ",<br>without the time between processes"
    if found.unknown:
        title += f"<br>without {counted(found.unknown, 'batch')} whose times are not known"
    return title


PLOT = Plot(
    "timeline",
    "Timeline of {lane}s",
    "Each row is {row}. Each bar is a trial there, until its last evaluation. Where a row is empty, its {lane} waited for {waits}. "
    "Dotted line: another process continued.",
    _figure,
    min_width=680,
)
