"""A trial before and after training, and the batches between. Numpy only: engine, metrics, study and analysis share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hyperlax.agent import Policy
from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.stays import Stay

STATES = ("COMPLETE", "PRUNED", "FAIL")
"""How a trial can end."""

NOT_FINITE = "parameters or returns are not finite"
"""Why a trial fails whose lane shows nan or inf."""

MEASURED = ("mean", "std", "min", "max", "length")
"""The columns of a curve: of the returns of an evaluation's episodes, and their mean length."""


@dataclass(frozen=True)
class Trial:
    """One configuration to train: its number in the study and the whole algorithm configuration it asked for."""

    number: int
    algorithm: AlgorithmConfig


@dataclass(frozen=True)
class HparamBatch:
    """Trials that share one compiled call, at most as many as the program has lanes."""

    trials: tuple[Trial, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The trials' numbers in the order of the lanes."""
        return tuple(trial.number for trial in self.trials)

    def halves(self) -> tuple[HparamBatch, HparamBatch]:
        """What is run instead of a batch of several trials that broke, until the trial at fault is alone."""
        middle = len(self.trials) // 2
        return HparamBatch(self.trials[:middle]), HparamBatch(self.trials[middle:])


@dataclass(frozen=True)
class Plan:
    """Trials in hparam batches, and what is expected of them.

    batches: in the order in which they should start. programs: how many compiled programs they need; known: how many of these
    need no compiling. seconds: predicted from start to end; None where the runner predicts nothing.
    """

    batches: tuple[HparamBatch, ...]
    programs: int
    known: int
    seconds: float | None

    def sentence(self) -> str:
        """The plan in one line."""
        trials = sum(len(batch.trials) for batch in self.batches)
        predicted = "" if self.seconds is None else f"; predicted {self.seconds:.0f} s"
        programs, batches = _count(self.programs, "program"), _count(len(self.batches), "batch", "batches")
        return f"{_count(trials, 'trial')} -> {programs} ({self.known} known), {batches}{predicted}"


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


@dataclass(frozen=True)
class Curve:
    """A trial's evaluations; row 0 is the point before any training.

    steps: int64[points], environment steps of one seed.
    mean, std, min, max: float64[points, seeds], return over the episodes of one evaluation.
    length: float64[points, seeds], mean episode length in steps.
    episodes: episodes per evaluation and seed.
    budget: the steps that were asked for; training goes on to the end of the rollout that reaches them.
    """

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    length: np.ndarray
    episodes: int
    budget: int


@dataclass(frozen=True)
class Outcome:
    """One trial's end.

    state: "COMPLETE", "PRUNED" or "FAIL"; reason: why it is not COMPLETE, else "".
    curve: as far as it got; a failed trial's curve ends before the fault, so every number in it is finite.
    num_parameters: trainable scalars of the policy network that acts.
    train_seconds: this trial's share of its batch's training time.
    lane: of the program, where it trained; fault_step: environment steps of one seed at the evaluation that saw it fail. None
    where nobody knows them. stays: in lanes, in the order of time; empty where nobody knows them.
    policy: what it became, at the end of a training that is COMPLETE; None where nobody kept it.
    """

    number: int
    state: str
    reason: str
    curve: Curve
    num_parameters: int
    train_seconds: float
    lane: int | None = None
    fault_step: int | None = None
    stays: tuple[Stay, ...] = ()
    policy: Policy | None = None


@dataclass(frozen=True)
class BatchResult:
    """The outcomes of one hparam batch in the order of its trials, and the content of its `timing.json`."""

    outcomes: tuple[Outcome, ...]
    timing: dict[str, Any]


class Interrupted(Exception):
    """A batch stopped between two segments because it was asked to; none of its trials has an outcome."""


class Runner(Protocol):
    """Trains hparam batches. `run` may be called from `slots` threads at once."""

    slots: int

    def plan(self, trials: Sequence[Trial], saved: Sequence[Head] = ()) -> Plan:
        """Partition trials into batches that can each share a program; a saved batch that can go on stays as it is."""
        ...

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: Checkpoint | None = None,
    ) -> BatchResult:
        """Train a batch to its end, from where `checkpoint` left it.

        `report` receives 0 when the program is ready. After every segment it receives the environment steps done in it, over
        all trials and seeds of the batch, and `should_stop` is asked; if it says yes, the batch is saved and `Interrupted`
        raised. It is also saved when that is due.
        """
        ...
