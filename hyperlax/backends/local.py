"""The backend of a recipe on an environment: its programs, lanes and slots on this machine's devices.

A study's programs are chosen once, before the first trial, on a sample of the search space, not on the trials of a super-batch. So
every super-batch finds its programs compiled, and a resumed study runs every trial in the program that an uninterrupted study would
have used.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypedDict

from hyperlax.algorithms.padding import (
    Padding,
    padding_of,
    sample_of_space,
    structure_of,
    structure_of_space,
    with_any_activation,
)
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.base import EngineConfig, narrowest
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
from hyperlax.hyperparams import AlgorithmConfig, of_algorithm
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial

_SAMPLE = 64
"""Configurations of the sample."""
_LIKELY = 1 / 4
"""Share of the trials from which on a program is loaded before one of them asks for it."""


class _Shape(TypedDict):
    """A `TorsoShape` as study.json stores it."""

    widths: list[int]
    activations: list[str]
    layer_norms: list[bool]
    exact: bool
    sizes: list[_Shape]


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
    base, space, environment, run_length = (
        of_algorithm(config.base),
        config.space,
        config.environment,
        config.run_length,
    )
    Segments.of(run_length, AlgorithmTask(base, space, environment, run_length).longest_iteration())
    slots = device.slot_devices()[: 1 if config.kind == "population" else None]
    costs = device.costs_of_device(config.compilation_cache)
    paddings = _stored_paddings(config.chosen) if config.chosen else None
    budget = _budget(config, slots)
    if paddings is None:
        paddings = choose_paddings(base, space, environment, budget, config.packing, costs)
    known = [of_algorithm(trial.config) for trial in config.trials]
    task = AlgorithmTask(base, space, environment, run_length, paddings, known)
    executables = device.executables() if config.compilation_cache and task.is_shipped else None
    programs = Programs(
        budget.lanes,
        config.num_seeds,
        lanes_of=_lanes_of(config, task, budget),
        lanes_before=_lanes_before(config),
        room=device.room_for_a_program if config.trials or not config.lanes else None,
        refills=config.kind == "refilled",
        executables=executables,
    )
    if executables:
        programs.load(_likely(config, task), slots)
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
        "trial_seeds": config.trial_seeds,
        "checkpoints": checkpoints,
    }
    if config.kind == "closed":
        return ClosedBatches(task, programs, configs=config.configs, **parts)
    return OpenLanes(task, programs, may_shrink=config.kind == "refilled", **parts)


def _budget(config: EngineConfig, slots: list[Any]) -> Budget:
    """Return the budget of a study. A resumed study keeps its stored choices."""
    chosen = config.chosen or {"super_batch": config.super_batch, "slots": len(slots)}
    super_batch = chosen["super_batch"]
    lanes = config.lanes or (len(config.trials) if config.trials else chosen.get("automatic_lanes"))
    if not lanes:
        widest = super_batch or min(USUAL_SUPER_BATCH, config.num_trials)
        lanes = device.automatic_lanes(widest, slots)
    return Budget(
        config.run_length,
        config.num_trials,
        super_batch or narrowest(lanes * len(slots), config.num_trials),
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
    share = shares(task, of_algorithm(config.base), config.space)
    return lambda program: budget.lanes_for(share.get(program, 0.0))


def _likely(config: EngineConfig, task: AlgorithmTask) -> dict[Any, Any]:
    """Return the programs that many trials need, each with the hyperparameters of one trial as its lane has them."""
    trials = config.trials or [
        Trial(0, one) for one in sample_of_space(of_algorithm(config.base), config.space, _SAMPLE)
    ]
    members: dict[Any, list[Trial]] = {}
    for trial in trials:
        members.setdefault(task.program(trial), []).append(trial)
    return {program: task.lane(own[0]) for program, own in members.items() if len(own) >= _LIKELY * len(trials)}


def _stored_paddings(chosen: Mapping[str, Any]) -> list[Padding]:
    """Return the paddings that study.json stores. Raise UsageError if its entry `packing` is malformed."""
    return [Padding.from_json(padding) for padding in convert(chosen, _Packing, "study.json: `packing`")["paddings"]]


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


def choose_paddings(
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    environment: str,
    budget: Budget,
    packing: str,
    costs: Costs,
    exact_sizes: bool | None = None,
) -> list[Padding]:
    """Return the paddings of a study's programs: one for all ("pad"), none ("split": exact programs), or the cheapest mix.

    The largest holds every configuration of the space. exact_sizes: as for `AlgorithmTask`.
    """
    probe = AlgorithmTask(base, space, environment, budget.run_length, exact_sizes=exact_sizes)
    whole = structure_of_space(base, space)
    if packing == "pad":
        return [padding_of(whole, probe.exact_sizes)]
    if packing == "split":
        return []
    sample = sample_of_space(base, space, _SAMPLE)
    members: dict[Any, list[AlgorithmConfig]] = {}
    for config in sample:
        members.setdefault(with_any_activation(structure_of(config), whole), []).append(config)
    groups = [Group(structure, tuple(configs)) for structure, configs in members.items()]

    def cost(group: Group) -> float:
        return _predicted(probe, group, budget, costs)

    chosen = pack(groups, cost)
    paddings = [padding_of(group.structure, probe.exact_sizes) for group in chosen]
    largest = max(range(len(paddings)), key=lambda i: probe.shape(base, paddings[i]).flops(1.0))
    paddings[largest] = padding_of(chosen[largest].structure | whole, probe.exact_sizes)
    return paddings


def shares(task: AlgorithmTask, base: AlgorithmConfig, space: Mapping[str, Distribution]) -> Mapping[Any, float]:
    """Return each program's share of all trials, estimated from a sample of the space."""
    sample = sample_of_space(base, space, _SAMPLE)
    counted = Counter(task.program(Trial(0, config)) for config in sample)
    return {program: count / _SAMPLE for program, count in counted.items()}


def _predicted(probe: AlgorithmTask, group: Group, budget: Budget, costs: Costs) -> float:
    """Return the expected seconds that a group's trials take over the whole study.

    A program is compiled if any trial needs it. Two compilations side by side take about as long as one by one.
    """
    padding = padding_of(group.structure, probe.exact_sizes)
    programs: dict[Any, list[float]] = {}
    for config in group.members:
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
