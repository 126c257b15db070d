"""Optuna's samplers, each with the study's seed: what plain Optuna makes of the sampler's name, but for `qmc`'s counting."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from hyperlax.study.distributions import SearchSpace

MEMORYLESS = ("random", "qmc", "grid")
"""Samplers whose suggestions follow from the seed and from what was asked before, not from results."""


def derive_seed(*parts: int) -> int:
    """A 32-bit seed that depends on all of the parts, which are not negative."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def make_sampler(name: str, space: SearchSpace, *, seed: int, super_batch: int) -> BaseSampler:
    """The sampler of a study, before its first trial. Optuna's defaults but for what depends on the super-batch.

    TPE, so, is multivariate for one objective, per parameter for several, and has the constant liar, which counts trials in
    flight as bad ones; GP integrates over them. So one super-batch does not propose the same point twice. NSGA-II and NSGA-III
    breed a generation per super-batch.
    """
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "nsgaii":
        return NSGAIISampler(population_size=super_batch, seed=seed)
    if name == "nsgaiii":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIIISampler(population_size=super_batch, seed=seed)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if name == "qmc":
        return SobolByNumber(space.optuna, seed=derive_seed(seed))
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "grid":
        return GridSampler(space.values(), seed=seed)
    raise ValueError(f"no sampler named {name!r}")


def random_state(sampler: BaseSampler) -> list[list[Any]] | None:
    """The state of TPE's random numbers, as JSON keeps it; None for the other samplers.

    All that TPE goes by are these and the trials of its study, and it is slow: to have it suggest 1,000 trials again takes about
    30 s of CPU. NSGA-II takes 4 s; GP and CMA-ES also go by models that they fitted before.
    """
    if not isinstance(sampler, TPESampler):
        return None
    states = [generator.get_state(legacy=False) for generator in _generators(sampler)]
    return [
        [state["state"]["key"].tobytes().hex(), state["state"]["pos"], state["has_gauss"], state["gauss"]]
        for state in states
    ]


def set_random_state(sampler: BaseSampler, states: Sequence[Sequence[Any]]) -> None:
    """Bring TPE to what `random_state` gave."""
    assert isinstance(sampler, TPESampler)
    for generator, (key, *rest) in zip(_generators(sampler), states, strict=True):
        generator.set_state(("MT19937", np.frombuffer(bytes.fromhex(key), np.uint32), *rest))


def _generators(sampler: TPESampler) -> list[np.random.RandomState]:
    return [sampler._rng.rng, sampler._random_sampler._rng.rng]


def prepare(sampler: BaseSampler, study: Study, super_batch: int) -> None:
    """Let NSGA-II or NSGA-III begin a new generation with this super-batch, if it has parents.

    Optuna begins one when the last has `population_size` *complete* trials: after a single failure a whole super-batch would
    be drawn from the same parents again, in the first generation at random. Here two complete trials are enough, and
    selection still keeps up to `population_size` of all. Asking for the parents from the first generation on keeps
    Optuna's recursion flat.
    """
    if not isinstance(sampler, (NSGAIISampler, NSGAIIISampler)):
        return
    sampler.population_size = super_batch
    generation, complete = 0, 0
    while population := sampler.get_population(study, generation):
        complete += len(population)
        if complete < 2:
            return
        sampler.population_size = len(population)
        generation += 1
        sampler.get_parent_population(study, generation)


class SobolByNumber(QMCSampler):
    """The scrambled Sobol sequence of a study: ask number i of this object gets point i.

    Optuna's own counts in the study's attributes and draws a study's very first trial at random instead.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._space = {name: distribution for name, distribution in space.items() if not distribution.single()}
        self._next = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        self._next += 1
        return self._next - 1


def draw_random(space: Mapping[str, BaseDistribution], seed: int) -> dict[str, Any]:
    """One configuration drawn from the distributions alone."""
    return optuna.create_study(sampler=RandomSampler(seed=seed)).ask(dict(space)).params
