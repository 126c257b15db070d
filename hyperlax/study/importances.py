"""How much each hyperparameter matters, by PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hyperlax.study.record import FEWEST_FOR_IMPORTANCES


def importances(trials: Sequence[FrozenTrial], objectives: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return objective -> dotted name -> share, the largest first, of some trials of a study.

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
    """Return the PED-ANOVA of some trials by one of their values; empty if it finds that nothing matters."""
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
