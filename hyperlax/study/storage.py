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
from hyperlax.study.record import FEWEST_FOR_IMPORTANCES


class StudyStorage:
    """One study in one SQLite file, held open by one process. Close it when done."""

    def __init__(self, path: Path, study_name: str, objectives: Mapping[str, str]):
        """Open the study of that name, or create it. objectives: name -> "minimize" or "maximize".

        UsageError if the file holds a study of that name with other directions.
        """
        self._rdb = RDBStorage(f"sqlite:///{quote(str(path.absolute()))}")
        self._study = optuna.create_study(
            study_name=study_name,
            storage=self._rdb,
            directions=[StudyDirection[name.upper()] for name in objectives.values()],
            load_if_exists=True,
        )
        found = [direction.name.lower() for direction in self._study.directions]
        if found != list(objectives.values()):
            raise UsageError(f"{path}: study {study_name} has directions {found}, study.json says {dict(objectives)}.")
        self._objectives = dict(objectives)
        self._study_id = self._rdb.get_study_id_from_name(study_name)
        self._ids: dict[int, int] = {}

    def close(self) -> None:
        """Let go of the file."""
        self._rdb.remove_session()
        self._rdb.engine.dispose()

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

    def trials(self) -> list[FrozenTrial]:
        """Every trial by number. Not to be modified."""
        return self._study.get_trials(deepcopy=False)

    def record(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        *,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
    ) -> None:
        """Add a WAITING trial under the next number, in one transaction."""
        template = create_trial(
            state=TrialState.WAITING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(user_attrs),
            system_attrs=dict(system_attrs),
        )
        self._rdb.create_new_trial(self._study_id, template)

    def start(self, numbers: Iterable[int]) -> None:
        """WAITING -> RUNNING."""
        for number in numbers:
            self._rdb.set_trial_state_values(self._id(number), TrialState.RUNNING)

    def wait(self, numbers: Iterable[int]) -> None:
        """RUNNING -> WAITING, for trials that are to be run again."""
        for number in numbers:
            self._rdb.set_trial_state_values(self._id(number), TrialState.WAITING)

    def finish(self, number: int, state: str, values: Sequence[float] | None, attributes: Mapping[str, Any]) -> None:
        """Tell the end of a trial: its user attributes first, then state and values in one transaction.

        values: one per objective for COMPLETE, else None. ValueError for one that is not finite: Optuna would take an
        infinite value for the best.
        """
        if (values is not None) != (state == TrialState.COMPLETE.name):
            raise ValueError(f"trial {number} is {state}: only COMPLETE trials have values, got {values}")
        if values is not None and (len(values) != len(self._objectives) or not all(map(math.isfinite, values))):
            raise ValueError(f"trial {number}: {list(self._objectives)} need a finite value each, got {list(values)}")
        trial = self._id(number)
        for key, value in attributes.items():
            self._rdb.set_trial_user_attr(trial, key, value)
        self._rdb.set_trial_state_values(trial, TrialState[state], values)

    def best_trials(self) -> list[FrozenTrial]:
        """The best trial, of equal ones the first, or the Pareto front; empty while none is COMPLETE."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if len(self._objectives) > 1:
            return self._study.best_trials
        sign = -1.0 if "maximize" in self._objectives.values() else 1.0
        return sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))[:1]

    def importances(self, end: int) -> dict[str, dict[str, float]]:
        """Objective -> dotted name -> share, the largest first, of the trials numbered below `end`.

        An objective with too few trials, with one value for all, or to which nothing matters, has no entry.
        """
        complete = [trial for trial in self.trials()[:end] if trial.state == TrialState.COMPLETE]
        if len(complete) < FEWEST_FOR_IMPORTANCES:
            return {}
        shares: dict[str, dict[str, float]] = {}
        for index, (name, direction) in enumerate(self._objectives.items()):
            values = [trial.values[index] for trial in complete]
            if len(set(values)) > 1 and (found := _shares(complete, values, direction)):
                shares[name] = found
        return shares

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._rdb.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._ids[number]


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
