"""What a study found: best trials, tables, plots and the report. The only importer of plotly, and only when something is drawn."""

from pathlib import Path

from hyperlax.analysis.pages import write_analysis, write_study_pages
from hyperlax.study.agents import keep_only_the_best
from hyperlax.study.record import StudyRecord

__all__ = ["write_analysis", "write_pages", "write_study_pages"]


def write_pages(record: StudyRecord, directory: Path | None) -> None:
    """Write the pages of a study, and its analysis as of a super-batch into that one's `analysis` directory."""
    if directory is not None:
        write_analysis(record, directory)
    write_study_pages(record)
    if record.lineage is None:
        keep_only_the_best(record)
