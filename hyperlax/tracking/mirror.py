"""A study in another Optuna storage, such as a team's PostgreSQL: its finished trials are added there after its own files.

The study there has the same name, and carries a mark from its first moment; its trials carry their numbers. So a process that died
anywhere leaves nothing that the next one would write twice. Trials are added in the order of their numbers, so that both studies
number them alike, except those behind a trial that had not ended when a process did.
"""

from __future__ import annotations

import copy
import logging
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hyperlax.config.stored import MANIFEST
from hyperlax.errors import HyperlaxError, OptionError, noun, spans
from hyperlax.files import decode, write_json
from hyperlax.seals import is_sealed, seal
from hyperlax.study.database import PATIENCE, read_finished
from hyperlax.study.database_rows import own_number
from hyperlax.study.directory import MIRROR, StudyDirectory
from hyperlax.study.observer import Observer
from hyperlax.study.record import StudyRecord
from hyperlax.tracking.addresses import absolute_sqlite, check_file, file_of, reason_of, secrets_of, without_secrets
from hyperlax.tracking.background import BackgroundObserver

log = logging.getLogger(__name__)

VARIABLE = "HYPERLAX_MIRROR"
MARK, DIRECTORY = "hyperlax_mark", "hyperlax_directory"
"""User attributes of the study in the mirror: what only this study has, and where it is."""
_SECONDS = 10
"""Seconds to wait for a server."""
_WAITING = {
    "sqlite": {"timeout": PATIENCE},
    "postgresql": {"connect_timeout": _SECONDS},
    "mysql": {"connect_timeout": _SECONDS},
}
"""Kind of a database -> the arguments of its driver that say how long to wait."""
_OPTUNA_ADDS = "pip install psycopg2-binary for postgresql://, psycopg[binary] for postgresql+psycopg://, pymysql for mysql+pymysql://"


@dataclass(frozen=True)
class _Kept:
    """The content of `mirror.json`.

    storage: None if its address holds a password. mark: of the study there. seal: this user's mark of the two.
    """

    storage: str | None
    mark: str
    seal: str = ""


@dataclass(frozen=True)
class Mirror:
    """A study's place in another storage. address: of the storage. path: the file that stores this."""

    address: str
    study_name: str
    mark: str
    path: Path

    @property
    def shown(self) -> str:
        """The address without a password."""
        return without_secrets(self.address, self.address)

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database or a journal, None for a server."""
        return file_of(self.address) if "://" in self.address else Path(self.address)

    def write(self) -> None:
        """Write the place into the study's directory, without an address that holds a password."""
        storage = None if secrets_of(self.address) else self.address
        write_json(self.path, vars(_Kept(storage, self.mark, seal([storage, self.mark]))))

    @contextmanager
    def opened(self) -> Iterator[BaseStorage]:
        """Yield the storage, with Optuna's tables."""
        storage = _connect(self.address)
        try:
            yield storage
        finally:
            _close(storage)

    def study_in(self, storage: BaseStorage) -> optuna.Study | None:
        """Return the study there, None if there is none. Raises HyperlaxError if another one has its name."""
        if self.study_name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=self.study_name, storage=storage)
        mark, where = (study.user_attrs.get(name) for name in (MARK, DIRECTORY))
        is_own = mark == self.mark and not is_copy(self.path.parent, where)
        if is_own or (mark is None and not study.get_trials(deepcopy=False)):
            return study
        raise HyperlaxError(
            f"has another study of the name {self.study_name}" + (f", that of {where}" if where else "")
        )

    def delete(self) -> None:
        """Delete the study there. Raises HyperlaxError, without the address's password, if that fails."""
        try:
            with self.opened() as storage:
                optuna.delete_study(study_name=self.study_name, storage=storage)
        except Exception as error:  # a driver may raise anything
            raise HyperlaxError(reason_of(error, self.address)) from None


def is_copy(root: Path, written_by: str | None) -> bool:
    """Return whether what is in another place was written from another directory, which still holds that study."""
    if not written_by or not (Path(written_by) / MANIFEST).exists():
        return False
    return not root.exists() or not root.samefile(written_by)


def mirror_observers(given: str | None, study_name: str, root: Path, is_new: bool) -> list[Observer]:
    """Return the observers that mirror the study in a directory, [] if it is not mirrored. Nothing is written yet.

    given: the option `--mirror`; None is as it was before. Raises UsageError if the storage cannot be used.
    """
    mirror = mirror_of(given, study_name, root, is_new)
    if mirror is None:
        return []
    _check(mirror, root)
    return [BackgroundObserver(MirrorWriter(mirror), f"the mirror {mirror.shown}")]


