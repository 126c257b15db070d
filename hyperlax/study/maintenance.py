"""`hyperlax repair`, `invalidate` and `delete`, and the journal that `hyperlax export` writes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from hyperlax.config.checks import check_space
from hyperlax.config.option import command_line, shell_command
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.config.stored import PBT, read_arguments
from hyperlax.errors import HyperlaxError, OptionError, UsageError, counted, format_number, in_one_line
from hyperlax.files import replacing
from hyperlax.recipe import Recipe
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.schedulers.pbt import explored
from hyperlax.study import database_file
from hyperlax.study import manifest as manifests
from hyperlax.study.database import url_of
from hyperlax.study.database_rows import read_trials
from hyperlax.study.directory import StudyDirectory, check_writable
from hyperlax.study.io_errors import ending_on_io_error
from hyperlax.study.journal import Journal
from hyperlax.study.lock import LOCK, only_one_process
from hyperlax.study.projection import batch_of, unrecorded_trials
from hyperlax.study.record import StudyRecord
from hyperlax.study.state import StudyState
from hyperlax.study.summary import print_best
from hyperlax.study.view import LiveStudy

_INVALIDATED = "invalidated"
_COMPANIONS = ("-journal", "-wal", "-shm")
"""SQLite's files beside a database; one left beside another database would be taken for its own."""


def repair(options: SearchOptions | PbtOptions, recipe: Recipe, root: Path) -> int:
    """Replay journal and batches into a new database, keep the damaged one, and say what was restored. Returns 0.

    The next resume trains trials again whose batch is not on disk. The damaged database stays in place until the new one is whole.

    Raises:
      UsageError: The directory holds no study, a batch is damaged too, or the journal lacks trials.
      HyperlaxError: A batch belongs to another study.
    """
    if isinstance(options, PbtOptions):
        recipe = replace(recipe, space=explored(recipe)[0])
    else:
        check_space(options, recipe.space)
    directory = StudyDirectory(root)
    manifest = manifests.read(directory.manifest, recipe)
    with _ending_on_io_error(directory), only_one_process(root):
        metrics = manifest.scale.table.rows
        read = partial(read_trials, options=options, space=SearchSpace(recipe.space), metrics=metrics)
        finding = _find_damage(directory, options.study_name, read)
        if finding is None:
            with closing(StudyState(options, recipe, directory, manifest, is_dry=True)) as state:
                state.projection.check_journal()
            print(f"{directory.database} is sound; nothing to repair.")
            return 0
        print(finding)
        with replacing(directory.database) as rebuilt:
            source = _restore(directory.backup, rebuilt, options.study_name, read)
            with closing(StudyState(options, recipe, directory, manifest, database=rebuilt)) as state:
                before = state.finished()
                recorded = state.projection.replay()
                finished = state.finished()
                left = len(state.trials()) - finished
            kept = _keep(directory.database)
        if kept:
            print(f"It is kept as {kept}.")
        print(
            f"Restored {counted(before, 'finished trial')} from {source} and {recorded} from the batches; to be run: {left}."
        )
        if finished < options.n_trials:
            print(f"To resume:\n  {manifests.resume_command(root)}")
        return 0


def invalidate(
    options: SearchOptions | PbtOptions,
    recipe: Recipe,
    root: Path,
    trials: Sequence[int],
    reason: str | None,
    write_pages: Callable[[StudyRecord, Path], None],
) -> int:
    """Set COMPLETE trials to FAIL, print which, and write the analysis again. Returns 0.

    Metrics stay with the trials, and batches on disk. From the next super-batch on, samplers see the trials as failed.
    Raises UsageError, before anything is changed, if the study or a trial does not exist, or for a population.
    """
    if not trials:
        raise UsageError("invalidate needs the numbers of trials: hyperlax invalidate DIR TRIAL [TRIAL ...].")
    if isinstance(options, PbtOptions):
        again = shell_command(PBT, *command_line(replace(options, study_name=f"{options.study_name}_2")))
        raise UsageError(
            f"invalidate {root}: holds a population, whose later trials continue from the earlier ones, so none can be taken out. "
            f"Correct what was wrong and start again under another name:\n  {again}"
        )
    directory, objectives = StudyDirectory(root), options.objectives
    manifest = manifests.read(directory.manifest, recipe)
    with ending_on_io_error(directory.database), only_one_process(root):
        check_writable(directory)
        directory.check_database(options.study_name)
        with closing(LiveStudy(options, recipe, directory, manifest)) as live:
            live.load()
            text = _INVALIDATED + (f": {in_one_line(reason)}" if reason else "")
            for number in sorted(set(filter(live.is_invalidated, trials))):
                print(f"Trial {number} was already out of the ranking.")
            for trial in live.invalidate(trials, text):
                values = ", ".join(
                    f"{name} {format_number(value)}" for name, value in zip(objectives, trial.values, strict=True)
                )
                print(f"Trial {trial.number} ({values}) is out of the ranking; its results are kept.")
            for record, where in live.analyses():
                write_pages(record, where)
            if any(trial.state.name == "COMPLETE" for trial in live.trials()):
                print_best(live.snapshot())
            else:
                print("No trial is left in the ranking.")
    return 0


