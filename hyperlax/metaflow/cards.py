"""A study as a card of Metaflow, and as a page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from hyperlax.errors import counted, format_number
from hyperlax.metaflow.rendezvous import ABOUT, OUTPUT_ROOT

if TYPE_CHECKING:
    from hyperlax.study.record import StudyRecord

_MOST_ROWS = 20


def render_study_html(study: optuna.Study) -> str:
    """Return the report of a study with one objective as one page of HTML that needs no network."""
    from hyperlax.analysis.pages import report_page

    with _record_of(study) as record:
        return report_page(record)


def render_study_card(study: optuna.Study) -> None:
    """Add a study with one objective to the card of this step, which needs `@card(type="blank")`: its values and best trials."""
    from metaflow import current  # pyright: ignore[reportPrivateImportUsage]
    from metaflow.cards import Markdown, Table, VegaChart  # pyright: ignore[reportPrivateImportUsage]

    from hyperlax.analysis.labels import format_value

    with _record_of(study) as record:
        best = record.ranked[:_MOST_ROWS]
        names = list(record.space)
        (objective, direction), *_ = record.objectives.items()
        rows = [
            [trial.number, format_number(trial.values[objective]), *(format_value(trial.params[n]) for n in names)]
            for trial in best
        ]
        failed = sum(trial.state == "FAIL" for trial in record.trials)
        heading = (
            f"{counted(len(record.trials), 'trial')}, {failed} of them failed. Objective: {direction} {objective}."
        )
        card: Any = current.card  # pyright: ignore[reportAttributeAccessIssue]
        card.append(Markdown(f"# {record.full_name}\n\n{heading}"))
        if best:
            card.append(VegaChart(_chart(record, objective)))
            card.append(Markdown(f"## Best trials\n\nThe best {len(rows)}, best first."))
            card.append(Table(rows, headers=["trial", objective, *names]))


def _chart(record: StudyRecord, objective: str) -> dict[str, Any]:
    """Return a chart of the values of the COMPLETE trials, for Vega-Lite."""

    rows = [{"trial": trial.number, "value": trial.values[objective]} for trial in record.complete]
    value = {"field": "value", "type": "quantitative", "title": objective, "scale": {"zero": False}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": "container",
        "data": {"values": rows},
        "mark": "point",
        "encoding": {"x": {"field": "trial", "type": "quantitative"}, "y": value},
    }


@contextmanager
def _record_of(study: optuna.Study) -> Iterator[StudyRecord]:
    """Yield the study as plain data, with its files for the block."""
    from hyperlax.metaflow.directory import write_data
    from hyperlax.study.view import load_study

    where = study.user_attrs.get(ABOUT, {}).get("directory")
    with tempfile.TemporaryDirectory(prefix="hyperlax-") as scratch:
        record = load_study(write_data(study, scratch), "render_study").record
        output_root = str(Path(where).parent) if where else OUTPUT_ROOT
        yield replace(record, arguments={**record.arguments, "output_root": output_root})
