"""The desk between a leader and its agents: hparam batches on their way to agents and back. Standard library only.

A batch waits as a `TICKET`, is trained by the agent that has its `CLAIM`, and has a `RESULT` once it is trained. Where lanes are
refilled, a batch is one trial. Its agent puts `NEWS` on the desk after every segment and keeps the claim until the leader removes
it. `work` keeps a desk in a directory.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypedDict

from hyperlax.errors import HyperlaxError

LEASE_SECONDS = 60.0
"""Seconds after which an agent that did not renew its claim has lost it."""
TICKET, CLAIM, RESULT, NEWS = "ticket", "claim", "result", "news"
ALONE = "a"
"""First letter of a batch, usually b, whose agent may train only batches of its group at the same time."""


class Item(NamedTuple):
    """A batch on the desk, or news, which have a number in its place. kind: `TICKET`, `CLAIM`, `RESULT` or `NEWS`.

    agent: the claim's or that of the news, else "".
    """

    batch: str
    agent: str
    kind: str


class Ticket(TypedDict):
    """The content of a ticket, and of the claim that it becomes.

    engine: the configuration that the agent needs. trials: number and values of each. group: as in `Backend.enter`. losses: how
    often an agent has lost it.
    """

    engine: str
    trials: list[tuple[int, dict[str, Any]]]
    repetition: int
    group: int
    losses: int


@dataclass(frozen=True)
class AgentCard:
    """An agent's description of itself.

    device: the kind, or words if any will do. batches: batch -> its trials and how many evaluations of how many are done.
    engine: the configuration that it is ready for. machine, lanes, packing: what its backend is then, see `Backend`. beginning:
    that of its process, see `child`.
    """

    host: str
    process: int
    device: str
    slots: int
    began: str
    batches: dict[str, tuple[list[int], int, int]]
    engine: str = ""
    machine: str = ""
    lanes: int = 1
    packing: dict[str, Any] = field(default_factory=dict)
    beginning: str = ""


class Desk(Protocol):
    """A desk. Its methods may be called from any thread.

    study: the study's directory, for messages. invitation: how more agents join, in words.
    """

    @property
    def study(self) -> object: ...

    @property
    def invitation(self) -> str: ...

    def is_there(self) -> bool:
        """Return whether the study is still in its place."""
        ...

    def wait(self) -> None:
        """Return once something may have changed."""
        ...

    def items(self) -> list[Item]:
        """Return all batches and news, in the order of their names."""
        ...

    def offer(self, batch: str, ticket: Ticket) -> None:
        """Let a batch wait for an agent."""
        ...

    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone. Raises UsageError if it is damaged."""
        ...

    def claim(self, item: Item, agent: str) -> Item | None:
        """Take a waiting batch. Return its claim, None if another agent was faster or the leader took it back."""
        ...

    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        ...

    def renewed(self, item: Item) -> float | None:
        """Return a number that changes when a claim is renewed, None if the item is gone."""
        ...

    def give_back(self, claim: Item) -> None:
        """Let a claimed batch wait for another agent, unless the claim is gone."""
        ...

    def finish(self, claim: Item, result: bytes) -> bool:
        """Replace a claim by the batch's result. Return False, and drop the result, if the batch is not the agent's any more."""
        ...

    def send_files(self, claim: Item) -> None:
        """Give the leader the files of trials' own code, which have ended, unless it sees them or the claim is gone."""
        ...

    def post(self, item: Item, content: bytes) -> None:
        """Put news on the desk."""
        ...

    def result(self, item: Item) -> bytes | None:
        """Return the result of a batch, or the content of news; None if it is gone."""
        ...

    def remove(self, item: Item) -> None:
        """Forget an item."""
        ...

    def forget(self, batch: str) -> None:
        """Forget everything about a batch."""
        ...

    def put_engine(self, digest: str, text: str) -> None:
        """Keep a configuration under its digest."""
        ...

    def engine(self, digest: str) -> str | None:
        """Return the configuration of this digest, None if its leader has ended."""
        ...

    def write_card(self, agent: str, card: AgentCard) -> None:
        """Say what an agent is doing, and that it lives. Raises OSError if the study was moved or removed."""
        ...

    def remove_card(self, agent: str) -> None:
        """Forget an agent."""
        ...

    def cards(self) -> dict[str, tuple[AgentCard, float]]:
        """Return agent -> what it said of itself, and a number that changes whenever it does."""
        ...

    def lead(self, engine: str) -> None:
        """Say that this process leads the study, that it lives, and the configuration that agents need now."""
        ...

    def engine_now(self) -> str:
        """Return the configuration that agents need now, "" if there is no leader."""
        ...

    def is_stopping(self) -> bool:
        """Return whether agents have to hand back what they train."""
        ...

    def set_stopping(self, is_stopping: bool) -> None:
        """Ask agents to hand back what they train, or let them train again."""
        ...

    def has_ended(self) -> bool:
        """Return whether the leader has ended the study."""
        ...

    def set_ended(self, has_ended: bool) -> None:
        """Say that the study has ended, or that it continues."""
        ...

    def clear(self) -> None:
        """Remove what only a leader needs."""
        ...


def check_there(desk: Desk) -> None:
    """Raise HyperlaxError if the study is not in its place any more."""
    if not desk.is_there():
        raise HyperlaxError(f"{desk.study}: the study was moved or removed.")


def ticket_of(
    trials: Mapping[int, dict[str, Any]], engine: str, repetition: int, group: int = 0, losses: int = 0
) -> Ticket:
    """Return a ticket. trials: number -> values."""
    return Ticket(engine=engine, trials=list(trials.items()), repetition=repetition, group=group, losses=losses)


def name_of_agent() -> str:
    """Return a name for this process that no other process has, on any host."""
    return f"{agents_of_process(os.getpid())}{os.urandom(2).hex()}"


def agents_of_process(pid: int) -> str:
    """Return the beginning of the names of a process's agents, on this host."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '-', socket.gethostname())[:40]}-{pid}-"
