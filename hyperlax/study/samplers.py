"""Optuna's samplers, built afresh for every super-batch from the study's seed and the number of its first trial."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

MEMORYLESS = ("random", "qmc")
"""Samplers whose suggestions follow from the seed and the number of a trial alone."""


def derive_seed(*parts: int) -> int:
    """A 32-bit seed that depends on all of the parts, which are not negative."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def make_sampler(
    name: str, space: Mapping[str, BaseDistribution], *, seed: int, start: int, super_batch: int
) -> BaseSampler:
    """The sampler of the super-batch whose first trial has number `start`.

    TPE keeps Optuna 5's defaults: multivariate for one objective, per parameter for several, and the constant liar, which
    counts trials in flight as bad ones, so that one super-batch does not propose the same point twice.
    """
    own_seed = derive_seed(seed, start)
    if name == "tpe":
        return TPESampler(seed=own_seed)
    if name == "nsgaii":
        return NSGAIISampler(population_size=super_batch, seed=own_seed)
    if name == "qmc":
        return SobolByNumber(space, seed=derive_seed(seed), start=start)
    if name == "random":
        return RandomSampler(seed=own_seed)
    raise ValueError(f"no sampler named {name!r}")


def prepare(sampler: BaseSampler, study: Study) -> None:
    """Let NSGA-II begin a new generation with this super-batch, if it has parents.

    Optuna begins one when the last has `population_size` *complete* trials: after a single failure a whole super-batch would
    be drawn from the same parents again, in the first generation at random. Here two complete trials are enough, and
    selection still keeps up to `population_size` of all. Asking for the parents from the first generation on keeps
    Optuna's recursion flat.
    """
    if not isinstance(sampler, NSGAIISampler):
        return
    generation, complete = 0, 0
    while population := sampler.get_population(study, generation):
        complete += len(population)
        if complete < 2:
            return
        sampler.population_size = len(population)
        generation += 1
        sampler.get_parent_population(study, generation)


class SobolByNumber(QMCSampler):
    """The scrambled Sobol sequence of a study: ask number i of this object gets point `start + i`.

    Optuna's own counts in the study's attributes and draws a study's very first trial at random instead.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int, start: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        self._next = start

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        self._next += 1
        return self._next - 1


def draw_random(space: Mapping[str, BaseDistribution], seed: int) -> dict[str, Any]:
    """One configuration drawn from the distributions alone."""
    return optuna.create_study(sampler=RandomSampler(seed=seed)).ask(dict(space)).params
