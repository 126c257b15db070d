"""The file study.json: the description of a study from which it is read, resumed and run again."""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from hyperlax.algorithms.registry import ALGORITHMS
from hyperlax.backends.base import Backend, narrowest
from hyperlax.config.kinds import kind_of, left_out
from hyperlax.config.option import command_line, shell_command
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.config.own_recipes import tune_call
from hyperlax.config.speech import command_to, python_call
from hyperlax.config.stored import MANIFEST, SEARCH, SWEEP, TUNE, command_of
from hyperlax.config.trusted import check_source, code_of
from hyperlax.engine.machine import installed
from hyperlax.errors import OptionError, UsageError
from hyperlax.fields import apply, check_params, dotted
from hyperlax.files import PUT_BACK, convert, decode, write_json
from hyperlax.hyperparams import Config, Params
from hyperlax.measures import Measures, measures_of
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import Changes, Recipe, from_source, load
from hyperlax.samplers.fixed import digest_of
from hyperlax.scale import Scale
from hyperlax.space import Distribution, from_json
from hyperlax.study.directory import SAMPLES, StudyDirectory, study_directory
from hyperlax.study.record import Run
from hyperlax.tasks import Task

log = logging.getLogger(__name__)

_GIT_SECONDS = 10
"""Maximum time for git to find the commit; on a slow disk it compares many files."""
_PACKAGES, _OF_PROGRAMS = ("hyperlax", "optuna", "numpy"), ("jax", "jaxlib", "flax", "gymnax")

_SCALES = ("reference", "task")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of study.json. lanes: the most of any program, 0 until the first agent has chosen. packing: the programs.

    super_batch: trials of a super-batch, the members of a population. overlaps: whether a super-batch of closed batches is asked
    while the one before trains. A study keeps both, whatever device it continues on.
    first_trials: the searched values, by dotted name, of trials 0, 1, ... that no sampler suggested.
    runs: when and at which commit the study began, and each time it was resumed.
    reference, task: what its trials are measured by; the file has the one of the two that the study's kind of task has.
    """

    arguments: dict[str, Any]
    command: str
    recipe: dict[str, Any]
    space: dict[str, dict[str, Any]]
    first_trials: list[dict[str, Any]]
    versions: dict[str, str]
    device: str
    reference: ReferenceReturns | None = None
    task: Measures | None = None
    lanes: int
    packing: Mapping[str, Any]
    super_batch: int
    overlaps: bool
    runs: list[Run]

    @property
    def scale(self) -> Scale:
        """What its trials are measured by."""
        scale = self.task or self.reference
        assert scale is not None
        return scale

    def write(self, path: Path) -> None:
        scales = {name: asdict(one) for name in _SCALES if (one := getattr(self, name))}
        write_json(path, {n: scales.get(n, v) for n, v in vars(self).items() if n in scales or n not in _SCALES})

    def resumed(self, options: SearchOptions | PbtOptions, recipe: Recipe, directory: StudyDirectory) -> Manifest:
        """Return the manifest of the study as it is resumed with these options."""
        command = _search_command(options, recipe, directory)
        return replace(self, arguments=options.to_json(), command=command, recipe={**self.recipe, **code_of(recipe)})

    def running(self, recipe: Recipe) -> Manifest:
        """Return the manifest with a run that begins now, at the commit of the working directory, else of the recipe's."""
        began = datetime.now().astimezone().isoformat(timespec="milliseconds")
        commit = _commit(Path.cwd()) or _commit(recipe.path.resolve().parent)
        return replace(self, runs=[*self.runs, Run(began=began, commit=commit)])

    @property
    def is_planned(self) -> bool:
        """True once the programs, lanes and super-batches are chosen."""
        return self.lanes > 0

    def planned(self, options: SearchOptions | PbtOptions, backend: Backend) -> Manifest:
        """Return the manifest with the choice of a backend."""
        return replace(
            self,
            device=backend.device,
            lanes=backend.lanes,
            packing=backend.packing,
            super_batch=_super_batch(options, backend),
            overlaps=isinstance(options, SearchOptions) and options.super_batch is None and backend.slots > 1,
        )


class _StoredSource(TypedDict, total=False):
    """The source of a recipe that is not a file. command: words of the command that its trials run."""

    command: list[str]


class _StoredRecipe(TypedDict):
    """The recipe in a study.json. algorithm: the name of its configuration's class."""

    algorithm: str
    config: dict[str, Any]
    source: NotRequired[_StoredSource | None]


