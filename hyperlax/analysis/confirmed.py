"""The report's section on the confirmation: which winner is real."""

from __future__ import annotations

from typing import Any

from hyperlax.analysis.document import caption, drawing, escape, section, table
from hyperlax.analysis.labels import with_unit
from hyperlax.analysis.plots import Drawing
from hyperlax.study.record import Confirmation, Confirmed, StudyRecord
from hyperlax.study.verdict import complete, default_of, difference_interval, in_full, mean_interval


def confirmation_section(record: StudyRecord, confirmation: Confirmation, confirmed: Drawing) -> str:
    """Sentences, a table with a row a configuration, and the plot."""
    words = (
        f"The best of the search and the recipe's own configuration, trained again on {confirmation.seeds} seeds and evaluated "
        f"on episodes that the search never saw. Compared: {with_unit(confirmation.metric)} of each seed. "
        "Intervals: 95 % percentile bootstrap. Every seed's values are in confirmation.csv."
    )
    header = ["configuration", "claimed by the search", "mean on new seeds", "95 % from", "95 % to"]
    header += ["ahead of default by", "from", "to"]
    rows = [_row(confirmation, ours) for ours in complete(confirmation)]
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in in_full(confirmation))
    return section(
        "Confirmation on new seeds",
        caption(words + _of_means(record, confirmation)),
        sentences,
        table(header, rows),
        f"<h3>{escape(with_unit(confirmation.metric))}</h3>",
        caption(confirmed.plot.caption),
        drawing(confirmed),
    )


def _of_means(record: StudyRecord, confirmation: Confirmation) -> str:
    """That the search's claim is a little another thing where it had several seeds."""
    if record.arguments["num_seeds"] == 1:
        return ""
    return (
        f" The search's claim is the {confirmation.metric} of the curve over its {record.arguments['num_seeds']} seeds together, "
        "here it is the mean of each seed's own."
    )


def _row(confirmation: Confirmation, ours: Confirmed) -> list[Any]:
    values, default = ours.per_seed[confirmation.metric], default_of(confirmation)
    mean = mean_interval(values)
    row: list[Any] = [_name(ours), ours.claimed, mean.estimate, mean.low, mean.high]
    if default is None or ours.is_default:
        return [*row, None, None, None]
    ahead = difference_interval(values, default.per_seed[confirmation.metric])
    if confirmation.direction == "minimize":
        return [*row, -ahead.estimate, -ahead.high, -ahead.low]
    return [*row, ahead.estimate, ahead.low, ahead.high]


def _name(ours: Confirmed) -> str:
    if ours.trial is None:
        return "default"
    return f"trial {ours.trial}" + (" (default)" if ours.is_default else "")
