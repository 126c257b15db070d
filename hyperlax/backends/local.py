"""The backend of a recipe on an environment: its programs, lanes and slots on this machine's devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from hyperlax.algorithms.padding import Padding
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.base import EngineConfig
from hyperlax.backends.closed import ClosedBatches
from hyperlax.backends.lanes import LanesBackend
from hyperlax.backends.open import OpenLanes
from hyperlax.backends.programs import Budget, choose_paddings, shares
from hyperlax.engine import device
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.keys import CONFIRMATION, SEARCH
from hyperlax.engine.registry import Registry
from hyperlax.engine.segments import Segments
from hyperlax.files import convert


class _Shape(TypedDict):
    """A `TorsoShape` as study.json stores it."""

    widths: list[int]
    activations: list[str]
    layer_norms: list[bool]


class _Padding(TypedDict):
    """A `Padding` as study.json stores it."""

    networks: dict[str, _Shape]
    minibatches: list[int]
    batch_rows: int


class _Packing(TypedDict):
    """The entry `packing` of study.json."""

    super_batch: int
    slots: int
    automatic_lanes: int | None
    asked_lanes: int | None
    lanes: dict[str, int]
    paddings: list[_Padding]


def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None = None) -> LanesBackend:
    """Return a backend on this machine's devices. checkpoints: where it saves trials in the middle of their training.

    Raises:
      UsageError: the algorithm cannot act in the environment; the budget is smaller than the evaluations need, for some
        choice of the search space; jax was started so that it would hang.
    """
    device.prepare_jax(config.compilation_cache)
    base, space, environment, run_length = config.base, config.space, config.environment, config.run_length
    Segments.of(run_length, AlgorithmTask(base, space, environment, run_length).longest_iteration())
    slots = device.slot_devices()[: 1 if config.kind == "population" else None]
    costs = device.costs_of_device(config.compilation_cache)
    paddings = _stored_paddings(config.chosen) if config.chosen else None
    budget = _budget(config, slots, costs)
    if paddings is None:
        paddings = choose_paddings(base, space, environment, budget, config.packing, costs)
    known = [trial.algorithm for trial in config.trials]
    task = AlgorithmTask(base, space, environment, run_length, paddings, known)
    registry = Registry(
        budget.lanes,
        config.num_seeds,
        lanes_of=_lanes_of(config, task, budget),
        lanes_before=_lanes_before(config),
        room=device.room_for_a_program if config.trials or not config.lanes else None,
        refills=config.kind == "refilled",
    )
    packing = {
        "super_batch": budget.super_batch,
        "slots": budget.slots,
        "automatic_lanes": budget.lanes if config.lanes is None else None,
        "paddings": [padding.to_json() for padding in paddings],
        "asked_lanes": config.lanes,
    }
    parts: dict[str, Any] = {
        "seed": config.seed,
        "slot_devices": slots,
        "costs": costs,
        "packing": packing,
        "stream": CONFIRMATION if config.is_confirmation else SEARCH,
        "repetitions": config.repetitions,
        "checkpoints": checkpoints,
    }
    if config.kind == "closed":
        return ClosedBatches(task, registry, configs=config.configs, **parts)
    return OpenLanes(task, registry, may_shrink=config.kind == "refilled", **parts)


def _budget(config: EngineConfig, slots: list[Any], costs: Any) -> Budget:
    """Return the budget of a study. A resumed study keeps its stored choices."""
    chosen = config.chosen or {"super_batch": config.super_batch, "slots": len(slots)}
    lanes = config.lanes or (len(config.trials) if config.trials else chosen.get("automatic_lanes"))
    lanes = lanes or device.automatic_lanes(chosen["super_batch"], config.num_seeds, slots, costs)
    return Budget(
        config.run_length,
        config.num_trials,
        chosen["super_batch"],
        config.num_seeds,
        chosen["slots"],
        lanes,
        spread=config.lanes is None,
    )


def _lanes_before(config: EngineConfig) -> Mapping[str, int]:
    """Return how many lanes each program has run with, by fingerprint; {} if the lanes are to be chosen again."""
    if config.trials or not config.chosen or config.chosen["asked_lanes"] != config.lanes:
        return {}
    return config.chosen["lanes"]


def _lanes_of(config: EngineConfig, task: AlgorithmTask, budget: Budget) -> Callable[[Any], int]:
    if config.trials:
        counted = Counter(map(task.program, config.trials))
        return lambda program: -(-counted[program] // budget.slots)
    share = shares(task, config.base, config.space)
    return lambda program: budget.lanes_for(share.get(program, 0.0))


def _stored_paddings(chosen: Mapping[str, Any]) -> list[Padding]:
    """Return the paddings that study.json stores. Raise UsageError if its entry `packing` is malformed."""
    return [Padding.from_json(padding) for padding in convert(chosen, _Packing, "study.json: `packing`")["paddings"]]
