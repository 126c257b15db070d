"""A study of any kind while this process runs it: everything is checked here before anything is written."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from hyperlax.backends.base import Backend, BackendLost, EngineConfig
from hyperlax.config.configurations import write_samples
from hyperlax.config.kinds import environment_of
from hyperlax.config.options import PbtOptions, SearchOptions, SingleOptions
from hyperlax.config.study_file import in_full
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import HyperlaxError, OptionError, counted, numbered
from hyperlax.files import write_text
from hyperlax.hyperparams import Config
from hyperlax.recipe import Recipe, RunLength
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.fixed import Presampled
from hyperlax.study import manifest as manifests
from hyperlax.study.directory import StudyDirectory, check_writable
from hyperlax.study.io_errors import ending_on_io_error, refusing_forbidden, run_again
from hyperlax.study.lock import only_one_process, refuse_running
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import Manifest
from hyperlax.study.observer import Observer, tell
from hyperlax.study.projection import finished_trials
from hyperlax.study.reporters import ignoring_broken_output
from hyperlax.study.stopping import Limits, stopping_on_signals
from hyperlax.study.view import LiveStudy
from hyperlax.tasks import Command, Function

log = logging.getLogger(__name__)

_Options = TypeVar("_Options", SearchOptions, PbtOptions)

MakeBackend = Callable[[EngineConfig, CheckpointManager | None], Backend]
"""A function that returns the backend. The checkpoints save trials in the middle of their training; None saves nothing."""


def local_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
    """Return the backend of this machine: its devices, or processes for a function. Raises UsageError if it cannot run there."""
    if not config.has_programs:
        from hyperlax.backends.processes import make_backend as make_process_backend

        return make_process_backend(config, checkpoints)
    from hyperlax.backends.local import make_backend

    return make_backend(config, checkpoints)


def local_planner(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
    """Return a backend of this machine that trains nothing, and needs nothing that a trial needs.

    Raises UsageError as `local_backend` does.
    """
    if isinstance(config.task, Function | Command):
        config = replace(config, task=replace(config.task, cores=1, resources={}))
    return local_backend(config, checkpoints)


@dataclass
class StudyRun(ABC, Generic[_Options]):
    """A study while this process runs it. The differences between a search and a population are abstract methods.

    Args:
      make_backend: Returns the backend.
      observers: Get the events of the study.
      limits: The limits at which it ends early.
      checkpoint_seconds: Minimum seconds between two checkpoints.
      retry_failed: Whether to run failed trials again.
      waits: Whether `make_backend` waits for an agent, which joins once study.json is there.
    """

    options: _Options
    recipe: Recipe
    directory: StudyDirectory
    make_backend: MakeBackend
    observers: Sequence[Observer]
    limits: Limits
    checkpoint_seconds: float
    retry_failed: bool = False
    waits: bool = False

    def __post_init__(self) -> None:
        self.checkpoints = CheckpointManager(self.directory.checkpoints, self.checkpoint_seconds)
        self.survived: dict[int, int] = {}  # see `Trials`
        self._is_on_disk = False

    def start(self, first_trials: Sequence[dict[str, Any]] = (), notes: Sequence[str] = ()) -> int:
        """Begin a new study. Returns the exit status.

        first_trials: the configurations before the sampler suggests any. notes: sentences to log after the study's place.
        """
        refuse_running(self.directory.root)
        refuse_existing(self.directory)
        log.info("Study %s in %s.", self.options.study_name, self.directory.root)
        for note in filter(None, notes):
            log.info("%s", note)
        if self.waits:  # what cannot run is refused before anything is written
            local_planner(self.config(None), self.checkpoints).close()
        backend = None if self.waits else self._new_backend(None)
        manifest = manifests.describe(self.options, self.recipe, first_trials, backend)
        with self._held():
            refuse_existing(self.directory)
            check_writable(self.directory)
            if isinstance(self.recipe, Presampled):
                write_samples(self.directory.samples, self.recipe.samples)
            return self._run(manifest, backend)

    def resume(self) -> int:
        """Continue the study in the directory. Returns the exit status."""
        log.info("Study %s in %s.", self.options.study_name, self.directory.root)
        stored = manifests.read(self.directory.manifest, self.recipe)
        manifest = stored.resumed(self.options, self.recipe, self.directory)
        with self._held():
            check_writable(self.directory)
            return self._run(manifest)

    def _run(self, manifest: Manifest, backend: Backend | None = None) -> int:
        """Run the missing trials, and print how the study ended. backend: of a new study; by default it is made here."""
        options, directory = self.options, self.directory
        directory.check_database(options.study_name)
        self._check_total()
        running = manifest.running(self.recipe)
        manifest = manifest if manifest.runs else running  # a resume counts once it trains
        self._write(manifest)
        with ExitStack() as stack:
            if not manifest.is_planned:
                stack.enter_context(stopping_on_signals(self.limits.stop))  # it may wait for an agent
                backend = self._first_backend()
                if backend is None:
                    return self.limits.stop.exit_status
                manifest = manifest.planned(options, backend)
                manifest.write(directory.manifest)
            self.live = LiveStudy(options, self.recipe, directory, manifest, self.survived, running.runs)
            stack.enter_context(closing(self.live))
            for observer in self.observers:
                stack.callback(observer.close)
            stack.enter_context(stopping_on_signals(self.limits.stop))
            stack.enter_context(ignoring_broken_output())
            environment = environment_of(options)
            self.live.database.describe(
                {
                    "recipe": self.recipe.name,
                    **({"environment": environment} if environment else {}),
                    "versions": manifest.versions,
                    "search_space": manifest.space,
                }
            )
            self._load()
            if not self.is_over():
                self._train(backend or self._new_backend(manifest))
            self.checkpoints.tidy()
            status = self.finish()
            tell(self.observers, lambda observer: observer.study_ended(self.live.snapshot, status))
            return status

    def _write(self, manifest: Manifest) -> None:
        """Write the study's description."""
        options, directory = self.options, self.directory
        manifest.write(directory.manifest)
        self._is_on_disk = True
        is_in_python = "function" in (self.recipe.source or {})
        if isinstance(options, SearchOptions) and not options.is_sweep and not is_in_python:  # a sweep has its samples
            write_text(directory.file, in_full(options, self.recipe))

    def _new_backend(self, stored: Manifest | None) -> Backend:
        """Return the backend. A resumed study keeps the programs and lanes that were chosen for it."""
        return self.make_backend(self.config(stored), self.checkpoints)

    def _first_backend(self) -> Backend | None:
        """Return the backend of a study whose programs are not chosen yet. Return None if a stop is requested meanwhile."""
        backend = self._new_backend(None)
        if not self.limits.stop.is_set():
            return backend
        backend.close()
        left, command = counted(self.options.n_trials, "trial"), manifests.resume_command(self.directory.root)
        print(f"Interrupted with {left} to go. To resume:\n  {command}")
        return None

    def _load(self) -> None:
        """Bring the study up to date with the files on disk, and log its state."""
        live = self.live
        live.discard_incomplete()
        live.load()
        if self.retry_failed:
            again = live.retry_failed()
            none = "No trial to retry: none has failed, except by hyperlax invalidate."
            log.info(f"Run again: {numbered(again)}." if again else none)
        finished = [trial for trial in live.trials() if trial.state.is_finished()]
        self.checkpoints.forget([trial.number for trial in finished])
        for trial in finished:
            if not live.is_invalidated(trial.number):
                self.limits.count(trial.number, trial.state.name, trial.user_attrs.get("reason", ""))
        self.publish_missing()
        tell(self.observers, lambda observer: observer.study_started(live.snapshot))

    def _train(self, backend: Backend) -> None:
        """Train until enough trials are finished or a limit is reached."""
        with closing(backend):
            if self.limits.stop.is_set():  # while it waited for an agent
                return
            self.live.note_run()
            self.live.note_backend(backend)
            self.loop(backend).run()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the directory. Raises HyperlaxError, with the command that resumes the study, if the system refuses to write."""

        def what_next(remedy: str) -> str:
            if not self._is_on_disk and not os.path.exists(self.directory.manifest):
                return f"No trial has run. {run_again(remedy)}"
            return (
                "The study ends here; all that is complete is kept. "
                f"{remedy}, then resume:\n  {manifests.resume_command(self.directory.root)}"
            )

        with (
            ending_on_io_error(self.directory.database, what_next),
            only_one_process(self.directory.root, lost=self.limits.stop.set) as held,
        ):
            try:
                yield
            except Exception as error:
                if self._is_on_disk and not held.is_in_place():
                    raise HyperlaxError(self._moved(held.moved_to())) from error
                if isinstance(error, BackendLost):
                    command = manifests.resume_command(self.directory.root)
                    raise HyperlaxError(f"{error} All that is complete is kept. To resume:\n  {command}") from error
                raise

    def _moved(self, place: Path | None) -> str:
        """Return what is left of a study whose directory was moved or removed while it ran, and how to continue it."""
        root, total = self.directory.root, self.options.n_trials
        if place is None:
            return f"{root}: was removed while the study ran. If it was moved to another disk, resume it there."
        ended = f"{StudyDirectory(place).ended()} of {counted(total, 'trial')}"
        return (
            f"{root}: was moved to {place} while the study ran, where {ended} are complete. To continue it there:\n"
            f"  {manifests.resume_command(place)}"
        )

    def _check_total(self) -> None:
        """Raise UsageError if `n_trials` is less than the finished trials in the database and on disk."""
        finished = len(finished_trials(self.directory, self.options, SearchSpace(self.recipe.space)))
        total = self.options.n_trials
        if total < finished:
            raise OptionError(
                "n_trials",
                "{n_trials} {0}: the study already holds {2}. Give {1} to leave it as it is, more to continue.",
                total,
                finished,
                counted(finished, "finished trial"),
            )

    @abstractmethod
    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend. stored: the manifest of a study that is resumed."""

    def publish_missing(self) -> None:
        """Have missing pages written, before anything trains. By default nothing is missing."""

    @abstractmethod
    def is_over(self) -> bool:
        """Return whether nothing is left to train."""

    @abstractmethod
    def loop(self, backend: Backend) -> Loop:
        """Return the loop that trains what is missing."""

    @abstractmethod
    def finish(self) -> int:
        """Print how the study ended, and return the exit status."""


