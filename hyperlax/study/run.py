"""Start, resumption and plan of a search or a sweep."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.checks import check_space, note_constraints
from hyperlax.config.configurations import first_trials
from hyperlax.config.options import SearchOptions
from hyperlax.config.study_file import in_full
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.fields import check
from hyperlax.files import write_text
from hyperlax.recipe import Recipe
from hyperlax.samplers.fixed import Presampled
from hyperlax.schedulers.base import Scheduler
from hyperlax.schedulers.registry import PRUNERS, PruningOptions
from hyperlax.study import database
from hyperlax.study import manifest as manifests
from hyperlax.study.confirmation_run import ConfirmationRun
from hyperlax.study.directory import StudyDirectory, study_directory
from hyperlax.study.io_errors import ending_on_io_error
from hyperlax.study.manifest import Manifest
from hyperlax.study.observer import Observer, tell
from hyperlax.study.projection import finished_trials
from hyperlax.study.simulated_schedule import is_pooled, lanes_of
from hyperlax.study.state import StudyState, open_state
from hyperlax.study.stopping import Limits, StopRequest
from hyperlax.study.study_run import (
    Equipment,
    MakeBackend,
    StudyRun,
    engine_config,
    lanes_asked,
    local_backend,
    reference_returns,
    refuse_existing,
)
from hyperlax.study.summary import print_end
from hyperlax.study.trials import REFUSED, SearchTrials, Settings, Trials

log = logging.getLogger(__name__)

_PAGES_SECONDS = 5.0
"""Minimum seconds between two times that pages are written while trials train, if super-batches are as narrow as the lanes."""


def run_study(
    arguments: SearchOptions,
    recipe: Recipe,
    resume_from: Path | None = None,
    *,
    make_backend: MakeBackend = local_backend,
    observers: Sequence[Observer] = (),
    retry_failed: bool = False,
) -> int:
    """Run a search or a sweep, or resume the one in `resume_from`, until it has `n_trials` finished trials.

    Returns the exit status. 0: done, or out of time. 1: too many trials failed. 130, 143: interrupted.

    Args:
      make_backend: Returns the backend, called once everything else is checked.
      observers: Get the events of the study, and are closed at the end.
      retry_failed: Whether to run failed trials again.

    Raises:
      UsageError: Before anything is written, if the study cannot run.
      HyperlaxError: The system refuses to write. The message has the command that resumes the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(arguments, recipe.space)
    directory = StudyDirectory(resume_from) if resume_from else study_directory(arguments, recipe)
    limits = Limits(StopRequest(), arguments.timeout, arguments.max_failure_rate)
    equipment = Equipment(make_backend, observers, limits, arguments.checkpoint_seconds, retry_failed)
    run = _SearchRun(arguments, recipe, directory, equipment)
    return run.resume() if resume_from else run.start()


def print_plan(
    arguments: SearchOptions, recipe: Recipe, resume_from: Path | None, make_backend: MakeBackend = local_backend
) -> int:
    """Print the plan of the next super-batch in one line, and change nothing. Returns 0.

    Raises UsageError if the study cannot run.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(arguments, recipe.space)
    if resume_from is None:
        directory, stored = study_directory(arguments, recipe), None
        refuse_existing(directory)
    else:
        directory = StudyDirectory(resume_from)
        stored = manifests.read(directory.manifest, recipe)
    checkpoints = CheckpointManager(directory.checkpoints, arguments.checkpoint_seconds)
    backend = make_backend(search_config(arguments, recipe, stored), checkpoints)
    manifest = stored or manifests.describe(
        arguments,
        recipe,
        reference_returns(arguments.env_config),
        first_trials=first_trials(arguments, recipe),
        backend=backend,
    )
    unchanged = ending_on_io_error(
        directory.database, lambda why: f"Nothing was changed. {why.remedy}, then plan again."
    )
    with unchanged, closing(backend), tempfile.TemporaryDirectory() as scratch:
        directory.check_database(arguments.study_name)
        copy = Path(scratch) / directory.database.name
        if directory.database.exists():
            database.back_up(directory.database, copy)
        with closing(open_state(arguments, recipe, directory, manifest, database=copy, is_dry=True)) as state:
            state.load()
            trials = [state.trial(trial) for trial in state.ask(arguments.n_trials)]
        sound = []
        for trial in trials:
            with suppress(UsageError):
                check(trial.algorithm, REFUSED)
                sound.append(trial)
        print(backend.plan(sound).sentence() if sound else "Nothing is left to run.")
    return 0


def search_config(arguments: SearchOptions, recipe: Recipe, stored: Manifest | None) -> EngineConfig:
    """Return the backend's configuration for a search. stored: the manifest of a study that is resumed."""
    racing, refills = arguments.seed_schedule == "racing", is_pooled(arguments)
    width = stored.super_batch if stored else arguments.super_batch
    return engine_config(
        arguments,
        recipe.config.algorithm,
        space=recipe.space,
        num_seeds=1 if racing else arguments.num_seeds,
        num_trials=arguments.n_trials,
        super_batch=min(width, arguments.n_trials) if width else None,
        lanes=lanes_asked(arguments),
        packing=arguments.packing,
        chosen=stored.packing if stored else None,
        kind="refilled" if refills else "closed",
        repetitions=arguments.num_seeds if refills else None,
    )


