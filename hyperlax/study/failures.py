"""When a study should give up: most of its trials fail."""

from __future__ import annotations

from collections import Counter

from hyperlax.study.reasons import cause_of

FEWEST = 8
"""Finished trials below which no rate of failure is taken seriously."""


class Failures:
    """Counts how trials end. rate: the share of FAIL among the finished above which a study gives up."""

    def __init__(self, rate: float):
        self._rate = rate
        self._finished = 0
        self._causes: Counter[str] = Counter()

    def count(self, state: str, reason: str) -> None:
        """One more trial is finished."""
        self._finished += 1
        if state == "FAIL":
            self._causes[cause_of(reason)] += 1

    @property
    def too_many(self) -> bool:
        return self._finished >= FEWEST and self._causes.total() > self._rate * self._finished

    def sentence(self) -> str:
        """Why the study gives up, with the most frequent cause."""
        ((cause, count),) = self._causes.most_common(1)
        return (
            f"{self._causes.total()} of {self._finished} trials failed, more than --max-failure-rate {self._rate:g} allows; "
            f"of {count} the reason is: {cause}."
        )
