"""Training without a study: trials through a backend to their end."""

from __future__ import annotations

from collections.abc import Sequence

from hyperlax.backends.lanes import LanesBackend
from hyperlax.trial import SegmentResult, Trial


def train(backend: LanesBackend, trials: Sequence[Trial]) -> dict[int, SegmentResult]:
    """Return the end of each trial, by number. Raises what a batch raised."""
    ended: dict[int, SegmentResult] = {}
    for group, batch in enumerate(backend.plan(trials).batches, 1):
        backend.enter(batch, group=group)
    while len(ended) < len(trials):
        results, evicted = backend.advance()
        for eviction in evicted:
            assert eviction.error is not None
            raise eviction.error
        ended |= {result.number: result for result in results if result.is_done}
    backend.close()
    return ended
