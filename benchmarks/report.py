"""Time and size of the report of a large study.

    python -m benchmarks.report                    500 trials, ten hyperparameters, 11 evaluations on 3 seeds; 1, 2 and 3 objectives
    python -m benchmarks.report --trials 2000

Run it from the repository's root. The study is synthetic (`tests/made_up_studies.py`), with its batches on disk. Times the report,
and all pages that are written after a super-batch (plots, tables, report): the best of three runs, after one that does the
imports. Importances are Optuna's, which a study computes before it writes the pages. Prints rows for benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hyperlax.analysis.pages import write_study_pages
from hyperlax.analysis.plots import draw_all
from hyperlax.analysis.report import report
from hyperlax.analysis.study_data import StudyData
from hyperlax.study.importances import importances
from hyperlax.study.record import StudyRecord
from tests.made_up_studies import large_study

REPEATS = 3


def seconds(work: Callable[[], Any]) -> float:
    """Return the fastest of REPEATS calls, after one that is not timed."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def distribution(entry: dict[str, Any]) -> BaseDistribution:
    """Return an entry of a search space as Optuna's distribution."""
    if entry["type"] == "Categorical":
        return CategoricalDistribution([str(value) for value in entry["values"]])
    low, high = entry["domain"]
    if entry["type"] == "UniformDiscrete":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=entry["type"] == "LogUniform")


def optunas_trials(record: StudyRecord) -> list[optuna.trial.FrozenTrial]:
    """Return the COMPLETE trials of a study as Optuna's trials."""
    distributions = {name: distribution(entry) for name, entry in record.space.items()}
    categorical = {name for name, entry in record.space.items() if entry["type"] == "Categorical"}
    return [
        optuna.trial.create_trial(
            values=list(trial.values.values()),
            params={name: str(v) if name in categorical else v for name, v in trial.params.items()},
            distributions=distributions,
        )
        for trial in record.trials
        if trial.state == "COMPLETE"
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=500)
    trials = parser.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("| trials | objectives | importances | report | all pages | size of the report |\n|---|---|---|---|---|---|")
    for objectives in (1, 2, 3):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            record = large_study(root, trials, objectives)
            known = optunas_trials(record)
            shares = seconds(lambda: importances(known, record.objectives))  # noqa: B023
            alone = seconds(lambda: report(StudyData(record), draw_all(StudyData(record))))  # noqa: B023
            pages = seconds(lambda: write_study_pages(record))  # noqa: B023
            size = (root / "report.html").stat().st_size / 1e6
        print(
            f"| {trials:,} | {objectives} | {shares:.2f} s | {alone:.2f} s | {pages:.2f} s | {size:.2f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
