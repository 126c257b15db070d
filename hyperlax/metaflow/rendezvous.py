"""Trials and their coordinator: its address, in a directory that all tasks see, the connection over gRPC, and signs of life."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, GrpcStorageProxy
from optuna.trial import FrozenTrial, Trial, TrialState

from hyperlax.errors import HyperlaxError
from hyperlax.files import read_text, state_directory, write_text
from hyperlax.samplers.base import derive_seed

VARIABLE, OVER = "HYPERLAX_RENDEZVOUS", "over"
OUTPUT_ROOT = "my_optuna_studies"
REASON = "reason"
"""The user attribute of a trial with the reason of its failure."""
TASK, BEAT = "hyperlax:task", "hyperlax:beat"
"""The system attributes of a trial: the id of the task that trains it, and what that counts up meanwhile."""
ABOUT = "hyperlax"
"""The user attribute of a study: a dictionary with what is known of it.

objective: its name. n_trials: those of its run. sampler, seed: how they suggest. flow, file, run: its flow's name and file, the
run's id. directory: the one that it was last written into.
"""
_BEAT_SECONDS = 5.0
_PATIENCE = 120.0
"""Seconds for which a trial tries to reach the coordinator."""
_POLL_SECONDS = 0.5
_QUIET: dict[str, Any] = {"warn_independent_sampling": False}
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, own: TPESampler(seed=own),
    "random": lambda seed, own: RandomSampler(own),
    "cmaes": lambda seed, own: CmaEsSampler(seed=own, independent_sampler=RandomSampler(own), **_QUIET),
    "qmc": lambda seed, own: QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(own), **_QUIET),
}
"""Name -> makes a sampler from the seed of the study and that of the trial. Each trial suggests in its own process."""


class StudyOverError(HyperlaxError):
    """An error of a trial whose coordinator has ended."""


def leave_address(coordinator_id: str, address: str) -> None:
    """Leave a coordinator's address, host:port, for the trials of its run; `OVER` in its place once the coordinator has ended."""
    path = _path(coordinator_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(path, address)


def await_coordinator(coordinator_id: str, timeout: float = 120, poll_interval: float = _POLL_SECONDS) -> str:
    """Wait until the coordinator of a run can be reached. Return its address, host:port.

    Args:
      coordinator_id: As in the flow's `self.coordinator_id`, the id of its run.
      timeout, poll_interval: Seconds.

    Raises HyperlaxError if it cannot be reached in that time.
    """
    until = time.monotonic() + timeout
    while not (found := _address(coordinator_id)):
        if time.monotonic() > until:
            raise HyperlaxError(
                f"The coordinator of run {coordinator_id} was not there after {timeout:g} s. Its step needs a worker of its own "
                f"(max-workers of at least 2), and a task on another machine the same directory in {VARIABLE}."
            )
        time.sleep(poll_interval)
    return found


@contextmanager
def live_trial(
    coordinator_id: str | None, address: str | None, *place: int, task: str
) -> Iterator[tuple[optuna.Study, Trial]]:
    """Yield the coordinator's study and a new trial of it, alive for the block. The connection is closed at its end.

    Args:
      coordinator_id: Where the address is found, also that of a coordinator that was started again.
      address: Used without an id.
      place: Numbers that no other task of the run has, from which the sampler's seed follows.
      task: Id of the task.

    Raises HyperlaxError if the coordinator cannot be reached, StudyOverError if it has ended.
    """
    with _connected(coordinator_id, address) as (storage, study):
        about = study.user_attrs[ABOUT]
        study.sampler = SAMPLERS[about["sampler"]](about["seed"], derive_seed(about["seed"], *place))
        trial = study.ask()
        storage.set_trial_system_attr(trial._trial_id, TASK, task)
        with _alive(storage, trial._trial_id):
            yield study, trial


def add_trial(coordinator_id: str | None, address: str | None, trial: FrozenTrial) -> int:
    """Add a trial that has ended to the coordinator's study, unless it is there. Return its number.

    Raises the errors of `live_trial`.
    """
    with _connected(coordinator_id, address) as (storage, study):
        return put_trial(storage, study, trial)


def put_trial(storage: BaseStorage, study: optuna.Study, trial: FrozenTrial) -> int:
    """Add a trial that has ended, unless it is there. Return its number: its own if that waits for a trial, else a new one."""

    def is_there(other: FrozenTrial) -> bool:
        return other.state.is_finished() and other.system_attrs.get(TASK) == trial.system_attrs[TASK]

    same = next((other for other in study.trials if other.number == trial.number), None)
    if same is None or not is_there(same):
        if (
            same
            and same.state == TrialState.WAITING
            and storage.set_trial_state_values(same._trial_id, TrialState.RUNNING)
        ):
            _fill(storage, same._trial_id, trial)
        else:
            study.add_trial(trial)
    return max(other.number for other in study.trials if is_there(other))


def _fill(storage: BaseStorage, trial_id: int, ended: FrozenTrial) -> None:
    """Let a trial be as one that has ended, but for when it began."""
    for name, distribution in ended.distributions.items():
        storage.set_trial_param(trial_id, name, distribution.to_internal_repr(ended.params[name]), distribution)
    for step, value in ended.intermediate_values.items():
        storage.set_trial_intermediate_value(trial_id, step, value)
    for name, value in ended.user_attrs.items():
        storage.set_trial_user_attr(trial_id, name, value)
    for name, value in ended.system_attrs.items():
        storage.set_trial_system_attr(trial_id, name, value)
    storage.set_trial_state_values(trial_id, ended.state, ended.values)


def _path(coordinator_id: str) -> Path:
    directory = Path(os.environ.get(VARIABLE) or state_directory() / "metaflow")
    return directory / quote(coordinator_id, safe="")


def _address(coordinator_id: str) -> str:
    """Return what a coordinator has left, "" if that is nothing so far."""
    path = _path(coordinator_id)
    return read_text(path) if path.exists() else ""


@contextmanager
def _connected(coordinator_id: str | None, address: str | None) -> Iterator[tuple[GrpcStorageProxy, optuna.Study]]:
    """Yield the coordinator's storage, and its study."""
    until = time.monotonic() + _PATIENCE
    while True:
        place = address or "" if coordinator_id is None else _address(coordinator_id)
        if found := _reached(place, coordinator_id):
            break
        if time.monotonic() > until:
            raise HyperlaxError(
                f"The coordinator cannot be reached at {place or 'any address'} after {_PATIENCE:g} s. Look at the log of its "
                "step; a run whose coordinator has failed is continued by `resume`."
            )
        time.sleep(_POLL_SECONDS)
    try:
        yield found
    finally:
        found[0].close()


def _reached(address: str, coordinator_id: str | None) -> tuple[GrpcStorageProxy, optuna.Study] | None:
    """Return the storage at an address and its study, None if no coordinator of this id is there."""
    if address == OVER:
        raise StudyOverError("the coordinator of its run has ended")
    host, _, port = address.rpartition(":")
    if not host:
        return None
    _go_directly_to(host)
    storage = GrpcStorageProxy(host=host, port=int(port))
    with suppress(grpc.RpcError):
        names = optuna.get_all_study_names(storage)
        if names and coordinator_id in (None, names[0]):
            return storage, optuna.load_study(study_name=names[0], storage=storage)
    storage.close()
    return None


def _go_directly_to(host: str) -> None:
    """Add a host to those that gRPC does not reach through a proxy: it sends what is for localhost through http_proxy, too."""
    known = next((os.environ[name] for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY") if os.environ.get(name)), "")
    if host not in known.split(","):
        os.environ.update(no_grpc_proxy=f"{known},{host}".lstrip(","))


@contextmanager
def _alive(storage: GrpcStorageProxy, trial_id: int) -> Iterator[None]:
    """Give signs of life of a trial for the block."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(_BEAT_SECONDS):
            number += 1
            # the trial ends now, or the coordinator is gone, which the trial itself will notice
            with suppress(Exception):
                storage.set_trial_system_attr(trial_id, BEAT, number)

    thread = threading.Thread(target=beat, name="hyperlax-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
