"""Studies from given options, for the command line and for Python: checked here, then run.

`given` holds the explicitly given options by name. The study, file or recipe settles the rest.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hyperlax.config.checks import check_searched, check_space, checked
from hyperlax.config.option import Given
from hyperlax.config.options import SearchOptions, SweepOptions
from hyperlax.config.settling import resumed, settled
from hyperlax.config.stored import (
    SEARCH,
    SWEEP,
    check_command,
    load_recipe_of,
    named_directory,
    read_stored,
)
from hyperlax.envs.recipes import check_acts
from hyperlax.errors import STOPPED, HyperlaxError, OptionError, UsageError
from hyperlax.fields import TogetherError
from hyperlax.recipe import Recipe, available, load, searching
from hyperlax.study.reporters import safe

if TYPE_CHECKING:
    from hyperlax.config.study_file import StudyFile


_RESUMED = "{resume_from}"
"""Who asks for the directory of a study that is resumed."""


@dataclass(frozen=True)
class PlannedStudy:
    """A study that can start or continue. directory: its directory, existing or not. file: its YAML, empty without one."""

    options: SearchOptions
    recipe: Recipe
    directory: Path
    is_new: bool = True
    file: str = ""


def search(given: Given) -> tuple[int, Path]:
    """Start a search, or continue the one of `resume_from`. Returns the exit status and the study's directory."""
    _check_flags(given)
    study = _resumed(given, SEARCH) if "resume_from" in given else _new_search(given)
    return _run(study), study.directory


def sweep(given: Given) -> tuple[int, Path]:
    """Start a sweep, or continue the one of `resume_from`. Returns the exit status and the study's directory."""
    _check_flags(given)
    study = _resumed(given, SWEEP) if "resume_from" in given else _new_sweep(given)
    return _run(study), study.directory


def run_files(files: Sequence[str], given: Given) -> int:
    """Run the studies of files, or print their plans, one after another. Returns the worst exit status."""
    _check_flags(given)
    return _in_turn(planned_studies(files, given), _run, sys.stderr if given.get("json") else sys.stdout)


def load_recipe(given: Given) -> Recipe:
    """Return the given recipe. Raises OptionError if none is given."""
    name = given.get("algo_and_network_config")
    if not name:
        raise OptionError(
            "algo_and_network_config",
            "{algo_and_network_config} is required: a recipe ({0}) or a path to a .py file.",
            ", ".join(available()),
        )
    return load(name)


def study_in(directory: Path, asked_by: str) -> tuple[SearchOptions, Recipe]:
    """Return the options and the recipe of the study in a directory. The recipe of a sweep has its samples."""
    options = read_stored(directory, asked_by)
    recipe = load_recipe_of(directory, options)
    if not options.is_sweep:
        return options, recipe
    from hyperlax.samplers.fixed import stored
    from hyperlax.study.directory import SAMPLES

    return options, stored(recipe, directory / SAMPLES)


