"""The training of single trials in an agent's lanes, which are refilled while the loop of the leader decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from hyperlax.backends.agent_training import Batch, Training
from hyperlax.backends.base import SHARED, Evicted
from hyperlax.backends.wire import ALONE, CLAIM, NEWS, BatchDone, Item, Ticket, pack_done
from hyperlax.engine.checkpoint import SaveTimer
from hyperlax.errors import numbered
from hyperlax.trial import SegmentResult

log = logging.getLogger(__name__)

_SHARE_OF_WAITING = 0.1
"""Share of a segment's time that an agent waits for the leader's decisions before the next segment."""
_REPEAT_SECONDS = 2.0
"""Seconds after which the results of a trial that has ended are told again, if the leader has read and not used them."""


class OpenTraining(Training):
    """Trials in lanes that are refilled. The leader is told every segment, and lets a trial leave by removing its claim.

    It hardly waits for decisions: a trial that continues too long only costs time. What is told may get lost or come twice, since
    results are all those since the trial began, and a claim stays until the leader has seen the last.
    """

    def __init__(self, *args: Any, seconds: float):
        """Make one without trials; see `Training`. seconds: minimum between two saves."""
        super().__init__(*args)
        self._timer = SaveTimer(seconds)
        self._claimed: list[Batch] = []
        self._refused: set[str] = set()
        self._news = self._seen = 0
        self._is_new, self._drains = True, False

    @property
    def is_busy(self) -> bool:
        """True if `advance` has something to wait for, be it lanes whose trials are leaving."""
        return self.backend.occupied > 0

    @property
    def has_room(self) -> bool:
        """True if another trial may be claimed."""
        return self.backend.occupied + len(self._claimed) < self.backend.lanes * self.backend.slots

    def wants(self, item: Item, ticket: Ticket) -> bool:
        """Return whether to claim a trial that waits.

        One that has to be alone gets an agent that trains none but its group. It is waited for: nothing else is claimed meanwhile.
        A trial that is here already, since it was lost and that is not noticed yet, has to leave first.
        """
        groups = {(batch.is_alone, batch.group) for batch in self.batches.values()}
        if item.batch.startswith(ALONE):
            is_wanted = groups <= {(True, ticket.group)}
            self._drains = self._drains or not is_wanted
        else:
            is_wanted = not self._drains and not any(is_alone for is_alone, _ in groups)
        if self._is_known(item):
            return False
        is_wanted = is_wanted and self._batch_of().keys().isdisjoint(ticket.numbers)
        if not is_wanted:
            self._refused.add(item.batch)
        return is_wanted

    def start(self) -> None:
        """Let the trials that were claimed begin, or continue where they were saved. Hand back those that get no lane.

        A trial whose claim is lost by then does not begin. Trials that were saved together can only continue together, so an agent
        begins once no more can be claimed.
        """
        self._drains = False
        self._claimed = [batch for batch in self._claimed if self.batches.get(batch.claim.batch) is batch]
        if self._is_new and self.has_room and len(self._claimed) > self._seen:
            self._seen = len(self._claimed)
            return
        claimed, self._claimed = self._claimed, []
        if claimed and not self.is_busy and (self._is_new or any(batch.may_be_saved for batch in claimed)):
            self._is_new = False
            claimed = self._restore(claimed)
        for batch in claimed:
            if self.backend.enter(batch.trials, batch.repetition, batch.group):
                batch.is_in_lane = True
                log.info("Training %s.", numbered(batch.numbers))
            else:
                self._refused.add(batch.claim.batch)
                del self.batches[batch.claim.batch]
                self._desk.give_back(batch.claim)

    def advance(self) -> None:
        """Train to the end of a segment, tell the leader, and let leave what the leader has stopped."""
        began = time.monotonic()
        results, evicted = self.backend.advance()
        self._refused.clear()
        ended = time.monotonic()
        if news := self._tell(results, evicted):
            until = ended + _SHARE_OF_WAITING * (ended - began)
            while self._desk.renewed(news) is not None and (left := until - time.monotonic()) > 0:
                time.sleep(min(0.01, left))
        self.look()
        if self._timer.is_due():
            with self._timer.saving():
                self.backend.save()

    def hand_back(self) -> None:
        """Save what trains, and hand it back. Remove what was told after the leader had ended."""
        super().hand_back()
        if not self._desk.engine_now():
            for item in self._desk.items():
                if item.kind == NEWS and item.agent == self._agent:
                    self._desk.remove(item)

    def look(self) -> None:
        """Let leave what the leader has stopped. Tell the leader again what it has read and not used."""
        held = {item.batch for item in self._desk.items() if item.kind == CLAIM and item.agent == self._agent}
        now = time.monotonic()
        for name, batch in list(self.batches.items()):
            news, at = batch.told
            if batch.is_lost or (name not in held and not self._desk.renew(batch.claim)):
                self._forget(batch)
            elif news and not batch.is_in_lane and now - at > _REPEAT_SECONDS and self._desk.renewed(news) is None:
                self._tell_results([batch])

    def _add(self, batch: Batch) -> None:
        self._claimed.append(batch)

    def _is_known(self, item: Item) -> bool:
        return item.batch in self._refused or super()._is_known(item)

    def _restore(self, claimed: Sequence[Batch]) -> list[Batch]:
        """Let trials continue where they were saved. Return those that were not."""
        by_number = {batch.numbers[0]: batch for batch in claimed if batch.group == SHARED}
        trials = {number: batch.trials[0] for number, batch in by_number.items()}
        restored = []
        for result in self.backend.restore(trials, trials.keys()):
            batch = by_number[result.number]
            if result.repetition == batch.repetition:
                batch.is_in_lane = True
                batch.segments = result.segments
                restored.append(result)
                log.info("Trial %d continues from step %d.", result.number, result.curve.steps[-1])
            else:
                self.backend.leave(result.number)
        rest = [batch for batch in claimed if not batch.is_in_lane]
        self._tell(restored, ())
        return rest

    def _tell(self, results: Sequence[SegmentResult], evicted: Sequence[Evicted]) -> Item | None:
        """Tell the leader. Return the last news, if any."""
        batch_of, told, news = self._batch_of(), [], None
        for result in results:
            batch = batch_of.get(result.number)
            if batch is None:
                self.backend.leave(result.number)
                continue
            if not batch.is_in_lane:
                continue
            batch.results[result.number] = result
            told.append(batch)
            if result.is_done or result.fault_step is not None:
                self.backend.leave(result.number)
                batch.is_in_lane = False
                log.info("Trained %s." if result.is_done else "Stopped %s, which failed.", numbered(batch.numbers))
                self._desk.send_files(batch.claim)
        if told:
            news = self._tell_results(told)
        for some in evicted:
            lost = [batch_of[number] for number in some.numbers if number in batch_of]
            own = [batch for batch in lost if self._desk.renew(batch.claim)]
            for batch in own:
                self._desk.send_files(batch.claim)
            if own:
                news = self._post(own, error=some.error)
            for batch in lost:
                batch.is_in_lane = False
                self._desk.remove(batch.claim)
                self._forget(batch)
        return news

    def _tell_results(self, batches: Sequence[Batch]) -> Item:
        results = tuple(batch.results[batch.numbers[0]] for batch in batches)
        trained = tuple(result.segments - batch.segments for batch, result in zip(batches, results, strict=True))
        timing = {**self.backend.timing(_numbers(batches)), **self.where}
        news = self._post(batches, results=results, timing=timing, trained=trained)
        for batch, result in zip(batches, results, strict=True):
            batch.told, batch.segments = (news, time.monotonic()), result.segments
        return news

    def _post(self, batches: Sequence[Batch], **told: Any) -> Item:
        self._news += 1
        done = BatchDone(_numbers(batches), self._agent, batches=tuple(batch.claim.batch for batch in batches), **told)
        news = Item(f"n{self._news:08d}", self._agent, NEWS)
        self._desk.post(news, pack_done(done))
        return news

    def _forget(self, batch: Batch) -> None:
        del self.batches[batch.claim.batch]
        self._refused.clear()
        if batch.is_in_lane:
            self.backend.leave(batch.numbers[0])
            log.info("Stopped %s.", numbered(batch.numbers))

    def _save(self) -> None:
        self.backend.stop()
        self.backend.save()


def _numbers(batches: Sequence[Batch]) -> tuple[int, ...]:
    return tuple(number for batch in batches for number in batch.numbers)
