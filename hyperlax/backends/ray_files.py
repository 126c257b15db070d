"""The files of trials, sent between a leader and its agents on Ray: saved batches, and what a trial's own code keeps.

The study's directory on the leader's disk has the latest of each, the desk those of batches that have not ended. Agents have them
in a temporary directory, under the same names.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.backends.desk import TICKET, AgentCard, Item, Ticket
from hyperlax.backends.ray_desk import AGENT, LEADER, RayDesk
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.errors import HyperlaxError
from hyperlax.files import make_directories, replacing
from hyperlax.outputs import OWN_FILES, directory_of

_CHECKPOINTS, _CONFIRMATION = "checkpoints", "confirmation"
_OF_NO_BATCH = Item("", "", "")
"""The item of files that stay until they are dropped: saved lanes, which hold trials of many batches."""
_ZIP = ".zip"
_NAME = re.compile(rf"({_CONFIRMATION}/)?({_CHECKPOINTS}/(trial|pool)_[\w-]+\.npz|{OWN_FILES}/trial_\d+\.zip)")


class LeaderDesk(RayDesk):
    """The leader's side of a desk. What agents save comes to the study's directory, and so do their cards, for others to see."""

    def __init__(self, actor: Any, study: Path):
        super().__init__(actor, str(study), LEADER)
        self._root, self._work = study, Work(study)
        self._folder, self._count = study, 0
        self._there: set[str] = set()
        self._shown: dict[str, float] = {}

    def put_engine(self, digest: str, text: str) -> None:
        """Keep a configuration under its digest."""
        self._folder = self._root / (_CONFIRMATION if json.loads(text)["config"]["is_confirmation"] else "")
        for agent in self._work.cards():  # of a leader that was killed
            self._work.remove_card(agent)
        for path in (self._folder / OWN_FILES).glob(".trial_*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        for path in sorted((self._folder / _CHECKPOINTS).glob("pool_*.npz"), key=lambda path: path.stat().st_mtime):
            self._send(_OF_NO_BATCH, path)
        super().put_engine(digest, text)

    def offer(self, batch: str, ticket: Ticket) -> None:
        """Let a batch wait for an agent, with what is saved of it."""
        self._take_files()
        numbers = [number for number, _ in ticket["trials"]]
        for path in (
            self._folder / _CHECKPOINTS / f"trial_{numbers[0]:05d}.npz",
            *(directory_of(self._folder, number) for number in numbers),
        ):
            if _name(path, self._root) not in self._there:
                self._send(Item(batch, "", TICKET), path)
        super().offer(batch, ticket)

    def forget(self, batch: str) -> None:
        """Forget everything about a batch but its files, which come to the study's directory."""
        self._look = None
        self._take_files()
        self._there &= set(self.change("forget", batch))

    def result(self, item: Item) -> bytes | None:
        """Return the result of a batch, None if it is gone. Its files are there before."""
        self._take_files()
        return super().result(item)

    def cards(self) -> dict[str, tuple[AgentCard, float]]:
        """Return agent -> what it said of itself, and a number that changes whenever it does."""
        self._take_files()
        cards = super().cards()
        for name in [name for name in self._there if "/pool_" in name and not (self._root / name).exists()]:
            self._there.remove(name)
            self.call("drop", name)
        self._work.root.mkdir(exist_ok=True)
        for agent, (card, number) in cards.items():
            if self._shown.get(agent) != number:
                self._work.write_card(agent, card)
        for agent in self._shown.keys() - cards.keys():
            self._work.remove_card(agent)
        self._shown = {agent: number for agent, (_, number) in cards.items()}
        return cards

    def has_agents(self) -> bool:
        """Return whether an agent has a card."""
        return bool(self._shown)

    def clear(self) -> None:
        """Remove what only a leader needs."""
        self._take_files()
        super().clear()
        for agent in self._shown:
            self._work.remove_card(agent)
        self._shown = {}

    def _take_files(self) -> None:
        """Write what agents have saved since the last call."""
        if self.saved() == self._count:
            return
        self._count, files = self.call("saved_since", self._count)
        self._there |= files.keys()
        for name, content in files.items():
            if not _NAME.fullmatch(name):
                raise HyperlaxError(f"An agent has sent the file {name!r}, which no agent saves.")
            _unpack(self._root / name, content)

    def _send(self, item: Item, path: Path) -> None:
        name, content = _packed(path, self._root)
        if content is not None:
            self.call("save", tuple(item), name, content)
            self._there.add(name)


