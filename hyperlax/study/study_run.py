"""A study of any kind while this process runs it: everything is checked here before anything is written."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.configurations import write_samples
from hyperlax.config.options import PbtOptions, SearchOptions, SingleOptions
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.envs import canonical
from hyperlax.errors import OptionError, numbered
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import Recipe, RunLength
from hyperlax.samplers.fixed import Presampled
from hyperlax.schedulers.base import Scheduler
from hyperlax.study import manifest as manifests
from hyperlax.study.directory import StudyDirectory, check_writable, only_one_process, refuse_running
from hyperlax.study.io_errors import IoProblem, ending_on_io_error, refusing_forbidden, run_again
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import Manifest
from hyperlax.study.observer import Observer, tell
from hyperlax.study.reporters import ignoring_broken_output
from hyperlax.study.state import StudyState
from hyperlax.study.stopping import Limits, stopping_on_signals
from hyperlax.study.trials import Settings, Trials
from hyperlax.study.view import LiveStudy

log = logging.getLogger(__name__)


MakeBackend = Callable[[EngineConfig, CheckpointManager | None], Backend]
"""A function that returns the backend. The checkpoints save trials in the middle of their training; None saves nothing."""


def local_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
    """Return the backend of this machine's devices. Raises UsageError if the configuration cannot run there."""
    from hyperlax.backends.local import make_backend

    return make_backend(config, checkpoints)


@dataclass(frozen=True)
class Equipment:
    """The equipment of a run: backend, observers and limits.

    Args:
      make_backend: Returns the backend.
      observers: Get the events of the study.
      limits: The limits at which it ends early.
      checkpoint_seconds: Minimum seconds between two checkpoints.
      retry_failed: Whether to run failed trials again.
    """

    make_backend: MakeBackend
    observers: Sequence[Observer]
    limits: Limits
    checkpoint_seconds: float
    retry_failed: bool = False


