"""Studies small enough to run in a test, and what of them must not differ between two runs."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import optuna

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.options import SearchOptions, SingleOptions, SweepOptions
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.envs import slug
from hyperlax.files import write_text
from hyperlax.hyperparams import SAC
from hyperlax.recipe import ExperimentConfig, Recipe, RunLength
from hyperlax.space import (
    Categorical,
    Distribution,
    LogUniform,
    LogUniformDiscrete,
    QUniform,
    UniformContinuous,
    UniformDiscrete,
)
from hyperlax.study.maintenance import invalidate, repair
from hyperlax.study.observer import Observer, Pages
from hyperlax.study.record import StudyRecord
from hyperlax.study.reporters import reporter
from hyperlax.study.search import print_plan, run_study
from hyperlax.study.study_run import local_backend
from hyperlax.tracking.background import BackgroundObserver, Writer
from tests.fake_backend import FakeBackend

MIXED: dict[str, Distribution] = {
    "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-5, 1e-2)),
    "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.9, 0.999)),
    "algorithm.hyperparam.epochs": UniformDiscrete(domain=(1, 4)),
    "algorithm.hyperparam.warmup_rollout_length": LogUniformDiscrete(domain=(1, 512)),
    "algorithm.hyperparam.target_entropy_scale": QUniform(domain=(0.1, 1.3), q=0.1),
    "algorithm.hyperparam.autotune": Categorical(values=[True, False]),
    "algorithm.network.actor_network.pre_torso.layer_sizes": Categorical(values=[[64, 64], [128]]),
}
FINITE: dict[str, Distribution] = {
    "algorithm.hyperparam.epochs": UniformDiscrete(domain=(1, 3)),
    "algorithm.hyperparam.target_entropy_scale": QUniform(domain=(0.1, 0.5), q=0.1),
}
LENGTH = RunLength(500, 5, 4)
TWO: dict[str, Any] = {
    "objective_names": ("peak_performance", "num_parameters"),
    "objective_directions": ("maximize", "minimize"),
}
"""Arguments of a study with two objectives."""


def recipe_of(space: dict[str, Distribution]) -> Recipe:
    """SAC with a search space."""
    config = ExperimentConfig(SAC(), {"quick": LENGTH, "default": LENGTH, "long": LENGTH})
    return Recipe("sac_test", Path("recipes/sac_test.py"), config, space)


def arguments_of(root: Path, **changes: Any) -> SearchOptions:
    """A study of 12 trials by random search, super-batches of 8; `changes` wins."""
    kind = SweepOptions if "sampling_method" in changes else SearchOptions
    arguments = kind(
        algo_and_network_config="sac_test",
        env_config="gymnax.pendulum",
        study_name="test_study",
        n_trials=12,
        objective_directions=("maximize",),
        sampler="random",
        default_trial=False,
        optuna_study_batch_size=8,
        runner_hparam_batch_size=3,
        output_root=str(root),
        seed=3,
        num_seeds=2,
        total_timesteps=500,
        num_evaluations=5,
        num_eval_episodes=4,
        compilation_cache=False,
    )
    return replace(arguments, **changes)


def single_options(root: Path, **changes: Any) -> SingleOptions:
    """A single run; `changes` wins."""
    options = SingleOptions(
        algo_and_network_config="sac_test",
        env_config="gymnax.pendulum",
        output_root=str(root),
        num_seeds=2,
        total_timesteps=500,
        num_evaluations=5,
        num_eval_episodes=4,
        compilation_cache=False,
    )
    return replace(options, **changes)


class Killed(BaseException):
    """Stands for a process that died: nothing catches it."""


def killing(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, dying instead of its call number `at`."""
    calls = itertools.count()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise Killed
        return function(*args, **kwargs)

    return wrapped


def making(backend: Any) -> Callable[[EngineConfig, CheckpointManager | None], Backend]:
    """Give a fake backend to whoever makes one; any other as it is, or what a class or a function makes."""
    if isinstance(backend, (type, FunctionType)):
        return backend
    return backend.bind if isinstance(backend, FakeBackend) else lambda config, checkpoints: backend


class Finished:
    """Studies that ended: each is run once, and copied for whoever asks for it."""

    def __init__(self, new_root: Callable[[], Path]):
        self._new_root = new_root
        self._known: dict[str, Case] = {}

    def __call__(self, root: Path, backend: dict[str, Any] | None = None, **arguments: Any) -> Case:
        """A copy of the study of these arguments in `root`. backend: what the fake backend is told. All is plain data."""
        key = repr((backend, sorted(arguments.items())))
        if key not in self._known:
            case = self._known[key] = Case(self._new_root(), **arguments)
            assert case.start(FakeBackend(**backend or {})) == 0
        return self._known[key].copy(root)


