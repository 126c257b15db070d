"""The study in SQLite: the record of what was asked and what came of it.

A trial is WAITING from the moment it is asked, with its parameters, RUNNING while its batch trains, and then COMPLETE, PRUNED
or FAIL. Its metrics are user attributes of their own names. Sampling happens elsewhere, in memory: asking SQLite costs 28 to
58 ms of CPU a trial and grows with the trials in flight.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hyperlax.errors import UsageError
from hyperlax.files import replacing
from hyperlax.study.database import PATIENCE
from hyperlax.study.ledger import Ending, Entry, Ledger
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES

SAMPLER_STATE = "hyperlax:sampler_state"
"""The study's system attribute that keeps a `Questioner.state`."""


def url_of(path: Path) -> str:
    """The database's address as Optuna takes it, whatever characters the path has."""
    return f"sqlite:///{quote(str(path.absolute()))}"


class StudyStorage:
    """One study in one SQLite file, held open by one process. Close it when done."""

    def __init__(self, path: Path, study_name: str, objectives: Mapping[str, str]):
        """Open the study of that name, or create it. objectives: name -> "minimize" or "maximize".

        UsageError if the file, which `database.check` found sound, holds a study of that name with other directions.
        """
        directions = [StudyDirection[name.upper()] for name in objectives.values()]
        if not path.exists() or path.stat().st_size == 0:
            _begin(path, study_name, directions)
        self._rdb = _open(path)
        self._study = optuna.create_study(
            study_name=study_name, storage=self._rdb, directions=directions, load_if_exists=True
        )
        found = [direction.name.lower() for direction in self._study.directions]
        if found != list(objectives.values()):
            raise UsageError(f"{path}: study {study_name} has directions {found}, study.json says {dict(objectives)}.")
        self._objectives = dict(objectives)
        self._study_id = self._rdb.get_study_id_from_name(study_name)
        self._ledger = Ledger(self._rdb, self._study_id)

    def close(self) -> None:
        """Let go of the file."""
        _close(self._rdb)

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Set the study's user attributes and the names of its objectives, as far as they are not yet so."""
        known = self._study.user_attrs
        for key, value in attributes.items():
            if known.get(key) != value:
                self._study.set_user_attr(key, value)
        if self._study.metric_names != list(self._objectives):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(self._objectives))

    def sampler_state(self) -> dict[str, Any] | None:
        """What was kept last, None if nothing or something else stands there."""
        kept = self._rdb.get_study_system_attrs(self._study_id).get(SAMPLER_STATE)
        return kept if isinstance(kept, dict) and kept.keys() == {"start", "random"} else None

    def keep_sampler_state(self, state: Mapping[str, Any] | None) -> None:
        """Keep a `Questioner.state` with the study, so that resuming need not ask for all earlier trials again."""
        self._rdb.set_study_system_attr(self._study_id, SAMPLER_STATE, state)

    def trials(self) -> list[FrozenTrial]:
        """Every trial by number. Not to be modified."""
        return self._study.get_trials(deepcopy=False)

    def record(self, entries: Iterable[Entry], distributions: Mapping[str, BaseDistribution]) -> None:
        """Add WAITING trials under the next numbers, all of them or none."""
        self._ledger.record(entries, distributions)

    def start(self, numbers: Iterable[int]) -> None:
        """WAITING -> RUNNING."""
        self._ledger.start(numbers)

    def wait(self, numbers: Iterable[int]) -> None:
        """RUNNING -> WAITING, for trials that are to be run again."""
        self._ledger.wait(numbers)

    def wait_again(self, numbers: Iterable[int]) -> None:
        """FAIL -> WAITING, for trials that are to be run again under their parameters."""
        self._ledger.wait_again(numbers)
        self._read_anew()

    def invalidate(self, reasons: Mapping[int, str]) -> None:
        """COMPLETE -> FAIL with the reason, by number: out of every ranking. Metrics stay as user attributes."""
        self._ledger.invalidate(reasons)
        self._read_anew()

    def finish(self, endings: Sequence[Ending]) -> None:
        """Tell how trials ended, all of them or none.

        ValueError for a value that is not finite: Optuna would take an infinite one for the best.
        """
        for ending in endings:
            wanted = len(self._objectives) if ending.state == TrialState.COMPLETE.name else 0
            if len(ending.values) != wanted or not all(map(math.isfinite, ending.values)):
                raise ValueError(
                    f"trial {ending.number} is {ending.state} and needs {wanted} finite values, got {list(ending.values)}"
                )
        self._ledger.finish(endings)

    def _read_anew(self) -> None:
        """Forget the finished trials that Optuna keeps in memory, since it takes them for final."""
        self._study = optuna.load_study(study_name=self._study.study_name, storage=self._rdb)

    def best_trials(self) -> list[FrozenTrial]:
        """The best trial, of equal ones the first, or the Pareto front; of those that are COMPLETE and satisfy the constraints."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE and is_feasible(trial)]
        if len(self._objectives) > 1:
            return self._study.best_trials
        sign = -1.0 if "maximize" in self._objectives.values() else 1.0
        return sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))[:1]


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial satisfies every constraint, as far as any is known of it."""
    return all(value <= 0 for value in trial.constraints.values())


def _begin(path: Path, study_name: str, directions: Sequence[StudyDirection]) -> None:
    """Write a database with a study without trials. Optuna makes its tables one by one; here all of them appear together."""
    with replacing(path) as temporary:
        rdb = _open(temporary, is_new=True)
        try:
            optuna.create_study(study_name=study_name, storage=rdb, directions=directions)
        finally:
            _close(rdb)


def _open(path: Path, is_new: bool = False) -> RDBStorage:
    engine = {"connect_args": {"timeout": PATIENCE}}
    return RDBStorage(url_of(path), engine_kwargs=engine, skip_compatibility_check=is_new)


def _close(rdb: RDBStorage) -> None:
    rdb.remove_session()
    rdb.engine.dispose()


def importances(trials: Sequence[FrozenTrial], objectives: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Objective -> dotted name -> share, the largest first, of some trials of a study.

    An objective with too few trials, with one value for all, or to which nothing matters, has no entry.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < FEWEST_FOR_IMPORTANCES:
        return {}
    shares: dict[str, dict[str, float]] = {}
    for index, (name, direction) in enumerate(objectives.items()):
        values = [trial.values[index] for trial in complete]
        if len(set(values)) > 1 and (found := _shares(complete, values, direction)):
            shares[name] = found
    return shares


def _shares(complete: Sequence[FrozenTrial], values: Sequence[float], direction: str) -> dict[str, float]:
    """PED-ANOVA of some trials by one of their values; empty if it finds that nothing matters."""
    study = optuna.create_study(direction=StudyDirection[direction.upper()])
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=value)
        for trial, value in zip(complete, values, strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `normalize`
        found = optuna.importance.get_param_importances(study, normalize=False)
    total = sum(found.values())
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: value / total for name, value in ordered} if total > 0 else {}
