"""Optuna's samplers behind the sampler protocol: suggestions are a pure function of the seed and of the results known then.

A study in memory is asked with one sampler, super-batch after super-batch. Before a super-batch it is told the earlier trials as
they stood then. A process that is asked for a later super-batch first, as a resumed one is, begins at trial 0 and asks for all of
them again, so that its sampler reaches the same random state; TPE's is also kept. Nothing else enters: neither how often the
study was interrupted nor which trials of the super-batch were already recorded. So a resumed study equals an uninterrupted one,
asking for fewer trials gives the first of those that asking for more would give, and super-batches of one trial are what plain
Optuna suggests with the same sampler and seed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from hyperlax.errors import in_sentence, numbered
from hyperlax.samplers.base import AskedTrial, Known, Sampler, derive_seed
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.in_memory import ASKED, InMemoryStudy
from hyperlax.samplers.registry import SAMPLERS

log = logging.getLogger(__name__)

REPEATS = 100
"""Number of repeated configurations in a row after which one is drawn at random."""

_Generator = tuple[
    Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{4992}$")],
    Annotated[int, msgspec.Meta(ge=0, le=624)],
    Annotated[int, msgspec.Meta(ge=0, le=1)],
    float,
]
"""The state of numpy's Mersenne Twister: its 624 words, the position in them, and whether a gaussian number is kept, and which."""
_OF_THIS_ASK = ("tpe:", "gp:", "cma:optimizer", "fixed_params", "search_space")
"""System attributes of a trial that only its sampler needs, in memory."""


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of TPE before the super-batch that begins with trial `start`. random: see `_random_state`."""

    start: Annotated[int, msgspec.Meta(ge=0)]
    random: Annotated[list[_Generator], msgspec.Meta(min_length=2, max_length=2)]


class OptunaSampler(Sampler):
    """A sampler that suggests a study's trials with an Optuna sampler, given by its row of the registry.

    directions: "minimize" or "maximize" per objective. first_trials: the parameters, as Optuna keeps them, of trials 0, 1, ...,
    all different; the sampler sees them as enqueued trials.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: str,
        directions: Sequence[str],
        seed: int,
        super_batch: int,
        first_trials: Sequence[Mapping[str, Any]] = (),
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.sampler = sampler
        self.directions = tuple(directions)
        self.seed = seed
        self.super_batch = super_batch
        self.learns = SAMPLERS[sampler].learns
        self._enqueued = dict(enumerate(first_trials))
        self._begin()

    def suggest(self, start: int, count: int, known: Known, saved: Mapping[str, Any] | None = None) -> list[AskedTrial]:
        if start < self._start:
            self._begin()
        if saved:
            state = msgspec.convert(saved, _State)
            if state.start % self.super_batch:
                raise msgspec.ValidationError(f"{state.start} is not the first trial of a super-batch")
            if self._start < state.start <= start:
                self._resume(state, known(state.start))
        while self._start < start:
            self._ask_for(self.super_batch)
            self._next_super_batch(known(self._start + self.super_batch))
        self._ask_for(count)
        return self._asked[:count]

    def enqueue(self, number: int, params: Mapping[str, Any]) -> bool:
        """Enqueue a trial, unless another is enqueued under its number.

        Missing parameters are drawn at random: not every sampler can complete a configuration.
        """
        if number in self._enqueued:
            return False
        self._enqueued[number] = {**_draw_random(self.space.optuna, derive_seed(self.seed, number, 1)), **params}
        return True

    def state(self) -> dict[str, Any] | None:
        """Return the state before the last super-batch, for a new sampler that gets the trials below its `start`."""
        return self._state

    def _begin(self) -> None:
        """Begin before trial 0."""
        self._state: dict[str, Any] | None = None
        self._sampler = SAMPLERS[self.sampler].make(self.space, self.seed, self.super_batch)
        self._study = InMemoryStudy(self._sampler, self.directions, self.space)
        self._start = 0
        self._asked: list[AskedTrial] = []
        self._places: list[int] = []
        self._told: list[FrozenTrial | None] = []
        self._seen: set[tuple[str, ...]] = set()

    def _resume(self, saved: _State, history: Sequence[FrozenTrial]) -> None:
        """Begin with the state `saved`, before the super-batch that follows these trials."""
        self._begin()
        self._study.hold(history)
        _set_random_state(self._sampler, saved.random)
        self._start, self._state = saved.start, msgspec.to_builtins(saved)
        self._places = list(range(len(history)))
        self._told = list(history)
        self._seen = {self.space.identity(trial.params) for trial in history}

    def _next_super_batch(self, history: Sequence[FrozenTrial]) -> None:
        """Move to the super-batch that follows these trials, and tell the sampler their results.

        A trial may be recorded with other parameters than are suggested now, because of another version of Optuna or an edit by
        hand. The recorded ones are told.
        """
        others = [n for n, (new, trial) in enumerate(zip(self._asked, history[self._start :], strict=True), self._start)
                  if self.space.identity(new.params) != self.space.identity(trial.params)]  # fmt: skip
        if others:
            log.warning(
                "%s other parameters than the sampler suggests now. The study continues with the recorded ones.",
                in_sentence(numbered(others, "have")),
            )
            self._seen = {self.space.identity(trial.params) for trial in history}
        self._told += [None] * (len(history) - len(self._told))
        news = {n: trial for n, trial in enumerate(history) if trial is not self._told[n]}
        self._study.tell({self._places[number]: trial for number, trial in news.items()})
        self._told = list(history)
        _begin_generation(self._sampler, self._study.study, self.super_batch)
        self._start += self.super_batch
        self._asked = []
        numbers = _random_state(self._sampler)
        self._state = {"start": self._start, "random": numbers} if numbers else None

    def _ask_for(self, count: int) -> None:
        """Ask for suggestions until this super-batch has that many, or all configurations are used."""
        while len(self._asked) < count and not self._exhausted():
            trial = self._next(self._start + len(self._asked))
            kept = {key: value for key, value in trial.system_attrs.items() if not key.startswith(_OF_THIS_ASK)}
            params = self.space.canonical(trial.params)
            if differing := {name: value for name, value in trial.params.items() if value != params[name]}:
                kept[ASKED] = differing
            suggestion = AskedTrial(params, {}, kept)
            self._seen.add(self.space.identity(suggestion.params))
            self._places.append(trial.number)
            self._asked.append(suggestion)

    def _next(self, number: int) -> FrozenTrial:
        """Return trial `number`: an enqueued one, else from the sampler, else drawn at random."""
        if number in self._enqueued:
            return self._study.ask(self._enqueued[number])
        return self._unrepeated() or self._study.ask(self._drawn(number))

    def _unrepeated(self) -> FrozenTrial | None:
        """Return the sampler's next new configuration; None if it keeps repeating itself."""
        for _ in range(REPEATS):
            trial = self._study.ask()
            if self.space.identity(trial.params) not in self._seen:
                return trial
            self._study.refuse(trial.number)
        return None

    def _exhausted(self) -> bool:
        size = self.space.size()
        return size is not None and len(self._seen) >= size

    def _drawn(self, number: int) -> dict[str, Any]:
        """Return a configuration drawn at random; always a new one if the space is finite."""
        seed = derive_seed(self.seed, number, 1)
        return _draw_random(self.space.optuna, seed) if self.space.size() is None else self._unseen(seed)

    def _unseen(self, seed: int) -> dict[str, Any]:
        """Return the first new configuration at or after a random one: at most len(seen) steps, however large the space."""
        size = self.space.size()
        assert size is not None and size > len(self._seen)
        index = random.Random(seed).randrange(size)
        while self.space.identity(params := self.space.combination(index)) in self._seen:
            index = (index + 1) % size
        return params


