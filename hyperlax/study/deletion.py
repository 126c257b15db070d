"""`hyperlax delete`: removes the files that Hyperlax wrote of a study. A user's other files in its directories stay."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from hyperlax.config.stored import read_arguments
from hyperlax.errors import OptionError
from hyperlax.study.directory import LOCK, StudyDirectory, only_one_process
from hyperlax.study.io_errors import ending_on_io_error, run_again

_MOST_NAMED = 10
"""Names of what is kept, so that they stay on one line."""


def delete(given: Path, is_sure: bool, plots: Collection[str]) -> int:
    """Delete the study in a directory, and the directory if nothing else is in it. Asks unless `is_sure`.

    The directory itself stays if it is given as a link, is the working directory, or if its parent may not be written; the
    reason is printed. plots: the names of the plots' pages.

    Returns: 0, or 1 if the answer was no.

    Raises:
      UsageError: The study does not exist, a process runs it, or nobody can be asked.
      HyperlaxError: The system refuses to delete a file. The same command then deletes the rest.
    """
    read_arguments(given, "delete")
    root = given.resolve()
    with ending_on_io_error(root, run_again):
        with only_one_process(root, is_named=False):
            directory = StudyDirectory(root)
            found = sorted(_written(directory, root, plots), key=lambda path: path == directory.manifest)
            if not is_sure and not _agrees(given, found):
                print("Nothing was deleted.")
                return 1
            for path in found:
                _remove(path)
            (root / LOCK).unlink(missing_ok=True)
        print(_end(given, directory))
    return 0


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
        return f"The study is deleted. What else was in {given} is kept: {', '.join(named[:_MOST_NAMED])}{more}."
    why = _why_it_stays(given, study.root)
    return f"The study is deleted. The empty directory {given} is kept: {why}." if why else f"{given} is deleted."


def _kept(study: StudyDirectory, directory: Path) -> Iterator[str]:
    """Yield the names of what is left; for the study's own directories, the names of their contents."""
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


def _agrees(given: Path, found: list[Path]) -> bool:
    """Return whether a user at a terminal says yes. The end of the input is no."""
    if not sys.stdin.isatty():
        raise OptionError("yes", "delete {0}: nobody is there to ask. Add {yes} to delete it.", given)
    size = sum(path.lstat().st_size for path in found if path.is_symlink() or not path.is_dir())
    try:
        answer = input(f"Delete the study in {given} ({size / 2**20:,.1f} MiB)? [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
