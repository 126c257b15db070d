"""Starting population-based training, or going on with it: everything is checked here before anything is written."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna

from hyperlax.arguments import flag_of
from hyperlax.engine.population import Population
from hyperlax.envs import canonical, slug
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.fields import filled
from hyperlax.pbt_arguments import PopulationArguments
from hyperlax.population import explored, make_members
from hyperlax.recipe import Recipe, RunLength, dotted
from hyperlax.schedulers.pb2 import is_continuous
from hyperlax.space import Distribution
from hyperlax.study import manifest as manifests
from hyperlax.study.directory import StudyDirectory, check_writable, only_one_process, refuse_running
from hyperlax.study.manifest import Manifest, installed_versions, space_to_json
from hyperlax.study.population import PopulationLoop, resume_command, scheduler_of
from hyperlax.study.record import StudyRecord
from hyperlax.study.refusals import Refusal, ending_on_refusal, refusing_what_is_forbidden, run_again
from hyperlax.study.training import reference_returns
from hyperlax.trial import Trial

log = logging.getLogger(__name__)

Make = Callable[[PopulationArguments, Recipe], Population]


def run_population(
    arguments: PopulationArguments,
    recipe: Recipe,
    resume_from: Path | None,
    make: Make | None = None,
    analyse: Callable[[StudyRecord], None] | None = None,
) -> int:
    """Train a population, or go on with the one in `resume_from`, to the end of its budget. Returns the exit status.

    0: done. 1: every member failed. 130, 143: interrupted, and saved. UsageError, before anything is written, for what cannot run;
    HyperlaxError when the system refuses to write or the memory is too small. make: the members, by default of the engine.
    analyse: writes the pages, by default `hyperlax.analysis`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, kept = explored(recipe)
    _check_pb2(arguments, space, recipe)
    recipe = replace(recipe, space=space)
    if kept:
        log.info(
            "Not explored, since they cannot change while weights are kept; at the recipe's value: %s.", ", ".join(kept)
        )
    make, analyse = make or make_population, analyse or _write_pages
    if resume_from is None:
        return _start(arguments, recipe, make, analyse)
    return _resume(arguments, recipe, StudyDirectory(resume_from), make, analyse)


def make_population(arguments: PopulationArguments, recipe: Recipe) -> Population:
    """The engine's members of a run. Raises UsageError for what the engine cannot run."""
    base = recipe.config.algorithm
    params = scheduler_of(arguments, recipe).first()
    return make_members(
        base,
        recipe.space,
        [Trial(member, filled(base, own)) for member, own in enumerate(params)],
        environment=canonical(arguments.env_config),
        run_length=RunLength(arguments.total_timesteps, arguments.num_intervals, arguments.num_eval_episodes),
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
        compilation_cache=arguments.compilation_cache,
    )


def _start(arguments: PopulationArguments, recipe: Recipe, make: Make, analyse: Callable[[StudyRecord], None]) -> int:
    directory = StudyDirectory(Path(arguments.output_root) / recipe.name / slug(arguments.env_config))
    refuse_running(directory.root)
    _refuse_existing(directory)
    members = make(arguments, recipe)
    manifest = Manifest(
        arguments=arguments.to_json(),
        command=command_of(arguments),
        recipe={"name": recipe.name, "path": str(recipe.path.resolve()), "config": dotted(recipe.config.algorithm)},
        space=space_to_json(recipe.space),
        versions=installed_versions(),
        device=members.device,
        reference=vars(reference_returns(arguments.env_config)).copy(),
        lanes=arguments.population_size,
        packing={},
        first_trials=[],
    )
    with _ending(directory, arguments), only_one_process(directory.root):
        _refuse_existing(directory)
        check_writable(directory)
        return PopulationLoop(arguments, recipe, directory, manifest, lambda: members, analyse).run()


def _resume(
    arguments: PopulationArguments,
    recipe: Recipe,
    directory: StudyDirectory,
    make: Make,
    analyse: Callable[[StudyRecord], None],
) -> int:
    manifest = replace(manifests.read(directory.manifest, recipe), arguments=arguments.to_json())
    with _ending(directory, arguments), only_one_process(directory.root):
        check_writable(directory)
        loop = PopulationLoop(arguments, recipe, directory, manifest, lambda: make(arguments, recipe), analyse)
        return loop.run()


def command_of(arguments: PopulationArguments) -> str:
    """The command line that gives this run from nothing, every argument written out."""
    words = ["hyperlax", "pbt"]
    for name, value in arguments.to_json().items():
        if isinstance(value, bool):
            words += [] if value else [flag_of(name)]
        else:
            words += [flag_of(name), str(value)]
    return shlex.join(words)


def _check_pb2(arguments: PopulationArguments, space: dict[str, Distribution], recipe: Recipe) -> None:
    if arguments.explore == "pb2" and not any(map(is_continuous, space.values())):
        raise UsageError(
            f"{recipe.path}: --explore pb2 needs a LogUniform or UniformContinuous entry that can change while weights are kept. "
            "Use perturb."
        )


def _refuse_existing(directory: StudyDirectory) -> None:
    with refusing_what_is_forbidden(directory.root):
        exists = directory.holds_a_study()
    if exists:
        raise UsageError(
            f"{directory.root} already holds a run. To go on with it:\n"
            f"  {resume_command(directory.root)}\nFor a new one, choose another --output-root."
        )


@contextmanager
def _ending(directory: StudyDirectory, arguments: PopulationArguments) -> Iterator[None]:
    """HyperlaxError where the system refuses to write, with how to go on, or where memory runs out."""

    def what_next(refusal: Refusal) -> str:
        if not directory.manifest.exists():
            return f"Nothing was trained. {run_again(refusal)}"
        return f"What is complete is kept. {refusal.remedy}, then go on:\n  {resume_command(directory.root)}"

    try:
        with ending_on_refusal(directory.database, what_next):
            yield
    except MemoryError as error:
        raise HyperlaxError(
            f"{error}. Begin anew with another --output-root and a --population-size below {arguments.population_size}, or "
            "smaller networks, replay or --num-seeds."
        ) from error


def _write_pages(record: StudyRecord) -> None:
    from hyperlax.analysis.pages import write_study_pages

    write_study_pages(record)
