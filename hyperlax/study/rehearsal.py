"""What a super-batch of a pooled study is suggested from: the study rehearsed with lanes of equal speed.

Where lanes are refilled, a super-batch is asked while trials before it still train. What was known of them then must not hang on
how fast a machine trains, or a resumed study would not equal an uninterrupted one. So it is what would have been known had every
segment taken the same time: a pure function of how many segments trials lasted, of the lanes and of the super-batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Life:
    """What is known of a trial by now: how many segments it has survived or ended with, and whether it has ended."""

    segments: int
    has_ended: bool


def views(life: Callable[[int], Life], lanes: int, super_batch: int, total: int) -> Iterator[frozenset[int]]:
    """The trials that have ended when super-batch 0, 1, ... is asked, as far as it is known by now how long trials last.

    Trials 0 ... total - 1 enter free lanes in order; when no asked one waits for the lane that is free, the next super-batch is.

    >>> lives = {0: Life(2, True), 1: Life(1, True), 2: Life(1, False)}
    >>> list(views(lives.__getitem__, lanes=2, super_batch=2, total=4))
    [frozenset(), frozenset({1})]
    """
    asked, waiting = 0, deque[int]()
    running: dict[int, int] = {}
    ended: set[int] = set()
    while True:
        while len(running) < lanes and (waiting or asked < total):
            if not waiting:
                yield frozenset(ended)
                first, asked = asked, min(asked + super_batch, total)
                waiting.extend(range(first, asked))
            running[waiting.popleft()] = 0
        if not running:
            return
        for trial in list(running):
            known = life(trial)
            if known.has_ended and running[trial] + 1 >= known.segments:
                ended.add(trial)
                del running[trial]
            elif running[trial] < known.segments:
                running[trial] += 1
            else:
                return
