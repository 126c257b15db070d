"""A trial before it trains, and on its way through lanes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hyperlax.agent import Policy, joined
from hyperlax.backends.base import SHARED
from hyperlax.recipe import apply, dotted
from hyperlax.trial import MEASURED, Curve, LaneInterval, Outcome, SegmentResult, Trial


def legal(trial: Trial) -> Trial:
    """The trial with its values as its recipe's fields keep them. UsageError if they refuse one."""
    return Trial(trial.number, apply(trial.algorithm, dotted(trial.algorithm), "refused"))


@dataclass
class Course:
    """A trial on its way. done: the curves of its repetitions that are complete; latest: where the present one stands.

    policies: what those became, where that is known. seconds_before, intervals_before: of lanes that it has left.
    """

    trial: Trial
    cohort: int = SHARED
    done: list[Curve] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    latest: SegmentResult | None = None
    in_lane: bool = False
    has_failed: bool = False
    shown: list[list[float]] = field(default_factory=list)
    seconds_before: float = 0.0
    intervals_before: tuple[LaneInterval, ...] = ()

    def begin_anew(self) -> None:
        """Forget everything but the trial, its cohort and where it was."""
        self.intervals_before = self.intervals
        self.done, self.policies, self.latest, self.shown, self.seconds_before = [], [], None, [], 0.0
        self.in_lane = self.has_failed = False

    @property
    def intervals(self) -> tuple[LaneInterval, ...]:
        """In lanes, until now."""
        now = self.latest.intervals if self.in_lane and self.latest else ()
        return self.intervals_before + tuple(interval for interval in now if interval not in self.intervals_before)

    def curve(self, points: int | None = None) -> Curve:
        """The first `points` evaluations of the first repetition, or all of those that are complete side by side."""
        assert self.latest is not None
        if points is not None or not self.done:
            return first_points(self.done[0] if self.done else self.latest.curve, points)
        first = self.done[0]
        columns = {name: np.concatenate([getattr(curve, name) for curve in self.done], axis=1) for name in MEASURED}
        return Curve(steps=first.steps, episodes=first.episodes, budget=first.budget, **columns)

    def outcome(self, state: str, reason: str, curve: Curve) -> Outcome:
        """Its end."""
        assert self.latest is not None
        return Outcome(
            number=self.trial.number,
            state=state,
            reason=reason,
            curve=curve,
            num_parameters=self.latest.num_parameters,
            train_seconds=self.seconds_before + (self.latest.train_seconds if self.in_lane else 0.0),
            lane=self.latest.lane,
            fault_step=self.latest.fault_step,
            policy=joined(self.policies) if state == "COMPLETE" and self.policies else None,
            intervals=self.intervals,
        )


def first_points(curve: Curve, points: int | None) -> Curve:
    columns = {name: getattr(curve, name)[:points] for name in ("steps", *MEASURED)}
    return Curve(episodes=curve.episodes, budget=curve.budget, **columns)
