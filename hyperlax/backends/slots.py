"""The slots of a task on this machine: how many trials train at once, and the variables of each slot's process."""

from __future__ import annotations

import math
import os

from hyperlax.engine.machine import cores, gpus
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.tasks import Task

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables from which numerical libraries know how many threads to start. Else each process starts one per core."""


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
