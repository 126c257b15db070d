"""From the trials of a super-batch to hparam batches: trials that need the same program share its lanes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from hyperlax.trial import HparamBatch, Trial


def batches_of(
    trials: Sequence[Trial],
    program: Callable[[Trial], Hashable],
    lanes: Callable[[Hashable], int],
    effort: Callable[[Trial], float],
) -> list[HparamBatch]:
    """Batches of trials with equal `program`, at most `lanes(program)` in each.

    A batch takes as long as its longest trial, so trials of like effort stand together, the most laborious first; within a batch
    they stand in order of number.
    """
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(program(trial), []).append(trial)
    return [
        HparamBatch(tuple(sorted(together, key=lambda trial: trial.number)))
        for key, group in groups.items()
        for together in _cut(sorted(group, key=lambda trial: (-effort(trial), trial.number)), lanes(key))
    ]


def makespan(durations: Sequence[float], slots: int) -> float:
    """When the last of some jobs ends, each started in turn on the slot that is free first."""
    ends = [0.0] * slots
    for duration in durations:
        ends[ends.index(min(ends))] += duration
    return max(ends)


def _cut(trials: list[Trial], lanes: int) -> list[list[Trial]]:
    return [trials[start : start + lanes] for start in range(0, len(trials), lanes)]
