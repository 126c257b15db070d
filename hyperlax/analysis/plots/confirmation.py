"""The best configurations of a search on seeds that it never saw."""

from __future__ import annotations

from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots.base import ACCENT, LEGEND_ON_TOP, MUTED, POINT, NothingToShow, Plot
from hyperlax.analysis.plots.figure import Figure
from hyperlax.analysis.study_data import StudyData
from hyperlax.errors import format_number
from hyperlax.study.record import Confirmation, Confirmed
from hyperlax.study.statistics import mean_interval


def _figure(study: StudyData) -> Figure:
    """Draw a row per configuration: its seeds, their mean with its interval, and the value from the search."""
    record = study.record
    confirmation = record.confirmation
    shown = confirmation.complete if confirmation else []
    if confirmation is None or not shown:
        raise NothingToShow("No configuration is COMPLETE on the new seeds.")
    figure = Figure()
    _add_seeds(figure, confirmation, shown)
    _add_means(figure, confirmation, shown)
    _add_claims(figure, shown)
    figure.update_x(title={"text": with_unit(confirmation.metric, record.scale)})
    figure.update_y(type="category", categoryorder="array", categoryarray=[_row(ours) for ours in shown][::-1])
    figure.layout |= {"hovermode": "closest", "legend": LEGEND_ON_TOP, "height": 150 + 48 * len(shown)}
    return figure


def _add_seeds(figure: Figure, confirmation: Confirmation, shown: list[Confirmed]) -> None:
    points = [
        (_row(ours), seed, value) for ours in shown for seed, value in enumerate(ours.per_seed[confirmation.metric])
    ]
    figure.add(
        x=[value for _, _, value in points],
        y=[row for row, _, _ in points],
        mode="markers",
        name="a new seed",
        marker={"color": POINT, "size": 7, "opacity": 0.45},
        hovertext=[f"{row}, seed {seed}: {format_number(value)}" for row, seed, value in points],
    )


def _add_means(figure: Figure, confirmation: Confirmation, shown: list[Confirmed]) -> None:
    means = [mean_interval(ours.per_seed[confirmation.metric]) for ours in shown]
    figure.add(
        x=[mean.estimate for mean in means],
        y=[_row(ours) for ours in shown],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [mean.high - mean.estimate for mean in means],
            "arrayminus": [mean.estimate - mean.low for mean in means],
            "thickness": 2.5,
        },
        mode="markers",
        name="mean of the new seeds, 95 %",
        marker={"color": ACCENT, "size": 12},
        hovertext=[
            f"{_row(ours)}: {format_number(mean.estimate)} {mean}" for ours, mean in zip(shown, means, strict=True)
        ],
    )


def _add_claims(figure: Figure, shown: list[Confirmed]) -> None:
    claims = [(_row(ours), ours.claimed) for ours in shown if ours.claimed is not None]
    figure.add(
        x=[claimed for _, claimed in claims],
        y=[row for row, _ in claims],
        mode="markers",
        name="claimed by the search",
        marker={"color": MUTED, "size": 11, "symbol": "diamond-open", "line": {"width": 2.5}},
        hovertext=[f"{row}: the search claimed {format_number(claimed)}" for row, claimed in claims],
    )


def _row(ours: Confirmed) -> str:
    return "default" if ours.trial is None else f"trial {ours.trial}"


PLOT = Plot(
    "confirmation",
    "Confirmation on new seeds",
    "Small points: seeds that the search never saw. Large points: their mean, with its 95 % bootstrap interval. "
    "Diamonds: what the search had claimed.",
    _figure,
    applies=lambda record: record.confirmation is not None,
    otherwise="nothing is confirmed. Search with confirm_top.",
    min_width=620,
    of_super_batches=False,
)
