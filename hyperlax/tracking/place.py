"""The place where a study is tracked: from the flags, MLflow's own variable, and `mlflow.json` of the study's directory."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from hyperlax.backends.base import EngineConfig
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import decode, write_json
from hyperlax.seals import is_sealed, seal
from hyperlax.study.directory import TRACKING
from hyperlax.tracking.addresses import (
    SQLITE,
    absolute_sqlite,
    address_of,
    check_form,
    file_of,
    secrets_of,
    without_secrets,
)

_log = logging.getLogger(__name__)

VARIABLE = "MLFLOW_TRACKING_URI"
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LONGEST_EXPERIMENT = 500
_WRITTEN_SECONDS = 10.0
"""Longest time in which a leader that has just begun a study writes where it tracks it."""


@dataclass(frozen=True)
class _Kept:
    """The content of `mlflow.json`.

    uri: of the store, None if it held a password. study: a tag that only the parent run has. seal: this user's mark of the rest.
    """

    uri: str | None
    experiment: str
    study: str
    seal: str = ""

    @property
    def content(self) -> list[str | None]:
        """The sealed fields."""
        return [self.uri, self.experiment, self.study]


@dataclass(frozen=True)
class Place:
    """A study's place in MLflow. uri: of the store. study: a tag that only its parent run has. path: the file that stores this."""

    uri: str
    experiment: str
    study: str
    path: Path

    @property
    def database(self) -> Path | None:
        """The file of an SQLite store, None for any other."""
        return file_of(self.uri)

    @property
    def is_local(self) -> bool:
        """True for a store of files of this machine."""
        return self.database is not None or ("://" not in self.uri.removeprefix("file://") and self.uri != "databricks")

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of a server that is reached directly, None for another store or if they are not known."""
        kind = self.uri.partition("://")[0].partition("+")[0]
        try:
            found = urlsplit(self.uri)
            host, port = found.hostname, found.port or _PORTS.get(kind)
        except ValueError:
            return None
        is_behind_a_proxy = kind in getproxies() and not proxy_bypass(host or "")
        return (host, port) if host and port and not is_behind_a_proxy else None

    @property
    def shown(self) -> str:
        """The address without a password."""
        return without_secrets(self.uri, self.uri)

    def hidden(self, text: str) -> str:
        """Return a text of MLflow's without the address's password."""
        return without_secrets(text, self.uri)

    def write(self) -> None:
        """Write the place into the study's directory, without an address that holds a password."""
        kept = _Kept(None if secrets_of(self.uri) else self.uri, self.experiment, self.study)
        write_json(self.path, {**vars(kept), "seal": seal(kept.content)})

    def write_if_new(self) -> None:
        """Write the place if none of this study is stored yet, so that its parent run is found again if the process dies.

        A stored place has the same tag, and perhaps an address that has worked. `write` replaces it once the new one has worked.
        """
        with suppress(UsageError):
            if (kept := _kept(self.path)) and kept.study == self.study:
                return
        self.write()


def place_of(
    track: str | None, uri: str | None, experiment: str | None, study_name: str, root: Path, is_new: bool
) -> Place | None:
    """Return the place where a study in `root` is tracked; None if it is not. A resumed study keeps settings that are not given.

    Settings that no run of this user's has stored do not count: they could send the results anywhere, or into another study.

    Raises:
      UsageError: The study cannot be tracked with these settings, or others than this user have chosen where.
    """
    path = root / TRACKING
    kept = None if is_new else _kept(path)
    if (track or ("mlflow" if kept else "none")) == "none":
        for name, value in (("tracking_uri", uri), ("tracking_experiment", experiment)):
            if value is not None:
                problem = f"{{{name}}} says where {{track}} mlflow writes. Give that as well, or leave {{{name}}} out."
                raise OptionError(name, problem)
        return None
    if experiment is not None and not 0 < len(experiment.strip()) <= _LONGEST_EXPERIMENT:
        problem = "{tracking_experiment} needs a name of at most {0} characters, or leave it out for the study's."
        raise OptionError("tracking_experiment", problem, _LONGEST_EXPERIMENT)
    if kept and not is_sealed(kept.content, kept.seal):
        if uri is None and not os.environ.get(VARIABLE):
            problem = (
                "{0}: no run of yours wrote this address. Give {track} mlflow and {tracking_uri}, or {track} none."
            )
            raise OptionError("track", problem, path)
        kept = None
    found = _found_uri(uri, kept)
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        leave = "" if track else ", or give {track} none"
        raise OptionError("track", f'{{track}} mlflow needs the package mlflow: pip install "hyperlax[mlflow]"{leave}')
    name = experiment or (kept.experiment if kept else study_name)
    if len(name) > _LONGEST_EXPERIMENT:
        raise OptionError(
            "track",
            "{track} mlflow names the experiment after the study, whose name has {0} characters; MLflow allows {1}. Give a shorter "
            "name with {tracking_experiment}.",
            len(name),
            _LONGEST_EXPERIMENT,
        )
    return Place(found, name, kept.study if kept else uuid.uuid4().hex, path)


