"""Hparam batches over slots: a thread per slot trains, the calling thread does all the rest."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from hyperlax.trial import BatchResult, HparamBatch

TICK_SECONDS = 0.5


def run_batches(
    run: Callable[[HparamBatch], BatchResult],
    batches: Sequence[HparamBatch],
    slots: int,
    *,
    stop: threading.Event,
    may_start: Callable[[], bool],
    on_start: Callable[[HparamBatch], None],
    on_end: Callable[[HparamBatch, Future[BatchResult]], Sequence[HparamBatch]],
) -> bool:
    """Run batches, at most `slots` at once, and return whether all of them were started.

    on_start and on_end are called in this thread, `run` in the slots' threads. on_end says what is to be run instead
    of a batch that broke; that comes next. `stop` is set when anything raises here, so that the slots end at their next segment
    instead of training on for nothing.
    """
    queue = deque(batches)
    running: dict[Future[BatchResult], HparamBatch] = {}
    with ThreadPoolExecutor(slots, thread_name_prefix="slot") as pool:
        try:
            while running or (queue and may_start()):
                while queue and len(running) < slots and may_start():
                    batch = queue.popleft()
                    on_start(batch)
                    running[pool.submit(run, batch)] = batch
                _collect(running, queue, on_end)
        except BaseException:
            stop.set()
            raise
    return not queue


def _collect(
    running: dict[Future[BatchResult], HparamBatch],
    queue: deque[HparamBatch],
    on_end: Callable[[HparamBatch, Future[BatchResult]], Sequence[HparamBatch]],
) -> None:
    """Wait a moment for batches to end, and hand those that did to `on_end`.

    None is referred to after this: one that broke keeps its arrays alive, and the next batch may need their memory.
    """
    done, _ = wait(running, TICK_SECONDS, FIRST_COMPLETED)
    for future in sorted(done, key=lambda future: running[future].trials[0].number):
        queue.extendleft(reversed(on_end(running.pop(future), future)))


class BusyLanes:
    """The lanes of closed batches, as observers ask for them. tell: gets the environment steps that were done."""

    def __init__(self, tell: Callable[[int], None]):
        self._tell, self._lock = tell, threading.Lock()
        self._batches: list[list[int]] = []

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        with self._lock:
            return sum(trials for trials, _ in self._batches)

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is still being made."""
        with self._lock:
            return sum(trials for trials, is_training in self._batches if not is_training)

    @contextmanager
    def batch(self, trials: int) -> Iterator[Callable[[int], None]]:
        """Around the run of a batch: its `report` of `hyperlax.trial.Runner`. Until that is called its program is being made."""
        batch = [trials, False]

        def report(steps: int) -> None:
            with self._lock:
                batch[1] = True
                self._tell(steps)

        with self._lock:
            self._batches.append(batch)
        try:
            yield report
        finally:
            with self._lock:
                self._batches = [other for other in self._batches if other is not batch]


class Background:
    """Work beside the loop, one piece at a time. What a piece raises, the next call raises."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._last: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin a piece, as soon as the one before is done."""
        self.wait()
        self._last = self._thread.submit(work)

    def wait(self) -> None:
        """Return when nothing is under way."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Let go of the thread, after the piece that is under way."""
        self._thread.shutdown()