def log_from(level: str, is_quiet: bool = False) -> None:
    """Print Hyperlax's log messages from this level on, or only warnings. Other packages' warnings stay as they are."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hyperlax").setLevel(max(logging.getLevelNamesMapping()[level], logging.WARNING * is_quiet))
    logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)  # its traceback is in the batch's timing.json


def planned_studies(files: Sequence[str], given: Given) -> list[PlannedStudy]:
    """Return the studies of files. Given options replace those of the files.

    Raises UsageError, naming file and line, for a study that cannot run or exists, and for two with the same directory.
    """
    if not files:
        raise UsageError("run-study needs files: hyperlax run-study FILE [FILE ...].")
    from hyperlax.config.study_file import read_study_file

    planned: dict[Path, PlannedStudy] = {}
    for path in files:
        study = _planned(read_study_file(path), given)
        where = study.directory.resolve()
        if where in planned:
            raise UsageError(
                f"{path}: its study goes to {study.directory}, as that of {planned[where].file} does. "
                "Give one of them another output_root."
            )
        planned[where] = study
    return list(planned.values())


def _in_turn(studies: Sequence[PlannedStudy], run: Callable[[PlannedStudy], int], stream: TextIO) -> int:
    """Run studies one after another, even if some fail, until one is interrupted. Returns the worst exit status.

    stream: gets the last line, which lists how several studies ended.
    """
    ended: dict[str, int] = {}
    stream = safe(stream)
    for number, study in enumerate(studies, start=1):
        if len(studies) > 1:
            print(f"Study {number} of {len(studies)}: {study.file}, in {study.directory}.", file=stream, flush=True)
        ended[study.file] = _status(study, run)
        if ended[study.file] in STOPPED:
            break
    if len(studies) > 1:
        print(_summary([study.file for study in studies], ended), file=stream)
    return max(ended.values())


def _check_flags(given: Given) -> None:
    if given.get("json") and given.get("plan_only"):
        raise OptionError("json", "{json} follows a search, and {plan_only} runs none. Leave one of them out.")
    if given.get("retry_failed") and "resume_from" not in given:
        raise OptionError("retry_failed", "{retry_failed} continues a study: give {resume_from} DIR as well.")
    if given.get("retry_failed") and given.get("plan_only"):
        raise OptionError(
            "retry_failed", "{retry_failed} runs trials, and {plan_only} runs none. Leave one of them out."
        )


def _new_search(given: Given) -> PlannedStudy:
    from hyperlax.study.directory import study_directory

    recipe = load_recipe(given)
    options = checked(settled(SearchOptions, [given], recipe))
    check_searched(recipe.path, recipe.space)
    check_acts(recipe, options.env_config)
    return PlannedStudy(options, recipe, study_directory(options, recipe).root)


def _new_sweep(given: Given) -> PlannedStudy:
    """Return a sweep whose recipe has the configurations to train."""
    from hyperlax.config import samples
    from hyperlax.samplers.fixed import draw, presampled
    from hyperlax.study.directory import study_directory

    _check_source(given)
    recipe, file = load_recipe(given), given.get("load_hyperparams")
    rows = samples.read(Path(file), recipe.config.algorithm) if file else ()
    read = {"n_trials": len(rows), "sampling_method": "file"} if file else {}
    options = checked(settled(SweepOptions, [given, read], recipe))
    if not rows:
        check_searched(recipe.path, recipe.space)
    rows = rows or draw(recipe, str(options.sampling_method), options.n_trials, options.seed)
    recipe = presampled(recipe, rows, file or str(recipe.path))
    check_acts(recipe, options.env_config)
    return PlannedStudy(options, recipe, study_directory(options, recipe).root)


def _check_source(given: Given) -> None:
    """Raise OptionError if configurations are both loaded and drawn, or neither."""
    if "load_hyperparams" not in given:
        if given.get("sampling_method") == "file":
            raise OptionError("sampling_method", "{sampling_method} file needs {load_hyperparams} FILE.")
        return
    for name in ("n_trials", "sampling_method"):
        if name in given:
            raise OptionError(
                "load_hyperparams",
                f"{{load_hyperparams}} trains every row of its file; {{{name}}} draws others. Leave one of the two out.",
            )


def _resumed(given: Given, command: str) -> PlannedStudy:
    directory = named_directory(given["resume_from"], _RESUMED)
    check_command(directory, read_stored(directory, _RESUMED), command)
    stored, recipe = study_in(directory, _RESUMED)
    options = checked(resumed(stored, given, recipe))
    check_searched(recipe.path, recipe.space)
    check_acts(recipe, options.env_config)
    return PlannedStudy(options, recipe, directory, is_new=False)


def _run(study: PlannedStudy) -> int:
    """Run a study to its end, or print its plan, with the reporter of its options. Returns the exit status."""
    options, directory = study.options, None if study.is_new else study.directory
    log_from(options.log_level, options.quiet)
    if options.plan_only:
        from hyperlax.study.run import print_plan

        return print_plan(options, study.recipe, directory)
    from hyperlax.analysis.pages import write_pages
    from hyperlax.study.observer import Observer, Pages
    from hyperlax.study.reporters import reporter, run_in_json
    from hyperlax.study.run import run_study
    from hyperlax.tracking.mlflow import mlflow_observers

    place = (options.track, options.tracking_uri, options.tracking_experiment, options.study_name)
    tracking = mlflow_observers(*place, study.directory, is_new=study.is_new)

    def run(*shown: Observer) -> int:
        observers = [*shown, Pages(write_pages), *tracking]
        return run_study(options, study.recipe, directory, observers=observers, retry_failed=options.retry_failed)

    if options.json:
        return run_in_json(run, study.directory)
    return run() if options.quiet else run(reporter())


def _planned(file: StudyFile, given: Given) -> PlannedStudy:
    """Return the study of a file, checked."""
    from hyperlax.config.first_trials import first_trials
    from hyperlax.study.directory import refuse_running, study_directory
    from hyperlax.study.study_run import refuse_existing

    with _told(file, given, "algo_and_network_config"):
        recipe = load_recipe({**file.given, **given})
    recipe = _searching(file, recipe)
    with _told(file, given, "env_config"):
        options = checked(settled(SearchOptions, [file.preset, file.given, given], recipe))
        check_acts(recipe, options.env_config)
    with _told(file, given, "sampler"):
        check_space(options, recipe.space)
    with _told(file, given, "enqueue"):
        first_trials(options, recipe)
    with _told(file, given, "output_root"):
        directory = study_directory(options, recipe)
        refuse_running(directory.root)
        refuse_existing(directory)
    return PlannedStudy(options, recipe, directory.root, file=file.path)


def _searching(file: StudyFile, recipe: Recipe) -> Recipe:
    """Return the recipe with the file's space."""
    from hyperlax.config.space_entries import changes_of

    where = file.places.get("space", file.path)
    changes = changes_of(file.space, file.params, recipe)
    try:
        changed = searching(recipe, changes, where)
    except TogetherError as error:
        entries = zip(changes, file.space.values(), strict=True)
        place = next((entry.where for name, entry in entries if name in error.names), where)
        raise UsageError(f"{place}: {error.problem}") from error
    if not changed.space:
        raise UsageError(
            f"{where}: nothing is left to search. Give a hyperparameter a range, or train with run-single-hp."
        )
    return changed


