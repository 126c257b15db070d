"""Trials that enter and leave lanes between segments: what a study and the engine say to each other. Numpy only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hyperlax.agent import Policy
from hyperlax.checkpoints import Checkpoints
from hyperlax.stays import Stay
from hyperlax.trial import Curve, Trial

OPEN = 0
"""The cohort of trials that may share lanes with any others."""

COSTS = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")
"""What of a `timing.json` adds up."""

SUMMED = (*COSTS, "lane_segments")
"""What `Pools.timing` adds up."""


@dataclass(frozen=True)
class Advance:
    """Where a trial stands after a segment.

    repetition: of its seeds, the first that it trains now. segments: how many of this repetition are done. curve: of this
    repetition until then; it ends before the fault if there is one. fault_step: environment steps of one seed at the evaluation
    that was not finite, None while all were. lane, num_parameters, train_seconds, stays: as of an `Outcome`, since it entered.
    policy: at the end of this repetition, None before.
    """

    number: int
    repetition: int
    segments: int
    curve: Curve
    fault_step: int | None
    lane: int
    num_parameters: int
    train_seconds: float
    policy: Policy | None = None
    stays: tuple[Stay, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """Trials that lost their lanes. error: what their program raised, None where they shall simply begin anew."""

    numbers: tuple[int, ...]
    error: Exception | None


class Pools(Protocol):
    """The lanes of all slots, for trials of any programs. Not safe to use from several threads at once, but for the properties."""

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        ...

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is not executable yet."""
        ...

    def enter(self, trial: Trial, repetition: int = 0, cohort: int = OPEN) -> bool:
        """Let a trial begin with the next segment, in a lane beside others of its cohort only; False where no lane is free."""
        ...

    def leave(self, number: int) -> None:
        """Free the lane of a trial, once the segment under way there has ended; the trial advances no more."""
        ...

    def begin(self) -> None:
        """Start training in the background what `advance` will wait for. What enters after it may have to wait for a lane."""
        ...

    def advance(self) -> tuple[list[Advance], list[Dropped]]:
        """Train on until trials, one at least that is in a lane, are at the end of their next segment; and who lost lanes."""
        ...

    def save(self, checkpoints: Checkpoints) -> None:
        """Save all lanes at the ends of their segments, in place of what was saved."""
        ...

    def restore(
        self, checkpoints: Checkpoints, trials: Mapping[int, Trial], unfinished: Collection[int]
    ) -> Sequence[Advance]:
        """Go on from what was saved, with the unfinished ones of its trials; where they stand. Only before anything entered.

        trials: all that may have been in lanes then, by number.
        """
        ...

    def timing(self) -> dict[str, Any]:
        """SUMMED, what all of it has cost in this process, by the names of `timing.json`, with `peak_memory_bytes` and `lanes`.

        lane_segments: segments of all lanes, whether a trial was in them or not.
        """
        ...