class AgentDesk(RayDesk):
    """An agent's side of a desk.

    root: its own directory, in place of the study's. seconds: minimum between two times that the files of a trial's own code are
    sent while it trains.
    """

    def __init__(self, actor: Any, study: str, root: Path, seconds: float):
        super().__init__(actor, study, AGENT)
        self._root, self._seconds = root, seconds
        self._folder = root
        self._trials: dict[str, list[int]] = {}
        self._claims: dict[int, Item] = {}
        self._sent: dict[Path, tuple[float, Any]] = {}
        self._sending = threading.Lock()

    def checkpoints(self, is_confirmation: bool) -> CheckpointManager:
        """Return the saved batches of the search, or of the confirmation."""
        self._folder = self._root / (_CONFIRMATION if is_confirmation else "")
        return _SentCheckpoints(self._folder / _CHECKPOINTS, self._seconds, self)

    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone."""
        ticket = super().read(item)
        if ticket is not None:
            self._trials[item.batch] = [number for number, _ in ticket["trials"]]
        return ticket

    def claim(self, item: Item, agent: str) -> Item | None:
        """Take a waiting batch. Return its claim, None if another agent was faster or the leader took it back."""
        claim = super().claim(item, agent)
        if claim is not None:
            self._claims |= dict.fromkeys(self._trials.get(item.batch, ()), claim)
        return claim

    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        is_own = super().renew(claim)
        if is_own:
            self._send_directories(claim, is_last=False)
        return is_own

    def give_back(self, claim: Item) -> None:
        """Let a claimed batch wait for another agent, with what is saved of it."""
        self._send_directories(claim, is_last=True)
        super().give_back(claim)

    def finish(self, claim: Item, result: bytes) -> bool:
        """Replace a claim by the batch's result. Return False, and drop the result, if the batch is not the agent's any more."""
        self.send_files(claim)
        return super().finish(claim, result)

    def send_files(self, claim: Item) -> None:
        """Give the leader the files of trials' own code, which have ended, unless the claim is gone. They go here."""
        self._send_directories(claim, is_last=True)
        with self._sending:
            for number in self._trials.pop(claim.batch, ()):
                shutil.rmtree(directory_of(self._folder, number), ignore_errors=True)

    def fetch(self, path: Path) -> None:
        """Bring a file or directory to what is saved of it: that of another agent, maybe."""
        name = _name(path, self._root)
        content = self.call("saved", name)
        if content is not None:
            _unpack(self._root / name, content)
        elif not path.suffix:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def send(self, item: Item, path: Path) -> None:
        """Save a file or directory. item: the claim of its batch."""
        name, content = _packed(path, self._root)
        if content is not None:
            self.call("save", tuple(item), name, content)

    def send_batch(self, trial: int, path: Path) -> None:
        """Save the file of a batch that has a trial, unless the batch was taken from this agent."""
        self.send(self._claims[trial], path)

    def fetch_pools(self, directory: Path) -> None:
        """Bring the saved lanes of all agents into a directory, the latest last."""
        names = self.call("names", _name(directory / "pool_", self._root).removesuffix(_ZIP))
        for path in directory.glob("pool_*.npz"):
            if _name(path, self._root) not in names:
                path.unlink(missing_ok=True)
        for name in names:
            self.fetch(self._root / name)

    def send_pools(self, directory: Path, owner: str) -> None:
        """Save the saved lanes of an agent, in place of those before."""
        beginning = f"pool_{owner}_"
        paths = sorted(directory.glob(f"{beginning}*.npz"))
        for path in paths:
            self.send(_OF_NO_BATCH, path)
        for name in self.call("names", _name(directory / beginning, self._root).removesuffix(_ZIP)):
            if self._root / name not in paths:
                self.call("drop", name)

    def _send_directories(self, claim: Item, is_last: bool) -> None:
        with self._sending:
            now = time.monotonic()
            for path in [directory_of(self._folder, number) for number in self._trials.get(claim.batch, ())]:
                since, seen = self._sent.get(path, (now, None))
                files = _stamps(path)
                if files and files != seen and (is_last or now - since >= self._seconds):
                    self.send(claim, path)
                    since, seen = now, files
                self._sent[path] = since, seen
                if is_last:
                    del self._sent[path]


