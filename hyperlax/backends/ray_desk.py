"""A desk that a Ray actor keeps in memory, for leaders and agents that share no disk.

Only texts, bytes and numbers travel. The actor lives on the leader's node and ends with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from hyperlax.backends.desk import CLAIM, RESULT, TICKET, AgentCard, Item, Ticket
from hyperlax.errors import HyperlaxError
from hyperlax.files import convert, json_text

log = logging.getLogger(__name__)

LEADER, AGENT = "leader", "agent"
_WAIT_SECONDS = {LEADER: 0.25, AGENT: 1.0}
_FRESH_SECONDS = 0.02
"""Seconds for which a look at the desk counts. Another thread may have looked."""


class _Look(NamedTuple):
    """A look at the desk.

    items: with a number that changes when they are renewed. saved: how many files were ever saved. at: when, in seconds of
    `time.monotonic`.
    """

    number: int
    items: dict[Item, int]
    engine: str
    is_stopping: bool
    has_ended: bool
    saved: int
    at: float


class ClusterLost(HyperlaxError):
    """The error of a desk whose actor has died, or cannot be reached."""


class DeskInMemory:
    """The content of a desk. One thread uses it.

    news: how often something has happened that leaders or agents wait for.
    """

    def __init__(self) -> None:
        self.news = {LEADER: 0, AGENT: 0}
        self._items: dict[tuple[str, str, str], bytes] = {}
        self._renewed: dict[tuple[str, str, str], int] = {}
        self._engines: dict[str, str] = {}
        self._cards: dict[str, tuple[str, int]] = {}
        self._files: dict[str, tuple[str, bytes, int]] = {}
        self._cores: dict[str, dict[str, list[int]]] = {}
        self._state: dict[str, Any] = {"engine": "", "is_stopping": False, "has_ended": False, "saved": 0}
        self._device, self._count = "", 0

    def look(self) -> tuple[list[tuple[tuple[str, str, str], int]], dict[str, Any]]:
        """Return all items, in order, and the state of the study."""
        return sorted((item, self._renewed[item]) for item in self._items), dict(self._state)

    def put(self, item: tuple[str, str, str], content: bytes) -> None:
        """Put an item on the desk."""
        self._items[item] = content
        self.renew(item)
        self.news[AGENT if item[2] == TICKET else LEADER] += 1

    def get(self, item: tuple[str, str, str]) -> bytes | None:
        """Return the content of an item."""
        return self._items.get(item)

    def claim(self, item: tuple[str, str, str], agent: str) -> bool:
        """Replace a ticket by a claim. Return whether it was there."""
        if item not in self._items:
            return False
        self._items[claim := (item[0], agent, CLAIM)] = self._items.pop(item)
        self._renewed.pop(item)
        self.renew(claim)
        return True

    def renew(self, item: tuple[str, str, str]) -> bool:
        """Renew a claim. Return whether it is there."""
        if item not in self._items:
            return False
        self._count += 1
        self._renewed[item] = self._count
        return True

    def give_back(self, claim: tuple[str, str, str]) -> None:
        """Replace a claim by a ticket, if it is there."""
        if claim in self._items:
            self.put((claim[0], "", TICKET), self._items.pop(claim))
            self.news[LEADER] += 1

    def finish(self, claim: tuple[str, str, str], result: bytes) -> bool:
        """Replace a claim by a result. Return whether it was there."""
        if self._items.pop(claim, None) is None:
            return False
        self.put((claim[0], "", RESULT), result)
        return True

    def remove(self, item: tuple[str, str, str]) -> None:
        """Forget an item."""
        self._renewed.pop(item, None)
        if self._items.pop(item, None) is not None and item[2] == CLAIM:
            self.news[AGENT] += 1

    def forget(self, batch: str) -> list[str]:
        """Forget a batch, and the files that its agents have saved. Return the names of all others."""
        for item in [item for item in self._items if item[0] == batch]:
            self.remove(item)
        self._files = {name: kept for name, kept in self._files.items() if kept[0] != batch}
        return list(self._files)

    def put_engine(self, digest: str, text: str) -> None:
        """Keep a configuration."""
        self._engines[digest] = text

    def engine(self, digest: str) -> str | None:
        """Return a configuration."""
        return self._engines.get(digest)

    def write_card(self, agent: str, text: str) -> None:
        """Keep an agent's description of itself."""
        self._count += 1
        self._cards[agent] = text, self._count

    def remove_card(self, agent: str) -> None:
        """Forget an agent, and let others have its cores."""
        self._cards.pop(agent, None)
        for cores in self._cores.values():
            cores.pop(agent, None)

    def cards(self) -> dict[str, tuple[str, int]]:
        """Return agent -> its description of itself, and a number that changes whenever it is written."""
        return self._cards

    def set(self, name: str, value: Any) -> None:
        """Change the state of the study."""
        if self._state[name] != value:
            self._state[name] = value
            self.news[AGENT] += 1

    def save(self, item: tuple[str, str, str], name: str, content: bytes) -> None:
        """Keep a file of a batch, unless `item` is a claim that is gone. One of the batch "" stays until it is dropped."""
        if item[2] == CLAIM and item not in self._items:
            return
        self._state["saved"] += 1
        self._files[name] = item[0], content, self._state["saved"]

    def saved(self, name: str) -> bytes | None:
        """Return a file."""
        kept = self._files.get(name)
        return kept[1] if kept else None

    def saved_since(self, count: int) -> tuple[int, dict[str, bytes]]:
        """Return the files that were saved after a number, and the number from which to ask the next time."""
        found = {name: content for name, (_, content, at) in self._files.items() if at > count}
        return self._state["saved"], found

    def names(self, beginning: str) -> list[str]:
        """Return the names of files that begin so, the latest last."""
        return sorted(
            (name for name in self._files if name.startswith(beginning)), key=lambda name: self._files[name][2]
        )

    def drop(self, name: str) -> None:
        """Forget a file."""
        self._files.pop(name, None)

    def agree(self, device: str) -> str:
        """Return the kind of device that all agents have to have: that of the first one that asks."""
        self._device = self._device or device
        return self._device

    def take_cores(self, node: str, agent: str, there: list[int], count: int) -> list[int]:
        """Return cores for an agent, those of its node that the fewest agents have."""
        taken = self._cores.setdefault(node, {})
        used = [core for cores in taken.values() for core in cores]
        taken[agent] = sorted(sorted(there, key=used.count)[:count])
        return taken[agent]


