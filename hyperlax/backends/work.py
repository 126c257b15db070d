"""A desk in the directory `work/` of a study.

A batch is one file, whose name says where it is: `<batch>.ticket` waits, `<batch>.<agent>.claim` is trained by that agent,
`<batch>.result` is trained. `<number>.<agent>.news` is what an agent has told the leader. An agent takes a batch by renaming its
ticket, which only one can. It renews its lease by changing the claim's modification time. No clock of a machine is compared with
such a time: it counts whether it changes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

from hyperlax.backends.wire import CLAIM, NEWS, RESULT, TICKET, AgentCard, Item, Ticket
from hyperlax.config.option import shell_command
from hyperlax.errors import HyperlaxError, UsageError, format_time, numbered
from hyperlax.files import (
    PUT_BACK,
    TO_READ,
    TO_WRITE,
    convert,
    decode,
    json_text,
    naming,
    open_regular,
    read_bytes,
    remove,
    replacing,
    write_text,
)
from hyperlax.leases import Leases

log = logging.getLogger(__name__)

WORK = "work"
_POLL_SECONDS = 0.03
_AGENT, _LEADER, _STOP, _ENDED = ".agent", "leader.json", "stop", "ended.json"
_ITEM = re.compile(rf"([ab]\d{{5,}}-[0-9a-f]{{12}}|n\d+)(?:\.([\w-]+))?\.({TICKET}|{CLAIM}|{RESULT}|{NEWS})")
FILES = rf"{_ITEM.pattern}|engine-[0-9a-f]{{12}}\.json|[\w-]+\{_AGENT}|leader\.json|stop|ended\.json"
"""The names of all files in the directory, as a pattern."""
_MOST_BYTES, _MOST_BYTES_OF_RESULT = 2**26, 2**32
"""Size above which a file of JSON, and a result with its policies, is not read."""


_PASSING = (errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.ESTALE)
"""Errors of a file server that is away for some seconds. ESTALE: the file was replaced on another machine."""
_PATIENCE_SECONDS = 5.0
F = TypeVar("F", bound=Callable[..., Any])


def _patient(method: F) -> F:
    """Return a method that is called again for some seconds if the file server fails."""

    @wraps(method)
    def call(*arguments: Any) -> Any:
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return method(*arguments)
            except OSError as error:
                if error.errno not in _PASSING or time.monotonic() > until:
                    raise
                time.sleep(_POLL_SECONDS)

    return cast(F, call)


class _Leader(TypedDict):
    """The content of the leader's file. heard: agent -> how many seconds ago the leader has heard of it."""

    host: str
    process: int
    engine: str
    heard: dict[str, float]


