"""What Optuna suggests for one super-batch, as a pure function of the study's seed and the trials before it.

A study in memory, the twin, is filled with the finished trials numbered below the super-batch's first, and asked. Nothing else
enters: neither how often the study was interrupted nor which trials of the super-batch were already recorded. So a resumed
study equals an uninterrupted one, and asking for fewer trials gives the first of those that asking for more would give.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hyperlax.study.distributions import SearchSpace
from hyperlax.study.samplers import MEMORYLESS, derive_seed, draw_random, make_sampler, prepare

REPEATS = 100
"""How often a configuration that the study already has is asked again before one is drawn at random."""

_OF_THIS_ASK = ("tpe:", "fixed_params")


@dataclass(frozen=True)
class Questioner:
    """What stays the same over a study. directions: "minimize" or "maximize" per objective."""

    space: SearchSpace
    sampler: str
    directions: tuple[str, ...]
    seed: int
    super_batch: int

    @property
    def learns(self) -> bool:
        """Whether suggestions follow from the values of earlier trials."""
        return self.sampler not in MEMORYLESS

    def suggest(self, start: int, history: Sequence[FrozenTrial], count: int) -> list[Suggestion]:
        """The first `count` suggestions of the super-batch that begins with trial `start`.

        history: the finished trials below `start`, in the order of their numbers. No suggestion repeats a trial of it
        or of the super-batch; fewer than `count` mean that every configuration of a finite space is used.
        """
        twin = self._twin(start, history)
        seen = {self.space.identity(trial.params) for trial in history}
        suggestions: list[Suggestion] = []
        for number in range(start, start + count):
            if self._exhausted(seen):
                break
            suggestion = self._ask(twin, seen) or self._draw(twin, seen, number)
            seen.add(self.space.identity(suggestion.params))
            suggestions.append(suggestion)
        return suggestions

    def _twin(self, start: int, history: Sequence[FrozenTrial]) -> Study:
        sampler = make_sampler(
            self.sampler, self.space.optuna, seed=self.seed, start=start, super_batch=self.super_batch
        )
        twin = optuna.create_study(
            directions=[StudyDirection[name.upper()] for name in self.directions], sampler=sampler
        )
        twin.add_trials(history)
        prepare(sampler, twin)
        return twin

    def _exhausted(self, seen: set[tuple[str, ...]]) -> bool:
        size = self.space.size()
        return size is not None and len(seen) >= size

    def _ask(self, twin: Study, seen: set[tuple[str, ...]]) -> Suggestion | None:
        """The sampler's next configuration that is new, None if it keeps repeating itself."""
        for _ in range(REPEATS):
            suggestion = self._answer(twin)
            if self.space.identity(suggestion.params) not in seen:
                return suggestion
            twin.tell(twin.get_trials(deepcopy=False)[-1].number, state=TrialState.FAIL)
        return None

    def _draw(self, twin: Study, seen: set[tuple[str, ...]], number: int) -> Suggestion:
        """A configuration drawn at random, as if the sampler had suggested it; a new one wherever the space is finite."""
        seed = derive_seed(self.seed, number, 1)
        if self.space.size() is None:
            params = draw_random(self.space.optuna, seed)
        else:
            params = self._unseen(seen, seed)
        twin.enqueue_trial(params)
        return self._answer(twin)

    def _unseen(self, seen: set[tuple[str, ...]], seed: int) -> dict[str, Any]:
        """The first new configuration at or after a random one: at most len(seen) steps, however large the space."""
        size = self.space.size()
        assert size is not None and size > len(seen)
        index = random.Random(seed).randrange(size)
        while self.space.identity(params := self.space.combination(index)) in seen:
            index = (index + 1) % size
        return params

    def _answer(self, twin: Study) -> Suggestion:
        number = twin.ask(self.space.optuna).number
        trial = twin.get_trials(deepcopy=False)[number]
        kept = {key: value for key, value in trial.system_attrs.items() if not key.startswith(_OF_THIS_ASK)}
        return Suggestion(self.space.canonical(trial.params), kept)


@dataclass(frozen=True)
class Suggestion:
    """What to store of a trial that was asked: parameters as Optuna keeps them, and what its sampler noted about it."""

    params: dict[str, Any]
    system_attrs: dict[str, Any]