class DeskActor:
    """A desk as a Ray actor: a coroutine waits for news, everything else is done at once."""

    def __init__(self) -> None:
        self._desk = DeskInMemory()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {LEADER: [], AGENT: []}

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the desk."""
        before = dict(self._desk.news)
        found = getattr(self._desk, name)(*arguments)
        for side, count in self._desk.news.items():
            if count != before[side]:
                waiting, self._waiting[side] = self._waiting[side], []
                for future in waiting:
                    if not future.done():
                        future.set_result(None)
        return found

    async def look(self, side: str, seen: int, seconds: float) -> tuple[int, Any, Any]:
        """Wait until there is other news for a side than it has seen, or for some seconds. Return its number, items and state."""
        if seconds and self._desk.news[side] == seen:
            self._waiting[side].append(future := asyncio.get_running_loop().create_future())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(future, seconds)
        return self._desk.news[side], *self._desk.look()


class RayDesk:
    """A desk that an actor keeps, as a leader or an agent sees it.

    study: its directory on the leader's node. side: `LEADER` or `AGENT`.
    """

    def __init__(self, actor: Any, study: str, side: str):
        self.actor, self.study, self._side = actor, study, side
        self._look: _Look | None = None
        self._seen = threading.local()

    @property
    def invitation(self) -> str:
        """How more agents join, in words."""
        return "Agents train wherever the Ray cluster has room for them."

    def is_there(self) -> bool:
        """Return True: agents of Ray do not see the directory."""
        return True

    def wait(self) -> None:
        """Wait for news, at most for a second."""
        self._seen.number = self._look_now(getattr(self._seen, "number", -1), _WAIT_SECONDS[self._side]).number

    def items(self) -> list[Item]:
        """Return all items, in order."""
        return list(self._fresh().items)

    def offer(self, batch: str, ticket: Ticket) -> None:
        """Let a batch wait for an agent."""
        self.change("put", (batch, "", TICKET), json_text(ticket, indent=None).encode())

    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone."""
        content = self.call("get", tuple(item))
        return None if content is None else convert(json.loads(content), Ticket, "a ticket")

    def claim(self, item: Item, agent: str) -> Item | None:
        """Take a waiting batch. Return its claim, None if another agent was faster or the leader took it back."""
        return Item(item.batch, agent, CLAIM) if self.change("claim", tuple(item), agent) else None

    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        return self.call("renew", tuple(claim))

    def renewed(self, item: Item) -> float | None:
        """Return a number that changes when a claim is renewed, None if the item is gone."""
        return self._fresh().items.get(item)

    def give_back(self, claim: Item) -> None:
        """Let a claimed batch wait for another agent, unless the claim is gone."""
        self.change("give_back", tuple(claim))

    def finish(self, claim: Item, result: bytes) -> bool:
        """Replace a claim by the batch's result. Return False, and drop the result, if the batch is not the agent's any more."""
        return self.change("finish", tuple(claim), result)

    def send_files(self, claim: Item) -> None:
        """Do nothing: `AgentDesk` does."""

    def post(self, item: Item, content: bytes) -> None:
        """Put news on the desk."""
        self.change("put", tuple(item), content)

    def result(self, item: Item) -> bytes | None:
        """Return the result of a batch, or the content of news; None if it is gone."""
        return self.call("get", tuple(item))

    def remove(self, item: Item) -> None:
        """Forget an item."""
        self.change("remove", tuple(item))

    def forget(self, batch: str) -> None:
        """Forget everything about a batch."""
        self.change("forget", batch)

    def put_engine(self, digest: str, text: str) -> None:
        """Keep a configuration under its digest."""
        self.call("put_engine", digest, text)

    def engine(self, digest: str) -> str | None:
        """Return the configuration of this digest, None if its leader has ended."""
        return self.call("engine", digest)

    def write_card(self, agent: str, card: AgentCard) -> None:
        """Say what an agent is doing, and that it lives."""
        self._tell("write_card", agent, json_text(vars(card), indent=None))

    def remove_card(self, agent: str) -> None:
        """Forget an agent."""
        self._tell("remove_card", agent)

    def cards(self) -> dict[str, tuple[AgentCard, float]]:
        """Return agent -> what it said of itself, and a number that changes whenever it does."""
        found = self.call("cards").items()
        return {agent: (convert(json.loads(text), AgentCard, agent), count) for agent, (text, count) in found}

    def lead(self, engine: str) -> None:
        """Say the configuration that agents need now."""
        self.change("set", "engine", engine)

    def engine_now(self) -> str:
        """Return the configuration that agents need now, "" if there is no leader."""
        return self._fresh().engine

    def is_stopping(self) -> bool:
        """Return whether agents have to hand back what they train."""
        return self._fresh().is_stopping

    def set_stopping(self, is_stopping: bool) -> None:
        """Ask agents to hand back what they train, or let them train again."""
        self.change("set", "is_stopping", is_stopping)

    def has_ended(self) -> bool:
        """Return whether the leader has ended the study."""
        return self._fresh().has_ended

    def set_ended(self, has_ended: bool) -> None:
        """Say that the study has ended, or that it continues."""
        self.change("set", "has_ended", has_ended)

    def clear(self) -> None:
        """Remove what only a leader needs."""
        self.lead("")
        for batch in {item.batch for item in self.items()}:
            self.forget(batch)

    def saved(self) -> int:
        """Return how many files agents have ever saved."""
        return self._fresh().saved

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of `DeskInMemory`. Raises ClusterLost if the actor or its node has died."""
        return self._get(self.actor.call.remote(name, *arguments))

    def change(self, name: str, *arguments: Any) -> Any:
        """Call a method that changes what a look at the desk shows."""
        found = self.call(name, *arguments)
        self._look = None
        return found

    def _tell(self, *arguments: Any) -> None:
        """Call a method that nothing depends on."""
        try:
            self.call(*arguments)
        except HyperlaxError as error:
            log.debug("%s", error)

    def _fresh(self) -> _Look:
        look = self._look
        if look is None or time.monotonic() - look.at > _FRESH_SECONDS:
            look = self._look_now(-1, 0.0)
        return look

    def _look_now(self, seen: int, seconds: float) -> _Look:
        number, items, state = self._get(self.actor.look.remote(self._side, seen, seconds))
        found = {Item(*item): renewed for item, renewed in items}
        self._look = look = _Look(number, found, **state, at=time.monotonic())
        return look

    def _get(self, reference: Any) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(reference)
        except RayError as error:
            why = type(error).__name__
            raise ClusterLost(
                f"The Ray cluster that trains the study in {self.study} cannot be reached any more ({why})."
            ) from error
