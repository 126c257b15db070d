"""The engine put to work on reinforcement learning: a runner for a recipe on an environment, on this machine's devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from hyperlax.algorithms.padding import Padding
from hyperlax.algorithms.workload import Workload
from hyperlax.engine import device
from hyperlax.engine.batch import schedule_of
from hyperlax.engine.keys import SEARCH, Stream
from hyperlax.engine.registry import Registry
from hyperlax.engine.runner import LaneRunner
from hyperlax.files import convert
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.programs import Budget, choose_paddings, shares
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial


class _Shape(TypedDict):
    """What study.json keeps of `TorsoShape`."""

    widths: list[int]
    activations: list[str]
    layer_norms: list[bool]


class _Padding(TypedDict):
    """What study.json keeps of `Padding`."""

    networks: dict[str, _Shape]
    minibatches: list[int]
    batch_rows: int


class _Packing(TypedDict):
    """What study.json keeps under `packing`."""

    super_batch: int
    slots: int
    automatic_lanes: int | None
    asked_lanes: int | None
    lanes: dict[str, int]
    paddings: list[_Padding]


@dataclass(frozen=True)
class Task:
    """What a runner is made for.

    lanes: the most trials that a compiled call trains at once; None chooses from the device and `super_batch`. packing: "auto",
    "pad" or "split". chosen: the `LaneRunner.packing` of a study that goes on: its programs and, unless others are asked for now,
    their lanes stay what they were, and so do its results to the bit. refills: trials enter and leave while others train. trials:
    all that will be trained, where that is known beforehand: every program is then given lanes for its own of them, spread over
    the slots. stream: of random numbers.
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
    refills: bool = False
    trials: Sequence[Trial] = ()
    stream: Stream = SEARCH


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
    stored = _stored_paddings(task.chosen) if task.chosen else None
    super_batch = task.chosen["super_batch"] if task.chosen else task.super_batch
    lanes = task.lanes or (task.chosen or {}).get("automatic_lanes")
    lanes_before = task.chosen["lanes"] if task.chosen and task.chosen["asked_lanes"] == task.lanes else {}
    if task.trials:
        lanes, lanes_before = task.lanes or len(task.trials), {}
    costs = device.costs_of_device(task.compilation_cache)
    lanes = lanes or device.automatic_lanes(super_batch, task.num_seeds, slots, costs)
    spread_over = task.chosen["slots"] if task.chosen else len(slots)
    budget = Budget(
        run_length, task.num_trials, super_batch, task.num_seeds, spread_over, lanes, spread=task.lanes is None
    )
    paddings = stored
    if paddings is None:
        paddings = choose_paddings(base, space, environment, budget, task.packing, costs)
    workload = Workload(base, space, environment, run_length, paddings, [trial.algorithm for trial in task.trials])
    share = {} if task.trials else shares(workload, base, space)
    counted = Counter(workload.program(trial) for trial in task.trials)

    def lanes_of(program: Any) -> int:
        return -(-counted[program] // spread_over) if task.trials else budget.lanes_for(share.get(program, 0.0))

    registry = Registry(
        lanes,
        task.num_seeds,
        lanes_of=lanes_of,
        lanes_before=lanes_before,
        room=device.room_for_a_program if task.trials or not task.lanes else None,
        refills=task.refills,
    )
    return LaneRunner(
        workload,
        registry,
        seed=task.seed,
        slot_devices=slots,
        costs=costs,
        packing={
            "super_batch": super_batch,
            "slots": budget.slots,
            "automatic_lanes": lanes if task.lanes is None else None,
            "paddings": [padding.to_json() for padding in paddings],
            "asked_lanes": task.lanes,
        },
        stream=task.stream,
    )


def _stored_paddings(chosen: Mapping[str, Any]) -> list[Padding]:
    """Return the paddings that study.json keeps. UsageError if anything under `packing` is not what was written there."""
    return [Padding.from_json(padding) for padding in convert(chosen, _Packing, "study.json: `packing`")["paddings"]]
