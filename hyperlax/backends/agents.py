"""A backend whose batches train in agents, processes on any machine that reaches the study's desk; see `agent_process`.

The leader plans batches with a backend of its own machine, which trains nothing, and hands them out on the desk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hyperlax.backends.base import MOST_LOSSES, SHARED, Backend, EngineConfig, Evicted, LostError
from hyperlax.backends.child import is_known_dead
from hyperlax.backends.local_agents import StartedAgents
from hyperlax.backends.wire import LEASE_SECONDS, RESULT, TICKET, BatchDone, Engine, Item, Ticket, digest_of, read_done
from hyperlax.backends.work import Work
from hyperlax.errors import in_one_line, numbered
from hyperlax.fields import dotted
from hyperlax.leases import Leases
from hyperlax.trial import Plan, SegmentResult, Trial

log = logging.getLogger(__name__)

_CARD_SECONDS = 1.0
"""Seconds between two looks at which agents there are."""


@dataclass(eq=False)
class Batch:
    """A batch with agents.

    group: as in `Backend.enter`. reached: where lanes are refilled, how far its latest result was. item: as it was last seen.
    """

    name: str
    trials: tuple[Trial, ...]
    repetition: int
    group: int = SHARED
    reached: tuple[int, bool, bool] = (0, False, False)
    losses: int = 0
    item: Item | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(trial.number for trial in self.trials)

    @property
    def agent(self) -> str:
        """The agent that has claimed it, as last seen; "" if none has."""
        return self.item.agent if self.item else ""


class Agents(Backend):
    """A backend of closed batches that agents train."""

    def __init__(
        self,
        desk: Work,
        planner: Backend,
        config: EngineConfig,
        device_kind: str,
        local: StartedAgents,
        lease: float = LEASE_SECONDS,
    ):
        """Make a backend. planner: has the programs, and plans batches. device_kind: see `Engine`. local: those that it starts."""
        self._desk, self._planner, self._config, self._local, self._lease = desk, planner, config, local, lease
        self.lanes, self.slots, self.device = planner.lanes, planner.slots, planner.device
        self._device_kind = device_kind
        self._engine = ""
        self._batches: dict[str, Batch] = {}
        self._planned: set[str] = set()
        self._done: dict[int, SegmentResult] = {}
        self._evicted: list[Evicted] = []
        self._timing: dict[int, Mapping[str, Any]] = {}
        self._agent_of: dict[float, str] = {}
        self._agents: dict[str, int] = {}
        self._leases = Leases[str]()
        self._died: dict[str, str] = {}
        self._waited_for: set[str] = set()
        self._is_stopping, self._looked = False, 0.0

    @property
    def packing(self) -> Mapping[str, Any]:
        """Choice of programs and lanes."""
        return self._planner.packing

    @property
    def occupied(self) -> int:
        """Trials that agents train."""
        return sum(len(batch.trials) for batch in tuple(self._batches.values()) if batch.agent)

    @property
    def room(self) -> int:
        """Batches that may be handed out: for each agent one more than it has slots, to claim when one is free.

        A silent agent counts as long as its card is there, and a batch of one without a card takes no other agent's room.
        """
        agents = self._agents
        without_card = sum(bool(one.agent) and one.agent not in agents for one in tuple(self._batches.values()))
        return max(self._planner.slots, sum(agents.values()) + len(agents)) + without_card

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Return the planner's batches, after those that agents have already from a leader before."""
        by_number = {trial.number: trial for trial in trials}
        kept = [tuple(by_number[number] for number in numbers) for numbers in self._left(by_number)]
        taken = {trial.number for batch in kept for trial in batch}
        plan = self._planner.plan([trial for trial in trials if trial.number not in taken])
        return replace(plan, batches=(*kept, *plan.batches))

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        """Let a batch wait for an agent. Return all its numbers."""
        batch = Batch(self._name(trials, repetition), tuple(trials), repetition)
        self._planned.discard(batch.name)
        self._hand_out(batch)
        return list(batch.numbers)

    def begin(self) -> None:
        """Start the agents of this machine."""
        if self._batches and not self._is_stopping:
            self._local.start()

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Block until a batch has ended, or there is room for more. Return at once if the study is to end."""
        room = self.room
        while True:
            self.begin()
            self._look()
            if self._done or self._evicted or self._is_stopping or not self._batches or self.room > room:
                break
            self._desk.wait()
        done, self._done = self._done, {}
        evicted, self._evicted = self._evicted, []
        return [done[number] for number in sorted(done)], evicted

    def leave(self, number: int) -> None:
        """Forget a trial, and what is saved of it."""
        self._timing.pop(number, None)
        self._planner.leave(number)

    def stop(self) -> None:
        """Let `advance` return."""
        self._is_stopping = True

    def save(self) -> None:
        """Have agents save what they train at their next evaluation, and hand it back. Wait until they have."""
        self.stop()
        if not self._batches:
            return
        self._desk.set_stopping(True)
        while any(batch.agent for batch in self._batches.values()):
            self._desk.wait()
            self._look()

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return the cost of the batch of these trials, and where it trained."""
        return dict(self._timing[next(iter(numbers))])

    def close(self) -> None:
        """Take back everything."""
        try:
            self._desk.clear()
            self._desk.set_stopping(False)
        finally:
            self._planner.close()

    def _name(self, trials: Sequence[Trial], repetition: int = 0) -> str:
        """Return the name of a batch, which says what its results depend on, and tells a retry from the try before.

        The configuration is written the first time.
        """
        if not self._engine:
            engine = Engine.of(self._config, self._planner.packing, self._device_kind, self._lease)
            self._engine = engine.digest
            self._desk.set_stopping(False)
            self._desk.put_engine(self._engine, engine.to_json())
            self._desk.lead(self._engine)
            if not (self._config.is_confirmation or self._desk.cards()):
                log.info("%s", self._desk.invitation)
        content = [self._engine, repetition, *([one.number, one.retries, dotted(one.config)] for one in trials)]
        return f"b{trials[0].number:05d}-{digest_of(content)}"

    def _left(self, by_number: Mapping[int, Trial]) -> list[tuple[int, ...]]:
        """Return the trials of batches that a leader before has handed out, and that would be the same now."""
        found: dict[str, tuple[int, ...]] = {}
        for item in self._desk.items():
            if item.batch in found or item.batch in self._batches:  # its file is not read again for every trial
                continue
            numbers = numbers_in(item, self._desk)
            if not numbers or not by_number.keys() >= set(numbers):
                continue
            if self._name([by_number[number] for number in numbers]) == item.batch:
                found[item.batch] = numbers
        self._planned |= found.keys()
        return list(found.values())

    def _hand_out(self, batch: Batch) -> None:
        """Let a batch wait for an agent, unless it is with one from a leader before. A damaged item is replaced."""
        self._batches[batch.name] = batch
        there = [item for item in self._desk.items() if item.batch == batch.name]
        damaged = [item for item in there if not numbers_in(item, self._desk) and self._desk.renewed(item) is not None]
        for item in damaged:
            self._desk.remove(item)
        if damaged == there:
            self._offer(batch)

    def _offer(self, batch: Batch) -> None:
        trials = [(trial.number, dotted(trial.config)) for trial in batch.trials]
        self._desk.offer(batch.name, Ticket(self._engine, trials, batch.repetition, batch.group, batch.losses))

    def _look(self) -> None:
        """Take results, and take back what agents have lost."""
        now = time.monotonic()
        if now - self._looked > min(_CARD_SECONDS, self._lease / 6):
            self._looked = now
            self._desk.lead(self._engine)
            self._look_at_agents()
        found: dict[str, Item] = {}
        for item in self._desk.items():
            batch = self._batches.get(item.batch)
            if batch is None:
                self._drop(item)
            elif item.kind == RESULT:
                self._take(batch, item)
            else:
                found[item.batch] = item
        dead = {**self._local.dead(), **self._died}
        lost: dict[tuple[str, str], list[Batch]] = {}
        for batch in self._batches.values():
            if how := self._check(batch, found.get(batch.name), dead):
                lost.setdefault((batch.agent, how), []).append(batch)
        for (_, how), batches in lost.items():
            self._lose(batches, how)

    def _look_at_agents(self) -> None:
        """Note the slots of the agents that live: those whose cards change. Remove the cards of the others.

        An agent of this machine is dead as soon as its process is.
        """
        cards = self._desk.cards()
        self._died |= {
            agent: "has died" for agent, (card, _) in cards.items() if is_known_dead(card.process, card.beginning)
        }
        silent = [agent for agent, (_, written) in cards.items() if self._leases.age(agent, written) > self._lease]
        for agent in (gone := cards.keys() & {*silent, *self._died}):
            self._desk.remove_card(agent)
        self._agents = {agent: card.slots for agent, (card, _) in cards.items() if agent not in gone}
        self._leases.keep({*cards, *self._batches})
        self.slots = sum(self._agents.values()) or self._planner.slots

    def _drop(self, item: Item) -> None:
        """Remove a batch that this leader has not handed out, or that has ended."""
        if item.batch not in self._planned:
            self._desk.remove(item)
            log.debug("Dropped the %s of %s.", item.kind, item.batch)

    def _take(self, batch: Batch, item: Item) -> None:
        """Take the result of a batch, and forget its other items."""
        if (content := self._desk.result(item)) is None:
            return
        try:
            done = read_done(content)
            if done.numbers != batch.numbers or {one.number for one in done.results} - set(batch.numbers):
                raise ValueError("it has other trials")
            if done.error is None and len(done.results) != len(batch.numbers):
                raise ValueError("it has not all trials")
        except ValueError as error:
            self._desk.remove(item)
            self._lose([batch], f"its result cannot be read ({in_one_line(error)})")
            return
        self._end(batch)
        self._local.have_trained()
        if done.error is not None:
            self._evicted.append(Evicted(batch.numbers, done.error))
            return
        self._done |= {result.number: self._placed(result, done) for result in done.results}
        self._timing |= dict.fromkeys(batch.numbers, done.timing or {})

    def _placed(self, result: SegmentResult, done: BatchDone) -> SegmentResult:
        """Return a result whose intervals name their agents. Those of a process that this leader never heard of have none."""
        if not result.intervals:
            return result
        self._agent_of[result.intervals[-1].process] = done.agent
        intervals = (one._replace(agent=self._agent_of.get(one.process, "")) for one in result.intervals)
        return replace(result, intervals=tuple(intervals))

    def _check(self, batch: Batch, item: Item | None, dead: Mapping[str, str]) -> str:
        """Return how a batch was lost, if its agent has died or has not renewed its lease, or if its item is gone; else ""."""
        batch.item = item
        age = self._leases.age(batch.name, (item, self._desk.renewed(item) if item else None))
        if item is not None and item.kind == TICKET:
            return ""
        for agent, how in dead.items():
            if item and item.agent.startswith(agent):
                return f"its agent {how}"
        if age <= self._lease:
            self._tell_waiting(item, age)
            return ""
        return f"{f'its agent {item.agent} was' if item else 'it was'} not heard of for {self._lease:g} s"

    def _tell_waiting(self, claim: Item | None, seconds: float) -> None:
        """Say once that an agent is silent, and how long it is waited for. seconds: since when it has not been heard of."""
        if claim is not None and seconds > self._lease / 3 and claim.agent not in self._waited_for:
            self._waited_for.add(claim.agent)
            then = f"Another one trains its trials if that becomes {self._lease:g} s."
            log.info("Waiting for agent %s, last heard of %g s ago. %s", claim.agent, round(seconds, 1), then)

    def _lose(self, batches: Sequence[Batch], how: str) -> None:
        """Let batches that an agent has lost wait for another one, each unless that has happened too often."""
        for batch in batches:
            batch.losses += 1
            if batch.losses == MOST_LOSSES:
                self._end(batch)
                self._evicted.append(Evicted(batch.numbers, LostError(how)))
            else:
                self._offer_again(batch, how)

    def _offer_again(self, batch: Batch, how: str) -> None:
        log.warning("Lost %s: %s. Waiting for another agent.", numbered(batch.numbers), how)
        self._desk.forget(batch.name)
        batch.item = None
        self._offer(batch)

    def _end(self, batch: Batch) -> None:
        """Forget a batch."""
        del self._batches[batch.name]
        self._desk.forget(batch.name)


def numbers_in(item: Item, desk: Work) -> tuple[int, ...]:
    """Return the trials of an item; none if it cannot be read."""
    try:
        if item.kind == RESULT:
            return read_done(desk.result(item) or b"").numbers
        ticket = desk.read(item)
        return ticket.numbers if ticket else ()
    except (OSError, ValueError) as error:
        log.debug("The %s of %s cannot be read (%s).", item.kind, item.batch, in_one_line(error))
        return ()
