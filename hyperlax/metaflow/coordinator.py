"""The coordinator of a run: a study in memory behind Optuna's gRPC proxy, until every task has told its trial or is lost."""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from metaflow import Run, current  # pyright: ignore[reportPrivateImportUsage]
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage, run_grpc_proxy_server
from optuna.trial import FrozenTrial, TrialState, create_trial

from hyperlax.errors import HyperlaxError, UsageError, counted
from hyperlax.metaflow import rendezvous
from hyperlax.metaflow.rendezvous import Meeting
from hyperlax.metaflow.results import N_TRIALS, OBJECTIVE, REASON, TASK, TrialResult, about_run
from hyperlax.metaflow.trials import BEAT, SAMPLER, SEED
from hyperlax.tasks import Direction

LEASE_SECONDS = 40.0
"""Time without a sign of life after which a trial is lost. Its task gives one every few seconds."""
_POLL_SECONDS = 0.5
_LOOK_SECONDS = 10.0
"""Minimum time between looks at the run's tasks."""
_WRITE_SECONDS, _SHARE = 2.0, 5
"""Minimum time between two times that the study's directory is written, absolute and relative to the time that this takes.

Metaflow kills the coordinator 5 s after a task of its run has failed.
"""


class Coordinator:
    """A study of the trials of one run.

    trials: the steps that train them, with their objective and direction.
    """

    def __init__(self, flow: Any, trials: Mapping[str, tuple[str, str]], direction: Direction, sampler: str, seed: int):
        if not trials:
            raise UsageError(
                "@optuna_coordinator: no step of the flow has @hyperparam. Put it above the @step of the trials."
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._id, self._total, self._steps = str(flow.coordinator_id), int(flow.n_trials_int), list(trials)
        (objective, said), *_ = trials.values()
        if said != direction:
            print(
                f"@hyperparam says {said}, and @optuna_coordinator {direction}: the study will {direction} {objective}."
            )
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(study_name=self._id, storage=self._storage, direction=direction)
        about = {OBJECTIVE: objective, N_TRIALS: self._total, SAMPLER: sampler, SEED: seed}
        for name, value in {**about, **about_run()}.items():
            self.study.set_user_attr(name, value)

    def run(self, host: str, port: int | None, timeout: float, output_root: str | None) -> optuna.Study:
        """Lead the trials to their end. Return the study."""
        if current.origin_run_id or current.retry_count:
            self._take_over()
        address = _serve(self._storage, host, port)
        rendezvous.forget_old_meetings()
        Meeting(address).write(self._id)
        print(f"The coordinator listens on {address} for {counted(self._total, 'trial')}.")
        writer, is_over = _Writer(self.study, output_root), False
        try:
            has_all = self._wait(time.monotonic() + timeout, writer)
            why = "lost: its task ended without it" if has_all else f"it had not ended at the timeout of {timeout:g} s"
            self._fail_the_rest(why)
            is_over = True
            Meeting(address, is_over).write(self._id)
        finally:
            writer.write(has_pages=is_over)
        return self.study

    def _take_over(self) -> None:
        """Begin with the trials that this run has already: those of an earlier attempt, or of the run that it resumes.

        A number that none of them has is waiting, so that the next task gets it.
        """
        known: dict[int, FrozenTrial] = {}
        for task, result in self._results().items():
            if result is not None and result.trial_number >= 0:
                known[result.trial_number] = result.frozen(task)
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

    def _wait(self, until: float, writer: _Writer) -> bool:
        """Wait for all tasks, giving up trials that are lost. Return False if time is over before."""
        leases, looked, is_told = _Leases(), time.monotonic(), False
        while time.monotonic() < until:
            trials = self.study.get_trials(deepcopy=False)
            for trial in leases.lost(trials):
                self._fail(trial, f"lost: its task gave no sign of life for {LEASE_SECONDS:g} s")
            ended = ended_tasks(trials)
            if sum(ended.values()) >= self._total:
                return True
            is_idle = all(ended.values()) and time.monotonic() - looked > _LOOK_SECONDS
            if is_idle:
                looked = time.monotonic()
                try:
                    if len({*ended, *self._results()}) >= self._total:
                        return True  # the other tasks have ended without a trial
                except Exception as error:  # of Metaflow, its metadata service or its datastore
                    if not is_told:
                        print(f"The tasks of the run cannot be seen now: {type(error).__name__}: {error}")
                    is_told = True
            writer.write_at_times(sum(ended.values()))
            time.sleep(_POLL_SECONDS)
        return False

    def _fail_the_rest(self, reason: str) -> None:
        for trial in self.study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                self._fail(trial, reason)

    def _fail(self, trial: FrozenTrial, reason: str) -> None:
        try:
            self._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # it has ended just now
        print(f"Trial {trial.number} failed: {reason}.")


@dataclass
class _Leases:
    """The last signs of life of trials, by this process's clock alone."""

    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running trials that gave no sign of life for too long."""
        now, found = time.monotonic(), []
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            beat = trial.system_attrs.get(BEAT, 0)
            last, since = self._seen.get(trial.number, (-1, now))
            self._seen[trial.number] = (beat, since if beat == last else now)
            if beat == last and now - since > LEASE_SECONDS:
                found.append(trial)
        return found


class _Writer:
    """A writer of the study's directory, which leaves a partial study when Metaflow kills the coordinator with its run."""

    def __init__(self, study: optuna.Study, output_root: str | None):
        self._study, self._root = study, output_root
        self._written, self._next = 0, 0.0

    def write_at_times(self, ended: int) -> None:
        """Write it if more trials have ended and it was not written just now."""
        if ended != self._written and time.monotonic() > self._next:
            began = time.monotonic()
            self.write(has_pages=False)
            now = time.monotonic()
            self._written, self._next = ended, now + max(_WRITE_SECONDS, _SHARE * (now - began))

    def write(self, has_pages: bool) -> None:
        """Write it. At the end, with pages, say where it is, or why that is not possible: the study is kept in Metaflow, too."""
        if self._root is None:
            return
        from hyperlax.metaflow.directory import write_study

        try:
            said = f"The study is in {write_study(self._study, self._root, has_pages)}."
        except (HyperlaxError, OSError) as error:
            said = f"The study's directory is not written: {error}"
        if has_pages:
            print(said)


def ended_tasks(trials: Sequence[FrozenTrial]) -> dict[str, bool]:
    """Return for each task that has begun whether its last trial has ended. A task that is tried again has several."""
    begun = (trial for trial in trials if trial.state != TrialState.WAITING)
    return {t.system_attrs.get(TASK, f"trial {t.number}"): t.state.is_finished() for t in begun}


def _serve(storage: InMemoryStorage, host: str, port: int | None) -> str:
    """Serve a storage from a thread that ends with this process. Return its address, host:port.

    gRPC would share a port that another coordinator listens on, so a taken one is refused here.
    """
    with socket.socket() as probe:
        try:
            probe.bind((host, port or 0))
        except OSError as error:
            problem = f"@optuna_coordinator: cannot listen on {host}:{port or 0} ({error.strerror})."
            raise UsageError(f"{problem} Choose another port, or leave it out.") from error
        port = probe.getsockname()[1]
    warnings.simplefilter("ignore", ExperimentalWarning)
    arguments = {"host": host, "port": port}
    threading.Thread(target=run_grpc_proxy_server, args=(storage,), kwargs=arguments, daemon=True).start()
    return f"{socket.gethostname() if host == '0.0.0.0' else host}:{port}"