def write_journal(root: Path, path: Path, study_name: str) -> None:
    """Copy the study in a directory, which `load_study` could read, into a new journal under the same name.

    Raises UsageError if it has no database yet.
    """
    directory = StudyDirectory(root)
    if not directory.database.exists():
        raise UsageError(f"export {root}: has no database yet. It is created when the search starts.")
    with tempfile.TemporaryDirectory() as scratch, replacing(path) as temporary:
        copy = Path(scratch) / directory.database.name
        with ending_on_io_error(directory.database):
            database_file.back_up(directory.database, copy)
        journal = optuna.storages.JournalStorage(JournalFileBackend(str(temporary)))
        optuna.copy_study(from_study_name=study_name, from_storage=url_of(copy), to_storage=journal)


def _find_damage(
    directory: StudyDirectory, study_name: str, read: Callable[[Path], tuple[list[FrozenTrial], Any]]
) -> str | None:
    """Return the problem of a database in a sentence: damage, or missing trials. None for a sound one. read: reads its trials."""
    try:
        directory.check_database(study_name)
        own, _ = read(directory.database)
    except database_file.Damaged as error:
        return error.finding
    on_disk = unrecorded_trials(directory, set(map(batch_of, own)), Journal(directory.journal))
    unknown = min((number for number in on_disk if number >= len(own)), default=None)
    return (
        None
        if unknown is None
        else f"{directory.database}: does not know trial {unknown}, which is in {on_disk[unknown]}."
    )


