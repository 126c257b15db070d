"""The backend protocol: where trials train. Plain data goes in and comes out, so that it can cross a process or a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Plan, SegmentResult, Trial

SHARED = 0
"""The group of trials that may share lanes with any others."""


@dataclass(frozen=True)
class EngineConfig:
    """What a backend is made for.

    Args:
      num_seeds: Seeds that a lane trains at once.
      lanes: The most trials that a compiled call trains at once; None chooses from the device and `super_batch`.
      packing: "auto", "pad" or "split".
      chosen: The `Backend.packing` of a study that is resumed: its programs and, unless others are asked for now, their lanes stay
        what they were, and so do its results to the bit.
      kind: "closed": trials train to their end in batches. "refilled": they wait for a decision after every segment, and others
        take their lanes. "population": they wait, too, and are replaced by copies, in one program on one device.
      repetitions: Seeds of a trial, `num_seeds` at once; by default as many.
      trials: All that will be trained, where that is known beforehand: every program is then given lanes for its own of them,
        spread over the slots.
      configs: One a segment, under which the only trial trains; for replays.
      is_confirmation: Whether random numbers are others than those of the search.
    """

    base: AlgorithmConfig
    space: Mapping[str, Distribution]
    environment: str
    run_length: RunLength
    seed: int
    num_seeds: int
    num_trials: int
    super_batch: int
    lanes: int | None = None
    packing: str = "auto"
    chosen: Mapping[str, Any] | None = None
    compilation_cache: bool = True
    kind: Literal["closed", "refilled", "population"] = "closed"
    repetitions: int | None = None
    trials: Sequence[Trial] = ()
    configs: Sequence[AlgorithmConfig] = ()
    is_confirmation: bool = False


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

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Partition trials into hparam batches, the saved ones first, and predict what they cost. Nothing is entered."""
        ...

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> Sequence[int]:
        """Give trials lanes, from the next segment on, beside others of their group only. Return the numbers of those that got one.

        A backend of closed batches takes one of the batches of `plan` with each call, and trains one a slot at a time.
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

    def stop(self) -> None:
        """Ask closed batches to end at their next segment. Called where a signal is handled, so it only notes the wish."""
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
