"""The backend of what trains in lanes: its programs, lanes and slots on this machine's devices.

A study's programs are chosen once, before the first trial, on a sample of the search space, not on the trials of a super-batch. So
every super-batch finds its programs compiled, and a resumed study runs every trial in the program that an uninterrupted study would
have used.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypedDict

from hyperlax.algorithms.own import LanesTask
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.base import EngineConfig
from hyperlax.backends.closed import ClosedBatches
from hyperlax.backends.lanes import LanesBackend
from hyperlax.backends.open import OpenLanes
from hyperlax.config.options import USUAL_SUPER_BATCH
from hyperlax.engine import device
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.costs import Costs, Load, making_seconds, training_seconds
from hyperlax.engine.keys import CONFIRMATION, SEARCH
from hyperlax.engine.packing import Group, pack
from hyperlax.engine.programs import Programs
from hyperlax.engine.segments import Segments
from hyperlax.files import convert
from hyperlax.hyperparams import of_algorithm
from hyperlax.recipe import RunLength
from hyperlax.tasks import Lanes
from hyperlax.trial import Trial

_SAMPLE = 64
"""Configurations of the sample."""
_LIKELY = 1 / 4
"""Share of the trials from which on a program is loaded before one of them asks for it. Only one that all need is compiled."""


class _Packing(TypedDict):
    """The entry `packing` of study.json."""

    super_batch: int
    slots: int
    automatic_lanes: int | None
    asked_lanes: int | None
    lanes: dict[str, int]
    paddings: list[dict[str, Any]]


LocalTask = AlgorithmTask | LanesTask
"""What trains in lanes: an RL algorithm, or a JAX program of a recipe's."""


def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None = None) -> LanesBackend:
    """Return a backend on this machine's devices. checkpoints: where it saves trials in the middle of their training.

    Raises:
      UsageError: the algorithm cannot act in the environment; the budget is smaller than the evaluations need, for some
        choice of the search space; a device does not exist; jax was started so that it would hang.
    """
    device.prepare_jax(config.compilation_cache)
    probe = _probe(config)
    Segments.of(config.run_length, probe.longest_iteration())
    slots = device.slot_devices(config.devices, 1 if config.kind == "population" else config.slots)
    costs = device.costs_of_device(config.compilation_cache)
    if config.chosen:
        convert(config.chosen, _Packing, "study.json: `packing`")
    budget = _budget(config, slots)
    paddings: list[Any] = (
        [probe.stored_padding(padding) for padding in config.chosen["paddings"]]
        if config.chosen
        else choose_paddings(probe, budget, config.packing, costs)
    )
    task = probe.padded(paddings, [trial.config for trial in config.trials])
    needed = _needed(config, task)
    executables = device.executables() if config.compilation_cache and task.is_shipped else None
    programs = Programs(
        budget.lanes,
        config.num_seeds,
        lanes_of=_lanes_of(config, needed, budget),
        lanes_before=_lanes_before(config),
        room=device.room_for_a_program if config.trials or not config.lanes else None,
        refills=config.kind == "refilled",
        executables=executables,
    )
    least = _LIKELY * sum(map(len, needed.values()))
    likely = {program: task.lane(own[0]) for program, own in needed.items() if executables and len(own) >= least}
    if likely:
        programs.load(likely, slots)
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
        "checkpoints": checkpoints,
        "sure": likely if len(needed) == 1 and not config.chosen else {},
    }
    if config.kind == "closed":
        return ClosedBatches(task, programs, configs=config.configs, **parts)
    return OpenLanes(task, programs, may_shrink=config.kind == "refilled", **parts)


def _probe(config: EngineConfig) -> LocalTask:
    """Return what is trained, with one program into which every trial of the space fits."""
    if isinstance(config.task, Lanes):
        return LanesTask(config.task, config.base, config.space, config.run_length)
    return AlgorithmTask(of_algorithm(config.base), config.space, config.environment, config.run_length)


