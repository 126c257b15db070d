"""An agent: a process that trains hparam batches of a study that another process leads, with the backend of its own machine."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from hyperlax.backends.agent_training import ClosedTraining, Training
from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.backends.child import beginning
from hyperlax.backends.open_training import OpenTraining
from hyperlax.backends.wire import TICKET, AgentCard, Item, Ticket, name_of_agent, read_engine, refusal
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import UsageError, counted
from hyperlax.recipe import Recipe

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""Seconds between two looks whether the study has ended, while nothing waits."""


@dataclass(frozen=True)
class Place:
    """The surroundings of an agent.

    Args:
      desk: The study's desk.
      recipe: The study's recipe. load: loads it again from its file, if it has one.
      make_backend: Returns the backend of this machine.
      checkpoints: Returns the saved batches of the search, or of the confirmation.
      device_kind: Returns the kind of this machine's device, "" if any will do.
      is_over: Returns whether the study is finished. is_led: whether a process leads it. trains_alone: whether that has no agents.
    """

    desk: Work
    recipe: Recipe
    make_backend: Callable[[EngineConfig, CheckpointManager], Backend]
    checkpoints: Callable[[bool], CheckpointManager]
    device_kind: Callable[[EngineConfig], str]
    is_over: Callable[[], bool]
    is_led: Callable[[], bool]
    trains_alone: Callable[[], bool] = lambda: False
    load: Callable[[], Recipe] | None = None


