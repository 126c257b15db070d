"""When a trial was in which lane. Numpy only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PROCESS = round(time.time(), 3)
"""When this process began to count its seconds, in seconds since 1970."""

TIMELINE = "timeline.csv"
"""The file of a batch with a row a `Stay` of its trials."""

_ZERO = time.perf_counter()


class Stay(NamedTuple):
    """A trial's time in a lane.

    slot: its index. pool: of the groups of lanes that a slot has at once, 0 where that is one. lane: its index in the group.
    process: when the process began to count, in seconds since 1970. began, ended: seconds since then.
    """

    slot: int
    pool: int
    lane: int
    process: float
    began: float
    ended: float


def seconds() -> float:
    """Since this process began to count; never less than before, whatever becomes of the clock on the wall."""
    return time.perf_counter() - _ZERO


def extended(stays: Sequence[Stay], stay: Stay) -> tuple[Stay, ...]:
    """With one more. If it goes on in the lane and process of the last one, that one lasts longer instead.

    >>> first = Stay(0, 0, 3, 100.0, 1.0, 2.0)
    >>> [(stay.began, stay.ended) for stay in extended([first], first._replace(began=2.0, ended=5.0))]
    [(1.0, 5.0)]
    >>> [(stay.lane, stay.ended) for stay in extended([first], first._replace(lane=4))]
    [(3, 2.0), (4, 2.0)]
    """
    if stays and stays[-1][:4] == stay[:4]:
        return (*stays[:-1], stays[-1]._replace(ended=stay.ended))
    return (*stays, stay)


def to_array(stays: Sequence[Stay]) -> np.ndarray:
    """float64[stays, 6], which `from_array` takes."""
    return np.array(stays, np.float64).reshape(-1, len(Stay._fields))


def from_array(array: np.ndarray) -> tuple[Stay, ...]:
    """What `to_array` gave."""
    return tuple(Stay(int(slot), int(pool), int(lane), *times) for slot, pool, lane, *times in array.tolist())
