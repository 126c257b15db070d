"""Which trials should share a program: merging groups of them while that saves predicted time.

Two groups merged compile once instead of twice, and then each computes at the larger's size.
"""

from __future__ import annotations

import itertools
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
    whole = _joined(groups)
    candidates = [[whole], _merged(list(groups), cost), list(groups)]
    return min(candidates, key=lambda candidate: (sum(map(cost, candidate)), len(candidate)))


def _merged(groups: list[Group], cost: Callable[[Group], float]) -> list[Group]:
    """Merge the pair that saves most, again and again while any saves."""
    costs = {group: cost(group) for group in groups}
    savings: dict[tuple[Group, Group], tuple[float, Group]] = {}
    while len(costs) > 1:
        for a, b in itertools.combinations(costs, 2):
            if (a, b) not in savings:
                both = a | b
                savings[a, b] = (costs[a] + costs[b] - cost(both), both)
        live = {pair: saving for pair, saving in savings.items() if pair[0] in costs and pair[1] in costs}
        (a, b), (saving, both) = max(live.items(), key=lambda item: item[1][0])
        if saving <= 0:
            break
        savings = live
        del costs[a], costs[b]
        costs[both] = cost(both)
    return list(costs)


def _joined(groups: Sequence[Group]) -> Group:
    first, *rest = groups
    for group in rest:
        first |= group
    return first
