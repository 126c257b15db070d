"""Updates of a study's database from the truth: the journal, and the batches that are complete on disk."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.option import shell_command
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.files import cell
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.study.batch_files import read_hyperparams, read_trial_results, trials_of
from hyperlax.study.database import StudyDatabase
from hyperlax.study.database_rows import read_trials
from hyperlax.study.directory import HYPERPARAMS_CSV, StudyDirectory
from hyperlax.study.journal import Journal


class Projection:
    """The database of one study, derived from its journal and its batches."""

    def __init__(
        self,
        database: StudyDatabase,
        journal: Journal,
        directory: StudyDirectory,
        space: SearchSpace,
    ):
        self._database, self._journal, self._directory, self._space = database, journal, directory, space

    def refuse_older_copy(self) -> None:
        """Raise HyperlaxError if a trial has ended on disk and the database does not have it."""
        known = len(self._database.trials())
        for number, path in self._unrecorded().items():
            if number >= known:
                repair = shell_command("repair", self._directory.root)
                raise HyperlaxError(
                    f"{path}: holds trial {number}, which {self._directory.database} does not know. If that is an older "
                    f"copy, `{repair}` brings it up to date; remove a batch that belongs to another study."
                )

    def check_journal(self) -> None:
        """Raise UsageError if the journal lacks trials that the database has."""
        number = len(self._journal.asked)
        if len(self._database.trials()) > number:
            raise UsageError(
                f"{self._journal.path}: lacks trial {number}, which {self._directory.database} has. "
                "Put back the file that Hyperlax wrote."
            )

    def replay(self) -> int:
        """Bring any database up to date, a new one or an older copy. Return how many results were recorded.

        Raises:
          DamagedBatch: A batch that the database does not have yet is not what was written.
          HyperlaxError: A batch belongs to another study.
          UsageError: The journal lacks trials that the database has, or has parameters that the space does not have.
        """
        self.check_journal()
        known, asked = len(self._database.trials()), self._journal.asked
        for number, trial in enumerate(asked[known:], known):
            if not self._space.holds(trial.params):
                raise UsageError(
                    f"{self._journal.path}: asks trial {number} for parameters that the search space does not have. "
                    "Put back the file that Hyperlax wrote."
                )
        if asked[known:]:
            self._database.insert(asked[known:], self._space.optuna)
        told_by_others = [t.number for t in self._database.trials() if t.state.is_finished() and not batch_of(t)]
        if told_by_others:
            self._database.requeue_ended(told_by_others)
        self.apply_changes()
        recorded = 0
        for path in dict.fromkeys(self._unrecorded().values()):
            results, name = read_trial_results(path, self._database.needed), self._directory.name(path)
            self._check_hyperparams(path)
            open_trials = {trial.number for trial in self._database.trials() if not trial.state.is_finished()}
            counting = [e for e in results if e.number in open_trials and (e.number, name) not in self._journal.retried]
            self._database.finish(counting, name)
            recorded += len(counting)
        self.apply_changes()
        self._database.requeue([t.number for t in self._database.trials() if t.state == TrialState.RUNNING])
        return recorded

    def apply_changes(self) -> None:
        """Apply the user's changes that the database does not have yet."""
        journal, trials = self._journal, self._database.trials()
        retried = [
            t.number for t in trials if t.state == TrialState.FAIL and (t.number, batch_of(t)) in journal.retried
        ]
        complete = {trial.number for trial in trials if trial.state == TrialState.COMPLETE}
        invalid = {number: reason for number, reason in journal.invalidated.items() if number in complete}
        if retried:
            self._database.requeue_ended(retried)
        if invalid:
            self._database.invalidate(invalid)

    def _unrecorded(self) -> dict[int, Path]:
        return unrecorded_trials(self._directory, set(map(batch_of, self._database.trials())), self._journal)

    def _check_hyperparams(self, path: Path) -> None:
        """Raise HyperlaxError if a batch trained other configurations than were asked."""
        asked = self._journal.asked
        for number, row in read_hyperparams(path, list(self._space.optuna)).items():
            if number >= len(asked):
                raise HyperlaxError(
                    f"{path}: holds trial {number}, which {self._journal.path} does not have. Put back the journal that "
                    "Hyperlax wrote; remove a batch that belongs to another study."
                )
            for name, value in self._space.decode(asked[number].params).items():
                if not _is_cell(row[name], value):
                    raise HyperlaxError(
                        f"{path / HYPERPARAMS_CSV}: trial {number} was trained with {name} = {row[name]}, "
                        f"{self._journal.path} asked for {cell(value)}. Put back the study's own batch and journal."
                    )


def unrecorded_trials(directory: StudyDirectory, recorded: Collection[str], journal: Journal) -> dict[int, Path]:
    """Return the ended trials, with their batches, of the complete batches on disk that are not in the database.

    recorded: batches that trials of the database name. They were recorded whole, so their files are not read. Raises DamagedBatch.
    """
    batches = ((path, directory.name(path)) for path in directory.complete_batches())
    return {
        number: path
        for path, name in batches
        if name not in recorded
        for number in trials_of(path)
        if (number, name) not in journal.retried
    }


def finished_trials(directory: StudyDirectory, options: SearchOptions | PbtOptions, space: SearchSpace) -> set[int]:
    """Return the trials that have ended, in the database, which `database_file.check` found sound, or on disk."""
    own, _ = read_trials(directory.database, options, space, ())
    on_disk = unrecorded_trials(directory, set(map(batch_of, own)), Journal(directory.journal))
    return {trial.number for trial in own if trial.state.is_finished() and batch_of(trial)} | set(on_disk)


def batch_of(trial: FrozenTrial) -> str:
    """Return the batch from which a trial was recorded; empty if it was not recorded."""
    return trial.user_attrs.get("batch", "")


def _is_cell(text: str, value: Any) -> bool:
    """Return whether a cell of a batch has this value, which is a float there if its field takes one."""
    return text == cell(value) or (isinstance(value, int) and text == cell(float(value)))
