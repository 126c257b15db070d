"""The page of one training: its learning curve."""

from __future__ import annotations

from pathlib import Path

from hyperlax.files import write_text
from hyperlax.study.record import StudyRecord


def write_learning_curve(record: StudyRecord, path: Path) -> None:
    """Write the learning curve of the one trial of `record` as a page that works offline, plotly.js included."""
    from plotly.offline import get_plotlyjs

    from hyperlax.analysis import document
    from hyperlax.analysis.labels import AGGREGATE_WORDS
    from hyperlax.analysis.plots import Drawing, Plot
    from hyperlax.analysis.plots.learning_curves import learning_curves
    from hyperlax.analysis.plots.nothing import NothingToShow

    line = AGGREGATE_WORDS[record.arguments["aggregate"]]
    plot = Plot(
        "learning_curve", "Learning curve", f"Line: {line} over seeds. Band: lowest to highest seed.", learning_curves
    )
    try:
        drawn = Drawing(plot, figure=str(learning_curves(record).to_json()))
    except NothingToShow:
        drawn = Drawing(plot, words=f"The training failed: {record.trials[0].reason}")
    heading = f"<h1>{document.escape(plot.title)}</h1>"
    run = document.caption(f"{record.study_name}: {record.recipe} on {record.environment}")
    body = f"{heading}{run}<section>{document.caption(plot.caption)}{document.drawing(drawn)}</section>"
    title = f"{plot.title} - {record.study_name}"
    write_text(path, document.page(title, body, f"<script>{get_plotlyjs()}</script>"))
