"""A study in MLflow: a parent run, and under it a run a trial. Imports mlflow, like `backends.mlflow_runs`, only when it is used.

Every run is found again by what is written on it, so that a process that died anywhere leaves nothing that the next one would
write twice. The parent carries the study's tag from its first moment, and a trial's run its number and how the trial ended. A run
that was not ended is written again into itself. Before points are written that may be there already, MLflow is asked for them.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlax.backends.base import EngineConfig
from hyperlax.errors import STOPPED, HyperlaxError, OptionError
from hyperlax.files import decode
from hyperlax.outputs import directory_of, run_file
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.observer import Observer
from hyperlax.study.record import StudyRecord, TrialRecord
from hyperlax.tasks import Command
from hyperlax.tracking.addresses import reason_of
from hyperlax.tracking.background import BackgroundObserver, as_sentence
from hyperlax.tracking.entries import (
    MARK,
    STATUS,
    TRIAL,
    Point,
    artifacts,
    mark_of,
    params_of,
    points_of,
    standing,
    study_params,
    tags_of,
    times_of,
    with_curves,
)
from hyperlax.tracking.place import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
    from mlflow.entities import Run  # pyright: ignore[reportMissingImports]

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""Seconds in which a server has to answer: one that is dead costs them at the end of a study."""
STUDY = "hyperlax.study"
PARENT = "mlflow.parentRunId"
_ENDED = {0: "FINISHED", **dict.fromkeys(STOPPED, "KILLED")}
"""A process's exit status -> that of the parent run; FAILED for any other."""
_MOST = {"params": 100, "metrics": 1000, "tags": 100}
"""Maximum numbers that MLflow takes in one call."""
_PAGE = 1000
_OF_THE_BEST = ("best.", "best_trial", "pareto_front", "confirmed")
"""The beginnings of the parent's tags that are removed when no trial is the best any more."""
_STANDINGS = {"best_trial", "pareto_front", "confirmed", "hyperlax.trials"}
"""The parent's tags whose change gives its metrics a new point."""


def mlflow_observers(place: Place | None) -> list[Observer]:
    """Return the observers that track a study in a place, [] without one. Nothing is written yet.

    Raises:
      UsageError: The study cannot be tracked there.
    """
    if place is None:
        return []
    # Imported while there is only one thread: plotly would use a pandas that another thread has only half imported.
    import_module("pandas")
    import_module("mlflow.entities")
    _try_local(place)
    return [BackgroundObserver(MlflowWriter(place), "MLflow")]


def with_runs(place: Place | None, config: EngineConfig) -> EngineConfig:
    """Return a configuration by which each run of a command gets a run in MLflow; as it was without a place."""
    if not place or not isinstance(config.task, Command):
        return config
    try:
        runs = {"uri": place.uri, "experiment": _experiment(connect(place), place)}
    except Exception as error:  # MLflow may raise anything
        _log.warning("Commands get no run in MLflow: %s", place.hidden(as_sentence(error)))
        return config
    if place.path.parent.is_dir():
        place.write()  # for agents, which read it
    return replace(config, mlflow=runs)


class MlflowWriter:
    """A writer of one study to MLflow. MLflow's exceptions pass, without the address's password; the next call reconnects."""

    def __init__(self, place: Place):
        self._place = place
        self._run: _ParentRun | None = None
        self._is_announced = False

    def follow(self, record: StudyRecord) -> None:
        """Write every ended trial that is not written yet, the state of the study, and its pages if they are new."""
        with self._reconnecting():
            self._run = self._run or self._open(record)
            self._run.catch_up(record)

    def end(self, record: StudyRecord, status: int) -> None:
        """Write the same, and end the parent run."""
        self.follow(record)
        assert self._run is not None
        with self._reconnecting():
            self._run.end(_ENDED.get(status, "FAILED"))

    @contextmanager
    def _reconnecting(self) -> Iterator[None]:
        """Forget the connection after an exception, and raise HyperlaxError in place of one that shows the address's password."""
        try:
            yield
        except BaseException as error:
            self._run = None
            shown = self._place.hidden(str(error))
            if shown == str(error):
                raise
            raise HyperlaxError(shown) from None

    def _open(self, record: StudyRecord) -> _ParentRun:
        self._place.write_if_new()
        client = connect(self._place)
        experiment = _experiment(client, self._place)
        parent = _parent(client, experiment, self._place.study, record)
        self._place.write()
        run = _ParentRun(client, experiment, parent)
        if not self._is_announced:
            _log.info("Tracked in MLflow, experiment %s. %s", self._place.experiment, _how_to_look(self._place))
            self._is_announced = True
        return run


