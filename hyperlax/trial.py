"""A trial before and after training, and its batch. Numpy only: engine, metrics, study and analysis share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hyperlax.agent import Policy
from hyperlax.errors import counted
from hyperlax.hyperparams import Config

STATES = ("COMPLETE", "PRUNED", "FAIL")
"""Final states of a trial."""

NOT_FINITE = "parameters or returns are not finite"
"""The reason for the failure of a trial whose lane shows nan or inf."""

TIMELINE = "timeline.csv"
"""The file of a batch with a row for each `LaneInterval` of its trials."""

WHERE = ("agent", "host", "device")
"""Entries of a `timing.json`: the agent that has trained the batch, and where; if several have, all, with `; ` between them."""

MEASURED = ("mean", "std", "min", "max", "length")
"""The columns of a curve: of the returns of an evaluation's episodes, and their mean length."""


@dataclass(frozen=True)
class Trial:
    """One configuration to train: its number in the study and its whole configuration, of an algorithm or of a task.

    retries: how often it was run again after it had failed.
    """

    number: int
    config: Config
    retries: int = 0


@dataclass(frozen=True)
class Plan:
    """A plan of hparam batches, with predictions. Trials of a batch share one compiled call.

    batches: in the order in which they should start, each in the order of its lanes. programs: number of compiled programs that
    they need; 0 where there are none. known: number of those that are compiled already. seconds: predicted from start to end; None
    without a prediction. is_rough: nothing of the kind was timed on this machine before.
    """

    batches: tuple[tuple[Trial, ...], ...]
    programs: int
    known: int
    seconds: float | None
    is_rough: bool = False

    def sentence(self) -> str:
        """Return the plan in one line."""
        trials = sum(map(len, self.batches))
        rough = " (a guess: no such training was timed on this machine yet)" if self.is_rough else ""
        predicted = "" if self.seconds is None else f"; predicted {self.seconds:.0f} s{rough}"
        programs, batches = counted(self.programs, "program"), counted(len(self.batches), "batch")
        if not self.programs:
            return f"{counted(trials, 'trial')}{predicted}"
        return f"{counted(trials, 'trial')} -> {programs} ({self.known} known), {batches}{predicted}"


@dataclass(frozen=True)
class Curve:
    """A trial's evaluations.

    steps: int64[points], environment steps of one seed, or the steps that a task reports.
    mean, std, min, max: float64[points, seeds], return over the episodes of one evaluation. Of a task, mean is the leading measure,
    min and max are equal to it and std is 0.
    length: float64[points, seeds], mean episode length in steps; nan for a task.
    episodes: episodes per evaluation and seed.
    budget: the requested steps; training continues to the end of the rollout that reaches them.
    has_start: whether row 0 is a point before any training.
    others: name -> float64[points, seeds] of a task's further measures.
    """

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    length: np.ndarray
    episodes: int
    budget: int
    has_start: bool = True
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_measures(cls, steps: np.ndarray, columns: Mapping[str, np.ndarray], budget: int) -> Curve:
        """Return the curve of a task. columns: name -> float64[points, seeds] of its measures, the leading one first."""
        leading, *_ = columns.values()
        return cls(
            steps=steps,
            mean=leading,
            std=np.zeros_like(leading),
            min=leading,
            max=leading,
            length=np.full_like(leading, np.nan),
            episodes=1,
            budget=budget,
            has_start=False,
            others=dict(list(columns.items())[1:]),
        )

    @property
    def segments(self) -> int:
        """Number of evaluations after training began."""
        return max(0, len(self.steps) - self.has_start)

    @property
    def trained_steps(self) -> np.ndarray:
        """Steps of the evaluations after training began, int64[segments]."""
        return self.steps[int(self.has_start) :]

    def column(self, name: str) -> np.ndarray:
        """Return float64[points, seeds] of a column in `MEASURED` or a further measure. Any other name is the leading measure's."""
        return getattr(self, name) if name in MEASURED else self.others.get(name, self.mean)

    def first(self, points: int) -> Curve:
        """Return its first points."""
        columns = {name: getattr(self, name)[:points] for name in ("steps", *MEASURED)}
        return replace(self, others={name: values[:points] for name, values in self.others.items()}, **columns)

    def until(self, segment: int) -> Curve:
        """Return it up to the end of a segment; segment 0 is the point before training, if it has one."""
        return self.first(segment + self.has_start)

    def beside(self, others: Sequence[Curve]) -> Curve:
        """Return the seeds of this and of other curves side by side. Their steps are this one's."""
        curves = (self, *others)
        columns = {name: np.concatenate([getattr(curve, name) for curve in curves], axis=1) for name in MEASURED}
        more = {name: np.concatenate([curve.others[name] for curve in curves], axis=1) for name in self.others}
        return replace(self, others=more, **columns)