class AgentProcess:
    """An agent while it runs. Its backend is used by one thread only; a second thread renews the leases."""

    def __init__(
        self,
        place: Place,
        must_stop: Callable[[], bool],
        any_device: bool = False,
        idle_timeout: float | None = None,
        name: str = "",
    ):
        """Make an agent.

        Args:
          must_stop: Returns whether it has to end.
          any_device: See `refusal`.
          idle_timeout: Seconds without a batch after which it ends, if any.
          name: One that no other agent has; by default it is made here.
        """
        self._place, self._desk, self._must_stop = place, place.desk, must_stop
        self._any_device, self._idle_timeout = any_device, idle_timeout
        self.name, self._began = name or name_of_agent(), datetime.now().astimezone().isoformat(timespec="seconds")
        self._beginning, self._recipe = beginning(os.getpid()), place.recipe
        self._training: Training | None = None
        self._found, self._has_said, self._slots = "", False, 0
        self._damaged: set[Item] = set()
        self._over = threading.Event()

    def run(self) -> None:
        """Train batches until the study has ended, nothing has come for too long, or a stop is requested.

        Raises:
          UsageError: This machine would not give the study's results, see `refusal`, or has other code.
          HyperlaxError: The study was moved or removed.
        """
        heart = threading.Thread(target=self._beat, daemon=True, name="lease")
        heart.start()
        idle_since = looked = time.monotonic()
        try:
            while not self._must_stop():
                self._take_up()
                if self._training is not None and self._training.is_busy:
                    self._training.advance()
                    idle_since = time.monotonic()
                    continue
                if self._training is not None:
                    self._training.look()
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
            try:
                self._hand_back()
            finally:
                self._over.set()
                heart.join()
                self._desk.remove_card(self.name)

    def stop(self) -> None:
        """Let what trains end at its next evaluation. Signal handlers call this, once the agent has to end."""
        if self._training is not None:
            self._training.backend.stop()

    def _is_over(self) -> bool:
        """Return whether nothing is left to wait for. Say once that nobody leads the study.

        That is said if it was so at the look before, too: a leader leaves the study before it says that the study has ended.
        """
        self._desk.check_there()
        if self._desk.has_ended() or self._place.is_over():
            log.info("The study in %s has ended.", self._desk.study)
            return True
        found = ""
        if not self._place.is_led():
            found = f"Nobody leads the study in {self._desk.study}. Waiting for a process that resumes it."
        elif self._place.trains_alone():
            found = (
                f"The process that runs the study in {self._desk.study} has no --agents and trains alone. For agents, stop it and "
                "resume the study with --agents."
            )
        if found and found == self._found and not self._has_said:
            log.info("%s", found)
            self._has_said = True
        self._found = found
        return False

    def _take_up(self) -> None:
        """Claim as many batches as this machine has room for, and let them begin."""
        if self._desk.is_stopping():
            self._hand_back()
            return
        if not (self._training and self._training.batches) and (digest := self._desk.engine_now()):
            self._prepare(digest)
        has_claimed = False
        for item in self._desk.items():
            if item.kind != TICKET:
                continue
            if self._training is not None and not self._training.has_room:
                break
            ticket = self._read(item)
            if ticket is None or not self._prepare(ticket.engine) or self._training is None:
                continue
            if not self._training.is_sound(ticket):
                self._tell_damaged(item, f"{self._desk.study}: the trials of {item.batch} are not of this study.")
                continue
            if self._training.wants(item, ticket) and (claim := self._desk.claim(item, self.name)):
                self._training.add(claim, ticket)
                has_claimed = True
        if self._training is not None:
            self._training.start()
        if has_claimed:
            self._write_card()

    def _read(self, item: Item) -> Ticket | None:
        """Return a ticket, None if it is gone or damaged. A damaged one is left to the leader, and named once."""
        try:
            return self._desk.read(item)
        except UsageError as error:
            self._tell_damaged(item, str(error))
            return None

    def _tell_damaged(self, item: Item, problem: str) -> None:
        if item not in self._damaged:
            log.warning("%s It is not trained here.", problem)
        self._damaged.add(item)

    def _prepare(self, digest: str) -> bool:
        """Make the backend of a configuration, unless another one trains. Return whether it is there."""
        if self._training is not None and (digest == self._training.digest or self._training.batches):
            return digest == self._training.digest
        try:
            engine = read_engine(self._desk.engine(digest) or "")
        except (UsageError, ValueError):
            return False  # its leader has just ended
        self._hand_back()
        self._load(engine.config["code"])
        config = engine.config_for(self._recipe)
        device_kind = self._place.device_kind(config)
        if problem := refusal(engine, device_kind, self._any_device):
            raise UsageError(f"{self._desk.study}: {problem}")
        checkpoints = self._place.checkpoints(engine.is_confirmation).owned_by(self.name)
        parts = self._desk, self.name, self._place.make_backend(config, checkpoints), device_kind, config.base
        is_open = config.kind == "refilled"
        training = OpenTraining(*parts, seconds=checkpoints.seconds) if is_open else ClosedTraining(*parts)
        training.engine, training.digest = engine, digest
        self._training = training
        if training.backend.slots != self._slots:
            self._slots = training.backend.slots
            log.info("This agent trains for the study in %s, on %s.", self._desk.study, counted(self._slots, "slot"))
        self._write_card()
        return True

    def _load(self, code: str) -> None:
        """Load the recipe again if its code is not the leader's. Raises UsageError if it still is not."""
        if code != self._recipe.code and self._place.load is not None:
            self._recipe = self._place.load()
        if code != self._recipe.code:
            raise UsageError(
                f"{self._desk.study}: the code in {self._recipe.path} is not what the leader has loaded. Put the file back and "
                "start this agent again, or stop the study and resume it."
            )

    def _hand_back(self) -> None:
        """Save what trains at its next evaluation, and let it wait for another agent."""
        if self._training is not None:
            try:
                self._training.hand_back()
            finally:
                self._training = None

    def _beat(self) -> None:
        """Renew the leases, and wake the backend for new batches, until the agent ends."""
        renewed = 0.0
        while not self._over.is_set():
            self._desk.wait()
            training, now = self._training, time.monotonic()
            if training is None:
                continue
            with suppress(OSError):  # a file server may be away for some seconds
                if now - renewed > training.engine.lease / 6:
                    renewed = now
                    self._renew(training)
                if training.is_busy and (self._desk.is_stopping() or training.has_news()):
                    training.backend.wake()

    def _renew(self, training: Training) -> None:
        for batch in tuple(training.batches.values()):
            if not self._desk.renew(batch.claim):
                batch.is_lost = True
        self._write_card()

    def _write_card(self) -> None:
        training = self._training
        if training is None:
            return
        whole = training.engine.run_length.num_evaluations
        batches = {
            name: (list(batch.numbers), training.segments(batch), whole)
            for name, batch in tuple(training.batches.items())
        }
        backend = training.backend
        card = AgentCard(
            host=training.where["host"],
            process=os.getpid(),
            device=backend.device,
            slots=backend.slots,
            began=self._began,
            batches=batches,
            engine=training.digest,
            device_kind=training.device_kind,
            lanes=backend.lanes,
            packing=dict(backend.packing),
            beginning=self._beginning,
            is_confirmation=training.engine.is_confirmation,
        )
        try:
            self._desk.write_card(self.name, card)
        except OSError as error:  # the leases say that it lives; whether the study is there is looked at elsewhere
            log.debug("%s: its work cannot be written (%s).", self._desk.study, error.strerror)
