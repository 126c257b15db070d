"""When a study has to end early: it is asked to, it is out of time, or most of its trials fail."""

from __future__ import annotations

import time
from collections import Counter

from hyperlax.study.reasons import cause_of
from hyperlax.study.stopping import Stop

_MIN_FINISHED = 8
"""Finished trials below which no failure rate ends a study."""


class Limits:
    """What ends a study early. Counts how its trials end.

    Args:
      stop: Set when the study has to end at the next segment.
      timeout: Seconds from now after which nothing starts; None for no limit.
      failure_rate: The share of FAIL among the finished trials above which nothing starts.
    """

    def __init__(self, stop: Stop, timeout: float | None = None, failure_rate: float = 1.0):
        self.stop = stop
        self._deadline = time.monotonic() + (timeout or float("inf"))
        self._rate = failure_rate
        self._finished = 0
        self._causes: Counter[str] = Counter()

    def without_failures(self) -> Limits:
        """Return the same limits, but for the failures."""
        limits = Limits(self.stop)
        limits._deadline = self._deadline
        return limits

    def count(self, state: str, reason: str) -> None:
        """Count a finished trial."""
        self._finished += 1
        if state == "FAIL":
            self._causes[cause_of(reason)] += 1

    def may_start(self) -> bool:
        """Return whether another trial may start."""
        return not self.stop.is_set() and not self.too_many_failed and time.monotonic() < self._deadline

    @property
    def too_many_failed(self) -> bool:
        return self._finished >= _MIN_FINISHED and self._causes.total() > self._rate * self._finished

    def sentence(self) -> str:
        """Return why too many trials failed, with the most frequent cause."""
        ((cause, count),) = self._causes.most_common(1)
        return (
            f"{self._causes.total()} of {self._finished} trials failed, more than --max-failure-rate {self._rate:g} allows; "
            f"of {count} the reason is: {cause}."
        )
