"""From the trials of a super-batch to hparam batches: trials that need the same program share its lanes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from hyperlax.trial import HparamBatch, Trial


def plan(trials: Sequence[Trial], program: Callable[[Trial], Hashable], lanes: int) -> list[HparamBatch]:
    """Batches of at most `lanes` trials with equal `program`, in order of first appearance, trials in order of number."""
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(program(trial), []).append(trial)
    return [
        HparamBatch(tuple(group[start : start + lanes]))
        for group in groups.values()
        for start in range(0, len(group), lanes)
    ]
