"""A trial while a task trains it: asked from the coordinator over gRPC, with signs of life until it ends."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import GrpcStorageProxy
from optuna.trial import FrozenTrial, Trial

from hyperlax.errors import HyperlaxError
from hyperlax.metaflow.rendezvous import Meeting, find_meeting
from hyperlax.metaflow.results import TASK
from hyperlax.samplers.base import derive_seed

BEAT = "hyperlax:beat"
"""The system attribute of a trial that its task counts up while it trains."""
SAMPLER, SEED = "hyperlax:sampler", "hyperlax:seed"
"""User attributes of the coordinator's study: how its trials suggest."""
_BEAT_SECONDS = 5.0
_PATIENCE = 120.0
"""Seconds for which a trial tries to reach the coordinator."""


def _cmaes(seed: int, own: int) -> BaseSampler:
    return CmaEsSampler(seed=own, independent_sampler=RandomSampler(own), warn_independent_sampling=False)


def _qmc(seed: int, own: int) -> BaseSampler:
    random = RandomSampler(own)
    return QMCSampler(scramble=True, seed=seed, independent_sampler=random, warn_independent_sampling=False)


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, own: TPESampler(seed=own),
    "random": lambda seed, own: RandomSampler(own),
    "cmaes": _cmaes,
    "qmc": _qmc,
}
"""Name -> makes a sampler from the seed of the study and that of the trial. Each trial suggests in its own process."""


class StudyOverError(HyperlaxError):
    """An error of a trial whose coordinator has ended."""


@contextmanager
def live_trial(
    coordinator_id: str | None, address: str | None, index: int, task: str
) -> Iterator[tuple[optuna.Study, Trial]]:
    """Yield the coordinator's study and a new trial of it, alive for the block. The connection is closed at its end.

    Args:
      coordinator_id: Where the address is found, also that of a coordinator that was started again.
      address: Used without an id.
      index: Number of the task, from which the sampler's seed follows.
      task: Id of the task.

    Raises HyperlaxError if the coordinator cannot be reached, StudyOverError if it has ended.
    """
    storage, name = _connect(coordinator_id, address)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        about = study.user_attrs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.sampler = SAMPLERS[about[SAMPLER]](about[SEED], derive_seed(about[SEED], index))
        trial = study.ask()
        storage.set_trial_system_attr(trial._trial_id, TASK, task)
        with _alive(storage, trial._trial_id):
            yield study, trial
    finally:
        storage.close()


def add_trial(coordinator_id: str | None, address: str | None, trial: FrozenTrial) -> int:
    """Add a trial that has ended to the coordinator's study, unless it is there. Return its number.

    Raises the errors of `live_trial`.
    """
    storage, name = _connect(coordinator_id, address)
    try:
        study, task = optuna.load_study(study_name=name, storage=storage), trial.system_attrs[TASK]
        if not any(t.number == trial.number and _is_end(t, task) for t in study.trials):
            study.add_trial(trial)
        return max(t.number for t in study.trials if _is_end(t, task))
    finally:
        storage.close()


def _is_end(trial: FrozenTrial, task: str) -> bool:
    return trial.state.is_finished() and trial.system_attrs.get(TASK) == task


def _connect(coordinator_id: str | None, address: str | None) -> tuple[GrpcStorageProxy, str]:
    """Return the coordinator's storage, and the name of its study."""
    until = time.monotonic() + _PATIENCE
    while True:
        meeting = Meeting(address or "") if coordinator_id is None else find_meeting(coordinator_id)
        if meeting is not None and meeting.is_over:
            raise StudyOverError("the coordinator of its run has ended")
        if meeting is not None and (found := _reached(meeting.address, coordinator_id)) is not None:
            return found
        if time.monotonic() > until:
            where = meeting.address if meeting else "any address"
            raise HyperlaxError(
                f"The coordinator cannot be reached at {where} after {_PATIENCE:g} s. Look at the log of its step; a run whose "
                "coordinator has failed is continued by `resume`."
            )
        time.sleep(0.5)


def _reached(address: str, coordinator_id: str | None) -> tuple[GrpcStorageProxy, str] | None:
    """Return the storage at an address and the name of its study, None if no coordinator of this id is there."""
    host, _, port = address.rpartition(":")
    _go_directly_to(host)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=int(port))
    with suppress(grpc.RpcError):
        names = optuna.get_all_study_names(storage)
        if names and coordinator_id in (None, names[0]):
            return storage, names[0]
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
