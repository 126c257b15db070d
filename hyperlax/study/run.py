"""Starting and resuming a study of any kind: everything is checked here before anything is written."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import optuna

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config import samples
from hyperlax.config.checks import check_space, note_constraints
from hyperlax.config.first_trials import first_trials
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.config.study_file import in_full
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.envs import canonical
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import write_text
from hyperlax.recipe import Recipe
from hyperlax.samplers.fixed import Presampled
from hyperlax.schedulers.base import Scheduler
from hyperlax.schedulers.registry import PRUNERS, PruningOptions
from hyperlax.study import database
from hyperlax.study import manifest as manifests
from hyperlax.study.confirming import Confirming
from hyperlax.study.directory import StudyDirectory, check_writable, only_one_process, refuse_running, study_directory
from hyperlax.study.limits import Limits
from hyperlax.study.live import LiveStudy
from hyperlax.study.loop import Loop, Settings, Trials
from hyperlax.study.manifest import Manifest
from hyperlax.study.observer import Observer, Training, tell
from hyperlax.study.projection import finished_trials
from hyperlax.study.refusals import Refusal, ending_on_refusal, refusing_what_is_forbidden, run_again
from hyperlax.study.reporters import ignoring_broken_output
from hyperlax.study.running import validate
from hyperlax.study.simulated_schedule import is_pooled, lanes_of
from hyperlax.study.state import StudyState, open_state
from hyperlax.study.stopping import Stop, stopping_on_signals
from hyperlax.study.summary import print_end
from hyperlax.study.training import MakeBackend, local_backend, reference_returns, search_config
from hyperlax.study.trials import StudyTrials

log = logging.getLogger(__name__)


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
      make_backend: Makes what trains, called once everything else is checked.
      observers: Are told how the study goes, and are closed at the end.
      retry_failed: Whether to begin by letting failed trials wait to be run again.

    Raises:
      UsageError: Before anything is written, for what cannot run.
      HyperlaxError: The system refuses to write; with the command that resumes the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_space(arguments, recipe.space)
    directory = StudyDirectory(resume_from) if resume_from else study_directory(arguments, recipe)
    run = SearchRun(arguments, recipe, directory, make_backend, observers)
    run.retry_failed = retry_failed
    return run.resume() if resume_from else run.start()


def print_plan(
    arguments: SearchOptions, recipe: Recipe, resume_from: Path | None, make_backend: MakeBackend = local_backend
) -> int:
    """Print the plan of the next super-batch in one line, and leave the study as it is.

    Returns 0; UsageError for what cannot run.
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
    unchanged = ending_on_refusal(
        directory.database, lambda why: f"Nothing was changed. {why.remedy}, then plan again."
    )
    with unchanged, closing(backend), tempfile.TemporaryDirectory() as scratch:
        directory.check_database(arguments.study_name)
        copy = Path(scratch) / directory.database.name
        if directory.database.exists():
            database.back_up(directory.database, copy)
        with closing(open_state(arguments, recipe, directory, stored, database=copy, is_dry=True)) as state:
            state.load()
            trials = [state.trial(trial) for trial in state.ask(arguments.n_trials)]
        sound = []
        for trial in trials:
            with suppress(UsageError):
                sound.append(validate(trial))
        print(backend.plan(sound).sentence() if sound else "Nothing is left to run.")
    return 0


