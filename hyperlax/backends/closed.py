"""Closed batches: the trials of a batch enter together, train without waiting for decisions, and end together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hyperlax.backends.base import SHARED, Evicted, timing_of
from hyperlax.backends.lanes import Lanes, LanesBackend, final_error
from hyperlax.engine import device
from hyperlax.engine.checkpoint import SaveTimer
from hyperlax.engine.lanes import NoRoom, Preparation
from hyperlax.engine.session import LaneSession
from hyperlax.errors import counted, in_sentence, numbered
from hyperlax.hyperparams import Config
from hyperlax.trial import SegmentResult, Trial

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class _Batch(Lanes):
    """A batch that waits for a slot or trains in one.

    restored: segments that were done when it was saved, if it continues. refused: compilations of programs that did not fit into
    memory.
    """

    trials: tuple[Trial, ...]
    session: LaneSession | None = None
    restored: int = 0
    refused: list[Preparation] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(trial.number for trial in self.trials)


class ClosedBatches(LanesBackend):
    """A backend whose trials train to their end without decisions, one batch per slot at a time.

    A batch is saved at the end of a segment when a save is due. A batch that raised is evicted. If memory ran out, its program
    gets fewer lanes, and the batch starts again if it still fits.
    """

    def __init__(self, *args: Any, configs: Sequence[Config] = (), **kwargs: Any):
        """Make a backend; see `LanesBackend`. configs: one per segment, used by the only trial in place of its own; for replays."""
        super().__init__(*args, **kwargs)
        self._configs = tuple(configs)
        self._queue: list[_Batch] = []
        self._ended: dict[int, _Batch] = {}
        self._is_stopping = False

    @property
    def restored(self) -> Mapping[int, int]:
        """Segments that trials had done when they were saved, by number, while they continue from there."""
        return {number: batch.restored for batch in tuple(self._used) for number in batch.numbers if batch.restored}

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        """Queue trials, one batch of `plan`, for a slot. Return all their numbers."""
        self._queue.append(_Batch(self._task.program(trials[0]), 0, trials=tuple(trials)))
        return [trial.number for trial in trials]

    def begin(self) -> None:
        """Start waiting batches on free slots."""
        while self._queue and len(self._used) < self.slots and not self._is_stopping:
            batch = self._queue.pop(0)
            used = {other.slot for other in self._used}
            batch.slot = next(slot for slot in range(self.slots) if slot not in used)
            if self._checkpoints:
                self._checkpoints.prune(batch.numbers)
            self._used.append(batch)
            self._start(batch)

    def leave(self, number: int) -> None:
        """Drop a trial: from the queue, from all later reports, and from disk."""
        for batch in [batch for batch in self._queue if number in batch.numbers]:
            batch.trials = tuple(trial for trial in batch.trials if trial.number != number)
            if not batch.trials:
                self._queue.remove(batch)
        for batch in self._used:
            if number in batch.numbers:
                batch.leaving.add(number)
        self._ended.pop(number, None)
        self._forget([number])

    def stop(self) -> None:
        """Let every batch end after its current segment, where it is saved."""
        self._is_stopping = True

    def save(self) -> None:
        """Stop every batch after its current segment, and save it there. Start no more. `advance` reports those that ended."""
        self.stop()
        self._wait()

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return the cost of the batch of these trials."""
        return self._ended[next(iter(numbers))].timing

    def close(self) -> None:
        """Release the threads, which stop after their current segment."""
        self.stop()
        super().close()

    def _train(self, lanes: _Batch) -> Iterator[tuple[Sequence[SegmentResult], bool]]:
        batch, size = lanes, self._programs.lanes_of(lanes.algorithm)
        if size < len(batch.trials):
            raise MemoryError(f"not enough memory for more than {counted(size, 'trial')} at once")
        predicted = self._predicted_training(batch.trials) + self._predicted_making(batch.algorithm, size)
        session = batch.session = self._session(batch.algorithm, batch.slot, size)
        self._prepare_batch(batch, session)
        checkpoints = self._checkpoints
        timer = SaveTimer(checkpoints.seconds) if checkpoints else None
        is_over = False
        while not is_over:
            if self._configs:
                session.reconfigure(Trial(batch.trials[0].number, self._configs[session.watch.segments]))
            results = session.advance()
            is_over = session.is_over
            if is_over:
                self._programs.settle(batch.algorithm, size)
                if not self._configs:
                    self._learn_run(session, batch.trials)
                batch.timing = self._timing(batch, session, results, predicted)
            stop = not is_over and self._should_stop(batch)
            if checkpoints and timer and not is_over and (stop or timer.is_due()):
                with timer.saving():
                    checkpoints.save_batch(*session.save())
            yield [replace(result, is_done=is_over) for result in results], is_over or stop
            if stop:
                return

    def _should_stop(self, batch: _Batch) -> bool:
        """Return whether a batch has to end after its current segment."""
        return self._is_stopping or batch.leaving >= set(batch.numbers)

    def _prepare_batch(self, batch: _Batch, session: LaneSession) -> None:
        """Put the trials into lanes, restored from their checkpoint if it is compatible."""
        for trial in batch.trials:
            session.enter(trial)
        self._prepare(session)
        found = self._checkpoints.load_batch(batch.numbers) if self._checkpoints else None
        if (
            found is None
            or found[0].trials != batch.numbers
            or not found[0].is_compatible(session.identity(batch.trials))
        ):
            return
        for number in batch.numbers:
            session.leave(number)
        session.restore(*found, {trial.number: trial for trial in batch.trials})
        session.watch.resume(found[0])
        batch.restored = found[0].segments
        step = session.segments.steps()[session.watch.segments]
        log.info("%s from step %d.", in_sentence(numbered(batch.numbers, "continue")), step)

    def _timing(
        self, batch: _Batch, session: LaneSession, results: Sequence[SegmentResult], predicted: float
    ) -> dict[str, Any]:
        """Return the cost of the batch, including programs compiled before its own that did not fit."""
        watch, refused = session.watch, sum(made.seconds for made in batch.refused)
        steps = session.segments.steps()[watch.segments] * len(batch.trials) * session.program.seeds
        cost = {**watch.timing(), "steps": steps}
        cost["programs_compiled"] += sum(not made.cached for made in batch.refused)
        cost["compile_seconds"] += refused
        cost["wall_seconds"] += refused
        peak = device.peak_memory_bytes(self._devices[batch.slot])
        useful = sum(result.curve.segments for result in results)
        return timing_of(cost, session.program.lanes, peak, predicted, useful_lane_segments=useful)

    def _take(self, event: Any) -> Sequence[SegmentResult]:
        batch: _Batch = event.lanes
        if event.is_last:
            self._used.remove(batch)
            batch.session = None
            if batch.timing:
                self._ended |= dict.fromkeys(batch.numbers, batch)
        return [result for result in event.results if result.number not in batch.leaving]

    def _drop(self, lanes: _Batch, error: Exception) -> Sequence[Evicted]:
        self._used.remove(lanes)
        final = self._error_of(lanes, error)
        if final is None:
            self._queue.insert(0, lanes)
            return []
        self._forget(lanes.numbers)
        return [Evicted(tuple(number for number in lanes.numbers if number not in lanes.leaving), final)]

    def _forget(self, numbers: Collection[int]) -> None:
        """Remove the checkpoints of these trials."""
        if self._checkpoints:
            self._checkpoints.forget(numbers)

    def _error_of(self, batch: _Batch, error: Exception) -> Exception | None:
        """Return the error of a batch that broke; None if memory ran out and the batch can start again with fewer lanes."""
        session, batch.session, batch.is_broken, batch.restored = batch.session, None, False, 0
        if session and self._shrink(batch.algorithm, session.program.lanes, error):
            batch.refused += [error.preparation] if isinstance(error, NoRoom) else []
            return None
        return final_error(error) if session else error
