"""How the trials of a population follow one another, as the database keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hyperlax.study.directory import SCHEDULE
from hyperlax.study.pbt_schedule import replay_command
from hyperlax.study.record import Lineage

MEMBER, INTERVAL, PARENT = "member", "interval", "parent"
"""User attributes of a trial. A trial of interval 0 has the parent None."""


def finished_intervals(trials: Sequence[FrozenTrial], members: int) -> list[FrozenTrial]:
    """Return the trials of the intervals that have ended."""
    return list(trials[: sum(trial.state.is_finished() for trial in trials) // members * members])


def lineage_of(trials: Sequence[FrozenTrial], members: int, root: Path) -> Lineage:
    """Return how the trials of whole intervals follow one another. root: the study's directory."""
    parents = {trial.number: trial.user_attrs[PARENT] for trial in trials if trial.user_attrs[PARENT] is not None}
    last = trials[-members:] if trials else []
    best = max(
        last,
        key=lambda trial: (-math.inf if math.isnan(score_of(trial)) else score_of(trial), -trial.number),
        default=None,
    )
    final = None if best is None or math.isnan(score_of(best)) else best.number
    return Lineage(members, parents, final, replay_command(root / SCHEDULE))


def score_of(trial: FrozenTrial) -> float:
    """Return the value of a trial that is COMPLETE, else nan."""
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan
