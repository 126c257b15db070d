"""Leases: a holder lives as long as its sign of life changes. Clocks of other machines do not count. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Container, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Leases(Generic[K]):
    """The last signs of life of some holders, such as the modification times of files, and when this process first saw them."""

    def __init__(self) -> None:
        self._seen: dict[K, tuple[object, float]] = {}

    def age(self, holder: K, sign: object) -> float:
        """Note a sign of life. Return for how many seconds it has been the same."""
        now, (before, since) = time.monotonic(), self._seen.get(holder, (None, 0.0))
        if holder not in self._seen or before != sign:
            self._seen[holder] = sign, (since := now)
        return now - since

    def ages(self) -> dict[K, float]:
        """Return holder -> for how many seconds its sign of life has been the same."""
        now = time.monotonic()
        return {holder: now - since for holder, (_, since) in self._seen.items()}

    def keep(self, holders: Container[K]) -> None:
        """Forget all holders but these."""
        self._seen = {holder: seen for holder, seen in self._seen.items() if holder in holders}
