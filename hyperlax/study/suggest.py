"""What Optuna suggests for a study, as a pure function of its seed and of the results that each super-batch was asked from.

A study in memory, the twin, is asked with one sampler, super-batch after super-batch. Before a super-batch the twin is told the
earlier trials as they stood then. Whoever is asked for a later super-batch first, as a resumed process is, begins at trial 0 and
asks for all of them again, so that its sampler comes to the same random state; TPE's is also kept. Nothing else enters: neither
how often the study was interrupted nor which trials of the super-batch were already recorded. So a resumed study equals an
uninterrupted one, asking for fewer trials gives the first of those that asking for more would give, and super-batches of one
trial are what plain Optuna suggests with the same sampler and seed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from hyperlax.study.distributions import SearchSpace
from hyperlax.study.samplers import (
    MEMORYLESS,
    derive_seed,
    draw_random,
    make_sampler,
    prepare,
    random_state,
    set_random_state,
)
from hyperlax.study.twin import ASKED, Twin

log = logging.getLogger(__name__)

REPEATS = 100
"""How often a configuration that the study already has is asked again before one is drawn at random."""

_OF_THIS_ASK = ("tpe:", "gp:", "cma:optimizer", "fixed_params", "search_space")
"""System attributes of a trial that only its sampler needs, in the twin."""

Known = Callable[[int], Sequence[FrozenTrial]]
"""The trials below a super-batch's first, by number, as they stood when that super-batch was first asked."""


@dataclass(frozen=True)
class Suggestion:
    """What to store of a trial that was asked: parameters as Optuna keeps them, and what its sampler noted about it."""

    params: dict[str, Any]
    system_attrs: dict[str, Any]


class Questioner:
    """Suggests a study's trials.

    directions: "minimize" or "maximize" per objective. first_trials: the parameters, as Optuna keeps them, of trials 0, 1, ...,
    each another configuration; the sampler takes them for enqueued ones.
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
        self.space = space
        self.sampler = sampler
        self.directions = tuple(directions)
        self.seed = seed
        self.super_batch = super_batch
        self.first_trials = tuple(first_trials)
        self._begin()

    @property
    def learns(self) -> bool:
        """Whether suggestions follow from the values of earlier trials."""
        return self.sampler not in MEMORYLESS

    def suggest(self, start: int, count: int, known: Known, saved: Mapping[str, Any] | None = None) -> list[Suggestion]:
        """The first `count` suggestions of the super-batch that begins with trial `start`, a multiple of its width.

        No suggestion repeats an earlier trial; fewer than `count` mean that every configuration of a finite space is used.
        saved: a `state` that spares asking for the trials below its start again.
        """
        if start < self._start:
            self._begin()
        if saved and self._start < saved["start"] <= start:
            self._go_on(saved, known(saved["start"]))
        while self._start < start:
            self._ask_for(self.super_batch)
            self._next_super_batch(known(self._start + self.super_batch))
        self._ask_for(count)
        return self._asked[:count]

    def state(self) -> dict[str, Any] | None:
        """What, with the trials below its `start`, brings a new Questioner to where this one stood before the last super-batch.

        None for a sampler that has to be asked for all of them again. JSON has a form for it.
        """
        return self._state

    def _begin(self) -> None:
        """Stand before trial 0."""
        self._state: dict[str, Any] | None = None
        self._sampler = make_sampler(self.sampler, self.space, seed=self.seed, super_batch=self.super_batch)
        self._twin = Twin(self._sampler, self.directions, self.space)
        self._start = 0
        self._asked: list[Suggestion] = []
        self._places: list[int] = []
        self._told: list[FrozenTrial | None] = []
        self._seen: set[tuple[str, ...]] = set()

    def _go_on(self, saved: Mapping[str, Any], history: Sequence[FrozenTrial]) -> None:
        """Stand where `saved` was the state, before the super-batch that follows these trials."""
        self._begin()
        self._twin.hold(history)
        set_random_state(self._sampler, saved["random"])
        self._start, self._state = saved["start"], dict(saved)
        self._places = list(range(len(history)))
        self._told = list(history)
        self._seen = {self.space.identity(trial.params) for trial in history}

    def _next_super_batch(self, history: Sequence[FrozenTrial]) -> None:
        """Stand before the super-batch that follows these trials, and let the sampler know what became of them.

        One that was recorded with other parameters than are suggested now, by another version of Optuna or by hand, is told as
        it was recorded.
        """
        others = [n for n, (new, trial) in enumerate(zip(self._asked, history[self._start :], strict=True), self._start)
                  if self.space.identity(new.params) != self.space.identity(trial.params)]  # fmt: skip
        if others:
            log.warning(
                "Trials %s have other parameters than the sampler suggests now. The study goes on from those that it has.",
                ", ".join(map(str, others)),
            )
            self._seen = {self.space.identity(trial.params) for trial in history}
        self._told += [None] * (len(history) - len(self._told))
        news = {n: trial for n, trial in enumerate(history) if trial is not self._told[n]}
        self._twin.tell({self._places[number]: trial for number, trial in news.items()})
        self._told = list(history)
        prepare(self._sampler, self._twin.study, self.super_batch)
        self._start += self.super_batch
        self._asked = []
        numbers = random_state(self._sampler)
        self._state = {"start": self._start, "random": numbers} if numbers else None

    def _ask_for(self, count: int) -> None:
        """Have that many suggestions of this super-batch, as far as there are configurations."""
        while len(self._asked) < count and not self._exhausted():
            trial = self._next(self._start + len(self._asked))
            kept = {key: value for key, value in trial.system_attrs.items() if not key.startswith(_OF_THIS_ASK)}
            params = self.space.canonical(trial.params)
            if differing := {name: value for name, value in trial.params.items() if value != params[name]}:
                kept[ASKED] = differing
            suggestion = Suggestion(params, kept)
            self._seen.add(self.space.identity(suggestion.params))
            self._places.append(trial.number)
            self._asked.append(suggestion)

    def _next(self, number: int) -> FrozenTrial:
        """Trial `number`: one of the first ones, else what the sampler suggests, else one drawn at random."""
        if number < len(self.first_trials):
            return self._twin.ask(self.first_trials[number])
        return self._unrepeated() or self._twin.ask(self._drawn(number))

    def _unrepeated(self) -> FrozenTrial | None:
        """The sampler's next configuration that is new, None if it keeps repeating itself."""
        for _ in range(REPEATS):
            trial = self._twin.ask()
            if self.space.identity(trial.params) not in self._seen:
                return trial
            self._twin.refuse(trial.number)
        return None

    def _exhausted(self) -> bool:
        size = self.space.size()
        return size is not None and len(self._seen) >= size

    def _drawn(self, number: int) -> dict[str, Any]:
        """A configuration drawn at random; a new one wherever the space is finite."""
        seed = derive_seed(self.seed, number, 1)
        return draw_random(self.space.optuna, seed) if self.space.size() is None else self._unseen(seed)

    def _unseen(self, seed: int) -> dict[str, Any]:
        """The first new configuration at or after a random one: at most len(seen) steps, however large the space."""
        size = self.space.size()
        assert size is not None and size > len(self._seen)
        index = random.Random(seed).randrange(size)
        while self.space.identity(params := self.space.combination(index)) in self._seen:
            index = (index + 1) % size
        return params
