"""Reads a study and shows what it found: best trials, tables, plots, pages, text. The only importer of plotly and jinja2."""
