"""Starting and resuming population-based training: its differences from a search."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.options import OBJECTIVE, PbtOptions
from hyperlax.errors import HyperlaxError, OptionError, UsageError, counted
from hyperlax.fields import PREFIX, check_together
from hyperlax.files import write_json
from hyperlax.hyperparams import rules
from hyperlax.recipe import Recipe
from hyperlax.schedulers.base import Scheduler
from hyperlax.schedulers.pb2 import is_continuous
from hyperlax.schedulers.pbt import PopulationBasedTraining, PopulationOptions
from hyperlax.schedulers.registry import EXPLORERS
from hyperlax.space import Distribution
from hyperlax.study.directory import SCHEDULE, StudyDirectory, study_directory
from hyperlax.study.lineage import describe_schedule, replay_command
from hyperlax.study.manifest import Manifest, resume_command
from hyperlax.study.observer import Observer, Training, tell
from hyperlax.study.population import PopulationTrials
from hyperlax.study.state import StudyState, open_state
from hyperlax.study.stopping import Limits, Stop
from hyperlax.study.study_run import Equipment, StudyRun
from hyperlax.study.training import MakeBackend, local_backend, population_config
from hyperlax.study.trials import Settings, Trials

log = logging.getLogger(__name__)

_SAVE_ALWAYS = 0.0
"""Seconds between two saves: members are saved after every interval, before it is recorded."""
_HYPERPARAM = f"{PREFIX}.hyperparam."
_UNCHANGEABLE = ("init_alpha", "warmup_rollout_length", "normalize_observations")
"""Traced, but useless while weights are kept: the first two act at the start only, the third is what the weights were learnt
on."""


def run_population(
    arguments: PbtOptions,
    recipe: Recipe,
    resume_from: Path | None = None,
    *,
    make_backend: MakeBackend = local_backend,
    observers: Sequence[Observer] = (),
) -> int:
    """Train a population, or resume the one in `resume_from`, to the end of its budget. Returns the exit status.

    0: done. 1: every member failed. 130, 143: interrupted, and saved.

    Raises:
      UsageError: Before anything is written, if the population cannot run.
      HyperlaxError: The system refuses to write, or the memory is too small.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, kept = explored(recipe)
    if arguments.explore == "pb2" and not any(map(is_continuous, space.values())):
        raise OptionError(
            "explore",
            "{0}: {explore} pb2 needs a LogUniform or UniformContinuous entry that can change while weights are kept. Use perturb.",
            recipe.path,
        )
    recipe = replace(recipe, space=space)
    if kept:
        log.info(
            "Not explored, since they cannot change while weights are kept; at the recipe's value: %s.", ", ".join(kept)
        )
    directory = StudyDirectory(resume_from) if resume_from else study_directory(arguments, recipe)
    run = _PopulationRun(arguments, recipe, directory, Equipment(make_backend, observers, Limits(Stop()), _SAVE_ALWAYS))
    return run.resume() if resume_from else run.start()


