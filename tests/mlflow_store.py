"""A study in a real MLflow, and what is there of it afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperlax.study.record import StudyRecord
from hyperlax.tracking.mlflow import MlflowWriter
from hyperlax.tracking.place import place_of
from tests.study_cases import Case


class Seen:
    """What an experiment holds."""

    def __init__(self, store: str, experiment: str):
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self.client = MlflowClient(store)
        known = self.client.get_experiment_by_name(experiment)
        runs = list(self.client.search_runs([known.experiment_id], max_results=1000)) if known else []
        self.parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        self.numbers = sorted(int(run.data.tags["hyperlax.trial"]) for run in children)
        self.trials = {int(run.data.tags["hyperlax.trial"]): run for run in children}
        assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {run.info.run_id for run in self.parents}

    @property
    def parent(self) -> Any:
        (parent,) = self.parents
        return parent

    def histories(self, run: Any) -> dict[str, list[tuple[int, float]]]:
        """Every point of a run that was ever written, by metric."""
        return {name: sorted(self.points(run, name)) for name in run.data.metrics}

    def points(self, run: Any, metric: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, metric)]

    def told(self) -> dict[int, Any]:
        """Of every trial all that MLflow holds, but ids and times."""
        own = {"mlflow.parentRunId", "mlflow.user"}
        return {
            number: (
                run.info.status,
                run.data.params,
                {name: value for name, value in run.data.tags.items() if name not in own},
                self.histories(run),
            )
            for number, run in self.trials.items()
        }


def tracker(store: str, experiment: str, root: Path, is_new: bool = False) -> MlflowWriter:
    place = place_of("mlflow", store, experiment, "test_study", root, is_new)
    assert place is not None
    return MlflowWriter(place)


def tracked(store: str, experiment: str, path: Path, **arguments: Any) -> Case:
    """A case whose study will be tracked."""
    case = Case(path, **{"n_trials": 12, **arguments})
    case.tracker = tracker(store, experiment, case.directory)
    return case


def with_trials(record: StudyRecord) -> StudyRecord:
    """A made-up study that says how many trials it shall have."""
    return replace(record, arguments={**record.arguments, "n_trials": len(record.trials)})