def _budget(config: EngineConfig, slots: list[Any]) -> Budget:
    """Return the budget of a study. A resumed study keeps its stored choices."""
    chosen = config.chosen or {"super_batch": config.super_batch, "slots": len(slots)}
    lanes = config.lanes or (len(config.trials) if config.trials else chosen.get("automatic_lanes"))
    if not lanes:
        widest = chosen["super_batch"] or min(USUAL_SUPER_BATCH, config.num_trials)
        lanes = device.automatic_lanes(widest, slots)
    return Budget(
        config.run_length,
        config.num_trials,
        chosen["super_batch"] or config.width(lanes * len(slots)),
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


def _needed(config: EngineConfig, task: LocalTask) -> dict[Any, list[Trial]]:
    """Return the programs that trials need, with those trials: all that will be trained, or else a sample of the space."""
    needed: dict[Any, list[Trial]] = {}
    for trial in config.trials or [Trial(0, one) for one in task.sample(_SAMPLE)]:
        needed.setdefault(task.program(trial), []).append(trial)
    return needed


def _lanes_of(config: EngineConfig, needed: Mapping[Any, Sequence[Trial]], budget: Budget) -> Callable[[Any], int]:
    """Return a function that returns the lanes of a program, for all its trials or for the share that is expected."""

    def lanes_of(program: Any) -> int:
        own = len(needed.get(program, ()))
        return -(-own // budget.slots) if config.trials else budget.lanes_for(own / _SAMPLE)

    return lanes_of


@dataclasses.dataclass(frozen=True)
class Budget:
    """The amount of training in a study, and its slots. lanes: the most in any program. spread: use all slots per super-batch."""

    run_length: RunLength
    num_trials: int
    super_batch: int
    num_seeds: int
    slots: int
    lanes: int
    spread: bool

    def lanes_for(self, share: float) -> int:
        """Return the lanes of a program that a share of all trials needs."""
        expected = share * self.super_batch / (self.slots if self.spread else 1)
        return max(1, min(self.lanes, math.ceil(expected - 1e-9)))


def choose_paddings(probe: LocalTask, budget: Budget, packing: str, costs: Costs) -> list[Any]:
    """Return the paddings of a study's programs: one for all ("pad"), none ("split": exact programs), or the cheapest mix.

    The largest holds every configuration of the space.
    """
    whole = probe.structure()
    if packing == "pad":
        return [probe.padding(whole)]
    if packing == "split":
        return []
    sample: Sequence[Any] = probe.sample(_SAMPLE)
    members: dict[Any, list[int]] = {}
    for place, config in enumerate(sample):
        members.setdefault(probe.group(config, whole), []).append(place)
    groups = [Group(structure, tuple(places)) for structure, places in members.items()]

    def cost(group: Group) -> float:
        return _predicted(probe, group.structure, [sample[place] for place in group.members], budget, costs)

    chosen = pack(groups, cost)
    paddings: list[Any] = [probe.padding(group.structure) for group in chosen]
    largest = max(range(len(paddings)), key=lambda i: probe.size(paddings[i]))
    paddings[largest] = probe.padding(chosen[largest].structure | whole)
    return paddings


def _predicted(probe: LocalTask, structure: Any, configs: Sequence[Any], budget: Budget, costs: Costs) -> float:
    """Return the expected seconds that a group's trials, of which these are a sample, take over the whole study.

    A program is compiled if any trial needs it. Two compilations side by side take about as long as one by one.
    """
    padding: Any = probe.padding(structure)
    programs: dict[Any, list[float]] = {}
    for config in configs:
        programs.setdefault(probe.shape(config, padding), []).append(probe.flops(config, padding))
    compiling = training = 0.0
    for program, flops in programs.items():
        share = len(flops) / _SAMPLE
        if probe.exact_sizes:  # its lanes train one after another
            flops = [fmean(flops)] * len(flops)
        lanes = budget.lanes_for(share)
        name = device.program_name(program, lanes, budget.num_seeds)
        compiling += (1 - (1 - share) ** budget.num_trials) * making_seconds(costs, probe.kind, name)
        load = Load(lanes * budget.num_seeds, program.steps_per_iteration, 0.0)
        training += sum(
            weight * training_seconds(costs, probe.kind, load._replace(flops=most), budget.run_length)
            for most, weight in _flops_of_batches(flops, expected_batches(budget.super_batch, share, lanes))
        )
    return compiling + budget.num_trials / budget.super_batch * training / budget.slots


@functools.cache
def expected_batches(trials: int, share: float, lanes: int) -> float:
    """Return how many batches of `lanes` hold the trials that need a program, if each does with probability `share`.

    The mean of ceil(k / lanes) over the binomial distribution of k, which is the sum of P(k > i lanes) over all i.

    >>> round(expected_batches(16, 0.25, 1), 9), round(expected_batches(16, 0.25, 4), 2)
    (4.0, 1.37)
    """
    at_most = list(itertools.accumulate(_binomial(trials, k, share) for k in range(trials + 1)))
    return sum(1 - at_most[below] for below in range(0, trials, lanes))


def _binomial(n: int, k: int, p: float) -> float:
    if p >= 1:
        return float(k == n)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return math.exp(log)


def _flops_of_batches(flops: Sequence[float], batches: float) -> list[tuple[float, float]]:
    """Return the multiplications of each batch of a super-batch, those of its longest trial, and its weight.

    The weights add up to `batches`, which need not be whole.
    """
    count = max(1, math.ceil(batches - 1e-9))
    ranked = sorted(flops, reverse=True)
    return [(ranked[len(ranked) * i // count], batches / count) for i in range(count)]
