"""Optuna's trials as the plain data that the analysis reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hyperlax.metrics import METRICS
from hyperlax.study.distributions import SearchSpace
from hyperlax.study.record import TrialRecord
from hyperlax.study.storage import is_feasible


def trial_record(frozen: FrozenTrial, space: SearchSpace, objectives: Sequence[str], root: Path) -> TrialRecord:
    """A trial of the study whose directory is `root`."""
    attributes = frozen.user_attrs
    complete = frozen.state == TrialState.COMPLETE
    return TrialRecord(
        number=frozen.number,
        state=frozen.state.name if frozen.state.is_finished() else "RUNNING",
        reason=attributes.get("reason", ""),
        params=space.decode(frozen.params),
        values=dict(zip(objectives, frozen.values, strict=True)) if complete else {},
        metrics={name: attributes[name] for name in METRICS if name in attributes},
        batch_directory=root / attributes["batch"] if "batch" in attributes else None,
        exec_batch=attributes.get("exec_batch"),
        feasible=is_feasible(frozen),
    )
