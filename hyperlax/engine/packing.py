"""Which trials should share a program: merging groups of them while that saves predicted time.

Two groups merged compile once instead of twice, and then each computes at the larger's size.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Group:
    """Trials that share a padding. structure: what they ask for, joined by `|`. members: the trials, or a sample of them."""

    structure: Any
    members: tuple[Any, ...]

    def __or__(self, other: Group) -> Group:
        return Group(self.structure | other.structure, self.members + other.members)


def pack(groups: Sequence[Group], cost: Callable[[Group], float]) -> list[Group]:
    """The cheapest grouping that merging finds: pair by pair from `groups`, all in one, or none merged at all.

    cost: predicted seconds of one group over the whole study. Ties go to fewer programs.
    """
    whole = functools.reduce(operator.or_, groups)
    candidates = [[whole], _merged(list(groups), cost), list(groups)]
    return min(candidates, key=lambda candidate: (sum(map(cost, candidate)), len(candidate)))


def _merged(groups: list[Group], cost: Callable[[Group], float]) -> list[Group]:
    """Merge the pair that saves most, again and again while any saves."""
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
