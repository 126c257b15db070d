"""The coordinator of a run: a study in memory behind Optuna's gRPC proxy, until every task has told its trial or is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from metaflow import Run, current  # pyright: ignore[reportPrivateImportUsage]
from optuna.storages import InMemoryStorage, run_grpc_proxy_server
from optuna.trial import FrozenTrial, TrialState, create_trial

from hyperlax.engine.checkpoint import SaveTimer
from hyperlax.errors import UsageError, counted
from hyperlax.leases import Leases
from hyperlax.metaflow.rendezvous import BEAT, OVER, REASON, TASK, leave_address, put_trial
from hyperlax.metaflow.results import TrialResult, be_quiet, new_study, written
from hyperlax.tasks import Direction

LEASE_SECONDS = 40.0
"""Time without a sign of life after which a trial is lost. Its task gives one every few seconds."""
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 10.0
"""Minimum time between looks at the run's tasks."""
_WRITE_SECONDS = 2.0
"""Minimum time between two writes of the study's directory. Metaflow kills the coordinator 5 s after a task has failed."""


class Coordinator:
    """A study of the trials of one run.

    trials: the steps that train them, with their objective and direction.
    """

    def __init__(self, flow: Any, trials: Mapping[str, tuple[str, str]], direction: Direction, sampler: str, seed: int):
        if not trials:
            raise UsageError(
                "@optuna_coordinator: no step of the flow has @hyperparam. Put it above the @step of the trials."
            )
        be_quiet()
        self._id, self._total, self._steps = str(flow.coordinator_id), int(flow.n_trials_int), list(trials)
        (objective, said), *_ = trials.values()
        if said != direction:
            print(
                f"@hyperparam says {said}, and @optuna_coordinator {direction}: the study will {direction} {objective}."
            )
        self._storage = InMemoryStorage()
        study = optuna.create_study(study_name=self._id, storage=self._storage, direction=direction)
        self.study = new_study(study, objective, self._total, sampler=sampler, seed=seed)

    def run(self, host: str, port: int | None, timeout: float, output_root: str | None) -> optuna.Study:
        """Lead the trials to their end. Return the study."""
        if current.origin_run_id or current.retry_count:
            self._take_over()
        address = _serve(self._storage, host, port)
        leave_address(self._id, address)
        print(f"The coordinator listens on {address} for {counted(self._total, 'trial')}.")
        is_over = False
        try:
            why = (
                self._wait(time.monotonic() + timeout, output_root)
                or f"it had not ended at the timeout of {timeout:g} s"
            )
            for trial in self.study.get_trials(deepcopy=False):
                if not trial.state.is_finished():
                    self._fail(trial, why)
            is_over = True
            leave_address(self._id, OVER)
        finally:
            if output_root is not None:
                print(written(self.study, output_root, has_pages=is_over))
        return self.study

    def _take_over(self) -> None:
        """Begin with the trials that this run has already: those of an earlier attempt, or of the run that it resumes.

        A number that none of them has is waiting, so that the next task gets it.
        """
        found = [result.frozen(task) for task, result in self._results().items() if result]
        known = {trial.number: trial for trial in found if trial.number >= 0}
        for number in range(max(known, default=-1) + 1):
            self.study.add_trial(known.get(number) or create_trial(state=TrialState.WAITING))
        print(f"{counted(len(known), 'trial')} of the run ended before.")

    def _results(self) -> dict[str, TrialResult | None]:
        """Return the result of each task that has ended, by its id; None for one without a result."""
        run, ended = Run(f"{current.flow_name}/{current.run_id}", _namespace_check=False), {}
        for name in self._steps:
            if name in run:
                ended |= {t.id: getattr(t.data, "trial_result", None) for t in run[name] if t.finished}
        return ended

    def _wait(self, until: float, output_root: str | None) -> str:
        """Wait for all tasks, giving up trials that are lost. Return why the rest is lost, "" if time is over before."""
        leases, timer, looked, written_of = Leases[int](), SaveTimer(_WRITE_SECONDS), time.monotonic(), 0
        while time.monotonic() < until:
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                is_running = trial.state == TrialState.RUNNING
                if is_running and leases.age(trial.number, trial.system_attrs.get(BEAT)) > LEASE_SECONDS:
                    self._fail(trial, f"lost: its task gave no sign of life for {LEASE_SECONDS:g} s")
            ended = _ended_tasks(trials)
            is_idle = all(ended.values()) and time.monotonic() - looked > _LOOK_SECONDS
            looked = time.monotonic() if is_idle else looked
            if sum(ended.values()) >= self._total or (is_idle and self._have_ended(ended)):
                return "lost: its task ended without it"
            if output_root is not None and sum(ended.values()) != written_of and timer.is_due():
                with timer.saving():
                    written(self.study, output_root, has_pages=False)
                written_of = sum(ended.values())
            time.sleep(_POLL_SECONDS)
        return ""

    def _have_ended(self, ended: Mapping[str, bool]) -> bool:
        """Return whether all tasks have, also those that had no trial. Add trials that an earlier attempt was told."""
        try:
            results = self._results()
            for task, result in results.items():
                if task not in ended and result and result.trial_number >= 0:
                    put_trial(self._storage, self.study, result.frozen(task))
            return len({*ended, *results}) >= self._total
        except Exception as error:  # of Metaflow, its metadata service or its datastore
            print(f"The tasks of the run cannot be seen now: {type(error).__name__}: {error}")
            return False

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        try:
            self._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # it has ended just now
        print(f"Trial {trial.number} failed: {reason}.")


def _ended_tasks(trials: Sequence[FrozenTrial]) -> dict[str, bool]:
    """Return for each task that has begun whether its last trial has ended. A task that is tried again has several."""
    begun = (trial for trial in trials if trial.state != TrialState.WAITING)
    return {t.system_attrs.get(TASK, f"trial {t.number}"): t.state.is_finished() for t in begun}


def _serve(storage: InMemoryStorage, host: str, port: int | None) -> str:
    """Serve a storage from a thread that ends with this process. Return its address, host:port.

    Raises OSError for a port that is taken: gRPC would share it with another coordinator.
    """
    with socket.socket() as probe:
        probe.bind((host, port or 0))
        free: int = probe.getsockname()[1]
    threading.Thread(target=partial(run_grpc_proxy_server, storage, host=host, port=free), daemon=True).start()
    return f"{socket.gethostname() if host == '0.0.0.0' else host}:{free}"