class LaneInterval(NamedTuple):
    """A trial's time in a lane.

    slot: its index. pool: index among the slot's groups of lanes, 0 if it has only one. lane: its index in the group.
    process: when the process started its clock, in seconds since 1970. began, ended: seconds since then.
    agent: whose process it is, "" without agents.
    """

    slot: int
    pool: int
    lane: int
    process: float
    began: float
    ended: float
    agent: str = ""


@dataclass(frozen=True)
class SegmentResult:
    """The state of a trial after a segment, the training between two evaluations.

    Args:
      number: The trial.
      repetition: The first of the trial's seeds that trains now; above 0 only where seeds train one after another.
      segments: Segments of this repetition that are done, for a copied trial without those of its source.
      curve: The curve of this repetition so far, for a copied trial from the copy on. It ends before the first evaluation that was
        not finite.
      fault_step: Environment steps of one seed at that evaluation; None while all were finite.
      fault: Reason for the trial's failure there.
      is_done: Whether this repetition has ended: the budget is spent, or, where trials train in closed batches, its batch ended.
      lane, num_parameters, train_seconds, intervals: As in `Outcome`, since the trial entered.
      policy: The trained policy, at the end of training; None before.
    """

    number: int
    repetition: int
    segments: int
    curve: Curve
    fault_step: int | None
    is_done: bool
    lane: int | None
    num_parameters: int
    train_seconds: float
    policy: Policy | None = None
    intervals: tuple[LaneInterval, ...] = ()
    fault: str = NOT_FINITE


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    state: "COMPLETE", "PRUNED" or "FAIL"; reason: why it is not COMPLETE, else "".
    curve: up to its end; a failed trial's curve ends before the fault, so every number in it is finite.
    num_parameters: trainable scalars of the policy network that acts.
    train_seconds: this trial's share of its batch's training time.
    lane: its lane in the program, None if unknown.
    fault_step: environment steps of one seed at the evaluation that found the fault, None if unknown.
    intervals: in lanes, in the order of time; empty if unknown.
    policy: the trained policy of a COMPLETE trial; None if it was not kept.
    shown: the values by which a scheduler decided, a row per segment; empty without a scheduler. shown_at: the environment steps of
    one seed at each of them, those of earlier repetitions included.
    """

    trial: Trial
    state: str
    reason: str
    curve: Curve
    num_parameters: int
    train_seconds: float
    lane: int | None = None
    fault_step: int | None = None
    intervals: tuple[LaneInterval, ...] = ()
    policy: Policy | None = None
    shown: tuple[tuple[float, ...], ...] = ()
    shown_at: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self.trial.number


@dataclass(frozen=True)
class BatchResult:
    """The outcomes of trials that are recorded together, and the content of their `timing.json`."""

    outcomes: tuple[Outcome, ...]
    timing: dict[str, Any]


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial, as a row of `summary.csv` and Optuna's database keep it.

    reason: from `hyperlax.study.failures`. metrics: all of them for COMPLETE, else empty.
    intermediate: environment steps -> the leading objective as of the evaluation there; then, in a study that prunes, what else
    the pruner decides by.
    """

    number: int
    state: str
    reason: str
    metrics: dict[str, float]
    intermediate: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
