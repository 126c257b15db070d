"""The desk and the files of a study, for agents of a Ray cluster that do not see its directory.

An actor on the leader's node reads and writes the directory for them. They keep the files of what they train in a temporary
directory, under the same names: saved batches, and the files of a trial's own code. Only plain data travels.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.backends.base import BackendLost
from hyperlax.backends.wire import NEWS, RESULT, TICKET, Item, Ticket
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.files import replacing, staying
from hyperlax.outputs import directory_of

LEADER, AGENT = "leader", "agent"
_AWAITED = {LEADER: {TICKET, RESULT, NEWS}, AGENT: {TICKET}}
"""Side of the desk -> what it waits for."""
_WAIT_SECONDS = {LEADER: 0.25, AGENT: 1.0}
_LOOKED = ("items", "is_stopping", "has_ended", "engine_now")
"""The methods of a desk whose results an agent gets together, for all of its threads."""
_FRESH_SECONDS = 0.02
"""Seconds for which they count, unless the agent changes something."""


class DeskActor:
    """The directory of a study as a Ray actor. It looks at the desk whenever somebody calls, also a leader that waits."""

    def __init__(self, study: str):
        self._study, self._work = Path(study), Work(Path(study))
        self._state: dict[str, Any] = {"items": []}
        self._count, self._news = dict.fromkeys(_AWAITED, 0), {side: asyncio.Event() for side in _AWAITED}
        self._cores: dict[str, dict[str, list[int]]] = {}

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the desk."""
        return await self._do(getattr(self._work, name), *arguments)

    async def read_files(self, pattern: str) -> dict[str, bytes]:
        """Return the files of the study that match a pattern."""
        return await self._do(_read_files, self._study, pattern)

    async def write_files(self, pattern: str, files: Mapping[str, bytes]) -> None:
        """Put files of the study in place of those that match a pattern."""
        await self._do(_write_files, self._study, pattern, files)

    async def wait(self, side: str, seen: int) -> tuple[int, dict[str, Any]]:
        """Wait for other news for a side than it has seen, or for some time. Return their number, and a look at the desk."""
        self.look()
        if self._count[side] == seen:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news[side].wait(), _WAIT_SECONDS[side])
        state = self.look()
        return self._count[side], state

    def look(self) -> dict[str, Any]:
        """Look at the desk. Wake those for whom there is something new."""
        before, self._state = self._state, {name: getattr(self._work, name)() for name in _LOOKED}
        came = {item.kind for item in set(self._state["items"]) - set(before["items"])}
        is_other = any(self._state[name] != before.get(name) for name in _LOOKED[1:])
        for side, kinds in _AWAITED.items():
            if came & kinds or is_other:
                self._count[side] += 1
                self._news[side].set()
                self._news[side] = asyncio.Event()
        return self._state

    def take_cores(self, node: str, agent: str, there: list[int], count: int) -> list[int]:
        """Return cores for an agent, those of its node that the fewest agents have."""
        taken = self._cores.setdefault(node, {})
        used = [core for cores in taken.values() for core in cores]
        taken[agent] = sorted(sorted(there, key=used.count)[:count])
        return taken[agent]

    def release_cores(self, agent: str) -> None:
        """Let others have the cores of an agent."""
        for taken in self._cores.values():
            taken.pop(agent, None)

    async def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that writes nothing if the study is moved or removed."""

        def do() -> Any:
            with staying(self._study):
                return function(*arguments)

        found = await asyncio.to_thread(do)
        self.look()
        return found


class LeaderDesk(Work):
    """The desk of a leader whose agents are on Ray."""

    def __init__(self, actor: Any, study: Path, need: str):
        """Make one. need: what an agent reserves, in words."""
        super().__init__(study)
        self.actor, self._need, self._seen = actor, need, -1

    @property
    def invitation(self) -> str:
        """How more agents join, in words."""
        return f"Agents train wherever the Ray cluster has room for {self._need}."

    def wait(self) -> None:
        """Wait for news. Raises BackendLost if the actor or its node has died."""
        self._seen, _ = result_of(self.actor.wait.remote(LEADER, self._seen), self.study)


class AgentDesk:
    """The desk as an agent sees it: a method that is not here is that of `Work`, called by the actor.

    study: its directory on the leader's node. root: the agent's own directory. seconds: minimum between two times that the files of
    a trial's own code are sent while it trains.
    """

    def __init__(self, actor: Any, study: str, root: Path, seconds: float):
        self.study, self._actor, self._root, self._seconds = study, actor, root, seconds
        self._folder = root
        self._trials: dict[str, tuple[int, ...]] = {}
        self._sent: dict[str, tuple[float, Any]] = {}
        self._sending = threading.Lock()
        self._seen = threading.local()
        self._looked: tuple[float, dict[str, Any]] = 0.0, {}
        self._lost: BackendLost | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _LOOKED:
            return lambda: self._look()[name]
        return partial(self.ask, "call", name)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the actor. Raises BackendLost if it cannot be reached, now or before, in whichever thread."""
        if self._lost is not None:
            raise self._lost
        try:
            found = result_of(getattr(self._actor, name).remote(*arguments), self.study)
        except BackendLost as error:
            self._lost = error
            raise
        self._looked = 0.0, {}
        return found

    def wait(self) -> None:
        """Wait for news, at most for a second."""
        self._seen.count, looked = self.ask("wait", AGENT, getattr(self._seen, "count", -1))
        self._looked = time.monotonic(), looked

    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone. Raises UsageError if it is damaged."""
        ticket = self.ask("call", "read", item)
        if ticket is not None:
            self._trials[item.batch] = ticket.numbers
        return ticket

    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        self._send_own(claim, is_last=False)
        return self.ask("call", "renew", claim)

    def give_back(self, claim: Item) -> bool:
        """Let a claimed batch wait for another agent. Return False if the claim is gone."""
        self._send_own(claim, is_last=True)
        return self.ask("call", "give_back", claim)

    def finish(self, claim: Item, result: bytes) -> bool:
        """Replace a claim by the batch's result. Return False, and drop the result, if the batch is not the agent's any more."""
        self.send_files(claim)
        return self.ask("call", "finish", claim, result)

    def send_files(self, claim: Item) -> None:
        """Give the leader the files of the own code of trials that have ended, unless the claim is gone. Remove them here."""
        self._send_own(claim, is_last=True)
        for number in self._trials.pop(claim.batch, ()):
            shutil.rmtree(directory_of(self._folder, number), ignore_errors=True)

    def checkpoints(self, is_confirmation: bool) -> CheckpointManager:
        """Return the saved batches of the search, or of the confirmation."""
        self._folder = self._root / ("confirmation" if is_confirmation else "")
        return _SentCheckpoints(self._folder / "checkpoints", self._seconds, self)

    def fetch(self, path: Path) -> None:
        """Bring files here, those below a directory or those that a name with * matches, in place of those before."""
        pattern = self._pattern(path)
        _write_files(self._root, pattern, self.ask("read_files", pattern))

    def send(self, path: Path) -> None:
        """Give the leader files, in place of those before; see `fetch`."""
        pattern = self._pattern(path)
        self.ask("write_files", pattern, _read_files(self._root, pattern))

    def _pattern(self, path: Path) -> str:
        return f"{path.relative_to(self._root).as_posix()}{'' if path.suffix else '/**/*'}"

    def _look(self) -> dict[str, Any]:
        at, looked = self._looked
        if time.monotonic() - at > _FRESH_SECONDS:
            looked = self.ask("look")
            self._looked = time.monotonic(), looked
        return looked

    def _send_own(self, claim: Item, is_last: bool) -> None:
        """Send the files of trials' own code that have changed: while a trial trains, now and then."""
        with self._sending:
            for path in [directory_of(self._folder, number) for number in self._trials.get(claim.batch, ())]:
                pattern, now = self._pattern(path), time.monotonic()
                since, seen = self._sent.get(pattern, (now, None))
                files = _stamps(self._root, pattern)
                is_due = files and files != seen and (is_last or now - since >= self._seconds)
                if is_due and self.ask("call", "renew", claim):
                    self.send(path)
                    since, seen = now, files
                self._sent[pattern] = since, seen
                if is_last:
                    del self._sent[pattern]


