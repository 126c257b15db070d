"""Where a study is mirrored: another Optuna storage, the study's mark there, and what is kept of both in the study's directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hyperlax.config.stored import MANIFEST
from hyperlax.errors import HyperlaxError, OptionError
from hyperlax.files import decode, write_json
from hyperlax.seals import is_sealed, seal
from hyperlax.study.database import PATIENCE
from hyperlax.study.directory import MIRROR, StudyDirectory
from hyperlax.tracking.addresses import (
    absolute_sqlite,
    check_file,
    check_form,
    file_of,
    reason_of,
    secrets_of,
    without_secrets,
)

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
_KINDS = ("sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle")
"""Databases that Optuna can use."""
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
            if isinstance(storage, RDBStorage):
                storage.remove_session()
                storage.engine.dispose()

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


def check_mirror(mirror: Mirror, root: Path) -> None:
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
        check_form(address, _KINDS, "a journal file")
        if found and kind.partition("+")[0] == "sqlite":
            return absolute_sqlite(address, "optuna.db")
        if found:
            return address
        path = Path(address).absolute()
        check_file(path, f"{path}/optuna.journal")
        return str(path)
    except ValueError as error:
        shown, problem = (without_secrets(text, address) for text in (address, str(error)))
        raise OptionError("mirror", f"{asked_by} {{0}}: {{1}}", shown, problem) from error


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
