"""The results of trials as their tasks leave them in Metaflow's datastore, and the batch mode, whose study is made from them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import optuna
from metaflow import current  # pyright: ignore[reportPrivateImportUsage]
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from hyperlax.errors import HyperlaxError, counted
from hyperlax.metaflow.rendezvous import ABOUT, OUTPUT_ROOT, REASON, TASK
from hyperlax.tasks import Direction

_WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


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
        cls, trial: Trial | FixedTrial | None, began: datetime, state: TrialState, value: float | None, reason: str
    ) -> TrialResult:
        """Return the result of a trial that began then and ends now; None stands for one that could not begin."""
        params, distributions = (dict(trial.params), dict(trial.distributions)) if trial else ({}, {})
        number, seconds = trial.number if trial else -1, (datetime.now() - began).total_seconds()
        return cls(number, params, value, _WORDS[state], seconds, began, distributions, reason=reason)

    @property
    def optuna_state(self) -> TrialState:
        """State, as Optuna has it."""
        return next(state for state, word in _WORDS.items() if word == self.state)

    def frozen(self, task: str = "") -> FrozenTrial:
        """Return it as a trial for `Study.add_trial`. task: the id of its task, if that is known."""
        found = create_trial(
            state=self.optuna_state,
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


@dataclass(frozen=True)
class TrialConfig:
    """A configuration for a task of a `foreach`. params: hyperparameter -> value."""

    trial_number: int
    params: dict[str, Any]
    direction: str = "minimize"


def create_study_inputs(
    search_space: Callable[[Trial], Any],
    n_trials: int,
    sampler: BaseSampler | None = None,
    direction: Direction = "minimize",
) -> list[TrialConfig]:
    """Return the configurations of all trials, for a `foreach`. None of them follows from a result.

    Args:
      search_space: Called with each trial, of which it asks the same `suggest_...` as the step of the trials.
      n_trials: How many.
      sampler: Any of Optuna's; a Sobol sequence by default.
      direction: "minimize" or "maximize".
    """
    be_quiet()
    sampler = sampler or QMCSampler(scramble=True, seed=42, warn_independent_sampling=False)
    study = optuna.create_study(direction=direction, sampler=sampler)
    trials = []
    for _ in range(n_trials):
        trials.append(study.ask())
        search_space(trials[-1])
    return [TrialConfig(trial.number, dict(trial.params), direction) for trial in trials]


def rebuild_study(
    inputs: Iterable[Any],
    objective: str,
    direction: Direction = "minimize",
    study_name: str | None = None,
    output_root: str | None = OUTPUT_ROOT,
) -> optuna.Study:
    """Return the Optuna study of the tasks that a join gets, or of `task.data` of tasks that Metaflow's client returns.

    A task without a result, such as one that was killed, is a trial that failed.

    Args:
      inputs: Anything with `trial_result`, as `@hyperparam` leaves it.
      objective: The name of what the trials reached.
      direction: "minimize" or "maximize".
      study_name: Of the Optuna study.
      output_root: Write the study as a directory of Hyperlax below this one, if this is called in a step; None writes nothing.

    Raises HyperlaxError if no trial is complete.
    """
    be_quiet()
    results = [getattr(one, "trial_result", None) for one in inputs]
    study = new_study(optuna.create_study(direction=direction, study_name=study_name), objective, len(results))
    known = {result.trial_number: result.frozen() for result in results if result}
    lost = create_trial(state=TrialState.FAIL, user_attrs={REASON: "lost: its task has left no result"})
    for number in range(max(len(results), max(known, default=-1) + 1)):
        study.add_trial(known.get(number, lost))
    if output_root is not None and current.is_running_flow and results:
        print(written(study, output_root))
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        reason = next((result.reason for result in results if result and result.reason), "there are none")
        raise HyperlaxError(
            f"rebuild_study: no complete one among {counted(len(results), 'trial')}. The first reason: {reason}."
        )
    return study


def new_study(study: optuna.Study, objective: str, total: int, **more: Any) -> optuna.Study:
    """Note in a study what it is of: the objective, the trials, and the run of a flow if this is one. Return it."""
    about = {"objective": objective, "n_trials": total, **more}
    if current.is_running_flow:
        about |= {"flow": current.flow_name, "file": os.path.abspath(sys.argv[0]), "run": current.run_id}
    study.set_user_attr(ABOUT, about)
    return study


def written(study: optuna.Study, output_root: str, has_pages: bool = True) -> str:
    """Write a study's directory. Return a sentence on where it is, or why that is not possible: Metaflow keeps the study, too."""
    from hyperlax.metaflow.directory import write_study

    try:
        return f"The study is in {write_study(study, output_root, has_pages)}."
    except Exception as error:  # the trials matter more
        kind = "" if isinstance(error, (HyperlaxError, OSError)) else f"{type(error).__name__}: "
        return f"The study's directory is not written: {kind}{error}"


def be_quiet() -> None:
    """Leave out what Optuna says of each trial, and that its proxy and others are experimental."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
