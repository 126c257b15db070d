"""The runs and trials of a study in MLflow and in its mirror, for `hyperlax delete`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from hyperlax.config.stored import read_arguments
from hyperlax.errors import HyperlaxError, UsageError, counted
from hyperlax.study.directory import MIRROR, TRACKING
from hyperlax.study.maintenance import Elsewhere
from hyperlax.tracking import mlflow
from hyperlax.tracking.addresses import reason_of
from hyperlax.tracking.mirror_place import Mirror, is_copy, mirror_of
from hyperlax.tracking.place import Place, place_of

_T = TypeVar("_T")
_SECONDS = 30.0
"""Maximum seconds to wait for a server."""


def leftovers(root: Path) -> list[Elsewhere]:
    """Return what the study in a directory left in other places, as far as these can be reached. Changes nothing."""
    name = str(read_arguments(root, "delete").get("study_name"))
    kinds = (("MLflow", TRACKING, _in_mlflow), ("its mirror", MIRROR, _in_mirror))
    return [found for place, file, look in kinds if (root / file).exists() for found in _found(place, look, root, name)]


def _found(place: str, look: Callable[[Path, str], Elsewhere | None], root: Path, name: str) -> Iterator[Elsewhere]:
    try:
        found = look(root, name)
    except UsageError as error:  # its file cannot be read, or lacks the password
        found = Elsewhere(f"what study {name} left in {place}", str(error).removesuffix("."))
    if found is not None:
        yield found


def _in_mlflow(root: Path, name: str) -> Elsewhere | None:
    """Return the study's runs; None if there are none, or if they are those of the study that this one is a copy of."""
    place = place_of("mlflow", None, None, name, root, is_new=False)
    assert place is not None
    if place.database is not None and not place.database.exists():
        return None
    what = f"in experiment {place.experiment} of MLflow, {place.shown}"
    try:
        runs = _in_time(partial(_runs, place, root))
    except Exception as error:  # MLflow may raise anything
        mark = f"tag {mlflow.STUDY} = {place.study}"
        return Elsewhere(f"the runs of the study {what} ({mark})", reason_of(error, place.uri))
    if not runs:
        return None
    return Elsewhere(f"{counted(len(runs), 'run')} {what}", "", partial(_delete_runs, place, runs), "to MLflow's trash")


def _runs(place: Place, root: Path) -> list[str]:
    """Return the ids of the study's runs, the parent run last."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    client = mlflow.connect(place)
    experiment = client.get_experiment_by_name(place.experiment)
    if experiment is None:
        return []
    found = []
    for parent in mlflow.search_runs(client, experiment.experiment_id, f"tags.`{mlflow.STUDY}` = '{place.study}'"):
        if is_copy(root, parent.data.tags.get("hyperlax.directory")):
            continue
        found.append(parent.info.run_id)
    for run in found:  # grows: trials, and further seeds of commands below these
        condition = f"tags.`{mlflow.PARENT}` = '{run}'"
        found += [below.info.run_id for below in mlflow.search_runs(client, experiment.experiment_id, condition)]
    return found[::-1]


def _delete_runs(place: Place, runs: list[str]) -> None:
    client = mlflow.connect(place)
    try:
        for run in runs:
            client.delete_run(run)
    except Exception as error:  # MLflow may raise anything
        raise HyperlaxError(reason_of(error, place.uri)) from None


def _in_mirror(root: Path, name: str) -> Elsewhere | None:
    """Return the study in the mirror; None if there is none, or if it is that of the study that this one is a copy of."""
    mirror = mirror_of(None, name, root, is_new=False)
    if mirror is None:
        return None
    if mirror.file is not None and not mirror.file.exists():
        return None
    what = f"study {name} in the mirror {mirror.shown}"
    try:
        is_there = _in_time(partial(_holds, mirror))
    except Exception as error:  # a driver may raise anything
        return Elsewhere(what, reason_of(error, mirror.address))
    return Elsewhere(what, "", mirror.delete) if is_there else None


def _holds(mirror: Mirror) -> bool:
    with mirror.opened() as storage:
        try:
            study = mirror.study_in(storage)
        except HyperlaxError:  # another study has its name
            return False
        return study is not None


def _in_time(work: Callable[[], _T]) -> _T:
    """Return what the work returns. Raises TimeoutError if a server lets it wait too long."""
    answer = Future[_T]()

    def run() -> None:
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([answer], _SECONDS).done:
        raise TimeoutError(f"no answer in {_SECONDS:.0f} seconds")
    return answer.result()