class _SentCheckpoints(CheckpointManager):
    """The saved sessions of an agent, which others continue."""

    def __init__(self, directory: Path, seconds: float, desk: AgentDesk):
        super().__init__(directory, seconds)
        self._desk = desk

    def pools(self) -> Iterator[tuple[Metadata, dict[str, np.ndarray]]]:
        """Yield the saved sessions of refilled lanes of all agents, the latest first."""
        self._desk.fetch_pools(self._directory)
        yield from super().pools()

    def save_pools(self, states: Sequence[tuple[Metadata, Mapping[str, np.ndarray]]]) -> None:
        """Replace the saved sessions of this agent's refilled lanes."""
        super().save_pools(states)
        self._desk.send_pools(self._directory, self._owner)

    def load_batch(self, trials: Sequence[int]) -> tuple[Metadata, dict[str, np.ndarray]] | None:
        """Return the last save of a batch by any agent, None if there is none."""
        self._desk.fetch(self._path(trials))
        return super().load_batch(trials)

    def save_batch(self, metadata: Metadata, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the last save of a batch."""
        super().save_batch(metadata, arrays)
        self._desk.send_batch(metadata.trials[0], self._path(metadata.trials))

    def own_directory(self, trial: int) -> Path:
        """Make and return the directory where a trial's own code keeps files, with those of the agents before."""
        self._desk.fetch(directory_of(self._directory.parent, trial))
        return super().own_directory(trial)


def _name(path: Path, root: Path) -> str:
    """Return the name under which a file or directory is sent."""
    name = path.relative_to(root).as_posix()
    return name if path.suffix else f"{name}{_ZIP}"


def _packed(path: Path, root: Path) -> tuple[str, bytes | None]:
    """Return the name and the content of a file, or of a directory's regular files; None if there are none."""
    name = _name(path, root)
    if path.suffix:
        with suppress(OSError):
            return name, path.read_bytes()
        return name, None
    content, files = io.BytesIO(), _stamps(path)
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            with suppress(OSError):  # it has just been removed
                archive.write(path / file, file)
    return name, content.getvalue() if files else None


def _unpack(path: Path, content: bytes) -> None:
    """Write a file, or the files of a directory in place of those before."""
    if path.suffix != _ZIP:
        with replacing(path, is_durable=False) as temporary:
            temporary.write_bytes(content)
        return
    directory, beside = path.with_suffix(""), path.with_name(f".{path.stem}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    make_directories(beside / "new")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(beside / "new")
    with suppress(FileNotFoundError):
        os.rename(directory, beside / "old")
    os.rename(beside / "new", directory)
    shutil.rmtree(beside, ignore_errors=True)


def _stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return the regular files below a directory, with their size and when they were written."""
    found = {}
    for path in sorted(directory.rglob("*")):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[path.relative_to(directory).as_posix()] = status.st_size, status.st_mtime_ns
    return found