def mirror_of(given: str | None, study_name: str, root: Path, is_new: bool) -> Mirror | None:
    """Return the place where a study in `root` is mirrored; None if it is not.

    Raises UsageError if a password is missing, or no storage can have this address.
    """
    path = root / MIRROR
    kept = decode(path, _Kept) if path.exists() and not is_new else None
    asked_by, address = "{mirror}", given
    if address is None and os.environ.get(VARIABLE):
        asked_by, address = VARIABLE, os.environ[VARIABLE]
    if address is None and kept is not None:
        if not is_sealed([kept.storage, kept.mark], kept.seal):
            problem = "{0}: no run of yours wrote this address. Give {mirror} with one, or {mirror} none."
            raise OptionError("mirror", problem, path)
        address = kept.storage
        if address is None:
            problem = (
                "the address of this study's mirror holds a password and was not stored. Set {0} again, or give {mirror}, with an "
                "address or none."
            )
            raise OptionError("mirror", problem, VARIABLE)
    if address is None or address == "none":
        return None
    mark = kept.mark if kept else uuid.uuid4().hex
    return Mirror(_checked(address, asked_by), study_name, mark, path)


class MirrorWriter:
    """A writer of one study to its mirror. The last fault names the trials that are missing there; the next call reconnects."""

    def __init__(self, mirror: Mirror):
        self._mirror = mirror
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
        self._storage = _connect(mirror.address)
        mirror.write()
        self._study = study = mirror.study_in(self._storage) or self._create(record)
        _describe(study, {MARK: mirror.mark, DIRECTORY: str(record.directory.absolute()), **attributes}, record)
        found = study.get_trials(deepcopy=False)
        self._there = {number: _result(trial) for trial in found if (number := own_number(trial)) is not None}
        self._others = len(found) - len(self._there)
        if not self._is_announced:
            log.info("Mirrored as study %s in %s.", mirror.study_name, mirror.shown)
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
            log.warning(
                "The mirror keeps earlier results of %s: other programs added trials to the study there.", named
            )
            self._there |= {trial.number: _result(trial) for trial in changed}
            return study
        assert self._storage is not None
        optuna.delete_study(study_name=study.study_name, storage=self._storage)
        log.info("The mirror is written again, since %s ended otherwise.", named)
        self._close()
        return self._open(record, attributes)

    def _close(self) -> None:
        if self._storage is not None:
            _close(self._storage)
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


def _check(mirror: Mirror, root: Path) -> None:
    """Raise OptionError if the storage cannot be reached, or holds something else. A missing file is not made yet."""
    file = mirror.file
    if file is not None and file.resolve() == StudyDirectory(root).database.resolve():
        raise OptionError("mirror", "{mirror} {0}: is the study's own database. Name another storage.", mirror.shown)
    if file is not None and not file.exists():
        return
    try:
        with mirror.opened() as storage:
            mirror.study_in(storage)
    except HyperlaxError as error:
        problem = "{mirror} {0}: {1}. Choose another {study_name}, another storage, or {mirror} none."
        raise OptionError("mirror", problem, mirror.shown, error) from None
    except ImportError as error:
        problem = "{mirror} {0}: the driver of its database is not installed ({1}): {2}."
        raise OptionError("mirror", problem, mirror.shown, error, _OPTUNA_ADDS) from None
    except Exception as error:  # a driver may raise anything
        problem = "{mirror} {0}: cannot be used ({1}). Fix this, or give {mirror} none."
        raise OptionError("mirror", problem, mirror.shown, reason_of(error, mirror.address)) from None


def _checked(address: str, asked_by: str) -> str:
    """Return the address with an absolute path. asked_by: `{mirror}`, or the variable.

    Raises OptionError if no storage can have it.
    """
    kind, found, _ = address.partition("://")
    try:
        if not address.strip():
            raise ValueError("is empty. Name a storage, such as sqlite:///optuna.db")
        if found and kind.partition("+")[0] == "sqlite":
            return absolute_sqlite(address, "optuna.db")
        if found:
            return address
        path = Path(address).absolute()
        check_file(path, f"{path}/optuna.journal")
        return str(path)
    except ValueError as error:
        shown = without_secrets(address, address)
        raise OptionError("mirror", f"{asked_by} {{0}}: {{1}}", shown, str(error)) from error


def _connect(address: str) -> BaseStorage:
    """Return a storage, connected. Raises HyperlaxError if another program's tables are there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in address:
        return JournalStorage(JournalFileBackend(address))
    import sqlalchemy

    arguments = {"connect_args": _WAITING.get(address.partition("://")[0].partition("+")[0], {})}
    engine = sqlalchemy.create_engine(address, **arguments)
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        raise HyperlaxError(f"holds tables of another program ({', '.join(sorted(tables)[:4])}, ...)")
    return RDBStorage(address, engine_kwargs=arguments)


def _close(storage: BaseStorage) -> None:
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
