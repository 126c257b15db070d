"""Backends and reference returns for studies. Importing this does not import jax; calling it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.options import PbtOptions, SearchOptions, SingleOptions
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.envs import canonical
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import Recipe, RunLength
from hyperlax.study.manifest import Manifest
from hyperlax.study.simulated_schedule import is_pooled
from hyperlax.trial import Trial

MakeBackend = Callable[[EngineConfig, CheckpointManager | None], Backend]
"""A function that returns the backend. The checkpoints save trials in the middle of their training; None saves nothing."""


def local_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
    """Return the backend of this machine's devices. Raises UsageError if the configuration cannot run there."""
    from hyperlax.backends.local import make_backend

    return make_backend(config, checkpoints)


def search_config(arguments: SearchOptions, recipe: Recipe, stored: Manifest | None) -> EngineConfig:
    """Return the backend's configuration for a search. stored: the manifest of a study that is resumed."""
    racing, refills = arguments.seed_schedule == "racing", is_pooled(arguments)
    return _config(
        arguments,
        recipe.config.algorithm,
        space=recipe.space,
        num_seeds=1 if racing else arguments.num_seeds,
        num_trials=arguments.n_trials,
        super_batch=min(arguments.optuna_study_batch_size, arguments.n_trials),
        lanes=_lanes(arguments),
        packing=arguments.packing,
        chosen=stored.packing if stored else None,
        kind="refilled" if refills else "closed",
        repetitions=arguments.num_seeds if refills else None,
    )


def confirmation_config(
    arguments: SearchOptions, recipe: Recipe, packing: Mapping[str, Any], trials: Sequence[Trial]
) -> EngineConfig:
    """Return the backend's configuration for a confirmation: the study's programs and budget, other seeds."""
    return _config(
        arguments,
        recipe.config.algorithm,
        space=recipe.space,
        num_seeds=arguments.confirm_seeds,
        num_trials=len(trials),
        super_batch=len(trials),
        lanes=_lanes(arguments),
        packing=arguments.packing,
        chosen=packing,
        trials=trials,
        is_confirmation=True,
    )


def single_config(arguments: SingleOptions, algorithm: AlgorithmConfig) -> EngineConfig:
    """Return the backend's configuration for a single run."""
    alone = {"num_seeds": arguments.num_seeds, "num_trials": 1, "super_batch": 1}
    return _config(arguments, algorithm, space={}, packing="pad", **alone)


def population_config(arguments: PbtOptions, recipe: Recipe) -> EngineConfig:
    """Return the backend's configuration for a population: all members in the lanes of one program."""
    members = dict.fromkeys(("num_trials", "super_batch", "lanes"), arguments.population_size)
    own = {"num_seeds": arguments.num_seeds, "packing": "pad", "kind": "population"}
    return _config(arguments, recipe.config.algorithm, space=recipe.space, **members, **own)


def _config(arguments: SearchOptions | SingleOptions | PbtOptions, base: AlgorithmConfig, **own: Any) -> EngineConfig:
    """Return a configuration from the options that every training has, and its own."""
    return EngineConfig(
        base=base,
        environment=canonical(arguments.env_config),
        run_length=run_length(arguments),
        seed=arguments.seed,
        compilation_cache=arguments.compilation_cache,
        **own,
    )


def run_length(arguments: SearchOptions | SingleOptions | PbtOptions) -> RunLength:
    return RunLength(arguments.total_timesteps, arguments.num_evaluations, arguments.num_eval_episodes)


def reference_returns(environment: str) -> ReferenceReturns:
    """Return the reference returns of an environment. Makes it, with jax, only if it is not in the catalog."""
    from hyperlax.envs import make
    from hyperlax.envs.catalog import CATALOG

    name = canonical(environment)
    return CATALOG[name].reference if name in CATALOG else make(name).reference


def _lanes(arguments: SearchOptions) -> int | None:
    return None if arguments.runner_hparam_batch_size == "auto" else arguments.runner_hparam_batch_size
