"""The backend protocol: training trials. Its inputs and outputs are plain data, so they can cross a process or a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hyperlax.errors import HyperlaxError
from hyperlax.hyperparams import Config
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.tasks import Task
from hyperlax.trial import Plan, SegmentResult, Trial

SHARED = 0
"""The group of trials that may share a program's lanes with one another."""

SUMMED = (
    "programs_compiled",
    "compile_seconds",
    "train_seconds",
    "evaluate_seconds",
    "wall_seconds",
    "steps",
    "lane_segments",
)
"""Entries of a `timing.json` that are summed over sessions of refilled lanes."""


def timing_of(
    cost: Mapping[str, Any], lanes: int, peak_memory: int | None, predicted: float | None = None, **more: Any
) -> dict[str, Any]:
    """Return the content of a `timing.json`. cost: the entries of `SUMMED`, not all in closed batches. more: further entries."""
    seconds = cost["train_seconds"] + cost["evaluate_seconds"]
    return {
        **cost,
        "steps_per_second": cost["steps"] / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory,
        "lanes": lanes,
        **more,
        "predicted_seconds": predicted,
    }


@dataclass(frozen=True)
class EngineConfig:
    """Settings of a backend.

    Args:
      num_seeds: Seeds that a lane trains at once.
      super_batch: Trials of a super-batch; None if as many as train at once, see `width`.
      lanes: The most trials that a compiled call trains at once; None chooses from the device and `super_batch`.
      packing: "auto", "pad" or "split".
      chosen: The `Backend.packing` of a study that is resumed, or that the first agent has chosen: programs and, unless others are
        asked for now, their lanes stay what they were, and so do results to the bit. None lets the backend choose.
      kind: "closed": trials train to their end in batches. "refilled": they wait for a decision after every segment, and others
        take their lanes. "population": they wait, too, and are replaced by copies, in one program on one device.
      trial_seeds: Seeds of a trial, `num_seeds` at once; by default as many.
      trials: All trials that will be trained, if known beforehand. Every program then gets lanes for its own trials, spread over
        the slots.
      configs: One a segment, under which the only trial trains; for replays.
      is_confirmation: Whether to use other random numbers than the search.
      task: The task that is trained; None for an RL algorithm in `environment`, which is empty otherwise.
      slots: The most batches that train at once: worker processes of a task, or slots on devices. None for as many as there are
        cores or devices for.
      devices: Indices of the devices to train on; () for all.
      trial_timeout: Seconds after which a trial of a task has failed; None for no limit.
      mlflow: Address and experiment in MLflow where each run of a command gets its own; None if the study is not tracked.
      code: That of the recipe. It decides nothing here; agents need the same.
    """

    base: Config
    space: Mapping[str, Distribution]
    environment: str
    run_length: RunLength
    seed: int
    num_seeds: int
    num_trials: int
    super_batch: int | None
    lanes: int | None = None
    packing: str = "auto"
    chosen: Mapping[str, Any] | None = None
    compilation_cache: bool = True
    kind: Literal["closed", "refilled", "population"] = "closed"
    trial_seeds: int | None = None
    trials: Sequence[Trial] = ()
    configs: Sequence[Config] = ()
    is_confirmation: bool = False
    task: Task | None = None
    slots: int | None = None
    devices: tuple[int, ...] = ()
    trial_timeout: float | None = None
    mlflow: Mapping[str, str] | None = None
    code: str = ""

    @property
    def has_programs(self) -> bool:
        """True if trials train in compiled programs."""
        return self.task is None or self.task.has_programs

    def width(self, at_once: int) -> int:
        """Return the trials of a super-batch; unless that is given, as many as train at once, so that all lanes are busy."""
        return self.super_batch or narrowest(at_once, self.num_trials)


def narrowest(at_once: int, num_trials: int) -> int:
    """Return the width of a super-batch with which all lanes are busy."""
    return max(2, min(at_once, num_trials))


