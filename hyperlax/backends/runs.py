"""A trial that trains in a worker process, as the process that holds the study sees it, that process, and its slot."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperlax.backends.base import timing_of
from hyperlax.backends.child import Child, end, python
from hyperlax.engine.machine import cores, gpus
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.tasks import Task
from hyperlax.trial import NOT_FINITE, Curve, LaneInterval, SegmentResult, Trial

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables from which numerical libraries know how many threads to start. Else each process starts one per core."""


class FunctionError(Exception):
    """An exception of a function. Its text is the traceback in the worker process."""


@dataclass(eq=False)
class Run:
    """A trial in a lane: it trains, or waits for a process.

    Args:
      id: Its number among all runs of the backend.
      seeds: The index and the value of each seed, in the order in which they train.
      points: Step and values of every report, by the seed's index.
      seconds: Computed for each seed, by its index.
      interval: Where and when it has trained, None before it begins.
      started: When its function was called or its command started, in seconds; None before that.
      is_leaving: Whether its results are not reported any more.
      fault: Why it has failed.
    """

    trial: Trial
    repetition: int
    id: int
    seeds: list[tuple[int, int]]
    points: dict[int, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    interval: LaneInterval | None = None
    started: float | None = None
    is_leaving: bool = False
    is_done: bool = False
    fault: str | None = None

    @property
    def segments(self) -> int:
        """Number of reports that all seeds have made."""
        return min(len(self.points.get(index, ())) for index, _ in self.seeds)

    @property
    def steps(self) -> int:
        """Steps of all seeds together."""
        return sum(points[-1][0] for points in self.points.values() if points)

    def mismatch(self) -> str | None:
        """Return why the seeds' reports so far make no common curve, None if they do."""
        first, *others = (index for index, _ in self.seeds)
        if not others:
            return None
        steps = [step for step, _ in self.points.get(first, ())]
        for index in others:
            own = [step for step, _ in self.points.get(index, ())]
            if own != steps[: len(own)] or (self.is_done and len(own) != len(steps)):
                return (
                    f"seed {first} reported at steps {_listed(steps)} and seed {index} at {_listed(own)}; all seeds of a "
                    "trial must report at the same steps"
                )
        return None

    def timing(self) -> dict[str, Any]:
        """Return its cost, by the names of `timing.json`."""
        wall = self.interval.ended - self.interval.began if self.interval else 0.0
        return timing_of_runs(sum(self.seconds.values()), self.steps, wall, useful_lane_segments=self.segments)

    def result(self, task: Task, budget: int) -> SegmentResult:
        """Return its results so far."""
        seeds, rows = [self.points.get(index, []) for index, _ in self.seeds], self.segments

        def column(name: str) -> np.ndarray:
            values = [[points[row][1].get(name, math.nan) for points in seeds] for row in range(rows)]
            return np.array(values, np.float64).reshape(rows, len(seeds))

        steps = np.array([step for step, _ in seeds[0][:rows]], np.int64)
        return SegmentResult(
            number=self.trial.number,
            repetition=self.repetition,
            segments=rows,
            curve=Curve.of_measures(steps, {one.name: column(one.name) for one in task.all_measures}, budget),
            fault_step=None if self.fault is None else int(max((p[-1][0] for p in seeds if p), default=0)),
            is_done=self.is_done,
            lane=None,
            num_parameters=0,
            train_seconds=sum(self.seconds.values()),
            intervals=() if self.interval is None else (self.interval,),
            fault=self.fault or NOT_FINITE,
        )


class Worker:
    """The process of a slot.

    run: what it trains. is_loaded: whether it has the recipe. is_waiting: for a decision on its run. group: the process group of
    the command that it runs, None if it runs none.
    """

    def __init__(self, slot: int, environment: Mapping[str, str], events: queue.SimpleQueue[Any]):
        self.slot, self.is_loaded, self.is_waiting = slot, False, False
        self.group: int | None = None
        self.run: Run | None = None
        command = python("from hyperlax.backends.worker import main; main()")
        self.child = Child(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.thread = threading.Thread(target=self._listen, args=(events,), daemon=True, name=f"slot {slot}")
        self.thread.start()

    @property
    def current(self) -> Run | None:
        """Its run, unless that is not reported any more."""
        return None if self.run is None or self.run.is_leaving else self.run

    def say(self, **message: Any) -> None:
        """Send an order or a decision. If the process has died, that is noticed elsewhere."""
        with suppress(OSError, ValueError):
            self.child.input.write(json.dumps(message).encode() + b"\n")
            self.child.input.flush()

    def decide(self, stop: bool) -> None:
        """Send the decision about its run, if it has one: it stops at its current or next report, or continues."""
        self.is_waiting = False
        if self.run is not None:
            self.say(run=self.run.id, stop=stop)

    def clean_up(self) -> None:
        """Kill the command that a process which has died could not end."""
        if self.group is not None:
            with suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)

    def hang_up(self) -> None:
        """Close its standard input. The process then ends by itself if it does not train."""
        with suppress(OSError, ValueError):
            self.child.input.close()

    def _listen(self, events: queue.SimpleQueue[Any]) -> None:
        for line in self.child.output:
            if line.endswith(b"\n"):
                events.put((self, json.loads(line)))
        how = self.child.wait()
        self.hang_up()
        events.put((self, how))
        end([self.child])


def environments(task: Task, asked: int | None) -> list[dict[str, str]]:
    """Return the variables of each slot's process. asked: slots; None for as many as the cores and GPUs of this process allow.

    Raises UsageError if this machine lacks what a trial needs.
    """
    if task.cores > cores():
        raise UsageError(
            f"a trial needs {counted(task.cores, 'core')}, and this process may use {cores()}. Lower the cores of a trial."
        )
    slots = asked or cores() // task.cores
    common = {**os.environ, **{name: str(task.cores) for name in _THREADS if name not in os.environ}}
    if other := next((name for name in task.resources if name != "gpu"), None):
        raise UsageError(f"the task needs {other}, and here resources can only be gpu. Remove it from resources=.")
    if "gpu" not in task.resources:
        return [common] * slots
    shares = _gpu_shares(task.resources["gpu"])
    if not shares:
        raise UsageError(
            f"a trial needs {task.resources['gpu']:g} GPUs, and this machine has {len(gpus())}. Change resources=."
        )
    if asked and asked > len(shares):
        problem = "{slots} {0}: the GPUs of this machine are enough for {1}. Give at most that."
        raise OptionError("slots", problem, asked, len(shares))
    return [{**common, "CUDA_VISIBLE_DEVICES": share} for share in shares[:slots]]


def _gpu_shares(amount: float) -> list[str]:
    """Return the GPUs of each trial that trains at once, as CUDA_VISIBLE_DEVICES names them. amount: GPUs of a trial."""
    names = gpus()
    if amount < 1:
        return names * int(1 / amount + 1e-9)
    each = math.ceil(amount)
    return [",".join(names[first : first + each]) for first in range(0, len(names) - each + 1, each)]


def timing_of_runs(train_seconds: float, steps: int, wall_seconds: float, **more: int) -> dict[str, Any]:
    """Return the content of a `timing.json`. Nothing is compiled for a function, and what it does is all training."""
    cost = {
        "programs_compiled": 0,
        "compile_seconds": 0.0,
        "train_seconds": float(train_seconds),
        "evaluate_seconds": 0.0,
        "wall_seconds": wall_seconds,
        "steps": steps,
    }
    return timing_of(cost, 1, None, **more)


def _listed(steps: Sequence[int]) -> str:
    """Return the first steps in words."""
    return ", ".join(map(str, steps[:5])) + (", ..." if len(steps) > 5 else "") if steps else "none"