@dataclass
class _Found:
    """A trial's run in MLflow. is_whole: the run was ended, so it is complete."""

    run: str
    mark: dict[str, str]
    is_whole: bool


class _ParentRun:
    """The parent run of a study and its trials' runs in MLflow, as far as this process knows."""

    def __init__(self, client: MlflowClient, experiment: str, run: Run):
        self._client, self._experiment, self._id = client, experiment, run.info.run_id
        self._tags, self._params = dict(run.data.tags), set(run.data.params)
        self._sent: dict[Path, tuple[int, int]] = {}
        self._trials = self._find_trials()

    def catch_up(self, record: StudyRecord) -> None:
        """Write everything that is missing."""
        params = {name: value for name, value in study_params(record).items() if name not in self._params}
        self._log(self._id, params=params)
        self._params |= params.keys()
        ended = sorted((trial for trial in record.trials if trial.state != "RUNNING"), key=lambda trial: trial.number)
        missing = [trial for trial in ended if not self._has(trial.number, mark_of(record, trial))]
        for trial, curve in with_curves(missing):
            self._write_trial(record, trial, curve)
        self._write_standing(*standing(record))
        self._send(record.directory)

    def end(self, status: str) -> None:
        """End the parent run."""
        self._client.set_terminated(self._id, status)

    def _has(self, number: int, mark: Mapping[str, str]) -> bool:
        found = self._trials.get(number)
        return found is not None and found.is_whole and found.mark == mark

    def _write_trial(self, record: StudyRecord, trial: TrialRecord, curve: LearningCurve | None) -> None:
        """Begin, fill and end a trial's run. Delete a run of an earlier result of the trial."""
        number, mark = trial.number, mark_of(record, trial)
        found, points = self._trials.get(number), points_of(record, trial, curve)
        if found and found.mark != mark:
            self._client.delete_run(found.run)
            found = None
        tags, params = {**tags_of(record, trial), PARENT: self._id}, params_of(trial)
        began, ended = times_of(trial.batch_directory)
        if found is None and (made := self._of_command(directory_of(record.directory, number))):
            found = self._trials[number] = _Found(made.info.run_id, mark, False)
            self._client.update_run(found.run, status="RUNNING")
            self._log(found.run, tags=tags)
            params = {name: value for name, value in params.items() if name not in made.data.params}
        if found:
            points = self._unwritten(found.run, points)
        else:
            run = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=f"trial {number}")
            found = self._trials[number] = _Found(run.info.run_id, mark, False)
        self._log(found.run, params, points, at=ended)
        self._client.set_terminated(found.run, STATUS[trial.state], end_time=ended)
        found.is_whole = True

    def _of_command(self, own: Path) -> Run | None:
        """Return the run that a trial's command had, None if it had none, or it is deleted. own: the trial's directory."""
        path = run_file(own, 0)
        if not path.exists():
            return None
        run = self._client.get_run(decode(path, dict)["run"])
        return run if run.info.lifecycle_stage == "active" else None

    def _write_standing(self, tags: Mapping[str, str], points: Sequence[Point]) -> None:
        """Write the parent's tags, and its metrics if the tags of the study's state have changed."""
        new = {name: value for name, value in tags.items() if self._tags.get(name) != value}
        if new.keys() & _STANDINGS:
            self._log(self._id, points=self._unwritten(self._id, points))
        self._log(self._id, tags=new)
        outdated = [name for name in self._tags if name not in tags and name.startswith(_OF_THE_BEST)]
        for name in outdated:
            self._client.delete_tag(self._id, name)
        self._tags = {name: value for name, value in {**self._tags, **new}.items() if name not in outdated}

    def _unwritten(self, run: str, points: Sequence[Point]) -> list[Point]:
        """Return the points that a run does not have yet: the last value written for their step differs."""
        last: dict[tuple[str, int], tuple[int, float]] = {}
        for name in {point.name for point in points}:
            for there in self._client.get_metric_history(run, name):
                last[name, there.step] = max(last.get((name, there.step), (0, 0.0)), (there.timestamp, there.value))
        written = {Point(name, value, step) for (name, step), (_, value) in last.items()}
        return [point for point in points if point not in written]

    def _send(self, directory: Path) -> None:
        """Send the study's pages that have changed since this process last sent them."""
        for path, folder in artifacts(directory):
            state = path.stat()
            version = (state.st_mtime_ns, state.st_size)
            if self._sent.get(path) != version:
                self._client.log_artifact(self._id, str(path), folder)
                self._sent[path] = version

    def _log(
        self,
        run: str,
        params: Mapping[str, str] | None = None,
        points: Iterable[Point] = (),
        tags: Mapping[str, str] | None = None,
        at: int | None = None,
    ) -> None:
        """Log to a run, split into calls within MLflow's limits. at: milliseconds since 1970, by default now."""
        from mlflow.entities import Metric, Param, RunTag  # pyright: ignore[reportMissingImports]

        when = int(time.time() * 1000) if at is None else at
        items: dict[str, list[Any]] = {
            "params": [Param(name, value) for name, value in (params or {}).items()],
            "metrics": [Metric(point.name, point.value, when, point.step) for point in points],
            "tags": [RunTag(name, value) for name, value in (tags or {}).items()],
        }
        for kind, most in _MOST.items():
            for start in range(0, len(items[kind]), most):
                self._client.log_batch(run, **{kind: items[kind][start : start + most]}, synchronous=True)

    def _find_trials(self) -> dict[int, _Found]:
        """Return the existing runs of trials. A lost reply can leave several of one trial: keep a whole one, delete the others."""
        found: dict[int, _Found] = {}
        for run in search_runs(self._client, self._experiment, f"tags.`{PARENT}` = '{self._id}'"):
            tags = run.data.tags
            if not tags.get(TRIAL, "").isdecimal():
                continue
            mark = {name: tags[name] for name in MARK if name in tags}
            this = _Found(run.info.run_id, mark, run.info.status != "RUNNING")
            number = int(tags[TRIAL])
            other = found.setdefault(number, this)
            if other is not this:
                kept, spare = (this, other) if this.is_whole and not other.is_whole else (other, this)
                found[number] = kept
                self._client.delete_run(spare.run)
        return found