def _random_state(sampler: BaseSampler) -> list[list[Any]] | None:
    """Return the state of TPE's random numbers, as JSON keeps it; None for the other samplers.

    TPE depends on these and on the trials of its study only. It is slow: suggesting 1,000 trials again takes about 30 s of CPU.
    NSGA-II takes 4 s. GP and CMA-ES also depend on models that they fitted before.
    """
    if not isinstance(sampler, TPESampler):
        return None
    states = [generator.get_state(legacy=False) for generator in _generators(sampler)]
    return [
        [state["state"]["key"].tobytes().hex(), state["state"]["pos"], state["has_gauss"], state["gauss"]]
        for state in states
    ]


def _set_random_state(sampler: BaseSampler, states: Sequence[_Generator]) -> None:
    """Set TPE's random numbers to the state that `_random_state` returned."""
    assert isinstance(sampler, TPESampler)
    for generator, (key, place, has_gauss, gauss) in zip(_generators(sampler), states, strict=True):
        words = np.frombuffer(bytes.fromhex(key), np.uint32)
        generator.set_state(("MT19937", words, place, has_gauss, gauss))


def _generators(sampler: TPESampler) -> list[np.random.RandomState]:
    return [sampler._rng.rng, sampler._random_sampler._rng.rng]


def _begin_generation(sampler: BaseSampler, study: Study, super_batch: int) -> None:
    """Let NSGA-II or NSGA-III begin a new generation with this super-batch, if there are parents.

    Optuna begins one when the last has `population_size` *complete* trials. After a single failure, a whole super-batch would be
    drawn from the same parents again, or at random in the first generation. Here two complete trials suffice, and selection
    still keeps up to `population_size` of all. Asking for the parents in every generation keeps Optuna's recursion flat. Those of
    earlier generations are known from the super-batches before.
    """
    if not isinstance(sampler, (NSGAIISampler, NSGAIIISampler)):
        return
    sampler.population_size = super_batch
    prefix = sampler._get_parent_cache_key_prefix()
    bred = sum(key.startswith(prefix) for key in study._storage.get_study_system_attrs(study._study_id))
    generation, complete = (bred - 1, 2) if bred else (0, 0)
    while population := sampler.get_population(study, generation):
        complete += len(population)
        if complete < 2:
            return
        sampler.population_size = len(population)
        generation += 1
        sampler.get_parent_population(study, generation)


def _draw_random(space: Mapping[str, BaseDistribution], seed: int) -> dict[str, Any]:
    """Return one configuration drawn from the distributions alone."""
    return optuna.create_study(sampler=RandomSampler(seed=seed)).ask(dict(space)).params