class _PopulationRun(StudyRun):
    """A population while this process trains it."""

    def __init__(self, arguments: PbtOptions, *parts: Any):
        super().__init__(arguments, *parts)
        self._own = arguments

    def first_trials(self) -> list[dict[str, Any]]:
        """Return no trials: the scheduler samples the first interval."""
        return []

    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend."""
        return population_config(self._own, self.recipe)

    def open_state(self, manifest: Manifest) -> StudyState:
        """Open the study's state."""
        return open_state(self._own, self.recipe, self.directory, manifest)

    def check(self) -> None:
        """Do nothing: a population always has the same number of trials."""

    def write_files(self) -> None:
        """Do nothing: a population has no study file."""

    def is_over(self) -> bool:
        """Return whether the budget is spent, or every member has failed."""
        return self._finished() >= self._own.num_intervals or self._has_failed()

    def settings(self) -> Settings:
        """Return how members train: side by side, and saved after every interval."""
        own = self._own
        return Settings(
            scoring=self.live.scoring,
            seeds=own.num_seeds,
            columns=(OBJECTIVE,),
            refills=True,
            lanes=own.population_size,
            checkpoint_seconds=_SAVE_ALWAYS,
            fatal=(Exception,),
        )

    def trials(self, backend: Backend, settings: Settings) -> Trials:
        """Return the source of the trials, which also records their results."""
        return PopulationTrials(self.live, self._scheduler().first, self._publish)

    def scheduler(self, trials: Trials) -> Scheduler:
        """Return the scheduler, which decides which members continue from which."""
        assert isinstance(trials, PopulationTrials)
        return self._scheduler(trials)

    def training(self, backend: Backend, settings: Settings) -> Training:
        """Return the description of the training for observers."""
        return Training("population", self._own.n_trials, None, settings.lanes, backend)

    def loaded(self) -> None:
        """Do nothing: the pages of a population are written as it trains, and at its end."""

    def finish(self) -> int:
        """Write pages and schedule, print the next steps, and return the exit status."""
        finished, total, size = self._finished(), self._own.num_intervals, self._own.population_size
        lineage = self.live.lineage()
        schedule = self.directory.root / SCHEDULE
        if finished == total and lineage.final is not None:
            self._write_schedule(schedule, lineage.path(lineage.final))
        if finished:
            self._publish()
            tell(self.observers, lambda observer: observer.training_written())
            print(f"Report: {self.directory.report}")
        if self._has_failed():
            print(
                f"Every member failed in interval {finished - 1}; the reasons are in {self.directory.root / 'trials.csv'}."
            )
            return 1
        if finished < total:
            command = resume_command(self.directory.root)
            print(
                f"Interrupted after {finished} of {counted(total, 'interval')}, the members are saved. To resume:\n  {command}"
            )
            return self.limits.stop.exit_status
        assert lineage.final is not None
        value = self.live.state.trials()[lineage.final].values[0]
        print(f"Best at the end: member {lineage.final % size} (trial {lineage.final}), return {value:.6g}.")
        print(f"Train fresh agents along its schedule:\n  {replay_command(schedule)}")
        return 0

    def _publish(self) -> None:
        """Have the pages written for the intervals that have ended."""
        record = self.live.snapshot()
        tell(self.observers, lambda observer: observer.super_batch_ended(record, None))

    def _scheduler(self, trials: PopulationTrials | None = None) -> PopulationBasedTraining:
        own = self._own
        options = PopulationOptions(self.recipe.space, own.population_size, own.num_intervals, own.quantile, own.seed)
        return PopulationBasedTraining(options, EXPLORERS[own.explore].explore, trials and trials.recorded())

    def _finished(self) -> int:
        """Return how many intervals have ended."""
        return self.live.state.finished() // self._own.population_size

    def _has_failed(self) -> bool:
        """Return whether every member failed in the last interval."""
        size, finished = self._own.population_size, self._finished()
        last = self.live.state.trials()[(finished - 1) * size : finished * size] if finished else []
        return bool(last) and all(trial.state.name == "FAIL" for trial in last)

    def _write_schedule(self, path: Path, trials: Sequence[int]) -> None:
        """Write `pbt_schedule.json` of the trials that lead to the best."""
        records = [self.live.state.record_of(self.live.state.trials()[number]) for number in trials]
        write_json(path, describe_schedule(self._own, self.recipe, records))

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with super()._held():
                yield
        except MemoryError as error:
            raise HyperlaxError(
                f"{error}. Start again with another --output-root and a --population-size below {self._own.population_size}, or "
                "smaller networks, replay or --num-seeds."
            ) from error


def explored(recipe: Recipe) -> tuple[dict[str, Distribution], list[str]]:
    """Return the entries of the space that can change while weights are kept, and the names of the others.

    The others keep the recipe's values.

    Raises:
      UsageError: No entry can change, or the changing entries do not go together with the recipe's values of the others.
    """
    algorithm = recipe.config.algorithm
    kinds = {name: rule.kind for name, rule in rules(type(algorithm.hyperparam)).items()}

    def changes(name: str) -> bool:
        field = name.removeprefix(_HYPERPARAM)
        return kinds.get(field) == "traced" and field not in _UNCHANGEABLE

    space = {name: distribution for name, distribution in recipe.space.items() if changes(name)}
    if not space:
        raise UsageError(
            f"{recipe.path}: nothing of the search space can change while weights are kept. Give "
            f"{_HYPERPARAM}{next(name for name in kinds if changes(_HYPERPARAM + name))} a distribution, or search with "
            "optuna-hp-search."
        )
    check_together(algorithm, space, str(recipe.path))
    return space, [name for name in recipe.space if name not in space]
