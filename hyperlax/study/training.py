"""What a study asks of the engine and of the environment. Importing this starts no jax; calling it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hyperlax.arguments import SingleArguments, StudyArguments
from hyperlax.envs import canonical
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.metrics import ReferenceReturns
from hyperlax.pooling import Pools
from hyperlax.recipe import Recipe, RunLength
from hyperlax.study.manifest import Manifest
from hyperlax.study.simulated_schedule import is_pooled
from hyperlax.trial import Runner, Trial


class StudyPools(Pools, Protocol):
    """Lanes that can be let go of."""

    def close(self) -> None: ...


class SingleRunner(Runner, Protocol):
    """A runner that says what study.json keeps of it: its programs, the most lanes of any of them, and the device."""

    lanes: int
    device: str

    @property
    def packing(self) -> Mapping[str, Any]:
        """Changes when a program is given fewer lanes for want of memory."""
        ...


class StudyRunner(SingleRunner, Protocol):
    """A runner that can also refill its lanes."""

    def pools(self, repetitions: int) -> StudyPools:
        """Its lanes, for a study that refills them; repetitions: seeds of a trial."""
        ...


def runner_of_study(arguments: StudyArguments, recipe: Recipe, stored: Manifest | None) -> StudyRunner:
    """The engine's runner. A study that goes on keeps the programs and lanes that were chosen for it: results stay bit-equal.

    Raises UsageError for what the engine cannot run.
    """
    from hyperlax.runner import Task, make_runner

    return make_runner(
        Task(
            base=recipe.config.algorithm,
            space=recipe.space,
            environment=canonical(arguments.env_config),
            run_length=run_length(arguments),
            seed=arguments.seed,
            num_seeds=1 if arguments.seed_schedule == "racing" else arguments.num_seeds,
            num_trials=arguments.n_trials,
            super_batch=min(arguments.optuna_study_batch_size, arguments.n_trials),
            lanes=None if arguments.runner_hparam_batch_size == "auto" else arguments.runner_hparam_batch_size,
            packing=arguments.packing,
            chosen=stored.packing if stored else None,
            compilation_cache=arguments.compilation_cache,
            refills=is_pooled(arguments),
        )
    )


def runner_of_confirmation(
    arguments: StudyArguments, recipe: Recipe, packing: Mapping[str, Any], trials: Sequence[Trial]
) -> StudyRunner:
    """The engine's runner for a study's confirmation: its programs and budget, other seeds. packing: the study's."""
    from hyperlax.engine.keys import CONFIRMATION
    from hyperlax.runner import Task, make_runner

    return make_runner(
        Task(
            base=recipe.config.algorithm,
            space=recipe.space,
            environment=canonical(arguments.env_config),
            run_length=run_length(arguments),
            seed=arguments.seed,
            num_seeds=arguments.confirm_seeds,
            num_trials=len(trials),
            super_batch=len(trials),
            lanes=None if arguments.runner_hparam_batch_size == "auto" else arguments.runner_hparam_batch_size,
            packing=arguments.packing,
            chosen=packing,
            compilation_cache=arguments.compilation_cache,
            trials=trials,
            stream=CONFIRMATION,
        )
    )


def runner_of_single(arguments: SingleArguments, algorithm: AlgorithmConfig) -> SingleRunner:
    """The engine's runner for one configuration. Raises UsageError for what the engine cannot run."""
    from hyperlax.runner import Task, make_runner

    return make_runner(
        Task(
            base=algorithm,
            space={},
            environment=canonical(arguments.env_config),
            run_length=run_length(arguments),
            seed=arguments.seed,
            num_seeds=arguments.num_seeds,
            num_trials=1,
            super_batch=1,
            packing="pad",
            compilation_cache=arguments.compilation_cache,
        )
    )


def run_length(arguments: StudyArguments | SingleArguments) -> RunLength:
    return RunLength(arguments.total_timesteps, arguments.num_evaluations, arguments.num_eval_episodes)


def reference_returns(environment: str) -> ReferenceReturns:
    """The reference returns of an environment; makes it, with jax, only if it is not one of the catalog."""
    from hyperlax.envs import make
    from hyperlax.envs.catalog import CATALOG

    name = canonical(environment)
    return CATALOG[name].reference if name in CATALOG else make(name).reference