class StudyRun(ABC):
    """A study while this process runs it. The differences between a search and a population are abstract methods."""

    def __init__(
        self,
        arguments: SearchOptions | PbtOptions,
        recipe: Recipe,
        directory: StudyDirectory,
        equipment: Equipment,
    ):
        self.arguments, self.recipe, self.directory = arguments, recipe, directory
        self.equipment, self.observers, self.limits = equipment, equipment.observers, equipment.limits
        self.checkpoints = CheckpointManager(directory.checkpoints, equipment.checkpoint_seconds)
        self._is_on_disk = False

    def start(self) -> int:
        """Begin a new study. Returns the exit status."""
        refuse_running(self.directory.root)
        refuse_existing(self.directory)
        first = self.first_trials()
        log.info("Study %s in %s.", self.arguments.study_name, self.directory.root)
        backend = self._new_backend(None)
        reference = reference_returns(self.arguments.env_config)
        manifest = manifests.describe(self.arguments, self.recipe, reference, first_trials=first, backend=backend)
        with self._held():
            refuse_existing(self.directory)
            check_writable(self.directory)
            if isinstance(self.recipe, Presampled):
                write_samples(self.directory.samples, self.recipe.samples)
            return self._run(manifest, lambda: backend)

    def resume(self) -> int:
        """Continue the study in the directory. Returns the exit status."""
        log.info("Study %s in %s.", self.arguments.study_name, self.directory.root)
        stored = manifests.read(self.directory.manifest, self.recipe)
        manifest = stored.resumed(self.arguments, self.recipe, self.directory)
        with self._held():
            check_writable(self.directory)
            return self._run(manifest, lambda: self._new_backend(stored))

    def _run(self, manifest: Manifest, make_backend: Callable[[], Backend]) -> int:
        """Run the missing trials, and print how the study ended."""
        arguments, directory = self.arguments, self.directory
        directory.check_database(arguments.study_name)
        self.check()
        manifest = manifest.running(self.recipe)
        manifest.write(directory.manifest)
        self._is_on_disk = True
        self.write_files()
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

    def _new_backend(self, stored: Manifest | None) -> Backend:
        """Return the backend. A resumed study keeps the programs and lanes that were chosen for it."""
        return self.equipment.make_backend(self.config(stored), self.checkpoints)

    def _load(self) -> None:
        """Bring the study up to date with the files on disk, and log its state."""
        state = self.live.state
        state.discard_incomplete()
        state.load()
        if self.equipment.retry_failed:
            again = state.retry_failed()
            none = "No trial to retry: none has failed, except by hyperlax invalidate."
            log.info(f"Run again: {numbered(again)}." if again else none)
        finished = [trial for trial in state.trials() if trial.state.is_finished()]
        self.checkpoints.forget([trial.number for trial in finished])
        for trial in finished:
            if not state.is_invalidated(trial.number):
                self.limits.count(trial.state.name, trial.user_attrs.get("reason", ""))
        self.loaded()
        tell(self.observers, lambda observer: observer.study_started(self.live.snapshot))

    def _train(self, backend: Backend) -> None:
        """Train until enough trials are finished or a limit is reached."""
        with closing(backend):
            self.live.note_backend(backend)
            settings = self.settings()
            trials = self.trials(backend, settings)
            Loop(trials, backend, self.scheduler(trials), settings, self.limits, self.observers).run()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the directory. Raises HyperlaxError, with the command that resumes the study, if the system refuses to write."""

        def what_next(problem: IoProblem) -> str:
            if not os.path.exists(self.directory.manifest):
                if self._is_on_disk:
                    return "The study was moved or removed while it ran. To continue it, resume it in its new place."
                return f"No trial has run. {run_again(problem)}"
            return (
                "The study ends here; all that is complete is kept. "
                f"{problem.remedy}, then resume:\n  {manifests.resume_command(self.directory.root)}"
            )

        with ending_on_io_error(self.directory.database, what_next), only_one_process(self.directory.root):
            yield

    @abstractmethod
    def first_trials(self) -> list[dict[str, Any]]:
        """Return the configurations that a new study begins with, before the sampler suggests any."""

    @abstractmethod
    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend. stored: the manifest of a study that is resumed."""

    @abstractmethod
    def open_state(self, manifest: Manifest) -> StudyState:
        """Open the study's state."""

    @abstractmethod
    def check(self) -> None:
        """Raise UsageError if the study in the directory does not allow this run."""

    @abstractmethod
    def write_files(self) -> None:
        """Write the files beside `study.json`."""

    @abstractmethod
    def loaded(self) -> None:
        """Have missing pages written, before anything trains."""

    @abstractmethod
    def is_over(self) -> bool:
        """Return whether nothing is left to train."""

    @abstractmethod
    def settings(self) -> Settings:
        """Return how trials train."""

    @abstractmethod
    def trials(self, backend: Backend, settings: Settings) -> Trials:
        """Return the source of the trials, which also records their results."""

    @abstractmethod
    def scheduler(self, trials: Trials) -> Scheduler | None:
        """Return the scheduler, which decides which trials continue; None if every trial trains to its end."""

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
    arguments: SearchOptions | SingleOptions | PbtOptions, base: AlgorithmConfig, **own: Any
) -> EngineConfig:
    """Return a configuration from the options that every training has, and its own."""
    return EngineConfig(
        base=base,
        environment=canonical(arguments.env_config),
        run_length=RunLength(arguments.total_timesteps, arguments.num_evaluations, arguments.num_eval_episodes),
        seed=arguments.seed,
        compilation_cache=arguments.compilation_cache,
        **own,
    )


def lanes_asked(arguments: SearchOptions) -> int | None:
    """Return the lanes of a compiled call that the user asked for, None for `auto`."""
    return None if arguments.runner_hparam_batch_size == "auto" else arguments.runner_hparam_batch_size


def reference_returns(environment: str) -> ReferenceReturns:
    """Return the reference returns of an environment. Makes it, with jax, only if it is not in the catalog."""
    from hyperlax.envs import make
    from hyperlax.envs.catalog import CATALOG

    name = canonical(environment)
    return CATALOG[name].reference if name in CATALOG else make(name).reference
