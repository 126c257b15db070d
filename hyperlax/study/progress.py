"""The progress of a study: counted, and described in one line that fits a terminal. Reporters show it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hyperlax.config.constraints import violations
from hyperlax.errors import counted, format_number
from hyperlax.metrics import OF_RETURNS
from hyperlax.study.observer import Observer, Training
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TrialResult

_LEAST_IMPORTANT_FIRST = (
    "objective", "elapsed", "pruned", "lanes", "rate", "preparing", "failed", "left", "best",
)  # fmt: skip
"""The parts that are left out of a line, in this order, on a terminal that is too narrow."""


@dataclass
class _Tally:
    """The number of trials of a search or of a confirmation so far. best: value of the first objective and its trial."""

    done: int = 0
    failed: int = 0
    pruned: int = 0
    best: tuple[float, int] | None = None

    def count(self, state: str) -> None:
        """Count a trial that has ended."""
        self.done += 1
        self.failed += state == "FAIL"
        self.pruned += state == "PRUNED"


@dataclass
class _Pace:
    """The time and the steps of a training in this process.

    since: time when the first program was ready. before: steps that earlier processes did.
    """

    done_before: int
    began: float = field(default_factory=lambda: time.monotonic())
    steps: float = 0
    since: float = math.inf
    before: float = 0

    def add(self, steps: int, seconds: float, before: int) -> None:
        """Count steps that took `seconds`, 0 if not known.

        If that is longer than this process has trained, agents did a part of them before.
        """
        here = time.monotonic() - self.began
        seconds = seconds or here
        own = steps * min(1.0, here / seconds) if seconds else steps
        self.steps, self.before = self.steps + own, self.before + before + steps - own
        self.since = min(self.since, self.began + max(0.0, here - seconds))

    def steps_per_second(self) -> float | None:
        """Return the rate since the first program was ready; None before there are steps."""
        seconds = time.monotonic() - self.since
        return self.steps / seconds if self.steps and seconds > 0 else None


class Progress(Observer):
    """A counter of trials and steps. It shows nothing: see `hyperlax.study.reporters`."""

    def __init__(self) -> None:
        self.objective, self._sign, self._constraints = "", 1.0, ()
        self.tally, self.pace = _Tally(), _Pace(0)
        self.training: Training | None = None

    def study_started(self, snapshot: Callable[[], StudyRecord]) -> None:
        record = snapshot()
        self.objective, direction = next(iter(record.objectives.items()))
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._constraints = tuple(record.arguments.get("constraints", ()))
        for trial in record.trials:
            if trial.state != "RUNNING":
                self.tally.count(trial.state)
                if trial.state == "COMPLETE" and trial.feasible:
                    self._compare(trial.number, trial.values[self.objective])

    def training_started(self, training: Training) -> None:
        if training.task == "confirmation":
            self.tally = _Tally()
        self.training, self.pace = training, _Pace(self.tally.done)

    def steps_done(self, steps: int, seconds: float, before: int = 0) -> None:
        self.pace.add(steps, seconds, before)

    def trials_ended(self, results: list[TrialResult]) -> None:
        for result in results:
            self.tally.count(result.state)
            if (value := self.value(result)) is not None:
                self._compare(result.number, value)

    def training_ended(self) -> None:
        self.training = None

    def close(self) -> None:
        self.training_ended()

    @property
    def task(self) -> str:
        """Running task, as in `Training`."""
        return self.training.task if self.training else "search"

    def value(self, result: TrialResult) -> float | None:
        """Return the first objective of a trial; None unless it can be the best, in a search or a population."""
        if (
            self.task in ("confirmation", "single")
            or result.state != "COMPLETE"
            or not all(violation <= 0 for violation in violations(self._constraints, result.metrics))
        ):
            return None
        return result.metrics[self.objective]

    def line(self, width: int | None = None) -> str:
        """Return the progress in one line, as much of it as fits into `width`."""
        parts = self._parts()
        for name in _LEAST_IMPORTANT_FIRST:
            if width is None or len("  ".join(parts.values())) <= width:
                break
            if name == "objective" and "best" in parts:
                parts["best"] = parts["best"].replace(f" {self.objective}", "", 1)
            parts.pop(name, None)
        return "  ".join(parts.values())[:width]

    def seconds_left(self) -> float | None:
        """Return the seconds left, estimated from steps if their total is known, else from trials."""
        tally, pace, training = self.tally, self.pace, self.training
        if training is None or tally.done >= training.total:
            return None
        if training.steps is not None and pace.before + pace.steps:
            rate = pace.steps_per_second()
            return max(0.0, training.steps - pace.before - pace.steps) / rate if rate else None
        done = tally.done - pace.done_before
        return (time.monotonic() - pace.began) / done * (training.total - tally.done) if done else None

    def lanes(self) -> tuple[int, int]:
        """Return how many lanes train, and how many wait for their program."""
        if self.training is None:
            return 0, 0
        preparing = self.training.backend.preparing
        return max(0, self.training.backend.occupied - preparing), preparing

    def _compare(self, number: int, value: float) -> None:
        so_far = [(value, number)] if self.tally.best is None else [self.tally.best, (value, number)]
        self.tally.best = max(so_far, key=lambda best: (self._sign * best[0], -best[1]))

    def _parts(self) -> dict[str, str]:
        """Return the parts of the line, by name and in order."""
        tally, total = self.tally, self.training.total if self.training else self.tally.done
        parts = {"trials": f"{tally.done}/{counted(total, 'trial')}"}
        if tally.best is not None:
            parts["best"] = f"best {self.objective} {format_number(tally.best[0])} (trial {tally.best[1]})"
        if tally.pruned:
            parts["pruned"] = f"{tally.pruned} pruned"
        if tally.failed:
            parts["failed"] = f"{tally.failed} failed"
        training, preparing = self.lanes()
        words = self.training.words if self.training else OF_RETURNS
        most = self.training.lanes if self.training else None
        if self.training and most is None and not words.has_programs:
            most = max(self.training.backend.slots, training)  # an agent may train before its slots are known
        if training:
            parts["lanes"] = ("" if most is None else f"{training}/") + counted(most or training, words.lane)
        rate = self.pace.steps_per_second() if words.has_programs else None
        if rate is not None and (training or not preparing):
            parts["rate"] = f"{rate:,.0f} steps/s"
        if preparing:
            parts["preparing"] = words.preparing
        parts["elapsed"] = clock(time.monotonic() - self.pace.began)
        if (left := self.seconds_left()) is not None:
            parts["left"] = f"{clock(left)} left"
        return parts


def clock(seconds: float) -> str:
    """Return a time as 1:02:03, or as 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
