"""Writes what a study found: into each super-batch's own directory, and at the study's root."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlax.analysis.best import write_best
from hyperlax.analysis.tables import write_confirmation, write_trials
from hyperlax.files import write_text
from hyperlax.study.record import StudyRecord

if TYPE_CHECKING:
    from hyperlax.analysis.plots import Drawing

PLOTS_DIRECTORY = "analysis_plots"
PLOTLY_FILE = "plotly.min.js"


def write_analysis(record: StudyRecord, into: Path) -> None:
    """Write the best trial or Pareto front, every plot and `trials.csv` into a directory; the last says that all is there.

    The plots share the study's one plotly.js in `analysis_plots/`, by a relative path.

    Raises:
      NotADirectoryError: `analysis_plots` is a file.
    """
    from hyperlax.analysis.plots import draw_all

    _check_plots(record.directory / PLOTS_DIRECTORY)
    write_best(record, into)
    _write_plots(record, draw_all(record), into)
    write_trials(record, into / "trials.csv")


def write_study_pages(record: StudyRecord) -> None:
    """Write `analysis_plots/`, `trials.csv`, the best trial or Pareto front, and `report.html` at the study's root.

    What is known of the best on new seeds too, in `confirmation.csv` and a plot.

    Raises:
      NotADirectoryError: `analysis_plots` is a file; nothing is written.
    """
    from hyperlax.analysis.plots import CONFIRMATION, draw, draw_all
    from hyperlax.analysis.report import report

    plots = record.directory / PLOTS_DIRECTORY
    _check_plots(plots)
    drawings = draw_all(record)
    write_best(record, record.directory)
    write_trials(record, record.directory / "trials.csv")
    write_confirmation(record.confirmation, record.directory / "confirmation.csv")
    confirmed = draw(CONFIRMATION, record) if record.confirmation else None
    if confirmed is None:
        (plots / f"{CONFIRMATION.name}.html").unlink(missing_ok=True)
    _write_plots(record, [*drawings, *([confirmed] if confirmed else [])], plots)
    write_text(record.directory / "report.html", report(record, drawings, confirmed))


def _check_plots(path: Path) -> None:
    """NotADirectoryError if something else is where the directory of the plots belongs."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file where a directory belongs", str(path))


def _write_plots(record: StudyRecord, drawings: list[Drawing], into: Path) -> None:
    from hyperlax.analysis import document

    source = _share_plotly(record.directory / PLOTS_DIRECTORY / PLOTLY_FILE)
    relative = Path(os.path.relpath(source, into)).as_posix()
    script = f'<script src="{document.escape(relative)}"></script>'
    for drawn in drawings:
        heading = f"<h1>{document.escape(drawn.plot.title)}</h1>"
        study = document.caption(f"{record.study_name}: {record.recipe} on {record.environment}")
        body = (
            heading
            + study
            + "<section>"
            + document.caption(drawn.plot.caption)
            + document.drawing(drawn)
            + "</section>"
        )
        write_text(
            into / f"{drawn.plot.name}.html", document.page(f"{drawn.plot.title} - {record.study_name}", body, script)
        )


def _share_plotly(path: Path) -> Path:
    """Make sure that `path` is the plotly.js of the plotly that drew the figures, and write it only if it is not."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    if not path.exists() or path.stat().st_size != len(source.encode("utf-8")):
        write_text(path, source)
    return path
