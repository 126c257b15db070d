"""The sources of the loop's trials, and how they train."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from optuna.trial import FrozenTrial

from hyperlax.backends.base import Backend
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.errors import HyperlaxError, counted
from hyperlax.schedulers.base import CopyFrom, Shown
from hyperlax.study import database_file
from hyperlax.study.agents import about_recipe, write_agents
from hyperlax.study.batch_files import write_batch
from hyperlax.study.scoring import Scoring
from hyperlax.study.view import LiveStudy
from hyperlax.trial import BatchResult, SegmentResult, Trial, TrialResult

log = logging.getLogger(__name__)

_Options = TypeVar("_Options", SearchOptions, PbtOptions)

REFUSED = "refused"
"""Beginning of the reason of a trial with invalid values."""
_GROWTH = 1.05
"""How many times the trials of the last backup there are at the next: copying a database takes longer the larger it is."""


class Resumed(NamedTuple):
    """The point where training continues.

    shown: every trial so far. restored: the trials that the backend has put back into lanes, with their latest results. waiting:
    those that wait for a lane. left: trials that may still begin, the waiting ones among them.
    """

    shown: dict[int, Shown]
    restored: list[tuple[Trial, SegmentResult]]
    waiting: list[Trial]
    left: int


class Trials(ABC):
    """The source of the loop's trials, which also records their results.

    survived: trial -> segments after which it was not stopped. The loop keeps it up to date for the sampler.
    """

    def __init__(self, survived: dict[int, int] | None = None):
        self.survived = {} if survived is None else survived

    @abstractmethod
    def resume(self, backend: Backend) -> Resumed:
        """Return where training continues, after the backend has restored the trials that it saved."""

    @abstractmethod
    def ask(self) -> list[Trial]:
        """Return the next trials to train, of one super-batch; empty if none can be asked now."""

    @abstractmethod
    def record(self, batch: BatchResult) -> list[TrialResult]:
        """Record results of one super-batch, the files first."""

    def start(self, numbers: Collection[int]) -> None:  # noqa: B027
        """Note that trials train. By default it is not used which do."""

    def requeue(self, numbers: Collection[int]) -> None:  # noqa: B027
        """Note that trials wait again. By default it is not used which do."""

    def succeed(self, copies: Mapping[int, CopyFrom]) -> list[tuple[int, Trial]]:
        """Return the successors of trials that ended by `CopyFrom`, each after the trial that it continues from."""
        raise HyperlaxError(f"the scheduler copies trial {min(copies)}: only the trials of a population can be copied.")

    def super_batch(self, number: int) -> int:
        """Return the super-batch of a trial. By default there is one."""
        return 0


@dataclass(frozen=True)
class Settings:
    """The settings of how trials train.

    Args:
      task, total, steps: See `Training`.
      scoring: Computes metrics from outcomes.
      seeds: Number of seeds of a trial.
      repetitions: How many times a trial trains, one repetition after another; above 1 if seeds race.
      columns: The metrics that the scheduler decides by.
      refills: Whether trials enter and leave lanes one by one. Otherwise they train in closed batches.
      overlaps: Whether a super-batch is asked for while the one before trains. Otherwise that has to end first.
      lanes: The most trials in lanes at once, if lanes are refilled.
      checkpoint_seconds: Minimum seconds between two saves of refilled lanes; 0 saves after every advance. The backend saves
        closed batches.
      fatal: Errors of a program that end the run. After any other error its trials are retried, until the one at fault fails.
    """

    task: str
    total: int
    steps: int | None
    scoring: Scoring
    seeds: int
    repetitions: int = 1
    columns: tuple[str, ...] = ()
    refills: bool = False
    overlaps: bool = False
    lanes: int = 1
    checkpoint_seconds: float = 60.0
    fatal: tuple[type[Exception], ...] = ()


class FixedTrials(Trials):
    """Trials that are known beforehand and are not kept in a database.

    write: writes the files of a batch and returns its results.
    """

    def __init__(self, trials: Sequence[Trial], write: Callable[[BatchResult], list[TrialResult]]):
        super().__init__()
        self._trials, self._write = list(trials), write

    def resume(self, backend: Backend) -> Resumed:
        """Return the start: no trial has begun. A backend of closed batches finds its saved batches by itself."""
        return Resumed({}, [], [], len(self._trials))

    def ask(self) -> list[Trial]:
        """Return all trials, once."""
        trials, self._trials = self._trials, []
        return trials

    def record(self, batch: BatchResult) -> list[TrialResult]:
        """Write a batch."""
        return self._write(batch)


class StudyTrials(Trials, Generic[_Options]):
    """Trials that a study keeps in its database and files. changed: called whenever trials are recorded."""

    def __init__(self, live: LiveStudy[_Options], changed: Callable[[], None], survived: dict[int, int] | None = None):
        super().__init__(survived)
        self._live, self._options, self._changed = live, live.options, changed

    def start(self, numbers: Collection[int]) -> None:
        self._live.database.start(numbers)

    def super_batch(self, number: int) -> int:
        return number // self._live.width

    def _write(
        self, batch: BatchResult, results: list[TrialResult], with_agents: Collection[int], columns: Sequence[str] = ()
    ) -> None:
        """Write a batch's agents and files, then the database. with_agents: the trials whose agents are kept."""
        live, root = self._live, self._live.directory.root
        path = live.new_batch(self.super_batch(results[0].number))
        if with_agents:
            write_agents(root, {"study": live.options.study_name, **about_recipe(live.recipe)}, batch, with_agents)
        write_batch(path, root, batch, results, live.scoring.scale, columns)
        live.record(results, path)


class SearchTrials(StudyTrials[SearchOptions]):
    """The trials of a search or a sweep."""

    def __init__(
        self, live: LiveStudy[SearchOptions], settings: Settings, survived: dict[int, int], changed: Callable[[], None]
    ):
        super().__init__(live, changed, survived)
        self._settings, self._backed_up = settings, 0

    def resume(self, backend: Backend) -> Resumed:
        """Return where training continues. The backend of refilled lanes restores the trials that it saved."""
        trials, total = self._live.trials(), self._options.n_trials
        left = total - sum(trial.state.is_finished() for trial in trials)
        if not self._settings.overlaps:
            return Resumed({}, [], [], left)
        asked = {trial.number: self._live.trial(trial.number) for trial in trials}
        waiting = [asked[trial.number] for trial in trials if not trial.state.is_finished()]
        if not self._settings.refills:
            return Resumed({}, [], waiting[: max(0, left)], left)
        columns = len(self._settings.columns)
        shown = {trial.number: Shown(_rows_of(trial, columns), trial.state.is_finished()) for trial in trials}
        may_begin = [trial.number for trial in waiting[: max(0, left)]]
        restored = []
        for result in backend.restore(asked, may_begin):
            if result.repetition:
                backend.leave(result.number)  # what it showed in the repetitions before is not saved
            else:
                restored.append((asked[result.number], result))
        return Resumed(shown, restored, waiting, left)

    def ask(self) -> list[Trial]:
        """Return the trials of the next super-batch. Before they train, the database is backed up if it has grown enough."""
        total = self._options.n_trials
        asked = self._live.ask_more(total) if self._settings.overlaps else self._live.ask(total)
        if asked and asked[0].number >= self._backed_up * _GROWTH:
            database_file.back_up(self._live.directory.database, self._live.directory.backup)
            self._backed_up = asked[0].number
        return asked

    def requeue(self, numbers: Collection[int]) -> None:
        self._live.database.requeue(numbers)

    def record(self, batch: BatchResult) -> list[TrialResult]:
        """Write a batch's agents and files, then the database. Log the failures."""
        results = self._live.scoring.results(batch)
        keeps_agents = self._options.save_agents != "none"
        complete = [result.number for result in results if keeps_agents and result.state == "COMPLETE"]
        self._write(batch, results, complete, self._settings.columns or (self._live.scoring.leading,))
        _log_failures(results)
        self._changed()
        return results


def _rows_of(trial: FrozenTrial, columns: int) -> np.ndarray:
    """Return float64[segments, columns], the values of an ended trial that the scheduler saw; empty for any other."""
    if not trial.state.is_finished():
        return np.zeros((0, columns))
    unknown = [math.nan] * (columns - 1)
    values = trial.intermediate_values
    rows = trial.user_attrs.get("intermediate", [[values[step], *unknown] for step in sorted(values)])
    return np.array(rows, np.float64).reshape(len(rows), columns)


def _log_failures(results: Sequence[TrialResult]) -> None:
    mates = sum(result.state != "FAIL" for result in results)
    for result in results:
        if result.state == "FAIL":
            others = f"{counted(mates, 'other trial')} of its batch {'continues' if mates == 1 else 'continue'}"
            rest = others if mates else "the study continues"
            log.warning("trial %d: %s. Marked FAIL; %s.", result.number, result.reason, rest)
