"""Start, resumption and plan of a search or a sweep."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import optuna

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.checks import check_space, ignored_constraints
from hyperlax.config.configurations import excluded_default, first_trials
from hyperlax.config.options import SearchOptions
from hyperlax.config.speech import spoken
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import UsageError, counted
from hyperlax.fields import check
from hyperlax.recipe import Recipe
from hyperlax.samplers.fixed import Presampled
from hyperlax.schedulers.base import Scheduler
from hyperlax.schedulers.pruning import PruningOptions
from hyperlax.schedulers.registry import PRUNERS
from hyperlax.study import database_file
from hyperlax.study import manifest as manifests
from hyperlax.study.confirmation_run import confirm
from hyperlax.study.directory import StudyDirectory, study_directory
from hyperlax.study.io_errors import ending_on_io_error
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import Manifest
from hyperlax.study.observer import Observer, tell
from hyperlax.study.simulated_schedule import lanes_of, refills_lanes
from hyperlax.study.state import StudyState
from hyperlax.study.stopping import Limits, StopRequest
from hyperlax.study.study_run import (
    MakeBackend,
    StudyRun,
    engine_config,
    lanes_asked,
    local_backend,
    refuse_existing,
)
from hyperlax.study.summary import print_end
from hyperlax.study.trials import REFUSED, SearchTrials, Settings

log = logging.getLogger(__name__)

_PAGES_SECONDS = 5.0
"""Minimum seconds between two times that pages are written while trials train, if super-batches are as narrow as the lanes."""


def run_study(
    options: SearchOptions,
    recipe: Recipe,
    resume_from: Path | None = None,
    *,
    make_backend: MakeBackend = local_backend,
    observers: Sequence[Observer] = (),
    retry_failed: bool = False,
    stop: StopRequest | None = None,
) -> int:
    """Run a search or a sweep, or resume the one in `resume_from`, until it has `n_trials` finished trials.

    Returns the exit status. 0: done, or out of time. 1: too many trials failed. 130, 143: interrupted.

    Args:
      make_backend: Returns the backend, called once everything else is checked.
      observers: Get the events of the study, and are closed at the end.
      retry_failed: Whether to run failed trials again.
      stop: The request that ends the study, and the waiting of `make_backend` for an agent. None where that does not wait.

    Raises:
      UsageError: Before anything is written, if the study cannot run.
      HyperlaxError: The system refuses to write. The message has the command that resumes the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(options, recipe.space)
    directory = StudyDirectory(resume_from) if resume_from else study_directory(options, recipe)
    limits = Limits(stop or StopRequest(), options.timeout, options.max_failure_rate)
    seconds, waits = options.checkpoint_seconds, stop is not None
    run = _SearchRun(options, recipe, directory, make_backend, observers, limits, seconds, retry_failed, waits)
    if resume_from:
        return run.resume()
    if isinstance(recipe, Presampled):
        return run.start()
    return run.start(first_trials(options, recipe), [ignored_constraints(options), excluded_default(options, recipe)])


def print_plan(
    options: SearchOptions, recipe: Recipe, resume_from: Path | None, make_backend: MakeBackend = local_backend
) -> int:
    """Print the plan of the next super-batch in one line, and change nothing. Returns 0.

    Raises UsageError if the study cannot run.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(options, recipe.space)
    if resume_from is None:
        directory, stored = study_directory(options, recipe), None
        refuse_existing(directory)
        if note := excluded_default(options, recipe):
            log.info("%s", note)
    else:
        directory = StudyDirectory(resume_from)
        stored = manifests.read(directory.manifest, recipe)
    checkpoints = CheckpointManager(directory.checkpoints, options.checkpoint_seconds)
    manifest = stored or manifests.describe(options, recipe, first_trials(options, recipe), None)
    backend = make_backend(search_config(options, recipe, manifest if manifest.is_planned else None), checkpoints)
    manifest = manifest if manifest.is_planned else manifest.planned(options, backend)
    unchanged = ending_on_io_error(
        directory.database, lambda remedy: f"Nothing was changed. {remedy}, then plan again."
    )
    with unchanged, closing(backend), tempfile.TemporaryDirectory() as scratch:
        directory.check_database(options.study_name)
        copy = Path(scratch) / directory.database.name
        if directory.database.exists():
            database_file.back_up(directory.database, copy)
        with closing(StudyState(options, recipe, directory, manifest, database=copy, is_dry=True)) as state:
            state.load()
            trials = state.ask(options.n_trials)
        sound = []
        for trial in trials:
            with suppress(UsageError):
                check(trial.config, REFUSED)
                sound.append(trial)
        print(backend.plan(sound).sentence() if sound else "Nothing is left to run.")
    return 0


def search_config(options: SearchOptions, recipe: Recipe, stored: Manifest | None) -> EngineConfig:
    """Return the backend's configuration for a search. stored: the manifest of a study that is resumed."""
    racing, refills = options.seed_schedule == "racing", refills_lanes(options)
    width = stored.super_batch if stored else options.super_batch
    return engine_config(
        options,
        recipe,
        recipe.config.algorithm,
        space=recipe.space,
        num_seeds=1 if racing else options.num_seeds,
        num_trials=options.n_trials,
        super_batch=min(width, options.n_trials) if width else None,
        lanes=lanes_asked(options),
        packing=options.packing,
        chosen=stored.packing if stored else None,
        kind="refilled" if refills else "closed",
        trial_seeds=options.num_seeds if refills else None,
    )


