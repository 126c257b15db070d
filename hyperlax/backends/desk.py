"""The desk between a leader and its agents: hparam batches on their way to agents and back. Standard library only.

A batch waits as a `TICKET`, is trained by the agent that has its `CLAIM`, and has a `RESULT` once it is trained. Where lanes are
refilled, a batch is one trial. Its agent puts `NEWS` on the desk after every segment and keeps the claim until the leader removes
it. `work` keeps a desk in a directory.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class Ticket:
    """The content of a ticket, and of the claim that it becomes.

    engine: the configuration that the agent needs. trials: number and values of each. group: as in `Backend.enter`. losses: how
    often an agent has lost it.
    """

    engine: str
    trials: list[tuple[int, dict[str, Any]]]
    repetition: int = 0
    group: int = 0
    losses: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(number for number, _ in self.trials)


@dataclass(frozen=True)
class AgentCard:
    """An agent's description of itself.

    device: the kind, or words if any will do. batches: batch -> its trials and how many evaluations of how many are done.
    engine: the configuration that it is ready for. machine, lanes, packing: what its backend is then, see `Backend`. beginning:
    that of its process, see `child`. is_confirmation: whether it confirms the batches.
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
    is_confirmation: bool = False


def name_of_agent() -> str:
    """Return a name for this process that no other process has, on any host."""
    return f"{agents_of_process(os.getpid())}{os.urandom(2).hex()}"


def agents_of_process(pid: int) -> str:
    """Return the beginning of the names of a process's agents, on this host."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '-', socket.gethostname())[:40]}-{pid}-"
