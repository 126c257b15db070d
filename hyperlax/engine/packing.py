"""Grouping of trials into programs and batches.

Groups of trials are merged while that saves predicted time: two groups merged compile once instead of twice, and then each computes
at the larger's size.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from hyperlax.trial import Trial


@dataclass(frozen=True)
class Group:
    """Trials that share a padding. structure: their structures, joined by `|`. members: the trials, or a sample of them."""

    structure: Any
    members: tuple[Any, ...]

    def __or__(self, other: Group) -> Group:
        return Group(self.structure | other.structure, self.members + other.members)


def pack(groups: Sequence[Group], cost: Callable[[Group], float]) -> list[Group]:
    """Return the cheapest grouping that merging finds: pair by pair from `groups`, all in one, or none merged at all.

    cost: predicted seconds of one group over the whole study. Ties go to fewer programs.
    """
    whole = functools.reduce(operator.or_, groups)
    candidates = [[whole], _merged(list(groups), cost), list(groups)]
    return min(candidates, key=lambda candidate: (sum(map(cost, candidate)), len(candidate)))


def batches_of(
    trials: Sequence[Trial],
    program: Callable[[Trial], Hashable],
    lanes: Callable[[Hashable], int],
    flops: Callable[[Trial], float],
) -> list[tuple[Trial, ...]]:
    """Return batches of trials with equal `program`, at most `lanes(program)` in each.

    A batch takes as long as its longest trial, so trials with similar `flops` are batched together, the longest first. Within
    a batch they stand in order of number.
    """
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(program(trial), []).append(trial)
    return [
        tuple(sorted(together, key=lambda trial: trial.number))
        for key, group in groups.items()
        for together in _cut(sorted(group, key=lambda trial: (-flops(trial), trial.number)), lanes(key))
    ]


def makespan(durations: Sequence[float], slots: int) -> float:
    """Return the end time of the last job, if each job in turn starts on the slot that is free first."""
    ends = [0.0] * slots
    for duration in durations:
        ends[ends.index(min(ends))] += duration
    return max(ends)


def _merged(groups: list[Group], cost: Callable[[Group], float]) -> list[Group]:
    """Merge the pair that saves most, until no merge saves anything."""
    costs = {group: cost(group) for group in groups}
    merged: dict[tuple[Group, Group], tuple[Group, float]] = {}
    while len(costs) > 1:
        for a, b in itertools.combinations(costs, 2):
            if (a, b) not in merged:
                merged[a, b] = (a | b, cost(a | b))
        merged = {pair: found for pair, found in merged.items() if pair[0] in costs and pair[1] in costs}
        savings = {(a, b): costs[a] + costs[b] - together for (a, b), (_, together) in merged.items()}
        a, b = max(savings, key=lambda pair: savings[pair])
        if savings[a, b] <= 0:
            break
        del costs[a], costs[b]
        both, together = merged[a, b]
        costs[both] = together
    return list(costs)


def _cut(trials: list[Trial], lanes: int) -> list[list[Trial]]:
    return [trials[start : start + lanes] for start in range(0, len(trials), lanes)]