def with_address(config: EngineConfig, found: Path | str) -> EngineConfig:
    """Return an agent's configuration with the address of MLflow, if the study's commands have runs there.

    It does not travel with the configuration, since it may hold a password. found: the study's directory where agents see it, else
    the address, "" if it holds a password.
    """
    if not config.mlflow:
        return config
    try:
        address = _address_for_agents(found / TRACKING) if isinstance(found, Path) else _address_here(found)
        return replace(config, mlflow={**config.mlflow, "uri": address})
    except UsageError as error:
        _log.warning("Commands get no run in MLflow: %s", error)
        return replace(config, mlflow=None)


def _address_for_agents(path: Path) -> str:
    """Return the address that the leader has stored, or that of the variable. Raise UsageError if there is none for this agent."""
    until = time.monotonic() + _WRITTEN_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    kept = _kept(path)
    if kept and kept.uri and is_sealed(kept.content, kept.seal):
        return _address_here(kept.uri)
    why = "holds a password and was not stored" if kept and not kept.uri else "was not written by a run of yours"
    return _address_here("", f"{path}: the address of MLflow {why}")


def _address_here(uri: str, why: str = "the address of MLflow holds a password and was not sent") -> str:
    """Return an address, or that of the variable if it is "". Raise UsageError if this machine lacks either, saying why."""
    if not uri:
        if os.environ.get(VARIABLE):
            return _checked(os.environ[VARIABLE], VARIABLE)
        raise UsageError(f"{why}. Set {VARIABLE}.")
    database = file_of(uri)
    if database is not None and not database.exists():
        raise UsageError(
            f"{database} does not exist on this machine. Track the study on a server for agents elsewhere."
        )
    return uri


def address_to_send(config: EngineConfig) -> str:
    """Return the address for `with_address` of a configuration, "" if it has none or one with a password."""
    uri = config.mlflow["uri"] if config.mlflow else ""
    return "" if secrets_of(uri) else uri


def _kept(path: Path) -> _Kept | None:
    """Return the settings that an earlier process wrote; None if there are none. Raise UsageError if they are damaged."""
    return decode(path, _Kept) if path.exists() else None


def _found_uri(given: str | None, kept: _Kept | None) -> str:
    """Return the flag's address, else the variable's, else the stored one, else MLflow's default for the working directory."""
    if given is not None:
        if secrets_of(given):
            problem = "{tracking_uri} holds a password, which would be stored. Set {0} instead, which is not stored."
            raise OptionError("tracking_uri", problem, VARIABLE)
        return _checked(given, "{tracking_uri}")
    if os.environ.get(VARIABLE):
        return _checked(os.environ[VARIABLE], VARIABLE)
    if kept is None:
        return address_of(Path("mlflow.db").absolute())
    if kept.uri is None:
        raise UsageError(
            f"the address of this study's MLflow holds a password and was not stored. Set {VARIABLE} again."
        )
    return kept.uri


def _checked(uri: str, asked_by: str) -> str:
    """Return the address with an absolute path. Raise OptionError if MLflow has no such store, or its file has no directory.

    asked_by: `{tracking_uri}`, or the variable.
    """

    def refusal(problem: str) -> OptionError:
        return OptionError("tracking_uri", f"{asked_by} {{0}}{{1}}", without_secrets(uri, uri), problem)

    if not uri.strip():
        raise OptionError(
            "tracking_uri", f"{asked_by} is empty. Name a store such as {SQLITE}mlflow.db, or leave it out."
        )
    kind, found, _ = uri.partition("://")
    kind = kind.partition("+")[0]
    plugins = importlib.metadata.entry_points(group="mlflow.tracking_store").names
    if found and kind not in _STORES and kind not in plugins:
        raise refusal(
            f": MLflow has no store named {kind}. Use {SQLITE}FILE, http://HOST:PORT, or one of {', '.join(_STORES)}."
        )
    if uri.startswith(("file:", "databricks")):
        return uri
    try:
        check_form(uri, _STORES, "a directory")
        if not found:
            return str(Path(uri).absolute())
        return absolute_sqlite(uri, "mlflow.db") if kind == "sqlite" else uri
    except ValueError as error:
        raise refusal(f": {without_secrets(str(error), uri)}") from error
