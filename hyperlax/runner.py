"""The engine put to work on reinforcement learning: a runner for a recipe on an environment, on this machine's devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperlax.algorithms.padding import Padding
from hyperlax.algorithms.workload import Workload
from hyperlax.engine import device
from hyperlax.engine.runner import LaneRunner, schedule_of
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.programs import Budget, choose_paddings, shares
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution


@dataclass(frozen=True)
class Task:
    """What a runner is made for.

    lanes: the most trials that a compiled call trains at once; None chooses from the device and `super_batch`. packing: "auto",
    "pad" or "split". chosen: the `LaneRunner.packing` of a study that goes on: its programs and their lanes stay what they were,
    and so do its results to the bit.
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


def make_runner(task: Task) -> LaneRunner:
    """A runner on this machine's devices.

    Raises:
      UsageError: the algorithm cannot act in the environment; the budget is smaller than the evaluations need, for some
        choice of the search space; jax was started so that it would hang.
    """
    device.prepare_jax(task.compilation_cache)
    base, space, environment, run_length = task.base, task.space, task.environment, task.run_length
    whole = Workload(base, space, environment, run_length)
    schedule_of(run_length, whole.longest_iteration())
    slots = device.slot_devices()
    super_batch = task.chosen["super_batch"] if task.chosen else task.super_batch
    lanes = task.lanes or (task.chosen or {}).get("automatic_lanes")
    costs = device.costs_of_device(task.compilation_cache)
    lanes = lanes or device.automatic_lanes(super_batch, slots, costs)
    spread_over = task.chosen["slots"] if task.chosen else len(slots)
    budget = Budget(
        run_length, task.num_trials, super_batch, task.num_seeds, spread_over, lanes, spread=task.lanes is None
    )
    if task.chosen:
        paddings = [Padding.from_json(stored) for stored in task.chosen["paddings"]]
    else:
        paddings = choose_paddings(base, space, environment, budget, task.packing, costs)
    workload = Workload(base, space, environment, run_length, paddings)
    share = shares(workload, base, space)
    return LaneRunner(
        workload,
        seed=task.seed,
        num_seeds=task.num_seeds,
        lanes=lanes,
        lanes_of=lambda program: budget.lanes_for(share.get(program, 0.0)),
        slot_devices=slots,
        room=None if task.lanes else lambda: device.room_for_a_program(slots),
        costs=costs,
        packing={
            "super_batch": super_batch,
            "slots": budget.slots,
            "automatic_lanes": lanes if task.lanes is None else None,
            "paddings": [padding.to_json() for padding in paddings],
            "shrunk": (task.chosen or {}).get("shrunk", {}),
        },
    )