class SearchRun:
    """A search or a sweep while this process runs it. A population is another kind of run."""

    retry_failed = False

    def __init__(
        self,
        arguments: SearchOptions | PbtOptions,
        recipe: Recipe,
        directory: StudyDirectory,
        make_backend: MakeBackend,
        observers: Sequence[Observer],
    ):
        self.arguments, self.recipe, self.directory = arguments, recipe, directory
        self.observers, self._make_backend = observers, make_backend
        self.checkpoints = CheckpointManager(directory.checkpoints, self.checkpoint_seconds)
        self.limits = Limits(Stop(), getattr(arguments, "timeout", None), getattr(arguments, "max_failure_rate", 1.0))
        self.survived: dict[int, int] = {}
        self._settled = 0

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds between two saves."""
        return self._search.checkpoint_seconds

    def start(self) -> int:
        """Begin a new study. Returns the exit status."""
        refuse_running(self.directory.root)
        refuse_existing(self.directory)
        first = self.first_trials()
        backend = self.make_backend(None)
        reference = reference_returns(self.arguments.env_config)
        manifest = manifests.describe(self.arguments, self.recipe, reference, first_trials=first, backend=backend)
        if isinstance(self.arguments, SearchOptions):
            note_constraints(self.arguments)
        with self._held():
            refuse_existing(self.directory)
            check_writable(self.directory)
            if isinstance(self.recipe, Presampled):
                samples.write(self.directory.samples, self.recipe.samples)
            return self._run(manifest, lambda: backend)

    def resume(self) -> int:
        """Continue the study in the directory. Returns the exit status."""
        stored = manifests.read(self.directory.manifest, self.recipe)
        command = manifests.search_command(self.arguments, self.recipe, self.directory)
        manifest = replace(stored, arguments=self.arguments.to_json(), command=command)
        with self._held():
            check_writable(self.directory)
            return self._run(manifest, lambda: self.make_backend(stored))

    def make_backend(self, stored: Manifest | None) -> Backend:
        """Make what trains. A study that is resumed keeps the programs and lanes that were chosen for it."""
        return self._make_backend(self.config(stored), self.checkpoints)

    def _run(self, manifest: Manifest, make_backend: Callable[[], Backend]) -> int:
        """Run what is missing, and say how it ended."""
        arguments, directory = self.arguments, self.directory
        directory.check_database(arguments.study_name, isinstance(arguments, PbtOptions))
        self.refuse_fewer_trials()
        manifest.write(directory.manifest)
        self.write_study_file()
        with ExitStack() as stack:
            state = stack.enter_context(closing(self.open_state(manifest)))
            for observer in self.observers:
                stack.callback(observer.close)
            stack.enter_context(stopping_on_signals(self.limits.stop))
            stack.enter_context(ignoring_broken_output())
            state.describe(
                {
                    "recipe": self.recipe.name,
                    "environment": canonical(arguments.env_config),
                    "versions": manifest.versions,
                    "search_space": manifest.space,
                }
            )
            self.live = LiveStudy(arguments, self.recipe, directory, manifest, state)
            self._load()
            if not self.is_over():
                self._train(make_backend())
            status = self.finish()
            tell(self.observers, lambda observer: observer.study_ended(self.live.snapshot, status))
            return status

    def _load(self) -> None:
        """Bring the study up to date with what is on disk, and say how it stands."""
        state = self.live.state
        state.discard_incomplete()
        state.load()
        if self.retry_failed:
            again = state.retry_failed()
            numbers = ", ".join(map(str, again))
            log.info(f"Run again: trials {numbers}." if again else "No trial is run again: none has failed by itself.")
        finished = [trial for trial in state.trials() if trial.state.is_finished()]
        self.checkpoints.forget([trial.number for trial in finished])
        for trial in finished:
            if not state.is_invalidated(trial.number):
                self.limits.count(trial.state.name, trial.user_attrs.get("reason", ""))
        self.begin_pages()
        tell(self.observers, lambda observer: observer.study_started(self.live.snapshot))

    def _train(self, backend: Backend) -> None:
        """Train until enough trials are finished or something says stop."""
        with closing(backend):
            self.live.note_backend(backend)
            settings = self.settings()
            trials = self.trials(backend, settings)
            loop = Loop(trials, backend, self.scheduler(trials), settings, self.limits, self.observers)
            training = self.training(backend, settings)
            tell(self.observers, lambda observer: observer.training_started(training))
            try:
                loop.run()
            finally:
                tell(self.observers, lambda observer: observer.training_ended())

    # What a population does otherwise.

    @property
    def _search(self) -> SearchOptions:
        assert isinstance(self.arguments, SearchOptions)
        return self.arguments

    def first_trials(self) -> list[dict[str, object]]:
        """Return the configurations that the study begins with, before the sampler suggests any."""
        return [] if isinstance(self.recipe, Presampled) else first_trials(self._search, self.recipe)

    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return what the backend is made for."""
        return search_config(self._search, self.recipe, stored)

    def open_state(self, manifest: Manifest) -> StudyState:
        """Open the study's state."""
        survived = lambda number: self.survived.get(number, 0)  # noqa: E731
        return open_state(self._search, self.recipe, self.directory, manifest, survived=survived)

    def refuse_fewer_trials(self) -> None:
        """Raise UsageError if the study is to end with fewer finished trials than it holds, in the database or on disk."""
        finished, total = finished_trials(self.directory, self.arguments.study_name), self._search.n_trials
        if total < len(finished):
            raise UsageError(
                f"--n-trials {total}: the study already holds {len(finished)} finished trials. Give {len(finished)} to have its "
                "results as they are, more to continue."
            )

    def write_study_file(self) -> None:
        """Write `study.yaml`, but for a sweep, which has its samples."""
        if not self._search.is_sweep:
            write_text(self.directory.file, in_full(self._search, self.recipe))

    def is_over(self) -> bool:
        """Return whether nothing is left to train."""
        return self.live.state.finished() >= self._search.n_trials

    def settings(self) -> Settings:
        """Return how trials train."""
        own, refills = self._search, is_pooled(self._search)
        return Settings(
            scoring=self.live.scoring,
            seeds=own.num_seeds,
            repetitions=own.num_seeds if own.seed_schedule == "racing" else 1,
            columns=tuple(own.judged) if refills else (),
            refills=refills,
            lanes=lanes_of(self.live.manifest, self.live.width),
            checkpoint_seconds=own.checkpoint_seconds,
        )

    def trials(self, backend: Backend, settings: Settings) -> Trials:
        """Return where trials come from and results go."""

        def changed() -> None:
            self.live.note_backend(backend)
            if self.live.settled() > self._settled:
                self._publish()

        return StudyTrials(self.live, settings, self.survived, changed)

    def scheduler(self, trials: Trials) -> Scheduler | None:
        """Return who decides which trials continue, None if every trial trains to its end."""
        own = self._search
        if not is_pooled(own):
            return None
        options = PruningOptions(
            directions=list(own.judged.values()),
            objectives=len(own.objectives),
            segments=own.num_evaluations,
            min_segments=own.pruner_min_segments,
            reduction_factor=own.pruner_reduction_factor,
            percentile=own.pruner_percentile,
            seeds=own.num_seeds if own.seed_schedule == "racing" else 1,
        )
        return PRUNERS[own.pruner].make(options)

    def training(self, backend: Backend, settings: Settings) -> Training:
        """Return what observers are told of the training."""
        own = self._search
        missing = own.n_trials - self.live.state.finished()
        steps = None if settings.refills else missing * own.num_seeds * own.total_timesteps
        return Training("search", own.n_trials, steps, settings.lanes if settings.refills else None, backend)

    def begin_pages(self) -> None:
        """Write the pages that are missing."""
        self._publish()

    def _publish(self) -> None:
        """Have the analyses of the finished super-batches written."""
        self._settled = self.live.settled()
        for record, directory in self.live.analyses():
            tell(
                self.observers,
                lambda observer, record=record, where=directory: observer.super_batch_ended(record, where),
            )

    def finish(self) -> int:
        """Print how the study ended, confirm its best where that is asked for, and return the exit status."""
        tell(self.observers, lambda observer: observer.training_written())
        self.checkpoints.tidy()
        own, state, limits = self._search, self.live.state, self.limits
        is_exhausted = limits.may_start() and state.finished() < own.n_trials
        status = print_end(
            state,
            self.directory,
            own.objectives,
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

        confirming = Confirming(self.live, self.limits, self._make_backend, self.observers)
        return confirming.run(write_pages, self.retry_failed)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the directory. HyperlaxError if the system refuses to write, with the command that resumes the study."""

        def what_next(refusal: Refusal) -> str:
            if not os.path.exists(self.directory.manifest):
                return f"No trial has run. {run_again(refusal)}"
            return (
                "The study ends here; all that is complete is kept. "
                f"{refusal.remedy}, then go on:\n  {manifests.resume_command(self.directory.root)}"
            )

        with ending_on_refusal(self.directory.database, what_next), only_one_process(self.directory.root):
            yield


def refuse_existing(directory: StudyDirectory) -> None:
    """Raise UsageError, with the command that resumes it, if there is a study already."""
    with refusing_what_is_forbidden(directory.root):
        exists = directory.holds_a_study()
    if exists:
        raise OptionError(
            "output_root",
            "{0} already holds a study. To continue it:\n  {1}\nFor a new one, choose another {output_root}.",
            directory.root,
            manifests.resume_command(directory.root),
        )
