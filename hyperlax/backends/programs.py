"""The choice of a study's programs, their sizes and their lanes, made once, before the first trial.

It depends on a sample of the search space, not on the trials of a super-batch. So every super-batch finds its programs compiled,
and a resumed study runs every trial in the program that an uninterrupted study would have used.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hyperlax.algorithms.padding import (
    Padding,
    padding_of,
    sample_of_space,
    structure_of,
    structure_of_space,
    with_any_activation,
)
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine import device
from hyperlax.engine.costs import Costs, Load, making_seconds, training_seconds
from hyperlax.engine.packing import Group, pack
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial

_SAMPLE = 64


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
) -> list[Padding]:
    """Return the paddings of a study's programs: one for all ("pad"), none ("split": exact programs), or the cheapest mix.

    The largest holds every configuration of the space.
    """
    whole = structure_of_space(base, space)
    if packing == "pad":
        return [padding_of(whole)]
    if packing == "split":
        return []
    probe = AlgorithmTask(base, space, environment, budget.run_length)
    sample = sample_of_space(base, space, _SAMPLE)
    members: dict[Any, list[AlgorithmConfig]] = {}
    for config in sample:
        members.setdefault(with_any_activation(structure_of(config), whole), []).append(config)
    groups = [Group(structure, tuple(configs)) for structure, configs in members.items()]

    def cost(group: Group) -> float:
        return _predicted(probe, group, budget, costs)

    chosen = pack(groups, cost)
    paddings = [padding_of(group.structure) for group in chosen]
    largest = max(range(len(paddings)), key=lambda i: probe.shape(base, paddings[i]).flops(1.0))
    paddings[largest] = padding_of(chosen[largest].structure | whole)
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
    padding = padding_of(group.structure)
    programs: dict[Any, list[float]] = {}
    for config in group.members:
        programs.setdefault(probe.shape(config, padding), []).append(probe.num_updates(Trial(0, config)))
    compiling = training = 0.0
    for program, updates in programs.items():
        share = len(updates) / _SAMPLE
        lanes = budget.lanes_for(share)
        name = device.program_name(program, lanes, budget.num_seeds)
        compiling += (1 - (1 - share) ** budget.num_trials) * making_seconds(costs, probe.kind, name)
        load = Load(lanes * budget.num_seeds, program.steps_per_iteration, 0.0)
        training += sum(
            weight * training_seconds(costs, probe.kind, load._replace(flops=program.flops(most)), budget.run_length)
            for most, weight in _updates_of_batches(updates, expected_batches(budget.super_batch, share, lanes))
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


def _updates_of_batches(updates: Sequence[float], batches: float) -> list[tuple[float, float]]:
    """Return the `num_updates` of each batch of a super-batch, that of its longest trial, and its weight.

    The weights add up to `batches`, which need not be whole.
    """
    count = max(1, math.ceil(batches - 1e-9))
    ranked = sorted(updates, reverse=True)
    return [(ranked[len(ranked) * i // count], batches / count) for i in range(count)]
