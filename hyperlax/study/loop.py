"""The one loop of a study: suggest, record, train, write, tell, analyze; super-batch by super-batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial

from optuna.trial import TrialState

from hyperlax.arguments import StudyArguments
from hyperlax.checkpoints import Checkpoints
from hyperlax.envs import canonical
from hyperlax.errors import UsageError
from hyperlax.files import write_text
from hyperlax.metrics import ReferenceReturns
from hyperlax.output import printing_to_whoever_listens
from hyperlax.recipe import Recipe
from hyperlax.study import database, findings
from hyperlax.study.confirming import Confirming
from hyperlax.study.database import is_feasible
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.endings import Endings
from hyperlax.study.failures import Failures
from hyperlax.study.findings import Analyse
from hyperlax.study.manifest import Manifest
from hyperlax.study.pool import Background
from hyperlax.study.pooled import PooledTraining, Standings, pruner_of
from hyperlax.study.progress import Progress
from hyperlax.study.projection import finished_trials
from hyperlax.study.record import StudyRecord
from hyperlax.study.simulated_schedule import is_pooled, lanes_of
from hyperlax.study.state import open_state
from hyperlax.study.stopping import Stop, stopping_on_signals
from hyperlax.study.summary import print_end
from hyperlax.study.super_batches import SuperBatches
from hyperlax.study.tracking import Tracker, Tracking
from hyperlax.study.training import StudyRunner, runner_of_confirmation
from hyperlax.study_yaml import in_full

log = logging.getLogger(__name__)


class StudyLoop:
    """A study while it runs. deadline: of `time.monotonic`, after which no hparam batch starts.

    retry_failed: begin by letting failed trials wait to be run again. confirmer: gives the runner of the confirmation. show: makes
    what shows how far it is. tracker: follows the study elsewhere, None where nothing does.
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
        confirmer: Callable[..., StudyRunner] = runner_of_confirmation,
        show: Callable[..., Progress] = Progress,
        tracker: Tracker | None = None,
    ):
        self._arguments = arguments
        self._recipe = recipe
        self._directory = directory
        self._manifest = manifest
        self._stop = Stop()
        self._tracking = Tracking(tracker, directory.root, self._stop)
        self._analyse = self._tracking.after(analyse)
        self._deadline = deadline
        self._retry_failed = retry_failed
        self._confirmer, self._show = confirmer, show
        self._environment = canonical(arguments.env_config)
        self._reference = ReferenceReturns(**manifest.reference)
        self._objectives = arguments.objectives
        self._width = arguments.optuna_study_batch_size
        self._failures = Failures(arguments.max_failure_rate)
        self._exhausted = False
        self._background = Background()
        self._checkpoints = Checkpoints(directory.checkpoints, arguments.checkpoint_seconds)
        self._settled = 0
        self._standings = Standings(pruner_of(arguments)) if is_pooled(arguments) else None

    def run(self, runner: Callable[[], StudyRunner]) -> int:
        """Run what is missing and say how it ended, with the exit status. `runner` is called only if anything is missing."""
        self._directory.check_database(self._arguments.study_name)
        self._refuse_fewer_trials()
        self._manifest.write(self._directory.manifest)
        if not self._arguments.is_sweep:
            write_text(self._directory.file, in_full(self._arguments, self._recipe))
        survived = self._standings.lasted if self._standings else None
        self._state = open_state(self._arguments, self._recipe, self._directory, self._manifest, survived=survived)
        with (
            closing(self._state),
            closing(self._tracking),
            closing(self._background),
            stopping_on_signals(self._stop),
            printing_to_whoever_listens(),
        ):
            self._state.describe(
                {
                    "recipe": self._recipe.name,
                    "environment": self._environment,
                    "versions": self._manifest.versions,
                    "search_space": self._manifest.space,
                }
            )
            self._state.discard_incomplete()
            self._state.load()
            if self._retry_failed:
                self._retry()
            finished = [trial for trial in self._state.trials() if trial.state.is_finished()]
            self._checkpoints.forget([trial.number for trial in finished])
            self._settled = findings.settled_trials(self._state, self._width)
            for trial in (trial for trial in finished if not self._state.is_invalidated(trial.number)):
                self._failures.count(trial.state.name, trial.user_attrs.get("reason", ""))
            self._write_analysis()
            self._tracking.follow(self._record)
            if self._state.finished() < self._arguments.n_trials:
                self._train(runner())
            self._background.wait()
            self._checkpoints.tidy()
            status = print_end(
                self._state,
                self._directory,
                self._objectives,
                total=self._arguments.n_trials,
                interrupted=self._stop.exit_status if self._stop.is_set() else None,
                given_up=self._failures.sentence() if self._failures.too_many else None,
                exhausted=self._exhausted,
                saved=self._checkpoints.saved_trials(),
            )
            status = status or self._confirm()
            self._tracking.end(self._record, status)
            return status

    def _confirm(self) -> int:
        """Train the best again on new seeds, where that is asked for and the study has all of its trials. The exit status."""
        is_whole = self._exhausted or self._state.finished() >= self._arguments.n_trials
        if not self._arguments.confirm_top or not is_whole:
            return 0

        def write_pages() -> None:
            self._write_analysis()
            self._background.wait()

        make_runner = partial(self._confirmer, self._arguments, self._recipe, self._manifest.packing)
        parts = (self._arguments, self._recipe, self._directory, make_runner, self._stop, self._deadline)
        confirming = Confirming(*parts, self._show)
        return confirming.run(self._record, write_pages, self._retry_failed)

    def _record(self) -> StudyRecord:
        """The study as of now."""
        parts = (self._arguments, self._recipe, self._manifest, self._directory, self._state)
        return findings.record_of(*parts, self._state.trials())

    def _refuse_fewer_trials(self) -> None:
        """UsageError if the study is to end with fewer finished trials than it holds, in the database or on disk."""
        finished = finished_trials(self._directory, self._arguments.study_name)
        if self._arguments.n_trials < len(finished):
            raise UsageError(
                f"--n-trials {self._arguments.n_trials}: the study already holds {len(finished)} finished trials. Give "
                f"{len(finished)} to have its results as they are, more to go on."
            )

    def _train(self, runner: StudyRunner) -> None:
        """Until enough trials are finished or something says stop."""
        self._note(runner)
        with self._new_progress() as progress:
            self._endings = Endings(
                self._arguments,
                self._recipe,
                self._directory.root,
                self._reference,
                self._state,
                self._failures,
                progress,
            )
            if self._standings:
                self._train_pooled(self._standings, runner, progress)
            else:
                self._train_super_batches(runner, progress)

    def _train_super_batches(self, runner: StudyRunner, progress: Progress) -> None:
        """Super-batch after super-batch, each in batches that train to their end."""
        training = SuperBatches(
            self._arguments,
            runner,
            state=self._state,
            endings=self._endings,
            checkpoints=self._checkpoints,
            progress=progress,
            stop=self._stop,
            ended=lambda: self._note(runner),
        )
        while self._may_start():
            asked = self._state.ask(self._arguments.n_trials)
            if not asked:
                self._exhausted = self._state.finished() < self._arguments.n_trials
                return
            self._back_up()
            training.run(asked, self._may_start)
            self._trials_ended(runner)

    def _train_pooled(self, standings: Standings, runner: StudyRunner, progress: Progress) -> None:
        """All super-batches in lanes that are refilled."""
        with closing(runner.pools(self._arguments.num_seeds)) as pools:
            training = PooledTraining(
                self._arguments,
                self._reference,
                state=self._state,
                endings=self._endings,
                standings=standings,
                pools=pools,
                checkpoints=self._checkpoints,
                progress=progress,
                lanes=lanes_of(self._manifest, self._width),
                asked=self._back_up,
                changed=lambda: self._trials_ended(runner),
            )
            training.run(self._stop.is_set, self._may_start)
        self._exhausted = self._may_start() and self._state.finished() < self._arguments.n_trials

    def _trials_ended(self, runner: StudyRunner) -> None:
        """Analyse when super-batches are complete that were not, or that had fewer trials."""
        self._note(runner)
        settled = findings.settled_trials(self._state, self._width)
        if settled > self._settled:
            self._settled = settled
            self._write_analysis()

    def _back_up(self) -> None:
        database.back_up(self._directory.database, self._directory.backup)

    def _retry(self) -> None:
        again = self._state.retry_failed()
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
        progress = self._show(self._arguments.n_trials, name, direction)
        for trial in self._state.trials():
            if trial.state.is_finished():
                wins = trial.state == TrialState.COMPLETE and is_feasible(trial)
                progress.finished(trial.number, trial.state.name, trial.values[0] if wins else None)
        if self._standings is None:
            missing = self._arguments.n_trials - self._state.finished()
            progress.expect(missing * self._arguments.num_seeds * self._arguments.total_timesteps)
        return progress

    def _may_start(self) -> bool:
        return not self._stop.is_set() and not self._failures.too_many and time.monotonic() < self._deadline

    def _write_analysis(self) -> None:
        """The analysis as of the last finished super-batch, and those that are missing; training does not wait for it."""
        self._background.wait()
        for number in range(findings.finished_super_batches(self._state, self._width)):
            self._directory.close_super_batch(number)
        parts = (self._arguments, self._recipe, self._manifest, self._directory, self._state)
        for work in findings.prepare(self._analyse, *parts):
            self._background.start(work)
