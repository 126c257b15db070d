"""The studies of files: all of them checked before the first one runs, then one after another."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

from hyperlax.acting import check_acts
from hyperlax.arguments import StudyArguments, resolve_layers
from hyperlax.command_parts import recipe_name
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.first_trials import first_trials
from hyperlax.flags import SearchFlags
from hyperlax.output import heard
from hyperlax.recipe import Recipe, load, searching
from hyperlax.sampler_checks import check_search
from hyperlax.space_entries import changes_of
from hyperlax.study.directory import refuse_running, study_directory
from hyperlax.study.run import refuse_existing
from hyperlax.study_files import StudyFile, read_study_file

INTERRUPTED = (130, 143)


@dataclass(frozen=True)
class PlannedStudy:
    """A study that can begin. directory: where it goes."""

    file: str
    arguments: StudyArguments
    recipe: Recipe
    directory: Path


def planned_studies(files: Sequence[str], flags: SearchFlags) -> list[PlannedStudy]:
    """The studies of files, each with the flags of the command line in place of what it says.

    UsageError, naming file and line, for what cannot run, a study that there is among it, and two that would be one.
    """
    if not files:
        raise UsageError("run-study needs files: hyperlax run-study FILE [FILE ...].")
    planned: dict[Path, PlannedStudy] = {}
    for path in files:
        study = _planned(read_study_file(path), flags)
        where = study.directory.resolve()
        if where in planned:
            raise UsageError(
                f"{path}: its study goes to {study.directory}, as that of {planned[where].file} does. "
                "Give one of them another output_root."
            )
        planned[where] = study
    return list(planned.values())


def in_turn(studies: Sequence[PlannedStudy], run: Callable[[PlannedStudy], int], stream: TextIO) -> int:
    """Run studies one after another, whatever becomes of each, until one is interrupted. Returns the worst exit status.

    stream: where the last line goes, which says of several studies which ended how.
    """
    ended: dict[str, int] = {}
    stream = heard(stream)
    for number, study in enumerate(studies, start=1):
        if len(studies) > 1:
            print(f"Study {number} of {len(studies)}: {study.file}, in {study.directory}.", file=stream, flush=True)
        ended[study.file] = _status(study, run)
        if ended[study.file] in INTERRUPTED:
            break
    if len(studies) > 1:
        print(_sentence([study.file for study in studies], ended), file=stream)
    return max(ended.values())


def _planned(file: StudyFile, flags: SearchFlags) -> PlannedStudy:
    """One study, checked."""
    given = {
        f.name for f in fields(flags) if getattr(flags, f.name) is not None and getattr(flags, f.name) is not False
    }
    name = flags.algo_and_network_config or file.flags.algo_and_network_config
    with _told(file, given, "algo_and_network_config"):
        recipe = load(recipe_name(SearchFlags(algo_and_network_config=name)))
    recipe = _searching(file, recipe)
    with _told(file, given, "env_config"):
        arguments = resolve_layers([file.preset, file.flags, flags], recipe)
        check_acts(recipe, arguments.env_config)
    with _told(file, given, "sampler"):
        check_search(arguments, recipe.space)
    with _told(file, given, "enqueue"):
        first_trials(arguments, recipe)
    with _told(file, given, "output_root"):
        directory = study_directory(arguments, recipe)
        refuse_running(directory.root)
        refuse_existing(directory)
    return PlannedStudy(file.path, arguments, recipe, directory.root)


def _searching(file: StudyFile, recipe: Recipe) -> Recipe:
    """The recipe with the file's space."""
    where = file.places.get("space", file.path)
    changes = changes_of(file.space, file.params, recipe)
    try:
        changed = searching(recipe, changes, where)
    except UsageError as error:
        said = str(error).removeprefix(where)
        fields = [name.rpartition(".")[2] for name in changes]
        entries = zip(fields, file.space.values(), strict=True)
        place = next((entry.where for field, entry in entries if re.search(rf"\b{field}\b", said)), where)
        raise UsageError(place + said) from error
    if not changed.space:
        raise UsageError(
            f"{where}: nothing is left to search. Give a hyperparameter a range, or train with run-single-hp."
        )
    return changed


@contextmanager
def _told(file: StudyFile, given: Collection[str], about: str) -> Iterator[None]:
    """Have a refusal name the line of the file that it is about."""
    try:
        yield
    except UsageError as error:
        raise file.refusal(error, given, about) from error


def _status(study: PlannedStudy, run: Callable[[PlannedStudy], int]) -> int:
    """The exit status of a study; one that cannot be completed is told, and the next one has its turn."""
    try:
        return run(study)
    except HyperlaxError as error:
        print(f"hyperlax: {study.file}: {error}", file=heard(sys.stderr))
        return error.exit_code


def _sentence(files: Sequence[str], ended: dict[str, int]) -> str:
    """Which studies ended how.

    >>> _sentence(["a.yaml", "b.yaml", "c.yaml"], {"a.yaml": 0, "b.yaml": 1, "c.yaml": 0})
    'Ended without an error: a.yaml, c.yaml. Failed: b.yaml.'
    """
    words = {
        "Ended without an error": [file for file, status in ended.items() if status == 0],
        "Failed": [file for file, status in ended.items() if status not in (0, *INTERRUPTED)],
        "Interrupted": [file for file, status in ended.items() if status in INTERRUPTED],
        "Not begun": [file for file in files if file not in ended],
    }
    return " ".join(f"{how}: {', '.join(which)}." for how, which in words.items() if which)