def _try_local(place: Place) -> None:
    """Raise OptionError for a store of files that this version of MLflow refuses, or a file that is not its database."""
    try:
        if place.database is None and place.is_local:
            connect(place)
        elif place.database is not None and place.database.exists():
            with closing(sqlite3.connect(place.database)) as database:
                database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as busy:
        _log.debug("The database is in use: %s", busy)
    except Exception as error:  # MLflow may raise anything
        raise OptionError(
            "tracking_uri",
            "MLflow {0} cannot write to {1}: {2}. Give {tracking_uri} sqlite:///FILE, e.g. sqlite:///mlflow.db, or {track} none.",
            metadata.version("mlflow"),
            place.shown,
            reason_of(error, place.uri),
        ) from error


def _refuse_dead(place: Place) -> None:
    """Raise HyperlaxError if nothing listens at the place's server. MLflow would try for minutes."""
    if (server := place.server) is None:
        return
    try:
        socket.create_connection(server, timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise HyperlaxError(f"{place.shown} does not answer ({error.strerror or error}).") from error


def connect(place: Place) -> MlflowClient:
    """Return a client of the place that does not try for long. Silence what MLflow and alembic print about a new database.

    Raises HyperlaxError if nothing listens at the place's server.
    """
    _refuse_dead(place)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=place.uri)


def _experiment(client: MlflowClient, place: Place) -> str:
    """Return the experiment's id. Make it if needed; an SQLite store gets its artifacts beside its file."""
    known = client.get_experiment_by_name(place.experiment)
    if known is not None and known.lifecycle_stage != "active":
        raise HyperlaxError(f"the experiment {place.experiment} is deleted. Restore it, or choose another.")
    if known is not None:
        return known.experiment_id
    beside = None
    if place.database is not None:
        beside = (place.database.parent / "mlartifacts" / place.study).as_uri()
    return client.create_experiment(place.experiment, artifact_location=beside)


def _parent(client: MlflowClient, experiment: str, study: str, record: StudyRecord) -> Run:
    """Return the study's parent run. Set it to RUNNING if it had ended; create it if there is none."""
    runs = search_runs(client, experiment, f"tags.`{STUDY}` = '{study}'")
    if not runs:
        return client.create_run(experiment, tags={STUDY: study}, run_name=record.study_name)
    first, *spare = runs
    for run in spare:
        client.delete_run(run.info.run_id)
    if first.info.status != "RUNNING":
        client.update_run(first.info.run_id, status="RUNNING")
    return first


def search_runs(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """Return all runs of an experiment that meet the condition and are not deleted, the oldest first."""
    found: list[Run] = []
    token: Any = None
    while True:
        order = ["attributes.start_time ASC"]
        page = client.search_runs([experiment], condition, max_results=_PAGE, order_by=order, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _how_to_look(place: Place) -> str:
    if place.uri.startswith(("http://", "https://")):
        return f"To look at it: {place.shown}"
    return f"To look at it: mlflow ui --backend-store-uri {place.shown}"
