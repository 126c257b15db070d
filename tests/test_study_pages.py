"""When pages are written while a study runs, and what that may cost."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis import plots
from hyperlax.analysis.pages import write_study_pages
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES
from tests.made_up_studies import study
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(240)
NOT_NEEDED = ("sklearn", "scipy", "pandas", "matplotlib", "seaborn", "mlflow", "optuna.importance", "plotly.graph_objs")


def test_a_super_batch_is_analysed_once_however_slow_its_pages_are(tmp_path):
    written = []
    case = Case(tmp_path, write_pages=lambda record, directory, is_latest: written.append(directory))
    assert case.start(optuna_study_batch_size=2) == 0
    assert written == [case.directory / f"optuna_exec_batch_{number:04d}" / "analysis" for number in range(6)]
    written.clear()
    assert case.resume(n_trials=14) == 0
    names = [int(directory.parent.name.removeprefix("optuna_exec_batch_")) for directory in written]
    assert names == [*range(6), 6]


def test_a_plot_is_drawn_once_for_all_of_its_pages(tmp_path, monkeypatch):
    drawn = []
    counting = [
        replace(plot, figure=lambda data, plot=plot: drawn.append(plot.name) or plot.figure(data))
        for plot in plots.PLOTS
    ]
    monkeypatch.setattr(plots, "PLOTS", counting)
    record = study(tmp_path, np.arange(9.0))
    write_study_pages(record, tmp_path / "optuna_exec_batch_0000" / "analysis")
    assert drawn == [plot.name for plot in counting if plot.applies(record)]


def test_a_study_imports_nothing_that_it_does_not_need_to_the_end(tmp_path):
    script = f"""
import sys
from pathlib import Path
import hyperlax.studies
from hyperlax.analysis.pages import write_pages
from tests.study_cases import Case
case = Case(Path({str(tmp_path)!r}), write_pages=write_pages, n_trials={FEWEST_FOR_IMPORTANCES}, optuna_study_batch_size=50)
assert case.start() == 0
print("imported:", [name for name in {NOT_NEEDED} if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("imported: []\n")
    (importances,) = tmp_path.rglob("analysis_plots/param_importances.html")
    assert '"type":"bar"' in importances.read_text().replace(" ", "")
