"""Training without a study: trials through a backend to their end, or in a program of their own for some iterations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.lanes import LanesBackend
from hyperlax.engine.keys import training_keys
from hyperlax.engine.lanes import Preparation, Program, of_lane
from hyperlax.trial import SegmentResult, Trial


class Interrupted(Exception):
    """A training that stopped between two segments because it was asked to."""


def train(backend: LanesBackend, trials: Sequence[Trial]) -> dict[int, SegmentResult]:
    """Return the end of each trial, by number, trained in the batches of a plan. Close the backend."""
    ended = train_batches(backend, backend.plan(trials).batches)
    backend.close()
    return ended


def train_batches(
    backend: LanesBackend,
    batches: Sequence[Sequence[Trial]],
    on_segment: Callable[[list[SegmentResult]], None] = lambda results: None,
) -> dict[int, SegmentResult]:
    """Return the end of each trial, by number. Raise what a batch raised, and Interrupted if nothing trains any more.

    on_segment: called with the results of each segment.
    """
    ended: dict[int, SegmentResult] = {}
    for group, batch in enumerate(batches, 1):
        backend.enter(batch, group=group)
    while len(ended) < sum(map(len, batches)):
        results, evicted = backend.advance()
        for eviction in evicted:
            assert eviction.error is not None
            raise eviction.error
        if not results:
            raise Interrupted
        on_segment(results)
        ended |= {result.number: result for result in results if result.is_done}
    return ended


class Training:
    """Trials in the lanes of a program, trained without evaluations. The program is compiled as far as it is used."""

    def __init__(self, program: Program, task: AlgorithmTask, trials: Sequence[Trial]):
        self.program, self.iteration = program, 0
        self.hypers = program.place(jax.tree.map(lambda *own: np.stack(own), *map(task.lane, trials)))
        self.keys = program.place(training_keys(0, [trial.number for trial in trials], program.seeds))
        self._state = None

    def prepare(self) -> Preparation:
        """Compile all verbs, and return the cost."""
        return self.program.prepare(of_lane(self.hypers, 0))

    def advance(self, iterations: int) -> dict[str, float]:
        """Train, and return the seconds of wall time and of this process's CPU time."""
        if self._state is None:
            self._state = jax.block_until_ready(self.program.start(self.keys, self.hypers))
        began, used = time.perf_counter(), time.process_time()
        self._state = jax.block_until_ready(self.program.train(self._state, self.hypers, self.iteration, iterations))
        self.iteration += iterations
        return {"wall": time.perf_counter() - began, "CPU": time.process_time() - used}
