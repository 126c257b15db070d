"""The trials of population-based training: each is a member over one interval, and continues as the next one.

Trial interval x members + member is a member over an interval. The start of a trial follows from the seed and the trials recorded
before. So it is read from the database if it is recorded, and decided again if not. The backend saves the members before an
interval is recorded. Training that is lost after that is repeated, to the bit.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from hyperlax.backends.base import Backend
from hyperlax.config.options import OBJECTIVE, PbtOptions
from hyperlax.errors import HyperlaxError, counted
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.schedulers.base import CopyFrom, Shown
from hyperlax.study.agents import about_recipe, write_agents
from hyperlax.study.batch_files import Rows, TrialResult, write_batch
from hyperlax.study.lineage import INTERVAL, MEMBER, PARENT, score_of
from hyperlax.study.live import LiveStudy
from hyperlax.study.progress import clock
from hyperlax.study.reporters import safe
from hyperlax.study.trials import Resumed
from hyperlax.trial import BatchResult, HparamBatch, Trial

log = logging.getLogger(__name__)

_PAGES_SECONDS = 60.0
"""Minimum seconds between two updates of the pages while members train."""


class PopulationTrials:
    """The trials of a population. first: returns the hyperparameters of the first interval. changed: called when pages are due."""

    def __init__(self, live: LiveStudy, first: Callable[[], list[dict[str, Any]]], changed: Callable[[], None]):
        assert isinstance(live.arguments, PbtOptions)
        self._live, self._state, self._arguments = live, live.state, live.arguments
        self.survived: dict[int, int] = {}
        self._first, self._changed = first, changed
        self._space = SearchSpace(live.recipe.space)
        self._members, self._intervals = self._arguments.population_size, self._arguments.num_intervals
        self._lines = _Lines(self._arguments)

    def recorded(self) -> dict[int, CopyFrom]:
        """Return how the recorded trials began."""
        return {
            trial.number: CopyFrom(trial.number if parent is None else parent, self._space.decode(trial.params))
            for trial in self._state.trials()
            for parent in [trial.user_attrs[PARENT]]
        }

    def resume(self, backend: Backend) -> Resumed:
        """Return where training continues: after the interval that was saved last, or from the beginning."""
        frozen = self._state.trials()
        trials = {trial.number: self._state.trial(trial) for trial in frozen}
        restored = [(trials[result.number], result) for result in backend.restore(trials, trials.keys())]
        begin = min((result.number for _, result in restored), default=0)
        shown = {trial.number: Shown(np.array([[score_of(trial)]]), True) for trial in frozen[:begin]}
        self._lines.begin(begin // self._members, [score_of(trial) for trial in frozen[:begin]])
        if restored:
            log.info("The members continue from step %d.", max(result.curve.steps[-1] for _, result in restored))
        elif any(trial.state.is_finished() for trial in frozen):
            log.warning("The members train again from the beginning; the results have to equal those recorded.")
        self._asked = bool(restored)
        return Resumed(shown, restored, [], self._members * self._intervals - begin)

    def ask(self) -> list[Trial]:
        """Return the trials of the first interval, once."""
        if self._asked:
            return []
        self._asked = True
        if not self._state.trials():
            self._insert(0, {member: CopyFrom(member, params) for member, params in enumerate(self._first())})
        return [self._state.trial(trial) for trial in self._state.trials()[: self._members]]

    def start(self, numbers: Collection[int]) -> None:
        """Note that members train."""
        self._state.start(numbers)

    def requeue(self, numbers: Collection[int]) -> None:
        """Do nothing: an interval that did not end is trained again from the one before."""

    def succeed(self, copies: Mapping[int, CopyFrom]) -> list[tuple[int, Trial]]:
        """Return the successors of an interval's trials, which are recorded by now."""
        first = min(copies) + self._members
        if len(self._state.trials()) <= first:
            self._insert(first, {number + self._members: copy for number, copy in sorted(copies.items())})
        trials = self._state.trials()
        self._lines.copies = sum(copy.source != number for number, copy in copies.items())
        return [
            (copy.source, self._state.trial(trials[number + self._members])) for number, copy in sorted(copies.items())
        ]

    def record(self, batch: HparamBatch, result: BatchResult, shown: Rows) -> list[TrialResult]:
        """Write an interval's files, then the database. Raises HyperlaxError if an interval recorded before differs."""
        interval, live = self.super_batch(batch.numbers[0]), self._live
        ends = live.scoring.ends(batch, result)
        before = [self._state.trials()[number] for number in batch.numbers]
        if before[0].state.is_finished():
            self._compare(interval, ends, before)
            return ends
        if interval + 1 == self._intervals:
            best = max(ends, key=lambda end: (_score(end), -end.number))
            about = {"study": self._arguments.study_name, **about_recipe(live.recipe)}
            write_agents(live.directory.root, about, batch, result, [best.number] if best.state == "COMPLETE" else [])
        path = self._state.new_batch(interval)
        write_batch(path, batch, result, ends)
        self._state.record(ends, path)
        for end in ends:
            if end.state == "FAIL":
                log.warning("member %d: %s. It is replaced.", end.number % self._members, end.reason)
        self._lines.write(interval, ends, result.timing.get("steps_per_second"))
        if self._lines.are_pages_due():
            self._changed()
        return ends

    def super_batch(self, number: int) -> int:
        """Return the interval of a trial."""
        return number // self._members

    def _insert(self, first: int, began: Mapping[int, CopyFrom]) -> None:
        """Add the trials of an interval to the study."""
        interval, attributes = first // self._members, []
        for number, copy in began.items():
            parent = copy.source if interval else None
            member = number % self._members
            attributes.append({MEMBER: member, INTERVAL: interval, PARENT: parent, "exec_batch": interval})
        self._state.append([self._encoded(dict(copy.params)) for copy in began.values()], attributes)

    def _encoded(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return values of a recipe as Optuna keeps them."""
        encoded = dict(params)
        for name, distribution in self._space.optuna.items():
            if isinstance(distribution, CategoricalDistribution):
                same = (choice for choice in distribution.choices if self._space.means(name, choice, params[name]))
                encoded[name] = next(same)
        return encoded

    def _compare(self, interval: int, ends: Sequence[TrialResult], before: Sequence[FrozenTrial]) -> None:
        now = np.array([_score(end) if end.state == "COMPLETE" else np.nan for end in ends])
        if not np.array_equal(now, [score_of(trial) for trial in before], equal_nan=True):
            raise HyperlaxError(
                f"{self._live.directory.root}: interval {interval} differs from what was recorded: the saved state is lost, and "
                "this machine or its packages are not those that the run began on. Start again with another --output-root."
            )


class _Lines:
    """Lines on standard error, one per interval."""

    def __init__(self, arguments: PbtOptions):
        self._total, self._stream = arguments.num_intervals, safe(sys.stderr)
        self.copies = 0

    def begin(self, interval: int, scores: Sequence[float]) -> None:
        """Note the first interval of this process, and the scores of the members before it."""
        self._first, self._best = interval, max((score for score in scores if np.isfinite(score)), default=-np.inf)
        self._began = self._pages = time.monotonic()

    def write(self, interval: int, ends: Sequence[TrialResult], speed: float | None) -> None:
        """Write the line of an interval."""
        finite = [_score(end) for end in ends if end.state == "COMPLETE"]
        self._best = max([self._best, *finite])
        left = (time.monotonic() - self._began) / (interval + 1 - self._first) * (self._total - interval - 1)
        parts = [
            f"interval {interval + 1}/{self._total}",
            f"best so far {self._best:.6g}",
            f"median {np.median(finite):.6g}" if finite else "every member failed",
            counted(self.copies, "copy"),
            f"{speed or 0:,.0f} steps/s",
            f"{clock(left)} left",
        ]
        print("  ".join(parts), file=self._stream, flush=True)

    def are_pages_due(self) -> bool:
        """Return whether it is time to write the pages again."""
        is_due = time.monotonic() - self._pages > _PAGES_SECONDS
        if is_due:
            self._pages = time.monotonic()
        return is_due


def _score(end: TrialResult) -> float:
    return end.metrics[OBJECTIVE] if end.state == "COMPLETE" else -np.inf