def describe(
    options: SearchOptions | PbtOptions,
    recipe: Recipe,
    first_trials: Sequence[dict[str, Any]],
    backend: Backend | None,
) -> Manifest:
    """Return the manifest of a new study, without a run of it. backend: None if that is not chosen yet."""
    scale = kind_of(recipe).scale(options.env_config)
    manifest = Manifest(
        arguments=options.to_json(),
        command=_search_command(options, recipe, study_directory(options, recipe)),
        recipe={
            "name": recipe.name,
            **code_of(recipe),
            "algorithm": type(recipe.config.algorithm).__name__,
            "config": dotted(recipe.config.algorithm),
            "samples": digest_of(recipe),
            "changes": _changes_to_json(recipe.changes),
        },
        space=_space_to_json(recipe.space),
        first_trials=list(first_trials),
        versions=installed_versions(scale.words.has_programs),
        device="",
        reference=scale if isinstance(scale, ReferenceReturns) else None,
        task=scale if isinstance(scale, Measures) else None,
        lanes=0,
        packing={},
        super_batch=1,
        overlaps=False,
        runs=[],
    )
    return manifest.planned(options, backend) if backend else manifest


def _super_batch(options: SearchOptions | PbtOptions, backend: Backend) -> int:
    if isinstance(options, PbtOptions):
        return options.population_size
    if options.super_batch is not None:
        return options.super_batch
    if options.in_flight is not None:
        return min(options.in_flight, options.n_trials)
    return backend.packing.get("super_batch") or narrowest(backend.lanes * backend.slots, options.n_trials)


def read(path: Path, recipe: Recipe) -> Manifest:
    """Return the manifest of an existing study. Raises UsageError if it is damaged or the study began with another recipe.

    Other versions of the packages are allowed and logged. Results of different programs agree up to float rounding only.
    """
    stored = check_recipe(path, recipe)
    for package, version in installed_versions().items():
        if stored.versions.get(package) not in (None, version):
            log.warning("The study began with %s %s; it continues with %s.", package, stored.versions[package], version)
    return stored


def check_recipe(path: Path, recipe: Recipe) -> Manifest:
    """Return the content of a study.json. Raises UsageError if it is damaged or the study began with another recipe."""
    stored = content_of(path)
    base_of(stored, path)
    space_of(stored, path)
    where = f"{recipe.path}: the study in {path.parent}"
    _same_task(stored, recipe, where)
    before, now = ((one or {}).get("command") for one in (stored.recipe.get("source"), recipe.source))
    _same_entries({"command": before}, {"command": now}, f"{where} runs the")
    _same_entries(stored.space, _space_to_json(recipe.space), f"{where} searches")
    _same_entries(stored.recipe["config"], dotted(recipe.config.algorithm), f"{where} has the base value")
    if stored.recipe.get("samples") != digest_of(recipe):
        raise UsageError(
            f"{path.parent / SAMPLES}: holds other samples than those that the sweep began with. {PUT_BACK}"
        )
    for values in stored.first_trials:
        if values.keys() != recipe.space.keys() or not all(recipe.space[n].contains(values[n]) for n in values):
            raise UsageError(f"{path}: `first_trials` holds {values}, which the recipe does not search. {PUT_BACK}")
    return stored


def task_of(stored: Manifest, path: Path, file: Path) -> Task:
    """Return the task with which a study began, from its study.json at `path`, or the file of its recipe.

    Raises UsageError if the file does not return it any more.
    """
    source = stored.recipe.get("source")
    if source:
        check_source(stored.recipe, str(path), path.parent, command_of(stored.arguments) == SWEEP)
    recipe = from_source(source, str(file)) if source else load(str(file))
    _same_task(stored, recipe, f"{file}: the study")
    assert recipe.task is not None
    return recipe.task


def content_of(path: Path) -> Manifest:
    """Return the content of a study.json without checking the recipe. Raises UsageError if it is damaged."""
    stored = decode(path, Manifest)
    convert(stored.recipe, _StoredRecipe, f"{path}: `recipe`")
    if stored.task is None and stored.reference is None:
        raise UsageError(f"{path}: cannot be read (Object missing required field `reference`). {PUT_BACK}")
    return stored


def space_of(stored: Manifest, path: Path) -> dict[str, Distribution]:
    """Return the search space of a study. Raises UsageError, naming its study.json at `path`, for a damaged distribution."""
    try:
        return {name: from_json(text) for name, text in stored.space.items()}
    except UsageError as error:
        raise UsageError(f"{path}: `space`: {error} {PUT_BACK}") from error


