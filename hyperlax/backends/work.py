"""The directory `work/` of a study: hparam batches on their way to agents and back. Standard library only.

A batch is one file, whose name says where it is: `<batch>.ticket` waits, `<batch>.<agent>.claim` is trained by that agent,
`<batch>.result` is trained. An agent takes a batch by renaming its ticket, which only one can. It renews its lease by changing the
claim's modification time. No clock of a machine is compared with such a time: it counts whether it changes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from hyperlax.errors import numbered
from hyperlax.files import PUT_BACK, convert, decode, json_text, write_text

WORK = "work"
LEASE_SECONDS = 60.0
"""Seconds after which an agent that did not renew its claim has lost it."""
TICKET, CLAIM, RESULT = "ticket", "claim", "result"
_AGENT, _LEADER, _STOP, _ENDED = ".agent", "leader.json", "stop", "ended.json"
_BATCH = r"b\d{5,}-[0-9a-f]{12}"
_ITEM = re.compile(rf"({_BATCH})(?:\.([\w-]+))?\.({TICKET}|{CLAIM}|{RESULT})")
FILES = rf"{_ITEM.pattern}|engine-[0-9a-f]{{12}}\.json|[\w-]+\{_AGENT}|leader\.json|stop|ended\.json"
"""The names of all files in the directory, as a pattern."""


class Item(NamedTuple):
    """The file of a batch. kind: `TICKET`, `CLAIM` or `RESULT`. agent: the claim's, else ""."""

    batch: str
    agent: str
    kind: str
    path: Path


class Ticket(TypedDict):
    """The content of a ticket, and of the claim that it becomes.

    engine: the configuration that the agent needs. trials: number and values of each. losses: how often an agent has lost it.
    """

    engine: str
    trials: list[tuple[int, dict[str, Any]]]
    repetition: int
    losses: int


@dataclass(frozen=True)
class AgentCard:
    """An agent's description of itself. batches: batch -> its trials and how many evaluations of how many are done."""

    host: str
    process: int
    device: str
    slots: int
    began: str
    batches: dict[str, tuple[list[int], int, int]]


def name_of_agent() -> str:
    """Return a name for this process that no other process has, on any host."""
    return f"{agents_of_process(os.getpid())}{os.urandom(2).hex()}"