def refuse_existing(directory: StudyDirectory) -> None:
    """Raise UsageError, with the command that resumes it, if the study exists already."""
    with refusing_forbidden(directory.root):
        exists = directory.holds_a_study()
    if exists:
        raise OptionError(
            "output_root",
            "{0} already holds a study. To continue it:\n  {1}\nFor a new one, choose another {study_name} or {output_root}.",
            directory.root,
            manifests.resume_command(directory.root),
        )


def engine_config(
    options: SearchOptions | SingleOptions | PbtOptions, recipe: Recipe, base: Config, **own: Any
) -> EngineConfig:
    """Return a configuration from the recipe, the options that every training has, and its own."""
    return EngineConfig(
        base=base,
        task=recipe.task,
        slots=options.slots if isinstance(options, SearchOptions) else None,
        devices=options.devices if isinstance(options, SearchOptions) else (),
        trial_timeout=options.trial_timeout if isinstance(options, SearchOptions) else None,
        environment=environment_of(options),
        run_length=RunLength(options.total_timesteps, options.num_evaluations, options.num_eval_episodes),
        seed=options.seed,
        compilation_cache=options.compilation_cache,
        code=recipe.code,
        **own,
    )


def lanes_asked(options: SearchOptions) -> int | None:
    """Return the lanes of a compiled call that the user asked for, None for `auto`."""
    return None if options.runner_hparam_batch_size == "auto" else options.runner_hparam_batch_size
