"""An agent: a process that trains hparam batches of a study that another process leads, with the backend of its own machine."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from hyperlax.backends.base import Backend, EngineConfig, Evicted
from hyperlax.backends.desk import TICKET, AgentCard, Desk, Item, Ticket, check_there, name_of_agent
from hyperlax.backends.wire import BatchDone, Engine, pack_done, read_engine, refusal, trials_of
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import UsageError, numbered
from hyperlax.recipe import Recipe
from hyperlax.trial import SegmentResult, Trial

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""Seconds between two looks whether the study has ended, while nothing waits."""


class Stop(Protocol):
    """A request to end, as signals make it."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Place:
    """The surroundings of an agent.

    Args:
      desk: The study's desk.
      recipe: The study's recipe.
      make_backend: Returns the backend of this machine.
      checkpoints: Returns the saved batches of the search, or of the confirmation.
      device_of: Returns the kind of this machine's device, "" if any will do.
      is_over: Returns whether the study is finished. is_led: whether a process leads it.
    """

    desk: Desk
    recipe: Recipe
    make_backend: Callable[[EngineConfig, CheckpointManager], Backend]
    checkpoints: Callable[[bool], CheckpointManager]
    device_of: Callable[[EngineConfig], str]
    is_over: Callable[[], bool]
    is_led: Callable[[], bool]


@dataclass(eq=False)
class _Batch:
    """A batch that this agent trains. is_lost: whether its claim is gone."""

    claim: Item
    trials: tuple[Trial, ...]
    repetition: int
    results: dict[int, SegmentResult] = field(default_factory=dict)
    is_lost: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(trial.number for trial in self.trials)


class AgentProcess:
    """An agent while it runs. Its backend is used by one thread only; a second thread renews the leases."""

    def __init__(
        self, place: Place, stop: Stop, any_device: bool = False, idle_timeout: float | None = None, name: str = ""
    ):
        """Make an agent. any_device: see `refusal`. idle_timeout: seconds without a batch after which it ends, if any.

        name: one that no other agent has; by default it is made here.
        """
        self._place, self._desk, self._stop = place, place.desk, stop
        self._any_device, self._idle_timeout = any_device, idle_timeout
        self.name, self._began = name or name_of_agent(), datetime.now().astimezone().isoformat(timespec="seconds")
        self._backend: Backend | None = None
        self._engine: Engine | None = None
        self._digest = self._device = ""
        self._batches: dict[str, _Batch] = {}
        self._groups, self._has_said = 0, False
        self._over = threading.Event()

    def run(self) -> None:
        """Train batches until the study has ended, nothing has come for too long, or a stop is requested.

        Raises:
          UsageError: This machine would not give the study's results; see `refusal`.
          HyperlaxError: The study was moved or removed.
        """
        heart = threading.Thread(target=self._beat, daemon=True, name="lease")
        heart.start()
        idle_since = looked = time.monotonic()
        try:
            while not self._stop.is_set():
                self._take_up()
                if self._batches:
                    self._advance()
                    idle_since = time.monotonic()
                    continue
                now = time.monotonic()
                if self._idle_timeout is not None and now - idle_since > self._idle_timeout:
                    log.info("Nothing to train for %g s.", self._idle_timeout)
                    return
                if now - looked > _LOOK_SECONDS:
                    looked = now
                    if self._is_over():
                        return
                self._desk.wait()
        finally:
            self._hand_back()
            self._over.set()
            heart.join()
            self._desk.remove_card(self.name)

    def stop(self) -> None:
        """Let what trains end at its next evaluation. Signal handlers call this, after they have set the request."""
        if self._backend is not None:
            self._backend.stop()

    def _is_over(self) -> bool:
        """Return whether nothing is left to wait for. Say once that nobody leads the study."""
        check_there(self._desk)
        if self._desk.has_ended() or self._place.is_over():
            log.info("The study in %s has ended.", self._desk.study)
            return True
        if not self._has_said and not self._place.is_led():
            log.info("Nobody leads the study in %s. Waiting for a process that resumes it.", self._desk.study)
            self._has_said = True
        elif not self._has_said and not self._desk.engine_now():
            log.info("The process that runs the study in %s has no --agents and trains alone.", self._desk.study)
            self._has_said = True
        return False

    def _take_up(self) -> None:
        """Claim as many batches as this machine has room for."""
        if self._desk.is_stopping():
            if self._backend is not None:
                self._hand_back()
            return
        if self._backend is None and (digest := self._desk.engine_now()):
            self._prepare(digest)
        for item in self._desk.items():
            if item.kind != TICKET:
                continue
            if self._backend is not None and len(self._batches) >= self._backend.slots:
                return
            ticket = self._desk.read(item)
            if ticket is not None and self._prepare(ticket["engine"]) and (claim := self._desk.claim(item, self.name)):
                self._start(claim, ticket)

    def _prepare(self, digest: str) -> bool:
        """Make the backend of a configuration, unless another one trains. Return whether it is there."""
        if digest == self._digest:
            return True
        if self._batches:
            return False
        try:
            engine = read_engine(self._desk.engine(digest) or "")
        except (UsageError, ValueError):
            return False  # its leader has just ended
        self._close()
        config = engine.config_for(self._place.recipe)
        device = self._place.device_of(config)
        if problem := refusal(engine, device, self._any_device):
            raise UsageError(f"{self._desk.study}: {problem}")
        self._backend = self._place.make_backend(config, self._place.checkpoints(engine.is_confirmation))
        self._engine, self._digest, self._device = engine, digest, device
        self._write_card()
        return True

    def _start(self, claim: Item, ticket: Ticket) -> None:
        trials = trials_of(ticket["trials"], self._place.recipe.config.algorithm)
        batch = self._batches[claim.batch] = _Batch(claim, trials, ticket["repetition"])
        log.info("Training %s.", numbered(batch.numbers))
        self._enter(batch)
        self._write_card()

    def _enter(self, batch: _Batch) -> None:
        assert self._backend is not None
        self._groups += 1
        self._backend.enter(batch.trials, batch.repetition, self._groups)

    def _advance(self) -> None:
        """Train to the next evaluation of a batch, and give the leader the batches that have ended."""
        assert self._backend is not None
        results, evicted = self._backend.advance()
        self._note(results, evicted)
        for batch in [batch for batch in self._batches.values() if batch.is_lost]:
            check_there(self._desk)
            log.warning("%s: taken from this agent, which was not heard of in time.", numbered(batch.numbers))
            self._forget(batch)

    def _note(self, results: Sequence[SegmentResult], evicted: Sequence[Evicted]) -> None:
        batch_of = {number: batch for batch in self._batches.values() for number in batch.numbers}
        for result in results:
            if result.number in batch_of:
                batch_of[result.number].results[result.number] = result
        for some in evicted:
            batch = batch_of.get(some.numbers[0])
            if batch is not None and some.error is not None:
                self._finish(batch, BatchDone(batch.numbers, self.name, error=some.error))
            elif batch is not None:
                batch.results.clear()
                self._enter(batch)
        for batch in list(self._batches.values()):
            if len(batch.results) == len(batch.trials) and all(one.is_done for one in batch.results.values()):
                self._finish(batch, self._done(batch))

    def _done(self, batch: _Batch) -> BatchDone:
        assert self._backend is not None
        where = {"agent": self.name, "host": socket.gethostname(), "device": self._device or self._backend.device}
        timing = {**self._backend.timing(batch.numbers), **where}
        return BatchDone(batch.numbers, self.name, tuple(batch.results.values()), timing)

    def _finish(self, batch: _Batch, done: BatchDone) -> None:
        """Give the leader the end of a batch, unless another agent has the batch now."""
        if self._desk.finish(batch.claim, pack_done(done)):
            log.info("Trained %s.", numbered(batch.numbers))
        else:
            check_there(self._desk)
            log.warning("The result of %s comes too late and is dropped.", numbered(batch.numbers))
        self._forget(batch)

    def _forget(self, batch: _Batch) -> None:
        assert self._backend is not None
        del self._batches[batch.claim.batch]
        for number in batch.numbers:
            self._backend.leave(number)

    def _hand_back(self) -> None:
        """Save what trains at its next evaluation, and let it wait for another agent."""
        try:
            if self._backend is not None and self._batches:
                self._backend.stop()
                self._backend.save()
                self._note(*self._backend.advance())
        finally:
            for batch in self._batches.values():
                self._desk.give_back(batch.claim)
                log.info("Handed back %s.", numbered(batch.numbers))
            self._batches = {}
            self._close()

    def _close(self) -> None:
        backend, self._backend, self._digest = self._backend, None, ""
        if backend is not None:
            backend.close()

    def _beat(self) -> None:
        """Renew the leases, and wake the backend for new batches, until the agent ends."""
        renewed = 0.0
        while not self._over.is_set():
            self._desk.wait()
            backend, engine, now = self._backend, self._engine, time.monotonic()
            if backend is None or engine is None:
                continue
            with suppress(OSError):  # a file server may be away for some seconds
                if now - renewed > engine.lease / 6:
                    renewed = now
                    self._renew()
                if self._batches and self._has_news(backend):
                    backend.wake()

    def _renew(self) -> None:
        for batch in tuple(self._batches.values()):
            if not self._desk.renew(batch.claim):
                batch.is_lost = True
        self._write_card()

    def _has_news(self, backend: Backend) -> bool:
        """Return whether a batch is lost, or there is room for one that waits."""
        batches = tuple(self._batches.values())
        if any(batch.is_lost for batch in batches) or self._desk.is_stopping():
            return True
        return len(batches) < backend.slots and any(item.kind == TICKET for item in self._desk.items())

    def _write_card(self) -> None:
        backend, engine = self._backend, self._engine
        if backend is None or engine is None:
            return
        whole = engine.run_length.num_evaluations
        batches = {
            name: (list(batch.numbers), min((one.segments for one in tuple(batch.results.values())), default=0), whole)
            for name, batch in tuple(self._batches.items())
        }
        card = AgentCard(
            socket.gethostname(), os.getpid(), self._device or backend.device, backend.slots, self._began, batches
        )
        try:
            self._desk.write_card(self.name, card)
        except OSError as error:  # the leases say that it lives; whether the study is there is looked at elsewhere
            log.debug("%s: its work cannot be written (%s).", self._desk.study, error.strerror)
