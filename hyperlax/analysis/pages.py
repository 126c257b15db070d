"""Files with a study's results, at the study's root and in the directory of each super-batch."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hyperlax.analysis.html import plotly_source, render
from hyperlax.analysis.plots import PLOTS, draw_all, learning_curves
from hyperlax.analysis.plots.base import Drawing, Plot
from hyperlax.analysis.report import report
from hyperlax.analysis.study_data import StudyData, stamp
from hyperlax.analysis.tables import best_file, write_best, write_confirmation, write_sensitivity, write_trials
from hyperlax.engine.machine import installed
from hyperlax.files import read_bytes, remove, write_text
from hyperlax.seals import seal
from hyperlax.study.agents import keep_only_the_best
from hyperlax.study.directory import (
    CONFIRMED,
    CURVES_CSV,
    PLOTLY_FILE,
    PLOTS_DIRECTORY,
    REPORT,
    SENSITIVITY_CSV,
    TIMING_JSON,
    TRIALS,
)
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TIMELINE

_MARK = "<!-- "
"""Begin of the report's last line, which has its mark."""


def write_pages(record: StudyRecord, super_batch: Path | None = None, is_latest: bool = True) -> None:
    """Write the pages of a study as it trains, and keep the agents of its best trials only. See `write_study_pages`.

    Nothing is written where this user has written the same already: a finished study that is resumed keeps its pages.
    """
    if not (is_latest and _are_written(record, super_batch)):
        write_study_pages(record, super_batch, is_latest)
    if record.lineage is None:
        keep_only_the_best(record)


def write_study_pages(record: StudyRecord, super_batch: Path | None = None, is_latest: bool = True) -> None:
    """Write `analysis_plots/`, `trials.csv`, `confirmation.csv`, `sensitivity.csv`, the best and `report.html` at the study's root.

    Args:
      record: The study to show.
      super_batch: Also write the best, the plots and, last, `trials.csv` into this directory, which is then complete.
      is_latest: Whether to write the pages at the root; a later record is about to replace them otherwise.

    Raises:
      NotADirectoryError: `analysis_plots` is a file; nothing is written.
    """
    root, plots = record.directory, record.directory / PLOTS_DIRECTORY
    if plots.exists() and not plots.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file where a directory belongs", str(plots))
    study = StudyData(record)
    drawings = draw_all(study)
    if super_batch is not None:
        at_root_only = {plot.name for plot in PLOTS if not plot.of_super_batches}
        write_best(record, super_batch)
        _write_plots(record, (drawing for drawing in drawings if drawing.name not in at_root_only), super_batch)
        write_trials(record, super_batch / TRIALS)
    if not is_latest:
        return
    write_best(record, root)
    write_trials(record, root / TRIALS)
    write_confirmation(record.confirmation, record.scale, root / CONFIRMED)
    write_sensitivity(study.sensitivity, root / SENSITIVITY_CSV)
    for name in {plot.name for plot in PLOTS} - {drawing.name for drawing in drawings}:
        remove(plots / f"{name}.html")
    _write_plots(record, drawings, plots)
    page = report(study, drawings)
    write_text(root / REPORT, page + _mark(record, page.encode()), is_durable=False)


def _are_written(record: StudyRecord, super_batch: Path | None) -> bool:
    """Return whether all pages are there, and the report, which is written last, is this user's own of this record."""
    root = record.directory
    expected = [root / TRIALS, root / PLOTS_DIRECTORY / PLOTLY_FILE, *([super_batch / TRIALS] if super_batch else [])]
    expected += [root / PLOTS_DIRECTORY / f"{plot.name}.html" for plot in PLOTS if plot.applies(record)]
    expected += [root / best_file(record)] if record.winners else []
    if not all(path.is_file() for path in expected):
        return False
    try:
        page, start, end = read_bytes(root / REPORT).rpartition(_MARK.encode())
    except OSError:
        return False
    mark = _mark(record, page)
    return bool(mark) and start + end == mark.encode()


def _mark(record: StudyRecord, page: bytes) -> str:
    """Return a comment with this user's mark of a report and of all that pages show; "" if the user's key cannot be had."""
    batches = sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})
    files = [stamp(batch / name) for batch in batches for name in (CURVES_CSV, TIMELINE, TIMING_JSON)]
    rest = replace(record, trials=[], importances={})  # those follow from the trials
    shown = repr((rest, [trial.text for trial in record.trials], files, installed(("hyperlax", "plotly"))))
    mark = seal([hashlib.sha256(content).hexdigest() for content in (shown.encode(), page)])
    return f"{_MARK}{mark} -->\n" if mark else ""


def report_page(record: StudyRecord) -> str:
    """Return `report.html` of a study. Nothing is written."""
    study = StudyData(record)
    return report(study, draw_all(study))


def plot_page(record: StudyRecord, plot: Plot) -> str:
    """Return the page of one plot, plotly.js included."""
    return _plot_page(record, plot.drawing(StudyData(record)))


def write_learning_curve(record: StudyRecord, path: Path) -> None:
    """Write the learning curve of the one trial of `record` as a page that works offline, plotly.js included."""
    caption = "Line: {aggregate} over seeds. Band: lowest to highest seed."
    plot = replace(learning_curves.PLOT, title="Learning curve", caption=caption, min_width=0)
    drawing = plot.drawing(StudyData(record))
    if drawing.words:
        drawing = replace(drawing, words=f"The training failed: {record.trials[0].reason}")
    write_text(path, _plot_page(record, drawing))


def _write_plots(record: StudyRecord, drawings: Iterable[Drawing], into: Path) -> None:
    """Write one page per plot. All pages load the study's plotly.js by a relative path.

    A page can be drawn again from the files of the study, so none waits for the disk, which took most of the time.
    """
    source = _share_plotly(record.directory / PLOTS_DIRECTORY / PLOTLY_FILE)
    relative = Path(os.path.relpath(source, into)).as_posix()
    for drawing in drawings:
        write_text(into / f"{drawing.name}.html", _plot_page(record, drawing, relative), is_durable=False)


def _plot_page(record: StudyRecord, drawing: Drawing, plotly_path: str = "") -> str:
    title = f"{drawing.title} - {record.study_name}"
    return render("plot.html.j2", title, plotly_path, drawing=drawing, record=record)


def _share_plotly(path: Path) -> Path:
    """Write the installed plotly's plotly.js to `path`, unless it is there: what else is there would run in a browser."""
    source = plotly_source()
    try:
        is_there = read_bytes(path) == source.encode("utf-8")
    except OSError:
        is_there = False
    if not is_there:
        write_text(path, source)
    return path
