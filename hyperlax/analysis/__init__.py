"""Results of a study: best trials, tables, plots, pages, text. The only importer of plotly and jinja2."""