class _SentCheckpoints(CheckpointManager):
    """The saved sessions of an agent, which others continue."""

    def __init__(self, directory: Path, seconds: float, desk: AgentDesk):
        super().__init__(directory, seconds)
        self._desk = desk

    def pools(self) -> Iterator[tuple[Metadata, dict[str, np.ndarray]]]:
        self._desk.fetch(self._directory / "pool_*.npz")
        yield from super().pools()

    def save_pools(self, states: Sequence[tuple[Metadata, Mapping[str, np.ndarray]]]) -> None:
        super().save_pools(states)
        self._desk.send(self._directory / f"pool_{self._owner}_*.npz")

    def load_batch(self, trials: Sequence[int]) -> tuple[Metadata, dict[str, np.ndarray]] | None:
        self._desk.fetch(self._path(trials))
        return super().load_batch(trials)

    def save_batch(self, metadata: Metadata, arrays: Mapping[str, np.ndarray]) -> None:
        super().save_batch(metadata, arrays)
        self._desk.send(self._path(metadata.trials))

    def own_directory(self, trial: int) -> Path:
        self._desk.fetch(directory_of(self._directory.parent, trial))
        return super().own_directory(trial)


def result_of(reference: Any, study: object) -> Any:
    """Return what the desk's actor has answered, or raise its exception. Raises BackendLost if the actor or its node has died."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        why = type(error).__name__
        raise BackendLost(
            f"The Ray cluster that trains the study in {study} cannot be reached any more ({why})."
        ) from error


def _read_files(root: Path, pattern: str) -> dict[str, bytes]:
    """Return the regular files below a directory that match a pattern, the latest last."""
    stamps, found = _stamps(root, pattern), {}
    for name in sorted(stamps, key=lambda name: stamps[name]):
        with suppress(OSError):  # it has just been removed
            found[name] = (root / name).read_bytes()
    return found


def _write_files(root: Path, pattern: str, files: Mapping[str, bytes]) -> None:
    """Put files below a directory in place of those that match a pattern: all of them together."""
    with ExitStack() as stack:
        for name, content in files.items():
            temporary = stack.enter_context(replacing(root / name, is_durable=False))
            temporary.write_bytes(content)
            os.utime(temporary, ns=(now := time.time_ns(), now))  # they keep their order
    for name in _stamps(root, pattern).keys() - files.keys():
        (root / name).unlink(missing_ok=True)


def _stamps(root: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """Return the regular files below a directory that match a pattern, with when each was written, and its size."""
    found = {}
    for path in root.glob(pattern):
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(root).as_posix()] = status.st_mtime_ns, status.st_size
    return found
