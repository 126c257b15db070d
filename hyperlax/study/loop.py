"""The one loop of a study: suggest, record, train, write, tell, analyze; super-batch by super-batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hyperlax.arguments import StudyArguments
from hyperlax.checkpoints import Checkpoints
from hyperlax.constraints import are_satisfied
from hyperlax.envs import canonical
from hyperlax.errors import UsageError
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import Recipe
from hyperlax.study import database, findings
from hyperlax.study.batch_files import TrialEnd, failed_batch, write_batch
from hyperlax.study.conversation import Conversation, legal, untold_trials
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.distributions import SearchSpace
from hyperlax.study.failures import Failures
from hyperlax.study.findings import Analyse
from hyperlax.study.manifest import Manifest
from hyperlax.study.pool import Background, run_batches
from hyperlax.study.progress import Progress
from hyperlax.study.reasons import cause_of_error
from hyperlax.study.results import problem_of
from hyperlax.study.stopping import Stop, stopping_on_signals
from hyperlax.study.storage import StudyStorage, is_feasible
from hyperlax.study.suggest import Questioner
from hyperlax.study.summary import print_end
from hyperlax.study.training import StudyRunner
from hyperlax.trial import BatchResult, HparamBatch, Interrupted, Trial

log = logging.getLogger(__name__)


class StudyLoop:
    """A study while it runs. deadline: of `time.monotonic`, after which no hparam batch starts.

    retry_failed: begin by letting failed trials wait to be run again.
    """

    def __init__(
        self,
        arguments: StudyArguments,
        recipe: Recipe,
        directory: StudyDirectory,
        manifest: Manifest,
        analyse: Analyse,
        deadline: float,
        retry_failed: bool = False,
    ):
        self._arguments = arguments
        self._recipe = recipe
        self._directory = directory
        self._manifest = manifest
        self._analyse = analyse
        self._deadline = deadline
        self._retry_failed = retry_failed
        self._environment = canonical(arguments.env_config)
        self._reference = ReferenceReturns(**manifest.reference)
        self._objectives = arguments.objectives
        self._width = arguments.optuna_study_batch_size
        self._stop = Stop()
        self._failures = Failures(arguments.max_failure_rate)
        self._exhausted = False
        self._background = Background()
        self._checkpoints = Checkpoints(directory.checkpoints, arguments.checkpoint_seconds)
        self._began: dict[HparamBatch, float] = {}

    def run(self, runner: Callable[[], StudyRunner]) -> int:
        """Run what is missing and say how it ended, with the exit status. `runner` is called only if anything is missing."""
        self._directory.check_database(self._arguments.study_name)
        self._refuse_fewer_trials()
        self._manifest.write(self._directory.manifest)
        self._storage = StudyStorage(self._directory.database, self._arguments.study_name, self._objectives)
        with closing(self._storage), closing(self._background), stopping_on_signals(self._stop):
            self._storage.describe(
                {
                    "recipe": self._recipe.name,
                    "environment": self._environment,
                    "versions": self._manifest.versions,
                    "search_space": self._manifest.space,
                }
            )
            self._conversation = Conversation(
                self._storage,
                self._directory,
                questioner_of(self._arguments, self._recipe, self._manifest.first_trials),
                tuple(self._objectives),
                self._arguments.constraints,
            )
            self._conversation.discard_incomplete()
            self._conversation.recover()
            if self._retry_failed:
                self._retry()
            finished = [trial for trial in self._conversation.trials() if trial.state.is_finished()]
            self._checkpoints.forget([trial.number for trial in finished])
            for trial in (trial for trial in finished if not self._conversation.is_invalidated(trial.number)):
                self._failures.count(trial.state.name, trial.user_attrs.get("reason", ""))
            self._write_analysis()
            if self._conversation.finished() < self._arguments.n_trials:
                self._train(runner())
            self._background.wait()
            self._checkpoints.tidy()
            return print_end(
                self._storage,
                self._directory,
                self._objectives,
                total=self._arguments.n_trials,
                interrupted=self._stop.exit_status if self._stop.is_set() else None,
                given_up=self._failures.sentence() if self._failures.too_many else None,
                exhausted=self._exhausted,
                saved=sum(len(head.trials) for head in self._checkpoints.heads()),
            )

    def _refuse_fewer_trials(self) -> None:
        """UsageError if the study is to end with fewer finished trials than it holds, in the database or on disk."""
        told = database.told(self._directory.database, self._arguments.study_name)
        finished = told.finished | set(untold_trials(self._directory, told.batches))
        if self._arguments.n_trials < len(finished):
            raise UsageError(
                f"--n-trials {self._arguments.n_trials}: the study already holds {len(finished)} finished trials. Give "
                f"{len(finished)} to have its results as they are, more to go on."
            )

    def _train(self, runner: StudyRunner) -> None:
        """Super-batch after super-batch, until enough trials are finished or something says stop."""
        self._note(runner)
        with self._new_progress() as progress:
            while self._may_start():
                asked = self._conversation.next_trials(self._arguments.n_trials)
                if not asked:
                    self._exhausted = self._conversation.finished() < self._arguments.n_trials
                    return
                database.back_up(self._directory.database, self._directory.backup)
                self._run_super_batch(asked, runner, progress)

    def _retry(self) -> None:
        again = self._conversation.retry_failed()
        if again:
            log.info("Run again: trials %s.", ", ".join(map(str, again)))
        else:
            log.info("No trial is run again: none has failed by itself.")

    def _note(self, runner: StudyRunner) -> None:
        """Keep study.json saying what the runner is, and how many lanes its programs have come to have."""
        manifest = replace(self._manifest, lanes=runner.lanes, device=runner.device, packing=runner.packing)
        if manifest != self._manifest:
            self._manifest = manifest
            manifest.write(self._directory.manifest)

    def _new_progress(self) -> Progress:
        name, direction = next(iter(self._objectives.items()))
        progress = Progress(self._arguments.n_trials, name, direction)
        for trial in self._conversation.trials():
            if trial.state.is_finished():
                wins = trial.state == TrialState.COMPLETE and is_feasible(trial)
                progress.finished(trial.number, trial.state.name, trial.values[0] if wins else None)
        return progress

    def _may_start(self) -> bool:
        return not self._stop.is_set() and not self._failures.too_many and time.monotonic() < self._deadline

    def _run_super_batch(self, asked: list[FrozenTrial], runner: StudyRunner, progress: Progress) -> None:
        """Train trials of one super-batch; its analysis follows when none of them is left."""
        number = asked[0].number // self._width
        trials = self._legal(asked, number, progress)
        plan = runner.plan(trials, self._checkpoints.heads())
        log.info("%s", plan.sentence())

        def run(batch: HparamBatch) -> BatchResult:
            return runner.run(
                batch,
                should_stop=self._stop.is_set,
                report=progress.stepped,
                checkpoint=self._checkpoints.of(batch.numbers),
            )

        def batch_ends(batch: HparamBatch, future: Future[BatchResult]) -> Sequence[HparamBatch]:
            self._note(runner)
            return self._batch_ends(batch, future, number, progress)

        run_batches(
            run,
            plan.batches,
            runner.slots,
            stop=self._stop,
            may_start=self._may_start,
            on_start=self._batch_starts,
            on_end=batch_ends,
            on_tick=progress.draw,
        )
        if number < findings.finished_super_batches(self._conversation, self._width):
            self._write_analysis()

    def _batch_starts(self, batch: HparamBatch) -> None:
        self._began[batch] = time.monotonic()
        self._checkpoints.keep_only(batch.numbers)
        self._storage.start(batch.numbers)

    def _batch_ends(
        self, batch: HparamBatch, future: Future[BatchResult], number: int, progress: Progress
    ) -> Sequence[HparamBatch]:
        """Write a batch's files, then tell Optuna. What was interrupted waits.

        Of what raised, the two halves are to be run instead, so that in the end only the trial at fault is FAIL. A runner that
        returns what is no result has failed all of its trials.
        """
        error, began = future.exception(), self._began.pop(batch)
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            self._stop.set()
            self._storage.wait(batch.numbers)
            return ()
        if error is not None and not isinstance(error, Exception):
            raise error
        if error is not None and len(batch.trials) > 1:
            return self._halves(batch, error)
        seeds, seconds = self._arguments.num_seeds, time.monotonic() - began
        cause = cause_of_error(error) if error else problem_of(batch, future.result(), seeds)
        result = failed_batch(batch, cause, seeds, seconds, error) if cause else future.result()
        self._finish(batch, result, number, progress)
        return ()

    def _finish(self, batch: HparamBatch, result: BatchResult, number: int, progress: Progress) -> None:
        """Write a batch's files into its super-batch, then tell Optuna and the user."""
        path = self._conversation.new_batch(number)
        ends = write_batch(path, batch, result, self._reference, self._recipe.space)
        self._conversation.tell(ends, path)
        self._checkpoints.forget(batch.numbers)
        _log_failures(ends)
        leading = next(iter(self._objectives))
        for end in ends:
            self._failures.count(end.state, end.reason)
            wins = end.state == "COMPLETE" and are_satisfied(self._arguments.constraints, end.metrics)
            progress.finished(end.number, end.state, end.metrics[leading] if wins else None)
        progress.batch_ended()

    def _halves(self, batch: HparamBatch, error: Exception) -> Sequence[HparamBatch]:
        log.warning("The batch of %s broke (%s). Its halves are run instead.", _numbers(batch), cause_of_error(error))
        self._storage.wait(batch.numbers)
        self._checkpoints.forget(batch.numbers)
        middle = len(batch.trials) // 2
        return HparamBatch(batch.trials[:middle]), HparamBatch(batch.trials[middle:])

    def _legal(self, asked: Sequence[FrozenTrial], number: int, progress: Progress) -> list[Trial]:
        """What to train of a super-batch. A trial whose values its recipe's fields refuse is FAIL."""
        sound = []
        for frozen in asked:
            trial = self._conversation.trial(frozen, self._recipe.config.algorithm)
            try:
                sound.append(legal(trial))
            except UsageError as error:
                alone = HparamBatch((trial,))
                self._finish(alone, failed_batch(alone, str(error), self._arguments.num_seeds, 0.0), number, progress)
        return sound

    def _write_analysis(self) -> None:
        """The analysis as of the last finished super-batch, and those that are missing; training does not wait for it."""
        self._background.wait()
        parts = (self._arguments, self._recipe, self._manifest, self._directory, self._conversation)
        for work in findings.prepare(self._analyse, *parts):
            self._background.start(work)


def questioner_of(arguments: StudyArguments, recipe: Recipe, first_trials: Sequence[Mapping[str, Any]]) -> Questioner:
    """Who suggests a study's trials. first_trials: of its manifest."""
    space = SearchSpace(recipe.space)
    return Questioner(
        space=space,
        sampler=arguments.sampler,
        directions=arguments.objective_directions,
        seed=arguments.seed,
        super_batch=arguments.optuna_study_batch_size,
        first_trials=[space.encode(values) for values in first_trials],
    )


def _numbers(batch: HparamBatch) -> str:
    plural = "s" if len(batch.trials) > 1 else ""
    return f"trial{plural} {', '.join(map(str, batch.numbers))}"


def _log_failures(ends: list[TrialEnd]) -> None:
    mates = sum(end.state != "FAIL" for end in ends)
    for end in ends:
        if end.state == "FAIL":
            rest = f"the other {mates} of its batch went on" if mates else "the study goes on"
            log.warning("trial %d: %s. Marked FAIL; %s.", end.number, end.reason, rest)