class Work:
    """The directory `work/` of the study in `root`. Methods may be called from any thread."""

    def __init__(self, root: Path):
        self.study, self.root = root, root / WORK
        self._heard = Leases[str]()
        self._engines: dict[str, str] = {}
        self._others: set[Path] = set()

    @property
    def invitation(self) -> str:
        """How more agents join, in words."""
        return f"Agents join with\n  {shell_command('agent', self.study)}"

    @_patient
    def check_there(self) -> None:
        """Raise HyperlaxError if the study is not in its place any more."""
        if not self.study.is_dir():
            raise HyperlaxError(f"{self.study}: the study was moved or removed.")

    def wait(self) -> None:
        """Wait for the time between two looks: a directory does not say that it changes."""
        time.sleep(_POLL_SECONDS)

    @_patient
    def items(self) -> list[Item]:
        """Return all batches and news, in order; none if there is no directory. Warn once of each that is not a file."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if one := _ITEM.fullmatch(entry.name):
                    if entry.is_file(follow_symlinks=False):
                        found.append(Item(one[1], one[2] or "", one[3]))
                    else:
                        self._tell_if_other(Path(entry.path))
        return found

    def path(self, item: Item) -> Path:
        """Return the path of an item's file."""
        return self.root / ".".join(filter(None, item))

    @_patient
    def offer(self, batch: str, ticket: Ticket) -> None:
        """Let a batch wait for an agent."""
        write_text(self.path(Item(batch, "", TICKET)), json_text(vars(ticket), indent=None), is_durable=False)

    @_patient
    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone. Raises UsageError if it is damaged."""
        path = self.path(item)
        try:
            return convert(json.loads(read_bytes(path, _MOST_BYTES, TO_READ)), Ticket, str(path), PUT_BACK)
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            return decode(path, Ticket)

    @_patient
    def claim(self, item: Item, agent: str) -> Item | None:
        """Take a waiting batch. Return its claim, None if another agent was faster or the leader took it back."""
        claim = Item(item.batch, agent, CLAIM)
        try:
            with self._permitted(), naming(self.path(item)):
                os.utime(self.path(item))  # the lease begins before the claim has its name
                os.rename(self.path(item), self.path(claim))
        except FileNotFoundError:
            return None
        return claim

    def check_claims(self, is_led: bool) -> None:
        """Raise UsageError if this user may not claim what the leader hands out. is_led: whether there is one."""
        with self._permitted():
            with tempfile.TemporaryFile(dir=self.root if self.root.is_dir() else self.study):
                pass
            with suppress(FileNotFoundError):
                if is_led:
                    open_regular(self.root / _LEADER, TO_WRITE).close()

    @_patient
    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        try:
            os.utime(self.path(claim))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    @_patient
    def renewed(self, item: Item) -> float | None:
        """Return the modification time of an item's file, None if it is gone."""
        return self._written(self.path(item))

    @_patient
    def give_back(self, claim: Item) -> bool:
        """Let a claimed batch wait for another agent. Return False if the claim is gone."""
        with suppress(FileNotFoundError):
            os.rename(self.path(claim), self.path(Item(claim.batch, "", TICKET)))
            return True
        return False

    def finish(self, claim: Item, result: bytes) -> bool:
        """Replace a claim by the batch's result. Return False, and drop the result, if the batch is not the agent's any more."""
        if not self.renew(claim):
            return False
        self.post(Item(claim.batch, "", RESULT), result)
        self.remove(claim)
        return True

    def send_files(self, claim: Item) -> None:
        """Do nothing: they are in the study's directory."""

    @_patient
    def post(self, item: Item, content: bytes) -> None:
        """Put news on the desk."""
        try:
            _write(self.path(item), content)
        except FileNotFoundError:  # a leader that begins removes temporary files, also this one
            _write(self.path(item), content)

    @_patient
    def result(self, item: Item) -> bytes | None:
        """Return the result of a batch, or the content of news; None if it is gone."""
        with suppress(FileNotFoundError):
            return read_bytes(self.path(item), _MOST_BYTES_OF_RESULT, TO_READ)
        return None

    @_patient
    def remove(self, item: Item) -> None:
        """Forget an item."""
        remove(self.path(item))

    def forget(self, batch: str) -> None:
        """Forget everything about a batch."""
        for item in self.items():
            if item.batch == batch:
                self.remove(item)

    @_patient
    def put_engine(self, digest: str, text: str) -> None:
        """Keep a configuration under its digest."""
        self._engines[digest] = text
        write_text(self._engine(digest), text, is_durable=False)

    def engine(self, digest: str) -> str | None:
        """Return the configuration of this digest, None if its leader has ended."""
        with suppress(OSError, ValueError):
            return read_bytes(self._engine(digest), _MOST_BYTES, TO_READ).decode()
        return None

    def write_card(self, agent: str, card: AgentCard) -> None:
        """Say what an agent is doing, and that it lives. Raises FileNotFoundError if the study was moved or removed."""
        self.root.stat()
        write_text(self._card(agent), json_text(vars(card)), is_durable=False)

    @_patient
    def remove_card(self, agent: str) -> None:
        """Forget an agent."""
        remove(self._card(agent))

    @_patient
    def cards(self) -> dict[str, tuple[AgentCard, float]]:
        """Return agent -> what it said of itself, and when, as a modification time."""
        found = {}
        for name in self._names():
            if name.endswith(_AGENT) and not name.startswith("."):
                path = self.root / name
                with suppress(OSError, UsageError):
                    card = convert(_json_of(path), AgentCard, str(path))
                    found[name.removesuffix(_AGENT)] = card, path.stat().st_mtime
        for agent, (_, written) in found.items():
            self._heard.age(agent, written)
        self._heard.keep(found)
        return found

    def now(self) -> float:
        """Return the latest modification time here: about now by the file server's clock, while a leader or an agent lives."""
        times = (self._written(self.root / name) for name in self._names())
        return max((time for time in times if time is not None), default=0.0)

    @_patient
    def lead(self, engine: str) -> None:
        """Say that this process leads the study, that it lives, and the configuration that agents need now.

        And how many seconds ago it has heard of each agent, by its own count. The configuration is kept again if it is gone.
        """
        if engine in self._engines and not self._engine(engine).exists():
            self.put_engine(engine, self._engines[engine])
        heard = {agent: round(seconds, 1) for agent, seconds in self._heard.ages().items()}
        about = _Leader(host=socket.gethostname(), process=os.getpid(), engine=engine, heard=heard)
        write_text(self.root / _LEADER, json_text(about, indent=None), is_durable=False)

    def heard(self) -> dict[str, float]:
        """Return how many seconds ago the leader has heard of each agent."""
        return self._leader()["heard"]

    def engine_now(self) -> str:
        """Return the configuration that agents need now, "" if there is no leader."""
        return self._leader()["engine"]

    @_patient
    def is_stopping(self) -> bool:
        """Return whether agents have to hand back what they train."""
        return (self.root / _STOP).exists()

    @_patient
    def set_stopping(self, is_stopping: bool) -> None:
        """Ask agents to hand back what they train, or let them train again."""
        if is_stopping:
            write_text(self.root / _STOP, "", is_durable=False)
        else:
            remove(self.root / _STOP)

    @_patient
    def has_ended(self) -> bool:
        """Return whether the leader has ended the study."""
        return (self.root / _ENDED).exists()

    def set_ended(self, has_ended: bool) -> None:
        """Say that the study has ended, or that it continues."""
        if has_ended:
            write_text(self.root / _ENDED, "{}\n", is_durable=False)
        else:
            remove(self.root / _ENDED)

    def clear(self) -> None:
        """Remove what only a leader needs."""
        remove(self.root / _LEADER)
        for path in (
            *map(self.path, self.items()),
            *self.root.glob("engine-*.json"),
            *self.root.glob(".*.tmp"),
        ):
            remove(path)

    @contextmanager
    def _permitted(self) -> Iterator[None]:
        """Raise UsageError, with what would work, if the system does not permit the block to this user."""
        try:
            yield
        except PermissionError as error:
            raise UsageError(
                f"{self.study}: this user may not claim what the leader hands out there ({error.strerror}). Run the agent "
                "as the leader's user, or let a group of both write there: chmod -R g+rwX, chmod g+s for its directories, and "
                "umask 002 before the leader starts."
            ) from error

    def _tell_if_other(self, path: Path) -> None:
        """Say once that something else than a file, which no process here has made, has the name of an item."""
        with suppress(OSError):  # a file that is gone now
            if not stat.S_ISREG(path.lstat().st_mode) and path not in self._others:
                self._others.add(path)
                log.warning("%s: is not a file, and is ignored. Remove it.", path)

    def _written(self, path: Path) -> float | None:
        """Return the modification time of a file, which only says whether it has changed; None if it is gone."""
        try:
            return path.stat().st_mtime
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    def _leader(self) -> _Leader:
        """Return what the leader says of itself, empty if there is none."""
        with suppress(UsageError):
            return convert(_json_of(self.root / _LEADER), _Leader, _LEADER)
        return _Leader(host="", process=0, engine="", heard={})

    def _engine(self, digest: str) -> Path:
        return self.root / f"engine-{digest}.json"

    def _card(self, agent: str) -> Path:
        return self.root / f"{agent}{_AGENT}"

    def _names(self) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from sorted(os.listdir(self.root))


def agents_in_words(study: Path, is_led: bool) -> list[str]:
    """Return a line for each agent of a study: where it is, what it trains, and when it was last heard of.

    is_led: whether a process leads the study. It knows better than the times of files, which some file systems take from the
    clock of the agent's machine.
    """
    work = Work(study)
    now, heard = (work.now(), work.heard()) if is_led else (max(work.now(), time.time()), {})
    lines = []
    for agent, (card, written) in work.cards().items():
        trained = [
            f"{numbered(trials)} (evaluation {done} of {whole})" for trials, done, whole in card.batches.values()
        ]
        does = f"{'confirms ' if card.is_confirmation else ''}{', '.join(trained)}" if trained else "waits"
        lines.append(
            f"{agent} on {card.host}, {card.device_kind or card.device}, since {format_time(card.began)}: {does}; "
            f"last heard of {heard.get(agent, max(0.0, now - written)):.0f} s ago"
        )
    return lines


def _json_of(path: Path) -> Any:
    """Return the content of a JSON file, None if it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(read_bytes(path, _MOST_BYTES, TO_READ))
    return None


def _write(path: Path, content: bytes) -> None:
    with replacing(path, is_durable=False) as temporary:
        temporary.write_bytes(content)
