"""The batch mode, which needs no coordinator: configurations suggested beforehand, and the study made again from the results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import optuna
from metaflow import current  # pyright: ignore[reportPrivateImportUsage]
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler
from optuna.trial import Trial, TrialState, create_trial

from hyperlax.errors import HyperlaxError, counted
from hyperlax.metaflow.results import N_TRIALS, OBJECTIVE, OUTPUT_ROOT, REASON, about_run
from hyperlax.tasks import Direction


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    inputs = list(inputs)
    results = [one.trial_result for one in inputs if getattr(one, "trial_result", None)]
    study = optuna.create_study(direction=direction, study_name=study_name)
    about = {OBJECTIVE: objective, N_TRIALS: len(inputs), **about_run()}
    for name, value in about.items():
        study.set_user_attr(name, value)
    known = {result.trial_number: result for result in results}
    lost = create_trial(state=TrialState.FAIL, user_attrs={REASON: "lost: its task has left no result"})
    for number in range(max(len(inputs), max(known, default=-1) + 1)):
        study.add_trial(known[number].frozen() if number in known else lost)
    if output_root is not None and current.is_running_flow and inputs:
        from hyperlax.metaflow.directory import write_study

        try:
            print(f"The study is in {write_study(study, output_root)}.")
        except (HyperlaxError, OSError) as error:
            print(f"The study's directory is not written: {error}")
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        reason = next((result.reason for result in results if result.reason), "there are none")
        raise HyperlaxError(
            f"rebuild_study: no complete one among {counted(len(inputs), 'trial')}. The first reason: {reason}."
        )
    return study