def base_of(stored: Manifest, path: Path) -> Config:
    """Return the base configuration with which a study began, even if its recipe has changed. path: of its study.json.

    Raises:
      UsageError: The algorithm is unknown, the stored values are not its fields, or a field does not accept its value.
    """
    kept, where = stored.recipe["config"], f"{path}: `recipe.config`"
    if stored.task:
        check_params(Params(kept), where)
        return Params(kept)
    make = next((kind for kind in ALGORITHMS if kind.__name__ == stored.recipe["algorithm"]), None)
    if make is not None and kept.keys() == dotted(make()).keys():
        return apply(make(), kept, where)
    raise UsageError(
        f"{where} does not hold the fields of an algorithm of this version of Hyperlax. If another version wrote it, use that one. "
        f"Otherwise: {PUT_BACK}"
    )


def _space_to_json(space: Mapping[str, Distribution]) -> dict[str, Any]:
    return {name: distribution.to_json() for name, distribution in space.items()}


def _changes_to_json(changes: Changes) -> dict[str, Any]:
    return {name: change and change.to_json() for name, change in changes.items()}


def _commit(directory: Path) -> str:
    """Return the git commit of a directory, followed by -dirty if its files differ from it; "" if there is none."""
    words = ["git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def installed_versions(has_programs: bool = True) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a study's numbers, without those that are not installed.

    has_programs: whether its trials are compiled programs of JAX.
    """
    return {"python": platform.python_version(), **installed((*_PACKAGES, *(_OF_PROGRAMS if has_programs else ())))}


def _search_command(options: SearchOptions | PbtOptions, recipe: Recipe, directory: StudyDirectory) -> str:
    """Return the command line that begins this study, with every argument, or with its file if it changes the search space."""
    if recipe.source and "function" in recipe.source:
        assert isinstance(options, SearchOptions)
        return tune_call(options, recipe)
    if isinstance(options, SearchOptions) and options.is_sweep and recipe.source:
        return shell_command(SWEEP, "--resume-from", directory.root)
    if recipe.changes or recipe.source:
        return shell_command("run-study", directory.file)
    is_of_a_file = isinstance(options, SearchOptions) and options.load_hyperparams
    settled = ("n_trials", "sampling_method") if is_of_a_file else ()
    words = command_line(options, [*settled, *left_out(options, recipe)])
    return shell_command(command_of(options.to_json()), *words)


def resume_command(directory: Path, **changes: Any) -> str:
    """Return the command line that resumes the study in a directory, or the call in Python. changes: options to give."""
    options = {"resume_from": directory, **changes}
    try:
        stored = content_of(directory / MANIFEST)
    except UsageError:  # the resume reports that
        return command_to(SEARCH, **options)
    source = stored.recipe.get("source") or {}
    if "function" in source and source["function"] is None:
        return python_call("tune", options, "function")
    command = command_of(stored.arguments)
    return command_to(TUNE if "command" in source and command == SEARCH else command, **options)


def train_command(directory: Path, trial: int) -> str:
    """Return the command line that trains a trial of the study in a directory again."""
    return shell_command("train", "--from", directory, "--trial", trial)


def _same_task(stored: Manifest, recipe: Recipe, where: str) -> None:
    """Raise OptionError unless the recipe trains what the study began with, as far as its results depend on that."""
    now = measures_of(recipe.task) if recipe.task else None
    _same_entries(_task_entries(stored.task), _task_entries(now), f"{where} has the task's")


def _task_entries(measures: Measures | None) -> dict[str, Any]:
    """Return what a task is measured by as text, by name; nothing for an RL algorithm."""
    if measures is None:
        return {}
    first = {"budget": measures.budget, "evaluations": measures.evaluations, "leading measure": measures.leading.name}
    return first | {
        f"measure {one.name}": f"{one.direction}d from {one.low} to {one.high}" for one in measures.measures
    }


def _same_entries(stored: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    for name in [*stored, *(name for name in now if name not in stored)]:
        before, after = stored.get(name, "nothing"), now.get(name, "nothing")
        if before != after:
            raise OptionError(
                "output_root",
                "{0} {1} = {2}, now it is {3}. Put it back to resume, or choose another {study_name} or {output_root} "
                "for a new study.",
                *(where, name, before, after),
            )
