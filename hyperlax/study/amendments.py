"""What a user has changed of a study's results: failed trials to run again, and trials taken out of the ranking.

The file is the truth, and is written before the database is brought in line with it: whatever interrupts that, the next start
does it. It also says how many trials the study had by then, since what was suggested before followed from the old results.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_type_hints

from optuna.trial import FrozenTrial, TrialState

from hyperlax.errors import UsageError
from hyperlax.files import write_json
from hyperlax.reading import DAMAGED, fits, read_json

INVALIDATED = "invalidated"


@dataclass(frozen=True)
class Amendment:
    """The result that a trial had in `batch`, a directory below the study's, counts no more. asked: trials of the study by then."""

    kind: Literal["retried", "invalidated"]
    trial: int
    batch: str
    asked: int
    reason: str


class Amendments:
    """Those of one study, in the order in which they were made. UsageError if the file is not what was written."""

    def __init__(self, path: Path):
        self._path = path
        self._made = _read(path) if path.exists() else []

    def __iter__(self) -> Iterator[Amendment]:
        return iter(self._made)

    def add(self, made: Sequence[Amendment]) -> None:
        """Make some more, all of them or none."""
        self._made = [*self._made, *made]
        write_json(self._path, [asdict(amendment) for amendment in self._made])

    def is_retried(self, trial: int, batch: str) -> bool:
        """Whether a failed trial was to be run again after this batch."""
        return any((a.kind, a.trial, a.batch) == ("retried", trial, batch) for a in self._made)

    def batches(self) -> set[str]:
        """The batches that are spoken of."""
        return {amendment.batch for amendment in self._made}

    def is_invalidated(self, trial: int) -> bool:
        """Whether a trial is out of the ranking."""
        return any((a.kind, a.trial) == ("invalidated", trial) for a in self._made)

    def as_known(self, trials: Sequence[FrozenTrial], start: int, objectives: Sequence[str]) -> list[FrozenTrial]:
        """The trials as they were when the super-batch that begins with trial `start` was first asked."""
        later: dict[int, Amendment] = {}
        for amendment in self._made:
            if amendment.asked > start:
                later.setdefault(amendment.trial, amendment)
        return [_before(trial, later, objectives) for trial in trials]


def _before(trial: FrozenTrial, later: Mapping[int, Amendment], objectives: Sequence[str]) -> FrozenTrial:
    """The trial before the first amendment that came later."""
    if trial.number not in later:
        return trial
    if later[trial.number].kind == "retried":
        return as_failed(trial)
    before = copy.copy(trial)
    before.state, before.values = TrialState.COMPLETE, [trial.user_attrs[name] for name in objectives]
    return before


def as_failed(trial: FrozenTrial) -> FrozenTrial:
    """The trial as if it had failed. Optuna demands times of it; nothing follows from them."""
    failed = copy.copy(trial)
    failed.state, failed.values = TrialState.FAIL, None
    failed.datetime_start = failed.datetime_complete = datetime.now()
    return failed


def _read(path: Path) -> list[Amendment]:
    stored: Any = read_json(path)
    hints, names = get_type_hints(Amendment), {field.name for field in fields(Amendment)}
    entries: list[Any] = stored if isinstance(stored, list) else [stored]
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() != names or not all(fits(entry[n], hints[n]) for n in names):
            raise UsageError(f"{path}: holds {entry!r}, which Hyperlax does not write there. {DAMAGED}")
    return [Amendment(**entry) for entry in entries]