def agents_of_process(pid: int) -> str:
    """Return the beginning of the names of a process's agents, on this host."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '-', socket.gethostname())[:40]}-{pid}-"


class Work:
    """The directory `work/` of the study in `root`."""

    def __init__(self, root: Path):
        self.study, self.root = root, root / WORK

    def items(self) -> list[Item]:
        """Return the files of all batches, in order; none if there is no directory."""
        found = (_ITEM.fullmatch(name) for name in self._names())
        return [Item(one[1], one[2] or "", one[3], self.root / one[0]) for one in found if one]

    def offer(self, batch: str, ticket: Ticket) -> None:
        """Let a batch wait for an agent."""
        write_text(self.root / f"{batch}.{TICKET}", json_text(ticket, indent=None), is_durable=False)

    def read(self, item: Item) -> Ticket | None:
        """Return the content of a ticket or claim, None if it is gone. Raises UsageError if it is damaged."""
        try:
            return convert(json.loads(item.path.read_text(encoding="utf-8")), Ticket, str(item.path), PUT_BACK)
        except FileNotFoundError:
            return None
        except ValueError:
            return decode(item.path, Ticket)

    def claim(self, item: Item, agent: str) -> Item | None:
        """Take a waiting batch. Return its claim, None if another agent was faster or the leader took it back."""
        claim = Item(item.batch, agent, CLAIM, self.root / f"{item.batch}.{agent}.{CLAIM}")
        try:
            os.utime(item.path)  # the lease begins before the claim has its name
            os.rename(item.path, claim.path)
        except FileNotFoundError:
            return None
        return claim

    def renew(self, claim: Item) -> bool:
        """Renew an agent's lease. Return whether the batch is still its own."""
        try:
            os.utime(claim.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    def give_back(self, claim: Item) -> None:
        """Let a claimed batch wait for another agent, unless the claim is gone."""
        with suppress(FileNotFoundError):
            os.rename(claim.path, self.root / f"{claim.batch}.{TICKET}")

    def result(self, batch: str) -> Path:
        """Return the path of a batch's result."""
        return self.root / f"{batch}.{RESULT}"

    def engine(self, digest: str) -> Path:
        """Return the path of the configuration of this digest."""
        return self.root / f"engine-{digest}.json"

    def age(self, path: Path) -> float | None:
        """Return the modification time of a file, which only says whether it has changed; None if it is gone."""
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
        return None

    def write_card(self, agent: str, card: AgentCard) -> None:
        """Say what an agent is doing, and that it lives. Raises FileNotFoundError if the study was moved or removed."""
        self.root.stat()
        write_text(self._card(agent), json_text(vars(card)), is_durable=False)

    def remove_card(self, agent: str) -> None:
        """Forget an agent."""
        self._card(agent).unlink(missing_ok=True)

    def cards(self) -> dict[str, tuple[AgentCard, float]]:
        """Return agent -> what it said of itself, and when, as a modification time."""
        found = {}
        for name in self._names():
            if name.endswith(_AGENT) and not name.startswith("."):
                path = self.root / name
                with suppress(OSError, ValueError):
                    card = convert(json.loads(path.read_text(encoding="utf-8")), AgentCard, str(path))
                    found[name.removesuffix(_AGENT)] = card, path.stat().st_mtime
        return found

    def now(self) -> float:
        """Return the latest modification time here: about now by the file server's clock, while a leader or an agent lives."""
        times = (self.age(self.root / name) for name in self._names())
        return max((time for time in times if time is not None), default=0.0)

    def lead(self, engine: str) -> None:
        """Say that this process leads the study, that it lives, and the configuration that agents need now."""
        text = json_text({"host": socket.gethostname(), "process": os.getpid(), "engine": engine}, indent=None)
        write_text(self.root / _LEADER, text, is_durable=False)

    def engine_now(self) -> str:
        """Return the configuration that agents need now, "" if there is no leader."""
        try:
            return str(json.loads((self.root / _LEADER).read_text(encoding="utf-8"))["engine"])
        except (OSError, ValueError, KeyError):
            return ""

    def is_stopping(self) -> bool:
        """Return whether agents have to hand back what they train."""
        return (self.root / _STOP).exists()

    def set_stopping(self, is_stopping: bool) -> None:
        """Ask agents to hand back what they train, or let them train again."""
        if is_stopping:
            write_text(self.root / _STOP, "", is_durable=False)
        else:
            (self.root / _STOP).unlink(missing_ok=True)

    def has_ended(self) -> bool:
        """Return whether the leader has ended the study."""
        return (self.root / _ENDED).exists()

    def set_ended(self, has_ended: bool) -> None:
        """Say that the study has ended, or that it continues."""
        if has_ended:
            write_text(self.root / _ENDED, "{}\n", is_durable=False)
        else:
            (self.root / _ENDED).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what only a leader needs."""
        (self.root / _LEADER).unlink(missing_ok=True)
        for path in (
            *(item.path for item in self.items()),
            *self.root.glob("engine-*.json"),
            *self.root.glob(".*.tmp"),
        ):
            path.unlink(missing_ok=True)

    def _card(self, agent: str) -> Path:
        return self.root / f"{agent}{_AGENT}"

    def _names(self) -> Iterator[str]:
        with suppress(FileNotFoundError):
            yield from sorted(os.listdir(self.root))


def agents_in_words(study: Path) -> list[str]:
    """Return a line for each agent of a study: where it is, what it trains, and when it was last heard of."""
    work = Work(study)
    now, lines = work.now(), []
    for agent, (card, written) in work.cards().items():
        trained = [
            f"{numbered(trials)} (evaluation {done} of {whole})" for trials, done, whole in card.batches.values()
        ]
        lines.append(
            f"{agent} on {card.host}, {card.device}, since {card.began}: {', '.join(trained) or 'waits'}; "
            f"last heard of {max(0.0, now - written):.0f} s ago"
        )
    return lines


def ticket_of(trials: Mapping[int, dict[str, Any]], engine: str, repetition: int, losses: int = 0) -> Ticket:
    """Return a ticket. trials: number -> values."""
    return Ticket(engine=engine, trials=list(trials.items()), repetition=repetition, losses=losses)
