"""The rules by which what trials reached becomes their results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hyperlax.fields import dotted
from hyperlax.metrics import compute
from hyperlax.scale import Scale
from hyperlax.study.failures import failure_reason
from hyperlax.trial import BatchResult, Curve, Outcome, TrialResult


@dataclass(frozen=True)
class Scoring:
    """The rules by which outcomes become results.

    Args:
      scale: What the trials are measured by.
      searched: The names of the study's search space.
      leading: The first objective, whose value after every evaluation is kept; "" keeps none.
      aggregate: How to combine the returns of a trial's seeds, a name in `hyperlax.metrics.AGGREGATES`.
    """

    scale: Scale
    searched: Collection[str] = ()
    aggregate: str = "mean"
    leading: str = ""

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Return the metrics of a COMPLETE outcome, as far as it has reported them. Raises ValueError if any is not finite."""
        return compute(outcome, self.scale, self.aggregate)

    def values(self, outcome: Outcome, names: Sequence[str]) -> list[float]:
        """Return these metrics of a trial that still trains. Raises ValueError if it has not reported one of them yet."""
        metrics = self.metrics(outcome)
        if missing := [name for name in names if name not in metrics]:
            raise ValueError(f"no report so far has {missing[0]}, by which the study prunes. Report it every time")
        return [metrics[name] for name in names]

    def results(self, batch: BatchResult) -> list[TrialResult]:
        """Return the results of a batch, in the order of its outcomes."""
        return [replace(self._result(outcome), intermediate=self._intermediate(outcome)) for outcome in batch.outcomes]

    def _intermediate(self, outcome: Outcome) -> dict[int, tuple[float, ...]]:
        """Return `TrialResult.intermediate`: what the scheduler saw, else the leading objective if the trial had ended there."""
        if outcome.shown or not self.leading:
            return dict(zip(outcome.shown_at, outcome.shown, strict=True))
        found: dict[int, tuple[float, ...]] = {}
        for segment, step in enumerate(outcome.curve.trained_steps, 1):
            until = replace(outcome, state="COMPLETE", curve=outcome.curve.until(segment))
            try:
                found[int(step)] = tuple(self.values(until, [self.leading]))
            except ValueError:
                break
        return found

    def _result(self, outcome: Outcome) -> TrialResult:
        """Return the result of an outcome. It is a FAIL with the reason if the metrics cannot be computed."""
        if outcome.state == "PRUNED":
            return TrialResult(outcome.number, outcome.state, outcome.reason, {})
        if outcome.state != "COMPLETE":
            return self._failure(outcome, outcome.reason, outcome.fault_step)
        try:
            metrics = self.metrics(outcome)
            if missing := [name for name in self.scale.table.rows if name not in metrics]:
                raise ValueError(f"no report has {missing[0]}, a measure of the task")
            return TrialResult(outcome.number, outcome.state, "", metrics)
        except ValueError as error:
            return self._failure(outcome, str(error), _first_infinite(outcome.curve))

    def _failure(self, outcome: Outcome, cause: str, step: int | None) -> TrialResult:
        asked = dotted(outcome.trial.config)
        searched = {name: asked[name] for name in self.searched}
        is_in_lane = self.scale.words.has_programs
        lane = outcome.lane if is_in_lane else None
        step = step if is_in_lane or len(outcome.curve.steps) else None
        reason = failure_reason(cause, lane=lane, step=step, searched=searched)
        return TrialResult(outcome.number, "FAIL", reason, {})


def _first_infinite(curve: Curve) -> int | None:
    """Return the first step at which a return is nan or inf, None if all are finite."""
    points = np.flatnonzero(~np.isfinite(curve.mean).all(axis=1))
    return int(curve.steps[points[0]]) if len(points) else None