class _SearchRun(StudyRun[SearchOptions]):
    """A search or a sweep while this process runs it."""

    _in_pages, _published = 0, -math.inf

    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend."""
        return search_config(self.options, self.recipe, stored)

    def publish_missing(self) -> None:
        """Write the pages that are missing. Log which trials of other programs cannot run for want of room."""
        self._publish()
        live, total = self.live, self.options.n_trials
        if self.is_over() and (waiting := len(live.waiting_foreign())) and not self.options.is_sweep:
            log.info(
                "%s of other programs can be run: resume with %s %d.",
                counted(waiting, "waiting trial"),
                spoken("n_trials"),
                total + waiting,
            )

    def is_over(self) -> bool:
        """Return whether nothing is left to train."""
        return self.live.finished() >= self.options.n_trials

    def loop(self, backend: Backend) -> Loop:
        """Return the loop that trains what is missing."""
        settings = self._settings()
        trials = SearchTrials(self.live, settings, self.survived, lambda: self._recorded(backend))
        return Loop(trials, backend, self._scheduler(), settings, self.limits, self.observers)

    def _settings(self) -> Settings:
        options, refills = self.options, refills_lanes(self.options)
        missing = options.n_trials - self.live.finished()
        return Settings(
            task="search",
            total=options.n_trials,
            steps=None if refills else missing * options.num_seeds * options.total_timesteps,
            scoring=self.live.scoring,
            seeds=options.num_seeds,
            repetitions=options.num_seeds if options.seed_schedule == "racing" else 1,
            columns=tuple(self._pruning_metrics()) if refills else (),
            refills=refills,
            overlaps=refills or self.live.overlaps,
            lanes=lanes_of(self.live.manifest),
            checkpoint_seconds=options.checkpoint_seconds,
        )

    def _pruning_metrics(self) -> dict[str, str]:
        """Return name -> direction of the pruning metrics: the objectives, and for one alone how early a trial learnt, for ties."""
        own, tie_breaker = self.options.objectives, "normalized_auc"
        if len(own) > 1 or tie_breaker in own or tie_breaker not in self.live.manifest.scale.table.rows:
            return own
        return {**own, tie_breaker: "maximize"}

    def _scheduler(self) -> Scheduler | None:
        """Return the scheduler, which decides which trials continue; None if every trial trains to its end."""
        options = self.options
        if not refills_lanes(options):
            return None
        pruning = PruningOptions(
            directions=list(self._pruning_metrics().values()),
            objectives=len(options.objectives),
            segments=options.num_evaluations,
            min_segments=options.pruner_min_segments,
            reduction_factor=options.pruner_reduction_factor,
            percentile=options.pruner_percentile,
            seeds=options.num_seeds if options.seed_schedule == "racing" else 1,
        )
        return PRUNERS[options.pruner](pruning)

    def _recorded(self, backend: Backend) -> None:
        """Note the backend's programs, and have pages written if a super-batch has ended."""
        self.live.note_backend(backend)
        is_due = self.options.super_batch is not None or time.monotonic() - self._published > _PAGES_SECONDS
        if is_due and self.live.trials_in_finished_super_batches() > self._in_pages:
            self._publish()

    def finish(self) -> int:
        """Print how the study ended, confirm its best if --confirm-top is given, and return the exit status."""
        if self.live.trials_in_finished_super_batches() > self._in_pages:
            self._publish()
        tell(self.observers, lambda observer: observer.training_written())
        options, live, limits = self.options, self.live, self.limits
        is_exhausted = limits.may_start() and live.finished() < options.n_trials
        saved = self.checkpoints.saved_trials()
        status = print_end(live.snapshot(), options.n_trials, limits, is_exhausted, saved)
        is_whole = is_exhausted or live.finished() >= options.n_trials
        if status or not options.confirm_top or not is_whole:
            return status

        def write_pages() -> None:
            self._publish()
            tell(self.observers, lambda observer: observer.training_written())

        return confirm(self, write_pages)

    def _publish(self) -> None:
        """Have the analyses of the finished super-batches written."""
        self._in_pages = self.live.trials_in_finished_super_batches()
        for record, directory in self.live.analyses():
            tell(
                self.observers,
                lambda observer, record=record, where=directory: observer.super_batch_ended(record, where),
            )
            self._published = time.monotonic()
