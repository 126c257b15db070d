"""One study between Optuna's suggestions, the database and the files: what is asked, what is still to run, what came of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from hyperlax.constraints import parse_constraint, violations
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import filled
from hyperlax.files import cell
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import dotted
from hyperlax.study.amendments import Amendment, Amendments, as_failed
from hyperlax.study.batch_files import TrialEnd, read_ends, read_hyperparams
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.ledger import Ending, Entry
from hyperlax.study.overlap import Overlap, as_running
from hyperlax.study.presampled import RowByRow
from hyperlax.study.record import TrialRecord
from hyperlax.study.records import trial_record
from hyperlax.study.storage import StudyStorage
from hyperlax.study.suggest import Questioner
from hyperlax.study.untold import untold_batches
from hyperlax.trial import Trial

log = logging.getLogger(__name__)


def next_span(trials: Sequence[FrozenTrial], total: int, super_batch: int) -> tuple[int, int]:
    """The super-batch to run next, as the numbers of its first trial and of the one after its last.

    As many of its trials are to be had as the study needs to end with `total` finished ones.
    """
    pending = [trial.number for trial in trials if not trial.state.is_finished()]
    missing = total - (len(trials) - len(pending))
    first = pending[0] if pending else len(trials)
    start = first - first % super_batch
    return start, min(start + super_batch, len(trials) + missing - len(pending))


class Conversation:
    """Asks and tells, super-batch by super-batch: trials b S ... b S + S - 1 are super-batch b.

    The trials before a super-batch are finished when it is asked, so its suggestions follow from the seed and from them; in a study
    that prunes, from those that had ended by then, see `Overlap`.
    """

    def __init__(
        self,
        storage: StudyStorage,
        directory: StudyDirectory,
        questioner: Questioner | RowByRow,
        objectives: Sequence[str],
        constraints: Sequence[str] = (),
        overlap: Overlap | None = None,
    ):
        """overlap: of a study whose super-batches are asked while earlier ones train."""
        self._storage = storage
        self._directory = directory
        self._questioner = questioner
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._amendments = Amendments(directory.amendments)
        self._overlap = overlap

    def trials(self) -> list[FrozenTrial]:
        return self._storage.trials()

    def finished(self) -> int:
        """How many trials are COMPLETE, PRUNED or FAIL."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def recover(self) -> None:
        """After an interruption: tell what is on disk and not in the database, let the rest of what ran wait again.

        DamagedBatch if that is no longer what was written.
        """
        self._apply_amendments()
        states = {trial.number: trial.state for trial in self.trials()}
        for path in self._untold():
            ends = read_ends(path, self._needed())
            unknown = [end.number for end in ends if end.number not in states]
            if unknown:
                raise HyperlaxError(
                    f"{path}: holds trial {unknown[0]}, which {self._directory.database} does not know. If that is an older "
                    f"copy, `hyperlax repair {self._directory.root}` brings it up to date; a batch of another study has to go."
                )
            self.tell([end for end in self._counting(ends, path) if not states[end.number].is_finished()], path)
        self._apply_amendments()
        self._storage.wait(trial.number for trial in self.trials() if trial.state == TrialState.RUNNING)

    def rebuild(self, base: AlgorithmConfig) -> int:
        """Have every trial whose batch is on disk in the database, asked again in order and told; how many were not.

        HyperlaxError if a trial that is asked again is not the one that its batch trained; DamagedBatch as `recover`.
        """
        batches = [(path, read_ends(path, self._needed())) for path in self._untold()]
        numbers = [end.number for _, ends in batches for end in ends]
        self._apply_amendments()
        width, stop = self._questioner.super_batch, max(numbers, default=-1) + 1
        before = self.finished()
        for start in range(0, stop, width):
            self._ask(start, min(start + width, stop))
            asked = self.trials()
            for path, ends in batches:
                if any(start <= end.number < start + width for end in ends):
                    self._check_asked(path, asked, base)
                    counting = self._counting(ends, path)
                    self.tell([end for end in counting if not asked[end.number].state.is_finished()], path)
            self._apply_amendments()
        return self.finished() - before

    def retry_failed(self) -> list[int]:
        """Let every FAIL trial wait to be run again under its own number and parameters; which ones.

        What was suggested since, it was suggested from their failure, and stays as it is.
        """
        trials = self.trials()
        failed = [t for t in trials if t.state == TrialState.FAIL and not self.is_invalidated(t.number)]
        if failed:
            self._amend("retried", failed, "")
        return [trial.number for trial in failed]

    def invalidate(self, numbers: Sequence[int], reason: str) -> list[FrozenTrial]:
        """Take COMPLETE trials out of the ranking for ever, and return them as they were, without those that are out already.

        Raises:
          UsageError: there is no such trial, or it is not COMPLETE.
        """
        trials = self.trials()
        for number in numbers:
            if not 0 <= number < len(trials):
                raise UsageError(f"trial {number}: there is none. The study has trials 0 to {len(trials) - 1}.")
            if trials[number].state != TrialState.COMPLETE and not self.is_invalidated(number):
                raise UsageError(f"trial {number}: is {trials[number].state.name}, only COMPLETE trials are ranked.")
        chosen = [copy.copy(trials[n]) for n in sorted(set(numbers)) if not self.is_invalidated(n)]
        if chosen:
            self._amend("invalidated", chosen, reason)
        return chosen

    def is_invalidated(self, trial: int) -> bool:
        """Whether a trial was taken out of the ranking."""
        return self._amendments.is_invalidated(trial)

    def next_trials(self, total: int) -> list[FrozenTrial]:
        """The trials to run next, all of one super-batch, asked and on disk; `total`: finished trials to end with.

        Empty when the study has `total` finished trials, or every configuration of a finite space is used.
        """
        room = total - self.finished()
        if room <= 0:
            return []
        start, stop = next_span(self.trials(), total, self._questioner.super_batch)
        self._ask(start, stop)
        waiting = [t for t in self.trials()[start:stop] if not t.state.is_finished()]
        return waiting[:room]

    def discard_incomplete(self) -> None:
        """Remove from the disk what was being written when a process died; see `StudyDirectory`."""
        self._directory.discard_incomplete(self._named())

    def new_batch(self, super_batch: int) -> Path:
        """Where the next batch of a super-batch goes: a name that nothing has had before."""
        return self._directory.next_batch(super_batch, self._named())

    def more_trials(self, total: int) -> list[FrozenTrial]:
        """The trials of the next super-batch, asked and on disk while earlier ones train; of `total` trials in all.

        Empty when there are as many, every configuration of a finite space is used, or what it is suggested from is not known yet.
        """
        asked = len(self.trials())
        start = asked - asked % self._questioner.super_batch
        stop = min(start + self._questioner.super_batch, total)
        if asked < stop and self._is_known(start):
            self._ask(start, stop)
        return self.trials()[asked:]

    def trial(self, frozen: FrozenTrial, base: AlgorithmConfig) -> Trial:
        """What to train: the recipe's configuration with the suggested values, be they legal or not; see `legal`."""
        return Trial(frozen.number, filled(base, self._questioner.space.decode(frozen.params)))

    def tell(self, ends: Iterable[TrialEnd], batch: Path) -> None:
        """Record how trials of a batch ended; its files are on disk by now."""
        where = self._directory.name(batch)
        endings = []
        for end in ends:
            attributes: dict[str, Any] = {**end.metrics, "batch": where}
            if end.reason:
                attributes["reason"] = end.reason
            if end.intermediate and len(end.intermediate[0]) > 1:
                attributes["intermediate"] = [list(values) for values in end.intermediate]
            complete = end.state == "COMPLETE"
            values = [end.metrics[name] for name in self._objectives] if complete else []
            missed = violations(self._constraints, end.metrics) if complete and self._constraints else []
            leading = [shown[0] for shown in end.intermediate]
            endings.append(Ending(end.number, end.state, values, attributes, missed, leading))
        self._storage.finish(endings)

    def _needed(self) -> set[str]:
        """Return the metrics without which no trial can be told."""
        return {*self._objectives, *(parse_constraint(text).metric for text in self._constraints)}

    def record(self, frozen: FrozenTrial) -> TrialRecord:
        """A trial as the analysis sees it."""
        return trial_record(frozen, self._questioner.space, self._objectives, self._directory.root)

    def _amend(self, kind: Literal["retried", "invalidated"], trials: Sequence[FrozenTrial], reason: str) -> None:
        """Make an amendment of each of these finished trials."""
        asked = len(self.trials())
        self._directory.outdate_analyses(min(trial.number for trial in trials) // self._questioner.super_batch)
        self._amendments.add([Amendment(kind, t.number, _batch_of(t), asked, reason) for t in trials])
        self._apply_amendments()

    def _apply_amendments(self) -> None:
        """Bring the database in line with the amendments, where it is not yet."""
        trials = self.trials()
        retried, invalid = [], {}
        for amendment in self._amendments:
            trial = trials[amendment.trial] if amendment.trial < len(trials) else None
            if trial is None or _batch_of(trial) != amendment.batch:
                continue
            if amendment.kind == "retried" and trial.state == TrialState.FAIL:
                retried.append(amendment.trial)
            if amendment.kind == "invalidated" and trial.state == TrialState.COMPLETE:
                invalid[amendment.trial] = amendment.reason
        if retried:
            self._storage.wait_again(retried)
        if invalid:
            self._storage.invalidate(invalid)

    def _counting(self, ends: Sequence[TrialEnd], batch: Path) -> list[TrialEnd]:
        """Those whose end in this batch is not to be forgotten because they are run again."""
        where = self._directory.name(batch)
        return [end for end in ends if not self._amendments.is_retried(end.number, where)]

    def _named(self) -> set[str]:
        return set(map(_batch_of, self.trials())) | self._amendments.batches()

    def _untold(self) -> list[Path]:
        return untold_batches(self._directory, self._amendments, set(map(_batch_of, self.trials())))

    def _check_asked(self, path: Path, asked: Sequence[FrozenTrial], base: AlgorithmConfig) -> None:
        for number, row in read_hyperparams(path, list(dotted(base))).items():
            for name, value in dotted(self.trial(asked[number], base).algorithm).items():
                if row[name] != cell(value):
                    raise HyperlaxError(
                        f"{path / 'hyperparams.csv'}: trial {number} was trained with {name} = {row[name]}, the sampler now "
                        f"suggests {cell(value)}. The versions of Optuna or numpy differ from those in "
                        f"{self._directory.manifest.name}: install those to repair."
                    )

    def _ask(self, start: int, stop: int) -> None:
        """Have trials `start` to `stop` in the database, as far as the space has configurations.

        HyperlaxError if those that are there are not what is suggested now, or if the sampler learns and a trial before them
        is not finished: then the rest would not follow from them.
        """
        trials = self.trials()
        recorded = trials[start:]
        if start + len(recorded) >= stop:
            return
        questioner, saved = self._questioner, self._storage.sampler_state()
        suggestions = questioner.suggest(start, stop - start, self._known, saved)
        if questioner.state() != saved:
            self._storage.keep_sampler_state(questioner.state())
        space = self._questioner.space
        for trial, suggestion in zip(recorded, suggestions, strict=False):
            if space.identity(trial.params) != space.identity(suggestion.params):
                raise HyperlaxError(
                    f"{self._directory.database}: trial {trial.number} has {space.decode(trial.params)}, the sampler now "
                    f"suggests {space.decode(suggestion.params)}. The versions of Optuna or numpy differ from those in "
                    f"{self._directory.manifest.name}: install those to resume, or start a new study elsewhere."
                )
        of_super_batch = {"exec_batch": start // self._questioner.super_batch}
        entries = [Entry(new.params, of_super_batch, new.system_attrs) for new in suggestions[len(recorded) :]]
        self._storage.record(entries, space.optuna)

    def _is_known(self, start: int) -> bool:
        """Whether what the super-batch that begins with trial `start` is suggested from is known by now."""
        if self._overlap is None or not self._questioner.learns:
            return True
        ended = self._overlap.ended(start, self.trials())
        if ended is not None:
            self._overlap.note(start, ended)
        return ended is not None

    def _known(self, start: int) -> list[FrozenTrial]:
        """The trials below `start` as they were when the super-batch that begins there was first asked."""
        trials = self.trials()
        learns = self._questioner.learns
        ended = self._overlap.ended(start, trials) if self._overlap and learns else None
        if ended is None:
            return self._as_asked_from(trials[:start])
        known = self._amendments.as_known(trials[:start], start, self._objectives)
        return [trial if trial.number in ended else as_running(trial) for trial in known]

    def _as_asked_from(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """All trials before a super-batch as they were when it was first asked; one that is not finished tells nothing."""
        known = self._amendments.as_known(trials, len(trials), self._objectives)
        unfinished = [trial for trial in known if not trial.state.is_finished()]
        if unfinished and self._questioner.learns:
            raise HyperlaxError(
                f"{self._directory.root}: trial {len(trials)} was suggested from the trials before it, and no complete batch "
                f"holds trial {unfinished[0].number}. Put its batch back to repair the study."
            )
        return [trial if trial.state.is_finished() else as_failed(trial) for trial in known]


def _batch_of(trial: FrozenTrial) -> str:
    """The batch that a trial was told from; empty where it was not, or not by Hyperlax."""
    return trial.user_attrs.get("batch", "")