@contextmanager
def _told(file: StudyFile, given: Collection[str], about: str) -> Iterator[None]:
    """Let an OptionError of the block name the line of the file."""
    try:
        yield
    except UsageError as error:
        raise file.refusal(error, given, about) from error


def _status(study: PlannedStudy, run: Callable[[PlannedStudy], int]) -> int:
    """Return the exit status of a study. Prints the error of one that cannot be completed, so that the next one runs."""
    try:
        return run(study)
    except HyperlaxError as error:
        print(f"hyperlax: {study.file}: {error}", file=safe(sys.stderr))
        return error.exit_code


def _summary(files: Sequence[str], ended: dict[str, int]) -> str:
    """Return a sentence with the studies by how they ended.

    >>> _summary(["a.yaml", "b.yaml", "c.yaml"], {"a.yaml": 0, "b.yaml": 1, "c.yaml": 0})
    'Ended without an error: a.yaml, c.yaml. Failed: b.yaml.'
    """
    words = {
        "Ended without an error": [file for file, status in ended.items() if status == 0],
        "Failed": [file for file, status in ended.items() if status not in (0, *STOPPED)],
        "Interrupted": [file for file, status in ended.items() if status in STOPPED],
        "Not begun": [file for file in files if file not in ended],
    }
    return " ".join(f"{how}: {', '.join(which)}." for how, which in words.items() if which)
