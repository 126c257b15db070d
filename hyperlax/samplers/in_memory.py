"""The in-memory study in which a sampler is asked for trials, instead of the one in SQLite."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hyperlax.samplers.distributions import SearchSpace

CONSTRAINTS = "constraints"
"""The trial's system attribute in which Optuna keeps the values of `constraints_func`."""

ASKED = "hyperlax:asked"
"""The system attribute for parameters as the sampler gave them, where those that are stored differ in the last bits."""

_NAME = "in memory"


class InMemoryStudy:
    """An Optuna study in memory: the trials that its sampler was asked for, and their results.

    It may hold more trials than the study on disk, because duplicates that were asked again stay here as FAIL. So a trial of the
    study has a place here, which may differ from its number. A trial is RUNNING until `tell` sets its result.

    Only PRUNED trials have intermediate values here, since samplers use no others. With several objectives no trial has any:
    Optuna's samplers would raise. PRUNED trials then rank last for TPE, and NSGA-II and NSGA-III ignore them, because they breed
    from COMPLETE trials only.
    """

    def __init__(self, sampler: BaseSampler, directions: Sequence[str], space: SearchSpace) -> None:
        self._sampler = sampler
        self._directions = [StudyDirection[name.upper()] for name in directions]
        self._space = space
        self._open()

    def ask(self, params: Mapping[str, Any] | None = None) -> FrozenTrial:
        """Return the sampler's next trial; its `number` is its place. params: of an enqueued trial."""
        if params is not None:
            self.study.enqueue_trial(dict(params))
        return self._storage.get_trial(self.study.ask(self._space.optuna)._trial_id)

    def hold(self, trials: Sequence[FrozenTrial]) -> None:
        """Add these trials as if they had been asked for and told, each at the place of its index."""
        told = [self._as_told(trial, trial) for trial in trials]
        for trial in told:
            trial.params = {**trial.params, **trial.system_attrs.get(ASKED, {})}
        self._rebuild(told)

    def refuse(self, place: int) -> None:
        """Fail the last asked trial, a duplicate, without reporting a result to the sampler."""
        self._storage.set_trial_state_values(self._id(place), TrialState.FAIL)

    def tell(self, told: Mapping[int, FrozenTrial]) -> None:
        """Set the results of trials, by place. If the told parameters differ from the asked ones, the told ones count."""
        held = self.study.get_trials(deepcopy=False)
        wanted = {place: self._as_told(held[place], trial) for place, trial in told.items()}
        changed = {place: trial for place, trial in wanted.items() if not _same(held[place], trial)}
        if all(_is_continuation(held[place], trial) for place, trial in changed.items()):
            for place, trial in changed.items():
                self._update(place, trial)
        else:
            self._rebuild([changed.get(place, trial) for place, trial in enumerate(held)])
        self.study = optuna.load_study(study_name=_NAME, storage=self._storage, sampler=self._sampler)

    def _open(self) -> None:
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(
            study_name=_NAME, storage=self._storage, directions=self._directions, sampler=self._sampler
        )

    def _rebuild(self, trials: Sequence[FrozenTrial]) -> None:
        """Make a new study with these trials at their places: finished trials cannot be changed in the old one."""
        self._open()
        self.study.add_trials(trials)

    def _id(self, place: int) -> int:
        study = self._storage.get_study_id_from_name(_NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, place)

    def _as_told(self, held: FrozenTrial, told: FrozenTrial) -> FrozenTrial:
        """Return this study's trial with the result of the told trial, and with its parameters if they differ."""
        trial = copy.copy(held)
        finished = told.state.is_finished()
        trial.state = told.state if finished else TrialState.RUNNING
        trial.values = told.values if told.state == TrialState.COMPLETE else None
        trial.datetime_start = trial.datetime_start or datetime.now()
        trial.datetime_complete = datetime.now() if finished else None
        if self._space.identity(told.params) != self._space.identity(held.params):
            trial.params = dict(told.params)
        counts = told.state == TrialState.PRUNED and len(self._directions) == 1
        trial.intermediate_values = dict(told.intermediate_values) if counts else {}
        constraints = {key: value for key, value in told.system_attrs.items() if key == CONSTRAINTS}
        trial.system_attrs = {**held.system_attrs, **constraints}
        return trial

    def _update(self, place: int, trial: FrozenTrial) -> None:
        """Update a RUNNING trial in place."""
        identity = self._id(place)
        for step, value in trial.intermediate_values.items():
            self._storage.set_trial_intermediate_value(identity, step, value)
        if CONSTRAINTS in trial.system_attrs:
            self._storage.set_trial_system_attr(identity, CONSTRAINTS, trial.system_attrs[CONSTRAINTS])
        if trial.state.is_finished():
            self._storage.set_trial_state_values(identity, trial.state, trial.values)


def _is_continuation(held: FrozenTrial, trial: FrozenTrial) -> bool:
    """Return whether a trial can be updated in place: it has not finished, and its parameters are the same."""
    return not held.state.is_finished() and held.params == trial.params


def _same(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Return whether a sampler sees no difference."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("state", "values", "params", "intermediate_values", "system_attrs")
    )
