"""A study in another Optuna storage, such as a team's PostgreSQL: its finished trials are added there after its own files.

The study there has the same name, and carries a mark from its first moment; its trials carry their numbers. So a process that died
anywhere leaves nothing that the next one would write twice. Trials are added in the order of their numbers, so that both studies
number them alike, except those behind a trial that had not ended when a process did.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hyperlax.errors import HyperlaxError, noun, spans
from hyperlax.study.database import read_finished
from hyperlax.study.database_rows import own_number
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.observer import Observer
from hyperlax.study.record import StudyRecord
from hyperlax.tracking.addresses import reason_of
from hyperlax.tracking.background import BackgroundObserver
from hyperlax.tracking.mirror_place import DIRECTORY, MARK, Mirror, check_mirror, mirror_of

_log = logging.getLogger(__name__)


def mirror_observers(given: str | None, study_name: str, root: Path, is_new: bool) -> list[Observer]:
    """Return the observers that mirror the study in a directory, [] if it is not mirrored. Nothing is written yet.

    given: the option `--mirror`; None is as it was before. Raises UsageError if the storage cannot be used.
    """
    mirror = mirror_of(given, study_name, root, is_new)
    if mirror is None:
        return []
    check_mirror(mirror, root)
    return [BackgroundObserver(MirrorWriter(mirror), f"the mirror {mirror.shown}")]


class MirrorWriter:
    """A writer of one study to its mirror. The last fault names the trials that are missing there; the next call reconnects."""

    def __init__(self, mirror: Mirror):
        self._mirror, self._connection = mirror, ExitStack()
        self._storage: BaseStorage | None = None
        self._study: optuna.Study | None = None
        self._there: dict[int, tuple[str, str]] = {}
        self._others = 0
        self._is_announced = False

    def follow(self, record: StudyRecord) -> None:
        """Add the trials that have ended, up to the first that has not."""
        attributes, trials = _read(record)
        in_order = [trial for place, trial in enumerate(trials) if trial.number == place]
        with self._reconnecting():
            self._add(record, attributes, in_order)

    def end(self, record: StudyRecord, status: int) -> None:
        """Add all trials that have ended."""
        attributes, trials = _read(record)
        try:
            with self._reconnecting():
                self._add(record, attributes, trials)
        except HyperlaxError as error:
            missing = [trial.number for trial in trials if trial.number not in self._there]
            named = f". Missing there: {noun(len(missing), 'trial')} {spans(missing)}" if missing else ""
            raise HyperlaxError(f"{error}{named}") from None
        self._close()

    @contextmanager
    def _reconnecting(self) -> Iterator[None]:
        """Close the connection after an exception, and raise HyperlaxError without the address's password."""
        try:
            yield
        except Exception as error:  # a driver may raise anything
            self._close()
            raise HyperlaxError(reason_of(error, self._mirror.address)) from None

    def _add(self, record: StudyRecord, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> None:
        study = self._study or self._open(record, attributes)
        changed = [one for one in trials if self._there.get(one.number, _result(one)) != _result(one)]
        if changed:
            study = self._begin_again(study, record, attributes, changed)
        for trial in trials:
            if trial.number not in self._there:
                study.add_trial(_labelled(trial))
                self._there[trial.number] = _result(trial)

    def _open(self, record: StudyRecord, attributes: Mapping[str, Any]) -> optuna.Study:
        """Connect, and return the study there. Makes it if there is none."""
        mirror = self._mirror
        self._storage = self._connection.enter_context(mirror.opened())
        mirror.write()
        self._study = study = mirror.study_in(self._storage) or self._create(record)
        _describe(study, {MARK: mirror.mark, DIRECTORY: str(record.directory.absolute()), **attributes}, record)
        found = study.get_trials(deepcopy=False)
        self._there = {number: _result(trial) for trial in found if (number := own_number(trial)) is not None}
        self._others = len(found) - len(self._there)
        if not self._is_announced:
            _log.info("Mirrored as study %s in %s.", mirror.study_name, mirror.shown)
            self._is_announced = True
        return study

    def _create(self, record: StudyRecord) -> optuna.Study:
        directions = [StudyDirection[direction.upper()] for direction in record.objectives.values()]
        return optuna.create_study(storage=self._storage, study_name=self._mirror.study_name, directions=directions)

    def _begin_again(
        self, study: optuna.Study, record: StudyRecord, attributes: Mapping[str, Any], changed: Sequence[FrozenTrial]
    ) -> optuna.Study:
        """Write the study there again, since a trial that has ended cannot be changed. It stays if others added trials to it."""
        named = f"{noun(len(changed), 'trial')} {spans([trial.number for trial in changed])}"
        if self._others:
            _log.warning(
                "The mirror keeps earlier results of %s: other programs added trials to the study there.", named
            )
            self._there |= {trial.number: _result(trial) for trial in changed}
            return study
        assert self._storage is not None
        optuna.delete_study(study_name=study.study_name, storage=self._storage)
        _log.info("The mirror is written again, since %s ended otherwise.", named)
        self._close()
        return self._open(record, attributes)

    def _close(self) -> None:
        self._connection.close()
        self._storage = self._study = None


def _read(record: StudyRecord) -> tuple[dict[str, Any], list[FrozenTrial]]:
    """Return the user attributes of a study and its trials that have ended, from its own database."""
    return read_finished(StudyDirectory(record.directory).database, record.study_name)


def _result(trial: FrozenTrial) -> tuple[str, str]:
    """Return what changes when a trial's result changes."""
    return trial.state.name, trial.user_attrs.get("batch", "")


def _labelled(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial with its number among the attributes that a dashboard shows."""
    labelled = copy.copy(trial)
    labelled.user_attrs = {"trial": trial.number, **trial.user_attrs}
    return labelled


def _describe(study: optuna.Study, attributes: Mapping[str, Any], record: StudyRecord) -> None:
    """Set the user attributes of the study in the mirror that differ, and the names of its objectives."""
    known = study.user_attrs
    for name, value in attributes.items():
        if known.get(name) != value:
            study.set_user_attr(name, value)
    if study.metric_names != list(record.objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(record.objectives))
