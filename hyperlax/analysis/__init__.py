"""What a study found: best trials, tables, plots and the report. The only importer of plotly, and only when something is drawn."""

from hyperlax.analysis.pages import write_analysis, write_study_pages

__all__ = ["write_analysis", "write_study_pages"]
