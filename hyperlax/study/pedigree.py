"""The trials of a population in the database of its study: who they are, whom they go on from, what they scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax.samplers.distributions import SearchSpace
from hyperlax.schedulers.base import CopyFrom, Shown
from hyperlax.schedulers.explore import Params
from hyperlax.schedulers.pbt import Generation, ranking
from hyperlax.study.record import Lineage
from hyperlax.study.state import StudyState

MEMBER, INTERVAL, PARENT = "member", "interval", "parent"
"""User attributes of a trial; a trial of interval 0 has the parent None."""


class Pedigree:
    """Trial interval * members + member is a member over an interval."""

    def __init__(self, state: StudyState, space: SearchSpace, members: int):
        self._state, self._space, self._members = state, space, members

    def trials(self, interval: int) -> list[FrozenTrial]:
        """Those of an interval, by member; empty before they are recorded."""
        first = interval * self._members
        return self._state.trials()[first : first + self._members]

    def finished(self) -> int:
        """How many intervals are told."""
        return self._state.finished() // self._members

    def record(self, interval: int, source: Sequence[int], params: Sequence[Params]) -> None:
        """Add the trials of the next interval."""
        first = interval * self._members
        attributes = []
        for member, origin in enumerate(source):
            parent = first - self._members + int(origin) if interval else None
            attributes.append({MEMBER: member, INTERVAL: interval, PARENT: parent, "exec_batch": interval})
        self._state.append([self._encoded(own) for own in params], attributes)

    def source(self, interval: int) -> np.ndarray:
        """int[members]: of a recorded interval, the member that each goes on from."""
        return self._generation(self.trials(interval)).source

    def scores(self, interval: int) -> np.ndarray:
        """float64[members]: what was told of an interval, nan for a trial that failed."""
        return self._generation(self.trials(interval)).scores

    def history(self) -> list[Generation]:
        """Every interval that is told."""
        trials, width = self._state.trials(), self._members
        told = sum(trial.state.is_finished() for trial in trials) // width
        return [self._generation(trials[first : first + width]) for first in range(0, told * width, width)]

    def began(self) -> dict[int, CopyFrom]:
        """How every recorded trial began, by number."""
        found = {}
        for trial in self._state.trials():
            parent = trial.user_attrs[PARENT]
            found[trial.number] = CopyFrom(trial.number if parent is None else parent, self._space.decode(trial.params))
        return found

    def shown(self) -> dict[int, Shown]:
        """What every trial that is told scored, by number."""
        trials = told_intervals(self._state.trials(), self._members)
        return {trial.number: Shown(np.array([[score_of(trial)]]), True) for trial in trials}

    def _generation(self, trials: Sequence[FrozenTrial]) -> Generation:
        parents = [trial.user_attrs[PARENT] for trial in trials]
        source = [member if parent is None else parent % self._members for member, parent in enumerate(parents)]
        params = [self._space.decode(trial.params) for trial in trials]
        return Generation(params, np.array(source), np.array([score_of(trial) for trial in trials]))

    def best_at_the_end(self) -> int | None:
        """The best trial of the last interval that is told, None without one that is COMPLETE."""
        return self.lineage("").final

    def lineage(self, replay: str) -> Lineage:
        """As the analysis sees it."""
        return lineage_of(told_intervals(self._state.trials(), self._members), self._members, replay)

    def _encoded(self, params: Params) -> Params:
        """Values of a recipe as Optuna keeps them."""
        encoded = dict(params)
        for name, distribution in self._space.optuna.items():
            if isinstance(distribution, CategoricalDistribution):
                same = (choice for choice in distribution.choices if self._space.means(name, choice, params[name]))
                encoded[name] = next(same)
        return encoded


def told_intervals(trials: Sequence[FrozenTrial], members: int) -> list[FrozenTrial]:
    """The trials of the intervals that are told."""
    return list(trials[: sum(trial.state.is_finished() for trial in trials) // members * members])


def lineage_of(told: Sequence[FrozenTrial], members: int, replay: str) -> Lineage:
    """How the trials of whole intervals follow one another. replay: the command that trains along the winner's path."""
    parents = {trial.number: trial.user_attrs[PARENT] for trial in told if trial.user_attrs[PARENT] is not None}
    last = told[-members:] if told else []
    scores = np.array([score_of(trial) for trial in last])
    final = last[int(ranking(scores)[0])].number if np.isfinite(scores).any() else None
    return Lineage(members, parents, final, replay)


def score_of(trial: FrozenTrial) -> float:
    """The value of a trial that is COMPLETE, else nan."""
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan
