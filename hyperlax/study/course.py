"""A trial before it trains, and on its way through lanes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hyperlax.agent import Policy, joined
from hyperlax.pooling import OPEN, Advance
from hyperlax.recipe import apply, dotted
from hyperlax.stays import Stay
from hyperlax.trial import MEASURED, Curve, Outcome, Trial


def legal(trial: Trial) -> Trial:
    """The trial with its values as its recipe's fields keep them. UsageError if they refuse one."""
    return Trial(trial.number, apply(trial.algorithm, dotted(trial.algorithm), "refused"))


@dataclass
class Course:
    """A trial on its way. done: the curves of its repetitions that are complete; latest: where the present one stands.

    policies: what those became, where that is known. seconds_before, stays_before: of lanes that it has left.
    """

    trial: Trial
    cohort: int = OPEN
    done: list[Curve] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    latest: Advance | None = None
    in_lane: bool = False
    has_failed: bool = False
    shown: list[list[float]] = field(default_factory=list)
    seconds_before: float = 0.0
    stays_before: tuple[Stay, ...] = ()

    def begin_anew(self) -> None:
        """Forget everything but the trial, its cohort and where it was."""
        self.stays_before = self.stays
        self.done, self.policies, self.latest, self.shown, self.seconds_before = [], [], None, [], 0.0
        self.in_lane = self.has_failed = False

    @property
    def stays(self) -> tuple[Stay, ...]:
        """In lanes, until now."""
        now = self.latest.stays if self.in_lane and self.latest else ()
        return self.stays_before + tuple(stay for stay in now if stay not in self.stays_before)

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
            stays=self.stays,
        )


def first_points(curve: Curve, points: int | None) -> Curve:
    columns = {name: getattr(curve, name)[:points] for name in ("steps", *MEASURED)}
    return Curve(episodes=curve.episodes, budget=curve.budget, **columns)