@dataclass(frozen=True)
class Evicted:
    """Trials that lost their lanes and their results. error: the exception of their program; None if they can just restart."""

    numbers: tuple[int, ...]
    error: Exception | None


MOST_LOSSES = 3
"""How often a trial may lose the process or the agent where it trains before it has failed."""


class LostError(HyperlaxError):
    """An error of trials that have lost the place where they trained `MOST_LOSSES` times."""

    def __init__(self, how: str):
        """Make an error. how: the words for how it was lost the last time."""
        super().__init__(f"lost three times, the last time because {how}")


class BackendLost(HyperlaxError):
    """The error of a backend that cannot train any more, in whole sentences. A resume continues."""


class Backend(Protocol):
    """A trainer of trials. Its methods are called from one thread, its properties from any.

    A trial enters, advances segment by segment, and leaves. There are two kinds of backend. In one, trials wait for a decision
    after every segment (pruning, racing, populations). In the other, they train to their end without decisions (closed batches).
    The loop is the same for both. A subclass needs what ends with `...` here, and of the rest what it has something to do for.

    device: what it trains on, in words. packing: its choice of programs and lanes, as JSON, with the `EngineConfig.width` of its
    `super_batch`; empty if there is nothing to choose. A study stores it and passes it to the backend when it is resumed.
    """

    device: str
    lanes: int
    slots: int
    packing: Mapping[str, Any]

    @property
    def occupied(self) -> int:
        """Lanes that hold a trial."""
        ...

    @property
    def preparing(self) -> int:
        """Lanes that hold a trial whose program is still being compiled; 0 if that is not known."""
        return 0

    @property
    def room(self) -> int:
        """Closed batches that may enter: as many as there are slots, or more where some wait for an agent."""
        return self.slots

    @property
    def restored(self) -> Mapping[int, int]:
        """Segments that trials of closed batches had done when they were saved, by number, while they continue from there."""
        return {}

    def prepare(self) -> None:
        """Prepare for trials, in the background, before the first of them is known."""

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Partition trials into hparam batches, the saved ones first, and predict their costs. No trial enters yet."""
        ...

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> Sequence[int]:
        """Give trials lanes from the next segment on, beside trials of their group only. Return the numbers of those that got one.

        A backend of closed batches takes one batch of `plan` per call, and trains one batch per slot at a time.
        """
        ...

    def begin(self) -> None:
        """Start the training that `advance` waits for, in the background."""

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Block until at least one trial has new results. Return the new results of all trials, by number."""
        ...

    def copy(self, source: int, into: Trial) -> None:
        """Let a new trial continue from the state of trial `source`, in its own lane, from the next segment on.

        The copies made between two segments replace all trials that were in lanes. A trial that continues in the lane of its
        source keeps its random numbers; any other trial gets its own.
        """
        raise RuntimeError("only the lanes of a population can be copied")

    def leave(self, number: int) -> None:
        """Free the lane of a trial once its current segment has ended. `advance` reports nothing more about the trial."""

    def stop(self) -> None:
        """Ask closed batches to end after their current segment. Signal handlers call this, so it only sets a flag."""

    def wake(self) -> None:
        """Let `advance` return soon, maybe without results, unless it does by itself. Any thread may call this."""

    def save(self) -> None:
        """Save all lanes between two segments. Wait for running segments first."""

    def restore(self, trials: Mapping[int, Trial], unfinished: Collection[int]) -> Sequence[SegmentResult]:
        """Restore the saved unfinished trials, and return their results so far. trials: at least these. No trial is in a lane.

        Closed batches are not restored here: they continue when they enter again.
        """
        return ()

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        """Return `timing.json` for trials that ended together: the cost since the last call, or of their batch.

        Where lanes are refilled it may have `told_before`: segments in results since the last call whose cost another process
        was told. It is not kept.
        """
        ...

    def close(self) -> None:
        """Release threads and lanes."""
