"""The MLflow run of a command, which it finds by MLFLOW_RUN_ID, and whose metrics are its reports if it makes no others.

`hyperlax.tracking` completes the run when the trial has ended. This is the other user of mlflow, in a worker process.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hyperlax.outputs import run_file
from hyperlax.report import Report

_SECONDS = 1.0
"""Minimum time between two questions to MLflow."""


class MlflowRun:
    """A run of its own for a seed of a trial. It replaces the run of an earlier start.

    Args:
      where: `uri` and the id of the `experiment`.
      directory, index: Of the trial, and of its seed.
      measures: Names, the leading one first.
    """

    def __init__(self, where: Mapping[str, str], directory: Path, index: int, trial: int, measures: list[str]):
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient, MlflowException  # pyright: ignore[reportMissingImports]

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client, self._measures = MlflowClient(tracking_uri=where["uri"]), measures
        path, first = run_file(directory, index), run_file(directory, 0)
        with suppress(
            OSError, ValueError, KeyError, MlflowException
        ):  # it is gone, was never there, or was not noted whole
            self._client.delete_run(json.loads(path.read_text())["run"])
        parent = {"mlflow.parentRunId": json.loads(first.read_text())["run"]} if index and first.exists() else {}
        name = f"trial {trial}" + (f", seed {index}" if index else "")
        self._id = self._client.create_run(where["experiment"], tags=parent, run_name=name).info.run_id
        path.write_text(json.dumps({"run": self._id}))
        self.variables = {
            "MLFLOW_TRACKING_URI": where["uri"],
            "MLFLOW_RUN_ID": self._id,
            "MLFLOW_EXPERIMENT_ID": where["experiment"],
        }
        self._read, self._next = 0, 0.0

    def pass_on(self, report: Report, is_over: bool = False) -> str | None:
        """Report the values of the leading metric since the last call, if all reports so far came from here.

        Return the problem, in words, if MLflow cannot be read when the command is over.
        """
        now = time.monotonic()
        if report.count != self._read or (not is_over and (report.keeps_last or now < self._next)):
            return None
        self._next = now + _SECONDS
        try:
            points = {name: self._history(name) for name in self._measures}
        except Exception as error:  # MLflow may raise anything, and its words may hold a password
            return f"its metrics cannot be read from MLflow ({type(error).__name__})" if is_over else None
        if report.keeps_last:  # of each measure: they may be logged at different steps
            points = {name: [(0, value) for _, value in found[-1:]] for name, found in points.items()}
        for step, value in points[self._measures[0]][self._read :]:
            others = {name: other for name, found in points.items() for at, other in found if at == step}
            self._read += 1
            report(max(step, report.step + 1), **{**others, self._measures[0]: value})
        return None

    def _history(self, name: str) -> list[tuple[int, float]]:
        """Return step and value of all points of a metric, in order."""
        points = self._client.get_metric_history(self._id, name)
        return [(one.step, one.value) for one in sorted(points, key=lambda one: (one.step, one.timestamp))]