class _SearchRun(StudyRun):
    """A search or a sweep while this process runs it."""

    def __init__(self, arguments: SearchOptions, *parts: Any):
        super().__init__(arguments, *parts)
        self._own, self._survived = arguments, dict[int, int]()
        self._settled, self._published = 0, -math.inf

    def first_trials(self) -> list[dict[str, Any]]:
        """Return the configurations that the study begins with, before the sampler suggests any."""
        note_constraints(self._own)
        return [] if isinstance(self.recipe, Presampled) else first_trials(self._own, self.recipe)

    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend."""
        return search_config(self._own, self.recipe, stored)

    def open_state(self, manifest: Manifest) -> StudyState:
        """Open the study's state."""
        survived = lambda number: self._survived.get(number, 0)  # noqa: E731
        return open_state(self._own, self.recipe, self.directory, manifest, survived=survived)

    def check(self) -> None:
        """Raise UsageError if `n_trials` is less than the finished trials in the database and on disk."""
        finished, total = finished_trials(self.directory, self.arguments.study_name), self._own.n_trials
        if total < len(finished):
            raise OptionError(
                "n_trials",
                "{n_trials} {0}: the study already holds {2}. Give {1} to have its results as they are, more to "
                "continue.",
                total,
                len(finished),
                counted(len(finished), "finished trial"),
            )

    def write_files(self) -> None:
        """Write `study.yaml`, except for a sweep, which has its samples."""
        if not self._own.is_sweep:
            write_text(self.directory.file, in_full(self._own, self.recipe))

    def loaded(self) -> None:
        """Write the pages that are missing. Log which trials of other programs cannot run for want of room."""
        self._publish()
        state, total = self.live.state, self._own.n_trials
        if self.is_over() and (waiting := len(state.waiting_foreign())) and not self._own.is_sweep:
            log.info(
                "%s of other programs can be run: resume with --n-trials %d.",
                counted(waiting, "waiting trial"),
                total + waiting,
            )

    def is_over(self) -> bool:
        """Return whether nothing is left to train."""
        return self.live.state.finished() >= self._own.n_trials

    def settings(self) -> Settings:
        """Return how trials train."""
        own, refills = self._own, is_pooled(self._own)
        missing = own.n_trials - self.live.state.finished()
        return Settings(
            task="search",
            total=own.n_trials,
            steps=None if refills else missing * own.num_seeds * own.total_timesteps,
            scoring=self.live.scoring,
            seeds=own.num_seeds,
            repetitions=own.num_seeds if own.seed_schedule == "racing" else 1,
            columns=tuple(own.pruning_metrics) if refills else (),
            refills=refills,
            overlaps=refills or self.live.state.overlaps,
            lanes=lanes_of(self.live.manifest),
            checkpoint_seconds=own.checkpoint_seconds,
        )

    def trials(self, backend: Backend, settings: Settings) -> Trials:
        """Return the source of the trials, which also records their results."""

        def changed() -> None:
            self.live.note_backend(backend)
            is_due = self._own.super_batch is not None or time.monotonic() - self._published > _PAGES_SECONDS
            if is_due and self.live.settled() > self._settled:
                self._publish()

        return SearchTrials(self.live, settings, self._survived, changed)

    def scheduler(self, trials: Trials) -> Scheduler | None:
        """Return the scheduler, which decides which trials continue; None if every trial trains to its end."""
        own = self._own
        if not is_pooled(own):
            return None
        options = PruningOptions(
            directions=list(own.pruning_metrics.values()),
            objectives=len(own.objectives),
            segments=own.num_evaluations,
            min_segments=own.pruner_min_segments,
            reduction_factor=own.pruner_reduction_factor,
            percentile=own.pruner_percentile,
            seeds=own.num_seeds if own.seed_schedule == "racing" else 1,
        )
        return PRUNERS[own.pruner](options)

    def finish(self) -> int:
        """Print how the study ended, confirm its best if --confirm-top is given, and return the exit status."""
        if self.live.settled() > self._settled:
            self._publish()
        tell(self.observers, lambda observer: observer.training_written())
        self.checkpoints.tidy()
        own, state, limits = self._own, self.live.state, self.limits
        is_exhausted = limits.may_start() and state.finished() < own.n_trials
        status = print_end(
            self.live.results(),
            total=own.n_trials,
            interrupted=limits.stop.exit_status if limits.stop.is_set() else None,
            given_up=limits.sentence() if limits.too_many_failed else None,
            exhausted=is_exhausted,
            saved=self.checkpoints.saved_trials(),
        )
        is_whole = is_exhausted or state.finished() >= own.n_trials
        if status or not own.confirm_top or not is_whole:
            return status

        def write_pages() -> None:
            self._publish()
            tell(self.observers, lambda observer: observer.training_written())

        confirming = ConfirmationRun(self.live, self.limits, self.equipment.make_backend, self.observers)
        return confirming.run(write_pages, self.equipment.retry_failed)

    def _publish(self) -> None:
        """Have the analyses of the finished super-batches written."""
        self._settled = self.live.settled()
        for record, directory in self.live.analyses():
            tell(
                self.observers,
                lambda observer, record=record, where=directory: observer.super_batch_ended(record, where),
            )
            self._published = time.monotonic()