def _keep(path: Path) -> Path | None:
    """Copy a database that is about to be replaced to the first free `.damaged` name. Return that, None if nothing was copied.

    Its companion files are moved, since SQLite would use them for the new database.
    """
    number = 0
    while (kept := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    for companion in _COMPANIONS:
        file = path.with_name(path.name + companion)
        if file.exists():
            os.replace(file, kept.with_name(kept.name + companion))
    if not path.exists():
        return None
    with replacing(kept) as copy:
        shutil.copyfile(path, copy)
    return kept


def _restore(backup: Path, to: Path, study_name: str, read: Callable[[Path], object]) -> str:
    """Copy the backup if it is sound. Return the source of the copy in words. read: reads its trials."""
    try:
        database_file.check(backup, study_name, has_batches=True)
        read(backup)
    except database_file.Damaged:
        return "no backup"
    database_file.back_up(backup, to)
    return backup.name


def _ending_on_io_error(directory: StudyDirectory) -> AbstractContextManager[None]:
    """Raise HyperlaxError if the disk is full or a file cannot be read or written. A repair is done completely or not at all."""
    again = shell_command("repair", directory.root)
    return ending_on_io_error(
        directory.database, lambda remedy: f"Nothing is lost. {remedy}, then repair again:\n  {again}"
    )


_MOST_NAMED = 10
"""Maximum number of kept files to name, so that they stay on one line."""


@dataclass(frozen=True)
class Elsewhere:
    """Results of a study in another place, such as MLflow.

    what: it, and the place, in words. problem: why it cannot be reached, "" if it can. remove: removes it, and raises HyperlaxError
    if that fails. to: where it goes, in words.
    """

    what: str
    problem: str
    remove: Callable[[], None] = lambda: None
    to: str = ""


def delete(given: Path, is_sure: bool, plots: Collection[str], elsewhere: Sequence[Elsewhere] = ()) -> int:
    """Delete the study in a directory, and the directory if nothing else is in it. Asks unless `is_sure`.

    The directory itself stays if it is given as a link, is the working directory, or if its parent may not be written; the
    reason is printed. plots: the names of the plots' pages. elsewhere: what is deleted with it.

    Returns: 0, or 1 if the answer was no or something remains elsewhere.

    Raises:
      UsageError: The study does not exist, a process runs it, or nobody can be asked.
      HyperlaxError: The system refuses to delete a file. The same command then deletes the rest.
    """
    read_arguments(given, "delete")
    root = given.resolve()
    with ending_on_io_error(root):
        with only_one_process(root, is_named=False):
            directory = StudyDirectory(root)
            found = sorted(_written(directory, root, plots), key=lambda path: path == directory.manifest)
            for one in elsewhere:
                if one.problem and not is_sure:
                    print(f"Cannot be reached, and will remain: {one.what} ({one.problem}).")
            if not is_sure and not _agrees(given, found, elsewhere):
                print("Nothing was deleted.")
                return 1
            remains = [one for one in elsewhere if not _removed(one)]
            for path in found:
                _remove(path)
            (root / LOCK).unlink(missing_ok=True)
        print(_end(given, directory))
    return 1 if remains else 0


def _removed(one: Elsewhere) -> bool:
    """Remove what is in another place. Print what was removed, or what remains and why, and return whether it was removed."""
    problem = one.problem
    try:
        if not problem:
            one.remove()
    except HyperlaxError as error:
        problem = str(error)
    print(f"Remains: {one.what} ({problem})." if problem else f"Deleted{f' {one.to}' if one.to else ''}: {one.what}.")
    return not problem


def _written(study: StudyDirectory, directory: Path, plots: Collection[str]) -> Iterator[Path]:
    """Yield the paths that Hyperlax wrote in a directory, each before its own directory. Links are not followed."""
    files, directories = study.own(directory, plots)
    for path in directories:
        yield from _written(study, path, plots)
    yield from files
    yield from directories


def _remove(path: Path) -> None:
    """Remove a file, or a directory if it is empty."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()


def _end(given: Path, study: StudyDirectory) -> str:
    """Return a sentence about the directory, which is removed if it is empty and the system allows it."""
    named = list(islice(_kept(study, study.root), _MOST_NAMED + 1))
    if named:
        more = ", and more" if len(named) > _MOST_NAMED else ""
        return f"The study is deleted. Other files in {given} are kept: {', '.join(named[:_MOST_NAMED])}{more}."
    why = _why_it_stays(given, study.root)
    return f"The study is deleted. The empty directory {given} is kept: {why}." if why else f"{given} is deleted."


def _kept(study: StudyDirectory, directory: Path) -> Iterator[str]:
    """Yield the names of the remaining files; for the study's own directories, the names of their contents."""
    _, own = study.own(directory, ())
    for path in sorted(directory.iterdir()):
        if path in own:
            yield from _kept(study, path)
        else:
            yield path.relative_to(study.root).as_posix()


def _why_it_stays(given: Path, root: Path) -> str | None:
    """Remove an empty directory. Return why it is still there, None if it was removed."""
    if given.is_symlink():
        return f"{given} is a link to it"
    try:
        if root.samefile("."):
            return "it is the working directory"
        root.rmdir()
    except OSError as error:
        return error.strerror
    return None


def _agrees(given: Path, found: list[Path], elsewhere: Sequence[Elsewhere]) -> bool:
    """Return whether a user at a terminal says yes. The end of the input is no."""
    if not sys.stdin.isatty():
        raise OptionError(
            "yes", "delete {0}: cannot ask for confirmation without a terminal. Add {yes} to delete it.", given
        )
    size = sum(path.lstat().st_size for path in found if path.is_symlink() or not path.is_dir())
    try:
        more = "".join(f", and {one.what}" for one in elsewhere if not one.problem)
        answer = input(f"Delete the study in {given} ({size / 2**20:,.1f} MiB){more}? [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
