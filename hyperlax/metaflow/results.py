"""The result of a trial as its task leaves it in Metaflow's datastore, and what a study says about its run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

REASON = "reason"
"""The user attribute of a trial with the reason of its failure."""
TASK = "hyperlax:task"
"""The system attribute of a trial with the id of the task that trains it."""
OUTPUT_ROOT = "my_optuna_studies"
OBJECTIVE, N_TRIALS = "hyperlax:objective", "hyperlax:n_trials"
"""User attributes of a study: the name of its objective, and the trials of its run."""
FLOW, FILE, RUN = "hyperlax:flow", "hyperlax:file", "hyperlax:run"
"""User attributes of a study: the name and the file of its flow, and the id of the run."""
DIRECTORY = "hyperlax:directory"
"""The user attribute with the directory that a study was written into last."""
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class TrialResult:
    """The artifact `trial_result` of a task.

    state: "complete", "pruned" or "failed"; reason: why it failed, else "". value: the objective, None unless complete.
    trial_number: -1 if it never began.
    """

    trial_number: int
    params: dict[str, Any]
    value: float | None
    state: str
    duration_seconds: float
    start_datetime: datetime
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    intermediate_values: dict[int, float] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def of(
        cls, trial: Trial | FixedTrial | FrozenTrial | None, state: TrialState, began: datetime, **more: Any
    ) -> TrialResult:
        """Return the result of a trial that began then and ends now; None stands for one that could not begin."""
        seconds = (datetime.now() - began).total_seconds()
        params, distributions = (dict(trial.params), dict(trial.distributions)) if trial else ({}, {})
        number = trial.number if trial else -1
        word = _STATES.get(state, "failed")
        return cls(number, params, more.pop("value", None), word, seconds, began, distributions, **more)

    def frozen(self, task: str | None = None) -> FrozenTrial:
        """Return it as a trial for `Study.add_trial`. task: the id of its task, if that is known."""
        state = next((state for state, word in _STATES.items() if word == self.state), TrialState.FAIL)
        found = create_trial(
            state=state,
            value=self.value,
            params=self.params,
            distributions=self.distributions,
            intermediate_values=self.intermediate_values,
            user_attrs={REASON: self.reason} if self.reason else {},
            system_attrs={TASK: task} if task else {},
        )
        found.number = self.trial_number
        found.datetime_start = self.start_datetime
        found.datetime_complete = self.start_datetime + timedelta(seconds=self.duration_seconds)
        return found


def about_run() -> dict[str, Any]:
    """Return the user attributes of a study that say which run of a flow it is of; {} outside of a run."""
    from metaflow import current  # pyright: ignore[reportPrivateImportUsage]

    if not current.is_running_flow:
        return {}
    return {FLOW: current.flow_name, FILE: os.path.abspath(sys.argv[0]), RUN: current.run_id}
