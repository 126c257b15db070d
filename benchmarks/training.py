"""Training without a study: trials through a backend to their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperlax.backends.lanes import LanesBackend
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
