"""Racing: the seeds of a trial train one after another, and a trial that does badly does not train its next seed."""

from __future__ import annotations

from dataclasses import dataclass

from hyperlax.schedulers.pruning import Rule, SuccessiveHalving


@dataclass(frozen=True)
class Racing:
    """A race over seeds: after each seed but the last, the best 1/reduction_factor of trials continue.

    rule: prunes within the first seed. segments: of one training run.
    """

    rule: Rule
    segments: int
    reduction_factor: int

    def judges(self, trial: int, segment: int) -> bool:
        return self.rule.judges(trial, segment) if self._is_first(segment) else segment % self.segments == 0

    def group(self, trial: int) -> int:
        return self.rule.group(trial)

    def keeps(self, segment: int, better: int, rivals: int) -> bool:
        rule = self.rule if self._is_first(segment) else SuccessiveHalving(self.segments, self.reduction_factor)
        return rule.keeps(segment, better, rivals)

    def carries(self, segment: int) -> bool:
        return self._is_first(segment) and self.rule.carries(segment)

    def _is_first(self, segment: int) -> bool:
        """Return whether a segment lies within the first training run, before its end."""
        return segment < self.segments