class Case:
    """One study in one directory, started and resumed. pages: the records that the analysis got, with their directories.

    recipe: by default SAC with the search space. write_pages: what makes pages, by default nothing but notes that it was called.
    confirmer: makes the backend of the confirmation. tracker: writes every run of it from now on. observers: told as well.
    """

    def __init__(
        self,
        root: Path,
        space: dict[str, Distribution] | None = None,
        recipe: Recipe | None = None,
        write_pages: Callable[..., None] | None = None,
        confirmer: Callable[..., Backend] = local_backend,
        tracker: Writer | None = None,
        observers: Sequence[Observer] = (),
        **arguments: Any,
    ):
        self.root = root
        self.space = recipe.space if recipe else space or MIXED
        self.given_recipe = recipe
        self.arguments = arguments
        self.write_pages = write_pages or self._keep
        self.observers = observers
        self.confirmer = confirmer
        self.tracker = tracker
        self.directory = root / self.recipe.name / slug(arguments.get("env_config", "gymnax.pendulum"))
        self.pages: list[tuple[StudyRecord, Path]] = []

    @property
    def recipe(self) -> Recipe:
        return self.given_recipe or recipe_of(self.space)

    def start(self, backend: Backend | Callable[..., Backend] | None = None, **changes: Any) -> int:
        return self._run(None, backend, changes)

    def resume(
        self, backend: Backend | Callable[..., Backend] | None = None, retry_failed: bool = False, **changes: Any
    ) -> int:
        return self._run(self.directory, backend, changes, retry_failed)

    def invalidate(self, *trials: int, reason: str | None = None) -> int:
        """`hyperlax invalidate`."""
        arguments = arguments_of(self.root, **self.arguments)
        return invalidate(arguments, self.recipe, self.directory, trials, reason, self.write_pages)

    def repair(self) -> int:
        """`hyperlax repair`."""
        return repair(arguments_of(self.root, **self.arguments), self.recipe, self.directory)

    def plan(self, resume: bool = False, backend: Backend | None = None) -> int:
        """`--plan-only`."""
        arguments = arguments_of(self.root, **self.arguments)
        make = making(backend or FakeBackend())
        return print_plan(arguments, self.recipe, self.directory if resume else None, make)

    def study(self) -> optuna.Study:
        """As plain Optuna sees it."""
        return optuna.load_study(study_name="test_study", storage=f"sqlite:///{self.directory / 'optuna_study.db'}")

    def told(self) -> list[tuple[Any, ...]]:
        """Per trial what must be equal in two runs of one study: all but the times and the batch it ran in."""
        return [
            (
                trial.number,
                trial.state.name,
                trial.params,
                trial.values,
                {name: value for name, value in trial.user_attrs.items() if name != "batch"},
            )
            for trial in self.study().trials
        ]

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study().trials]

    def batches(self) -> list[Path]:
        return sorted(self.directory.glob("optuna_exec_batch_*/samples/batch_*"))

    def batch_of(self, trial: int) -> Path:
        return self.directory / self.study().trials[trial].user_attrs["batch"]

    def stored(self) -> dict[str, Any]:
        """study.json."""
        return json.loads((self.directory / "study.json").read_text())

    def events(self) -> list[dict[str, Any]]:
        """The lines of the journal."""
        return [json.loads(line) for line in (self.directory / "journal.jsonl").read_text().splitlines()]

    def copy(self, root: Path) -> Case:
        """A copy of the study as it is on disk."""
        shutil.copytree(self.root, root)
        pages = None if self.write_pages == self._keep else self.write_pages
        return Case(root, self.space, self.given_recipe, pages, **self.arguments)

    def lose_database(self) -> None:
        """Remove the database and its backup."""
        for path in self.directory.glob("optuna_study.db*"):
            path.unlink()

    def _keep(self, record: StudyRecord, directory: Any, is_latest: bool = True) -> None:
        self.pages.append((record, directory))
        write_text(directory / "trials.csv", "")

    def _run(
        self,
        resume_from: Path | None,
        backend: Backend | Callable[..., Backend] | None,
        changes: dict[str, Any],
        retry_failed: bool = False,
    ) -> int:
        arguments = arguments_of(self.root, **{**self.arguments, **changes})
        make = making(backend or FakeBackend())

        def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
            return (self.confirmer if config.is_confirmation else make)(config, checkpoints)

        tracking = [BackgroundObserver(self.tracker, "MLflow")] if self.tracker else []
        observers = [reporter(), *self.observers, Pages(self.write_pages), *tracking]
        return run_study(
            arguments,
            self.recipe,
            resume_from,
            make_backend=make_backend,
            observers=observers,
            retry_failed=retry_failed,
        )
