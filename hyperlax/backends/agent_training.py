"""The training of what an agent has claimed: batches to their end. For trials in lanes that are refilled see `open_training`."""

from __future__ import annotations

import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from hyperlax.backends.base import Backend, Evicted
from hyperlax.backends.wire import ALONE, TICKET, BatchDone, Engine, Item, Ticket, pack_done, trials_of
from hyperlax.backends.work import Work
from hyperlax.errors import HyperlaxError, numbered
from hyperlax.hyperparams import Config
from hyperlax.trial import SegmentResult, Trial

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Batch:
    """A batch that an agent has claimed.

    is_lost: whether its claim is gone. may_be_saved: whether another agent had it. Where lanes are refilled, is_in_lane: whether it
    trains, told: the news with its latest results, and when, in seconds of `time.monotonic`, segments: how many that were, or were
    restored.
    """

    claim: Item
    trials: tuple[Trial, ...]
    repetition: int
    group: int
    may_be_saved: bool = False
    results: dict[int, SegmentResult] = field(default_factory=dict)
    is_lost: bool = False
    is_in_lane: bool = False
    told: tuple[Item | None, float] = (None, 0.0)
    segments: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(trial.number for trial in self.trials)

    @property
    def is_alone(self) -> bool:
        return self.claim.batch.startswith(ALONE)


class Training(ABC):
    """The batches that an agent has claimed, and their training. One thread uses it; others may read `batches` and properties.

    where: the entries of `timing.json` that say where they train. engine, digest: their configuration, and its name.
    """

    engine: Engine
    digest = ""

    def __init__(self, desk: Work, agent: str, backend: Backend, device_kind: str, base: Config):
        """Make one without batches. device_kind: see `Engine`. base: a configuration of the trials' kind."""
        self._desk, self._agent, self.backend, self._base = desk, agent, backend, base
        self.device_kind = device_kind
        self.where = {"agent": agent, "host": socket.gethostname(), "device": device_kind or backend.device}
        self.batches: dict[str, Batch] = {}

    def is_sound(self, ticket: Ticket) -> bool:
        """Return whether a ticket holds trials of this configuration."""
        try:
            trials_of(ticket.trials, self._base)
        except (HyperlaxError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
            return False
        return 0 < len(ticket.numbers) == len(set(ticket.numbers)) and ticket.repetition >= 0

    def add(self, claim: Item, ticket: Ticket) -> None:
        """Take a batch that was claimed."""
        trials = trials_of(ticket.trials, self._base)
        batch = Batch(claim, trials, ticket.repetition, ticket.group, ticket.losses > 0)
        self.batches[claim.batch] = batch
        self._add(batch)

    def hand_back(self) -> None:
        """Save what trains at its next evaluation, let it wait for another agent, and close the backend."""
        try:
            self._save()
        finally:
            for batch in self.batches.values():
                if self._desk.give_back(batch.claim):
                    log.info("Handed back %s.", numbered(batch.numbers))
            self.batches = {}
            self.backend.close()

    def segments(self, batch: Batch) -> int:
        """Return how many segments all trials of a batch have done. Any thread may call this."""
        restored, results = self.backend.restored, dict(batch.results)
        return min(results[one].segments if one in results else restored.get(one, 0) for one in batch.numbers)

    def has_news(self) -> bool:
        """Return whether a batch is lost, or there is room for one that waits."""
        if any(batch.is_lost for batch in tuple(self.batches.values())):
            return True
        return self.has_room and any(item.kind == TICKET and not self._is_known(item) for item in self._desk.items())

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """True if `advance` has something to wait for."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """True if another batch may be claimed."""

    def wants(self, item: Item, ticket: Ticket) -> bool:
        """Return whether to claim a batch that waits: not one that was lost here, which is not noticed yet.

        The batches are asked about in order, and then `start` is called.
        """
        return not self._is_known(item)

    def start(self) -> None:
        """Let the batches that were claimed begin, unless they have."""
        return

    @abstractmethod
    def advance(self) -> None:
        """Train to the next evaluation of a batch, and give the leader what is to be told."""

    def look(self) -> None:
        """Check what the leader has decided, if anything, while nothing trains."""
        return

    @abstractmethod
    def _add(self, batch: Batch) -> None: ...

    @abstractmethod
    def _save(self) -> None: ...

    def _is_known(self, item: Item) -> bool:
        return item.batch in self.batches

    def _batch_of(self) -> dict[int, Batch]:
        return {number: batch for batch in self.batches.values() for number in batch.numbers}


class ClosedTraining(Training):
    """Batches that train to their end, as many at once as there are slots."""

    _groups = 0

    @property
    def is_busy(self) -> bool:
        """True if `advance` has something to wait for."""
        return bool(self.batches)

    @property
    def has_room(self) -> bool:
        """True if another batch may be claimed."""
        return len(self.batches) < self.backend.slots

    def advance(self) -> None:
        """Train to the next evaluation of a batch, and give the leader the batches that have ended."""
        self._note(*self.backend.advance())
        for batch in [batch for batch in self.batches.values() if batch.is_lost]:
            self._desk.check_there()
            log.warning("%s: taken from this agent, which was not heard of in time.", numbered(batch.numbers))
            self._forget(batch)

    def _add(self, batch: Batch) -> None:
        log.info("%s %s.", "Confirming" if self.engine.is_confirmation else "Training", numbered(batch.numbers))
        self._enter(batch)

    def _enter(self, batch: Batch) -> None:
        self._groups += 1
        self.backend.enter(batch.trials, batch.repetition, self._groups)

    def _note(self, results: Sequence[SegmentResult], evicted: Sequence[Evicted]) -> None:
        batch_of = self._batch_of()
        for result in results:
            if result.number in batch_of:
                batch_of[result.number].results[result.number] = result
        for some in evicted:
            batch = batch_of.get(some.numbers[0])
            if batch is not None and some.error is not None:
                self._finish(batch, BatchDone(batch.numbers, self._agent, error=some.error))
            elif batch is not None:
                batch.results.clear()
                self._enter(batch)
        for batch in list(self.batches.values()):
            if len(batch.results) == len(batch.trials) and all(one.is_done for one in batch.results.values()):
                timing = {**self.backend.timing(batch.numbers), **self.where}
                self._finish(batch, BatchDone(batch.numbers, self._agent, tuple(batch.results.values()), timing))

    def _finish(self, batch: Batch, done: BatchDone) -> None:
        """Give the leader the end of a batch, unless another agent has the batch now."""
        if self._desk.finish(batch.claim, pack_done(done)):
            log.info("Trained %s.", numbered(batch.numbers))
        else:
            self._desk.check_there()
            log.warning("The result of %s comes too late and is dropped.", numbered(batch.numbers))
        self._forget(batch)

    def _forget(self, batch: Batch) -> None:
        del self.batches[batch.claim.batch]
        for number in batch.numbers:
            self.backend.leave(number)

    def _save(self) -> None:
        if self.batches:
            self.backend.stop()
            self.backend.save()
            self._note(*self.backend.advance())
