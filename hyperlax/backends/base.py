"""The backend protocol: where trials train. Plain data goes in and comes out, so that it can cross a process or a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hyperlax.agent import Policy
from hyperlax.stays import Stay
from hyperlax.trial import NOT_FINITE, Curve, Plan, Trial

SHARED = 0
"""The group of trials that may share lanes with any others."""


@dataclass(frozen=True)
class SegmentResult:
    """Where a trial stands after a segment, the training between two evaluations.

    Args:
      number: The trial.
      repetition: The first of the trial's seeds that trains now; above 0 only where seeds train one after another.
      segments: Segments of this repetition that are done.
      curve: This repetition so far. It ends before the first evaluation that was not finite.
      fault_step: Environment steps of one seed at that evaluation; None while all were finite.
      fault: Why the trial fails there.
      is_done: Whether this repetition has ended: the budget is spent, or, where trials train in closed batches, its batch ended.
      lane, num_parameters, train_seconds, stays: As in `Outcome`, since the trial entered.
      policy: What the trial became, at the end of its training; None before.
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
    stays: tuple[Stay, ...] = ()
    fault: str = NOT_FINITE


@dataclass(frozen=True)
class Evicted:
    """Trials that lost their lanes, and all they showed. error: what their program raised; None: they only have to restart."""

    numbers: tuple[int, ...]
    error: Exception | None


class Backend(Protocol):
    """Trains trials. All methods are called from one thread; the properties from any.

    A trial enters, is advanced segment by segment, and leaves. It is in one of two kinds of backend, which the backend is told
    when it is made: one whose trials wait for a decision after every segment (pruning, racing, populations), and one whose
    trials train on to their end by themselves (closed batches). The loop is the same for both: in the second nothing is decided.
    """

    device: str
    lanes: int
    slots: int

    @property
    def packing(self) -> Mapping[str, Any]:
        """How programs and lanes were chosen, as JSON. A study keeps it, and hands it to the backend that resumes it."""
        ...

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        ...

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is still being compiled."""
        ...

    def capacity(self) -> int:
        """Return how many trials are worth entering at once."""
        ...

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Partition trials into hparam batches, the saved ones first, and predict what they cost. Nothing is entered."""
        ...

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> Sequence[int]:
        """Give trials lanes, from the next segment on, beside others of their group only. Return the numbers of those that got one.

        A backend of closed batches takes all of them, as the batches of `plan`, and trains one batch a slot at a time.
        """
        ...

    def begin(self) -> None:
        """Start in the background what `advance` will wait for."""
        ...

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Block until at least one trial has something to tell, and return what each such trial showed, by number."""
        ...

    def copy(self, source: int, into: Trial) -> None:
        """Let a new trial continue from the state of trial `source`, in a lane of its own, from the next segment on.

        All copies between two segments together replace the trials that were in lanes. A trial that continues in the lane of
        its source keeps its random numbers; any other gets its own.
        """
        ...

    def leave(self, number: int) -> None:
        """Free the lane of a trial once the segment under way there has ended; no more is heard of it."""
        ...

    def save(self) -> None:
        """Save what is in lanes, between two segments. Segments under way are waited for."""
        ...

    def restore(self, trials: Mapping[int, Trial], unfinished: Collection[int]) -> Sequence[SegmentResult]:
        """Put back what was saved of the unfinished trials, and return where they stand. trials: all that may have been saved."""
        ...

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return `timing.json` for trials that ended together: what was spent since the last call, or in their batch."""
        ...

    def close(self) -> None:
        """Let go of threads and lanes."""
        ...
