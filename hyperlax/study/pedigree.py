"""The trials of a population in the database of its study: who they are, whom they go on from, what they scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax.engine.population import Generation, Params, ranking
from hyperlax.study.conversation import Conversation
from hyperlax.study.distributions import SearchSpace
from hyperlax.study.ledger import Entry
from hyperlax.study.record import Lineage
from hyperlax.study.storage import StudyStorage

MEMBER, INTERVAL, PARENT = "member", "interval", "parent"
"""User attributes of a trial; a trial of interval 0 has the parent None."""


class Pedigree:
    """Trial interval * members + member is a member over an interval."""

    def __init__(self, storage: StudyStorage, conversation: Conversation, space: SearchSpace, members: int):
        self._storage, self._conversation = storage, conversation
        self._space, self._members = space, members

    def trials(self, interval: int) -> list[FrozenTrial]:
        """Those of an interval, by member; empty before they are recorded."""
        first = interval * self._members
        return self._conversation.trials()[first : first + self._members]

    def finished(self) -> int:
        """How many intervals are told."""
        return self._conversation.finished() // self._members

    def record(self, interval: int, source: Sequence[int], params: Sequence[Params]) -> None:
        """Add the trials of the next interval."""
        first = interval * self._members
        entries = []
        for member, (origin, own) in enumerate(zip(source, params, strict=True)):
            parent = first - self._members + int(origin) if interval else None
            attributes = {MEMBER: member, INTERVAL: interval, PARENT: parent, "exec_batch": interval}
            entries.append(Entry(self._encoded(own), attributes, {}))
        self._storage.record(entries, self._space.optuna)

    def source(self, interval: int) -> np.ndarray:
        """int[members]: of a recorded interval, the member that each goes on from."""
        return self._generation(self.trials(interval)).source

    def scores(self, interval: int) -> np.ndarray:
        """float64[members]: what was told of an interval, nan for a trial that failed."""
        return self._generation(self.trials(interval)).scores

    def history(self) -> list[Generation]:
        """Every interval that is told."""
        trials, width = self._conversation.trials(), self._members
        told = sum(trial.state.is_finished() for trial in trials) // width
        return [self._generation(trials[first : first + width]) for first in range(0, told * width, width)]

    def _generation(self, trials: Sequence[FrozenTrial]) -> Generation:
        parents = [trial.user_attrs[PARENT] for trial in trials]
        source = [member if parent is None else parent % self._members for member, parent in enumerate(parents)]
        params = [self._space.decode(trial.params) for trial in trials]
        return Generation(params, np.array(source), np.array([score_of(trial) for trial in trials]))

    def best_at_the_end(self) -> int | None:
        """The best trial of the last interval that is told, None without one that is COMPLETE."""
        last = self.finished() - 1
        scores = self.scores(last) if last >= 0 else np.array([])
        if not np.isfinite(scores).any():
            return None
        return last * self._members + int(ranking(scores)[0])

    def lineage(self, replay: str) -> Lineage:
        """As the analysis sees it."""
        told = self._conversation.trials()[: self.finished() * self._members]
        parents = {trial.number: trial.user_attrs[PARENT] for trial in told if trial.user_attrs[PARENT] is not None}
        return Lineage(self._members, parents, self.best_at_the_end(), replay)

    def _encoded(self, params: Params) -> Params:
        """Values of a recipe as Optuna keeps them."""
        encoded = dict(params)
        for name, distribution in self._space.optuna.items():
            if isinstance(distribution, CategoricalDistribution):
                same = (choice for choice in distribution.choices if self._space.means(name, choice, params[name]))
                encoded[name] = next(same)
        return encoded


def score_of(trial: FrozenTrial) -> float:
    """The value of a trial that is COMPLETE, else nan."""
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan
