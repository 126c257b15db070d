"""The state of a study: asks its sampler, records results, and brings the database in line with the journal and the batches.

The journal holds what was asked and what the user changed, the batch directories how trials ended. Each is written before the
database, so a resume is a replay, and so is a repair, into a new database.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import dotted, filled
from hyperlax.recipe import Recipe
from hyperlax.samplers.base import AskedTrial, Sampler
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.fixed import FixedSampler, Presampled
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.study.database import TAKEN_OVER, StudyDatabase
from hyperlax.study.database_file import Damaged
from hyperlax.study.database_rows import fault_of_trials, given_params, understanding
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.journal import Asked, Invalidated, Journal, Retried
from hyperlax.study.manifest import Manifest
from hyperlax.study.projection import Projection, batch_of
from hyperlax.study.simulated_schedule import schedule_of
from hyperlax.trial import Trial, TrialResult

_STATE_EVERY = 16
"""Trials after which the sampler's state is kept again, about 10 kB. Asking for fewer trials again takes half a second."""


class StudyState:
    """One study, held open by one process. Close it when done.

    Trials b S ... b S + S - 1 are super-batch b. All trials before a super-batch have ended when it is asked, so its suggestions
    follow from the seed and from them; in a study with a schedule, from those that had ended by the schedule. A trial that another
    program added and that waits is taken over as the next one, as if it had been enqueued before the study began.

    database, projection: its database, and what brings that up to date.
    """

    def __init__(
        self,
        options: SearchOptions | PbtOptions,
        recipe: Recipe,
        directory: StudyDirectory,
        manifest: Manifest,
        *,
        survived: Mapping[int, int] | None = None,
        database: Path | None = None,
        is_dry: bool = False,
    ):
        """Open the state; `load` brings the database up to date.

        Raises `database_file.Damaged` if its trials are not what Hyperlax writes.

        Args:
          survived: See `schedule_of`.
          database: Another file than the study's own.
          is_dry: Leave the journal on disk as it is.
        """
        self.directory, self._space, self._base = directory, SearchSpace(recipe.space), recipe.config.algorithm
        self._objectives = tuple(options.objectives)
        self._schedule = schedule_of(options, manifest, survived) if isinstance(options, SearchOptions) else None
        self._pruned: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}
        self.database = _opened(database or directory.database, options, self._space)
        self._sampler = _make_sampler(options, recipe, manifest)
        self._journal = Journal(directory.journal, is_dry)
        for number, asked in enumerate(self._journal.asked):
            if TAKEN_OVER in asked.system_attrs:
                self._sampler.enqueue(number, asked.params)
        self.projection = Projection(self.database, self._journal, directory, self._space)

    @property
    def overlaps(self) -> bool:
        """True if super-batches are suggested from some of the trials before them."""
        return self._schedule is not None and self._sampler.learns

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def trials(self) -> list[FrozenTrial]:
        """Return every trial of the study by number. Do not modify them."""
        return self.database.trials()

    def waiting_foreign(self) -> dict[int, dict[str, Any]]:
        """Return the parameters, by the key of its row, of each foreign trial that can be run."""
        base = dotted(self._base)
        waiting = (trial for trial in self.database.foreign() if trial.state == TrialState.WAITING)
        found = {t._trial_id: self._space.completed(given_params(t), base) for t in waiting}
        return {row: params for row, params in found.items() if params is not None}

    def finished(self) -> int:
        """Return how many trials are COMPLETE, PRUNED or FAIL."""
        return len(self.trials()) - len(self.unfinished())

    def unfinished(self) -> list[int]:
        """Return the numbers of the trials that have not ended."""
        return self.database.unfinished()

    def load(self) -> None:
        """Bring the database up to date after an interruption. Trials that were running wait again.

        Raises:
          DamagedBatch: A batch that the database does not have yet is not what was written.
          HyperlaxError: The database is an older copy, or a batch belongs to another study.
        """
        self.projection.refuse_older_copy()
        self.projection.replay()

    def ask(self, total: int) -> list[Trial]:
        """Return the trials to run next, all of one super-batch. They are in the journal then.

        Empty if the study has `total` finished trials, or every configuration of a finite space is used.
        """
        room = total - self.finished()
        if room <= 0:
            return []
        first, width = next(iter(self.unfinished()), len(self.trials())), self._sampler.super_batch
        start = first - first % width
        stop = min(start + width, total)
        self._ask(start, stop)
        waiting = [number for number in self.unfinished() if start <= number < stop]
        return [self.trial(number) for number in waiting[:room]]

    def ask_more(self, total: int) -> list[Trial]:
        """Return the trials of the next super-batch while earlier ones train. They are in the journal then.

        Empty if the study has `total` trials, if every configuration of a finite space is used, or if the results that the
        suggestions follow from are not known yet.
        """
        asked = len(self.trials())
        start = asked - asked % self._sampler.super_batch
        stop = min(start + self._sampler.super_batch, total)
        if asked < stop and not (self.overlaps and self._ended(start) is None):
            self._ask(start, stop)
        return [self.trial(trial.number) for trial in self.trials()[asked:]]

    def append(
        self, trials: list[AskedTrial], ended: Collection[int] | None = None, sampler: dict[str, Any] | None = None
    ) -> None:
        """Add trials to the journal, then to the database, all or none. ended, sampler: see `Asked`."""
        if trials:
            event = Asked(len(self._journal.asked), trials, None if ended is None else sorted(ended), sampler)
            self._journal.append(event)
            self.database.insert(trials, self._space.optuna)

    def trial(self, number: int) -> Trial:
        """Return a trial of the journal to train: the recipe's configuration with the suggested values, valid or not."""
        config = filled(self._base, self._space.decode(self._journal.asked[number].params))
        return Trial(number, config, sum(trial == number for trial, _ in self._journal.retried))

    def record(self, results: Sequence[TrialResult], batch: Path) -> None:
        """Record the results of a batch. Its files, from which a lost record is restored, are on disk already."""
        self.database.finish(results, self.directory.name(batch))

    def retry_failed(self) -> list[int]:
        """Set every FAIL trial to WAITING, under its own number and parameters. Return their numbers.

        Trials that were suggested after the failures stay as they are.
        """
        failed = [t for t in self.trials() if t.state == TrialState.FAIL and not self.is_invalidated(t.number)]
        if failed:
            self._change(Retried([(trial.number, batch_of(trial)) for trial in failed]), failed)
        return [trial.number for trial in failed]

    def invalidate(self, numbers: Sequence[int], reason: str) -> list[FrozenTrial]:
        """Take COMPLETE trials out of the ranking for good. Return them as they were, without those that were out already.

        Raises:
          UsageError: A trial does not exist, or is not COMPLETE.
        """
        trials = self.trials()
        for number in numbers:
            if not 0 <= number < len(trials):
                raise UsageError(f"trial {number} does not exist. The study has trials 0 to {len(trials) - 1}.")
            if trials[number].state != TrialState.COMPLETE and not self.is_invalidated(number):
                raise UsageError(f"trial {number}: is {trials[number].state.name}, only COMPLETE trials are ranked.")
        chosen = [trials[n] for n in sorted(set(numbers)) if not self.is_invalidated(n)]
        if chosen:
            self._change(Invalidated([trial.number for trial in chosen], reason), chosen)
        return chosen

    def is_invalidated(self, trial: int) -> bool:
        """Return whether a trial was taken out of the ranking."""
        return trial in self._journal.invalidated

    def new_batch(self, super_batch: int) -> Path:
        """Return the directory of the next batch of a super-batch, with a name that was never used."""
        first, width = super_batch * self._sampler.super_batch, self._sampler.super_batch
        return self.directory.next_batch(super_batch, self._named_batches(self.trials()[first : first + width]))

    def discard_incomplete(self) -> None:
        """Remove the incomplete files that a killed process left; see `StudyDirectory`."""
        self.directory.discard_incomplete(self._named_batches(self.trials()))

    def _ask(self, start: int, stop: int) -> None:
        """Ask for trials `start` to `stop`, as far as the space has configurations.

        Raises HyperlaxError if an existing trial differs from the suggestion now.
        """
        recorded = self.trials()[start:]
        if start + len(recorded) >= stop:
            return
        saved, taken = self._journal.sampler, self._take_over(start + len(recorded), stop)
        try:
            suggestions = self._sampler.suggest(start, stop - start, self._known, saved)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"{self._journal.path}: the state of the sampler is damaged ({error}). Put back the file that Hyperlax wrote."
            ) from error
        for trial, suggestion in zip(recorded, suggestions, strict=False):
            if self._space.identity(trial.params) != self._space.identity(suggestion.params):
                raise HyperlaxError(
                    f"{self.directory.database}: trial {trial.number} has {self._space.decode(trial.params)}, the sampler now "
                    f"suggests {self._space.decode(suggestion.params)}. The versions of Optuna or numpy differ from those in "
                    f"{self.directory.manifest.name}: install those to resume, or start a new study elsewhere."
                )
        attributes = {"exec_batch": start // self._sampler.super_batch}
        asked = [
            structs.replace(new, user_attrs=attributes, system_attrs={**new.system_attrs, **taken.get(number, {})})
            for number, new in enumerate(suggestions[len(recorded) :], start + len(recorded))
        ]
        is_noted = self.overlaps and self._schedule and self._schedule.is_noted and not recorded
        state = self._sampler.state()
        is_new = state and (saved is None or state["start"] >= saved["start"] + _STATE_EVERY)
        self.append(asked, self._ended(start) if is_noted else None, state if is_new else None)

    def _take_over(self, start: int, stop: int) -> dict[int, dict[str, int]]:
        """Let the sampler suggest waiting foreign trials as trials `start` to `stop`. Return the system attribute of each."""
        waiting, taken = list(self.waiting_foreign().items()), {}
        for number in range(start, stop):
            if waiting and self._sampler.enqueue(number, waiting[0][1]):
                taken[number] = {TAKEN_OVER: waiting.pop(0)[0]}
        return taken

    def _known(self, start: int) -> list[FrozenTrial]:
        """Return the trials below `start` as they were when the super-batch that begins there was first asked."""
        trials = self.trials()[:start]
        for number, is_retry in self._journal.changed_after(start).items():
            trials[number] = _as_failed(trials[number]) if is_retry else self._as_complete(trials[number])
        known = [self._by_segment(trial) if trial.state == TrialState.PRUNED else trial for trial in trials]
        ended = self._ended(start) if self.overlaps else None
        if ended is not None:
            return [trial if number in ended else _as_running(trial) for number, trial in enumerate(known)]
        if self._sampler.learns:
            for number in itertools.takewhile(lambda number: number < start, self.unfinished()):
                known[number] = _as_failed(known[number])
        return known

    def _by_segment(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a PRUNED trial with its values by segment, every time the same object: samplers are told what is new.

        By steps, which differ a little between programs, TPE would rank it.
        """
        if self._pruned.get(trial.number, (None,))[0] is not trial:
            pruned, values = copy.copy(trial), trial.intermediate_values
            pruned.intermediate_values = {segment: values[step] for segment, step in enumerate(sorted(values), 1)}
            self._pruned[trial.number] = trial, pruned
        return self._pruned[trial.number][1]

    def _ended(self, start: int) -> frozenset[int] | None:
        """Return the trials whose results the super-batch from trial `start` on follows from; None if not known yet.

        Once it was asked they are in the journal, and stay the same.
        """
        assert self._schedule is not None
        noted = self._journal.ended.get(start)
        return self._schedule.ended(start, self.trials()) if noted is None else noted

    def _as_complete(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a trial as it was before it was taken out of the ranking."""
        before = copy.copy(trial)
        before.state, before.values = TrialState.COMPLETE, [trial.user_attrs[name] for name in self._objectives]
        return before

    def _change(self, event: Retried | Invalidated, trials: Sequence[FrozenTrial]) -> None:
        """Add a change of these trials to the journal, then to the database. Pages with the old results become outdated."""
        self.directory.outdate_analyses(min(trial.number for trial in trials) // self._sampler.super_batch)
        self._journal.append(event)
        self.projection.apply_changes()

    def _named_batches(self, trials: Sequence[FrozenTrial]) -> set[str]:
        return set(map(batch_of, trials)) | {batch for _, batch in self._journal.retried}


def _opened(path: Path, options: SearchOptions | PbtOptions, space: SearchSpace) -> StudyDatabase:
    """Open the database of a study. Raises `database_file.Damaged` if its trials are not what Hyperlax writes."""
    constraints = options.constraints if isinstance(options, SearchOptions) else ()
    with understanding(path):
        opened = StudyDatabase(path, options.study_name, options.objectives, constraints)
        if fault := fault_of_trials(opened.trials(), space, options.objectives, opened.needed):
            opened.close()
            raise Damaged(path, fault)
    return opened


def _make_sampler(options: SearchOptions | PbtOptions, recipe: Recipe, manifest: Manifest) -> Sampler:
    """Return the sampler of a search, or of a sweep if the recipe is `Presampled`. None suggests the trials of a population."""
    space = SearchSpace(recipe.space)
    if isinstance(options, PbtOptions):
        return FixedSampler(space, (), manifest.super_batch)
    if isinstance(recipe, Presampled):
        return FixedSampler(space, recipe.samples, manifest.super_batch)
    return OptunaSampler(
        space=space,
        sampler=options.sampler,
        directions=options.objective_directions,
        seed=options.seed,
        super_batch=manifest.super_batch,
        first_trials=[space.encode(values) for values in manifest.first_trials],
    )


def _as_failed(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as if it had failed. Optuna demands times, which have no effect."""
    failed = copy.copy(trial)
    failed.state, failed.values = TrialState.FAIL, None
    failed.datetime_start = failed.datetime_complete = datetime.now()
    return failed


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as if it still trained."""
    running = copy.copy(trial)
    running.state, running.values = TrialState.RUNNING, None
    running.datetime_start, running.datetime_complete = datetime.now(), None
    return running
