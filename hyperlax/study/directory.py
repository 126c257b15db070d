"""The directory of a study: its paths, its own files, its complete batches, and the process that holds it."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hyperlax.backends.work import FILES, WORK
from hyperlax.config.kinds import kind_of
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.config.stored import MANIFEST, read_stored
from hyperlax.errors import OptionError, UsageError
from hyperlax.files import TO_READ, TO_WRITE, is_too_long, naming, open_regular, write_text
from hyperlax.outputs import KEPT_OUTPUT, OWN_FILES
from hyperlax.recipe import Recipe
from hyperlax.study import database_file
from hyperlax.study.io_errors import FULL, refusing_forbidden
from hyperlax.trial import TIMELINE

log = logging.getLogger(__name__)

_STUDY_FILE, _DATABASE, REPORT = "study.yaml", "optuna_study.db", "report.html"
SAMPLES, _JOURNAL, TRIALS, CONFIRMED = "samples.csv", "journal.jsonl", "trials.csv", "confirmation.csv"
SENSITIVITY_CSV = "sensitivity.csv"
SCHEDULE, TRACKING, MIRROR = "pbt_schedule.json", "mlflow.json", "mirror.json"
BEST_FILE, PARETO_FILE = "best_optuna_params.json", "pareto_front_params.json"
LOCK = ".lock"
AGENTS, PLOTS_DIRECTORY, PLOTLY_FILE, CHECKPOINTS, CONFIRMATION, _ANALYSIS = (
    "agents", "analysis_plots", "plotly.min.js", "checkpoints", "confirmation", "analysis",
)  # fmt: skip
SUCCESS = "success.txt"
HYPERPARAMS_CSV, CURVES_CSV, SUMMARY_CSV = "hyperparams.csv", "curves.csv", "summary.csv"
INTERMEDIATE_CSV, TIMING_JSON = "intermediate.csv", "timing.json"
TEMPORARY = re.compile(r"\.[^/]+\.\d+\.\d+\.tmp(-journal)?")
"""A name that `files.replacing` writes to first."""
LOOK_SECONDS = 1.0
"""Seconds that a starting process waits for processes that only check whether the study runs."""
_MOST_OF_A_NAME = 400
"""Bytes of a lock that are read: the name of the process that holds it."""
_WRITTEN_LAST = TRIALS
_EXEC_BATCH = re.compile(r"optuna_exec_batch_\d+")
_BATCH = re.compile(r"batch_\d+")


def _one_of(*names: str) -> str:
    return "|".join(map(re.escape, names))


_EXEC = _EXEC_BATCH.pattern
_OWN: dict[str, str] = {
    "": _one_of(
        MANIFEST,
        _STUDY_FILE,
        REPORT,
        SAMPLES,
        _JOURNAL,
        TRIALS,
        CONFIRMED,
        SENSITIVITY_CSV,
        SCHEDULE,
        TRACKING,
        MIRROR,
        BEST_FILE,
        PARETO_FILE,
    )
    + rf"|{re.escape(_DATABASE)}(\.backup|\.damaged\d*)?(-journal|-wal|-shm)?",
    AGENTS: r"trial_\d+\.(safetensors|json|gif)",
    PLOTS_DIRECTORY: _one_of(PLOTLY_FILE),
    rf"({CONFIRMATION}/)?{CHECKPOINTS}": r"(trial|pool)_\d+\.npz",
    rf"({CONFIRMATION}/)?{OWN_FILES}": "",
    rf"({CONFIRMATION}/)?{OWN_FILES}/trial_\d+(/.*)?": r".*",
    CONFIRMATION: "",
    WORK: FILES,
    _EXEC: _one_of(SUCCESS),
    f"{_EXEC}/{_ANALYSIS}": _one_of(TRIALS, BEST_FILE, PARETO_FILE),
    f"{_EXEC}/samples": "",
    f"({_EXEC}/samples|{CONFIRMATION})/{_BATCH.pattern}": _one_of(
        HYPERPARAMS_CSV, CURVES_CSV, SUMMARY_CSV, INTERMEDIATE_CSV, TIMELINE, TIMING_JSON, SUCCESS
    )
    + rf"|{KEPT_OUTPUT}",
}
"""Directory that Hyperlax makes -> the names of the files that it writes there, besides plots; all as patterns."""


class StudyDirectory:
    """The paths of a study below its root; see `study_directory`."""

    def __init__(self, root: Path):
        self.root = root
        self.manifest = root / MANIFEST
        self.file = root / _STUDY_FILE
        self.database = root / _DATABASE
        self.backup = root / f"{_DATABASE}.backup"
        self.samples = root / SAMPLES
        self.journal = root / _JOURNAL
        self.checkpoints = root / CHECKPOINTS
        self.confirmation = root / CONFIRMATION
        self.report = root / REPORT

    def holds_a_study(self) -> bool:
        return self.manifest.exists() or self.database.exists()

    def check_database(self, study_name: str) -> None:
        """Raise an error for a database that is damaged, gone, or of something else; see `database_file.check`."""
        database_file.check(self.database, study_name, any(complete_batches(samples) for samples in self._samples()))

    def exec_batch(self, super_batch: int) -> Path:
        return self.root / f"optuna_exec_batch_{super_batch:04d}"

    def analysis(self, super_batch: int) -> Path:
        return self.exec_batch(super_batch) / _ANALYSIS

    def close_super_batch(self, super_batch: int) -> None:
        """Mark a super-batch whose last trial has ended."""
        mark = self.exec_batch(super_batch) / SUCCESS
        if not mark.exists():
            write_text(mark, "every trial has ended and is on disk\n")

    def has_analysis(self, super_batch: int) -> bool:
        """Return whether a super-batch's analysis is whole. Its `trials.csv` is written last."""
        return (self.analysis(super_batch) / _WRITTEN_LAST).exists()

    def analysed(self) -> int:
        """Return how many super-batches there are up to the last that was ever analysed."""
        found = (path.parent.name for path in self.root.glob("optuna_exec_batch_*/analysis"))
        return max(
            (int(name.removeprefix("optuna_exec_batch_")) + 1 for name in found if _EXEC_BATCH.fullmatch(name)),
            default=0,
        )

    def outdate_analyses(self, since: int) -> None:
        """Mark the analyses of super-batch `since` and all later ones as missing."""
        for super_batch in range(since, self.analysed()):
            (self.analysis(super_batch) / _WRITTEN_LAST).unlink(missing_ok=True)
            (self.exec_batch(super_batch) / SUCCESS).unlink(missing_ok=True)

    def name(self, batch: Path) -> str:
        """Return a batch's name, as it is in a trial's attribute `batch`."""
        return batch.relative_to(self.root).as_posix()

    def next_batch(self, super_batch: int, named: Collection[str]) -> Path:
        """Return the first free `samples/batch_NNNNN` of a super-batch, after all that exist or are `named`. It is not made.

        Raises FileNotFoundError if the study was moved or removed: writing would make its directory again.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.root))
        return next_batch(self.exec_batch(super_batch) / "samples", [self.root / name for name in named])

    def complete_batches(self) -> list[Path]:
        """Return every batch of the search whose files are all on disk, in order."""
        return [batch for samples in self._samples() for batch in complete_batches(samples)]

    def discard_incomplete(self, named: Collection[str]) -> None:
        """Remove temporary files and incomplete batches that a killed process left. The trials of those batches are run again.

        named: batches that the database has. They were complete once, so they stay.
        """
        for path in (path for folder in (*self._samples(), self.confirmation) for path in _batches(folder)):
            if not _is_complete(path) and self.name(path) not in named:
                log.info("%s was not complete; its trials are run again.", path)
                shutil.rmtree(path)
        for path in self.root.rglob(".*.tmp*"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def links(self) -> Iterator[Path]:
        """Yield the study's own directories that are links, without looking into the directories of a task's trials."""
        for directory, below, _ in os.walk(self.root):
            inside = os.path.relpath(directory, self.root)
            names = {name: os.path.normpath(os.path.join(inside, name)) for name in below}
            yield from (
                self.root / path
                for name, path in names.items()
                if os.path.islink(os.path.join(directory, name)) and _is_own_directory(path)
            )
            if os.path.basename(inside) == OWN_FILES:
                below.clear()

    def own(self, directory: Path, plots: Collection[str]) -> tuple[list[Path], list[Path]]:
        """Return the files and the directories that Hyperlax wrote in one of the study's own directories.

        A link counts as a file, and so does a temporary file that a killed process left. plots: the names of the plots' pages.
        """
        inside = "" if directory == self.root else directory.relative_to(self.root).as_posix()
        names = next(names for pattern, names in _OWN.items() if re.fullmatch(pattern, inside))
        files, directories = [], []
        for path in sorted(directory.iterdir()):
            is_own = _is_own_directory(path.relative_to(self.root).as_posix())
            if path.is_dir() and not path.is_symlink():
                directories += [path] if is_own else []
            elif (
                re.fullmatch(rf"{names}|{TEMPORARY.pattern}", path.name)
                or (is_own and path.is_symlink())
                or (path.name in plots and directory.name in (PLOTS_DIRECTORY, _ANALYSIS))
            ):
                files.append(path)
        return files, directories

    def _samples(self) -> list[Path]:
        """Return the directories that hold the batches of super-batches, in order."""
        return [
            path / "samples"
            for path in sorted(self.root.glob("optuna_exec_batch_*"))
            if _EXEC_BATCH.fullmatch(path.name)
        ]


def complete_batches(folder: Path) -> list[Path]:
    """Return the batches in a directory whose files are all on disk, in order."""
    return [path for path in _batches(folder) if _is_complete(path)]


def next_batch(folder: Path, named: Collection[Path] = ()) -> Path:
    """Return the first free `batch_NNNNN` in a directory, after all that exist or are `named`. It is not made."""
    taken = [*_batches(folder), *(path for path in named if path.parent == folder)]
    numbers = [int(path.name.removeprefix("batch_")) for path in taken]
    return folder / f"batch_{max(numbers, default=-1) + 1:05d}"


def _batches(folder: Path) -> list[Path]:
    """Return the batches in a directory by name, without other files that a user keeps there."""
    return sorted(path for path in folder.glob("batch_*") if _BATCH.fullmatch(path.name))


def _is_complete(batch: Path) -> bool:
    return (batch / SUCCESS).exists()


def _is_own_directory(name: str) -> bool:
    """Return whether Hyperlax makes a directory of this name, a path relative to the study's directory."""
    return any(re.fullmatch(pattern, name) for pattern in _OWN if pattern)


def study_directory(
    options: SearchOptions | PbtOptions, recipe: Recipe, planned: Mapping[Path, str] | None = None
) -> StudyDirectory:
    """Return the directory of the study of this name, existing or not.

    It is `<output root>/<recipe>/<environment>`, or `<environment>@<study name>` beside that if another study is there. A task has
    no environment: its study is in `<output root>/<recipe>`.

    planned: the names of studies that do not exist yet, by their directories.
    """
    first = kind_of(recipe).place(options.output_root, recipe.name, options.env_config)
    named = first.with_name(f"{first.name}@{options.study_name.replace('/', '_')}")
    holder = (planned or {}).get(first) or _name_of(first)
    is_own = holder in (None, options.study_name) and (is_too_long(named) or not StudyDirectory(named).holds_a_study())
    found = first if is_own else named
    if is_too_long(found):
        problem = "{study_name}: the directory {0} is longer than the system allows. Choose a shorter name."
        raise OptionError("study_name", problem, found)
    return StudyDirectory(found)


def _name_of(root: Path) -> str | None:
    """Return the name of the study in a directory; None if there is none, or it cannot be read."""
    try:
        return read_stored(root, "").study_name
    except UsageError:
        return None


def check_writable(directory: StudyDirectory) -> None:
    """Raise UsageError, before anything runs, if the directory or the database of a study may not be written.

    Nor may one of its directories be a link: what is written or removed there would be somewhere else.
    """
    for path in directory.links():
        raise UsageError(
            f"{path}: is a link, which a study does not write through. Replace it by the directory, or remove it."
        )
    with refusing_forbidden(directory.root), tempfile.TemporaryFile(dir=directory.root):
        pass
    database_file.check_writable(directory.database)


def make_directory(path: Path) -> None:
    """Make a directory for results. Raises UsageError if the system refuses it there, OSError if the disk is full."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        problem = "{output_root}: {0} cannot be made ({1}). Choose another directory."
        raise OptionError("output_root", problem, path, error.strerror) from error


@contextmanager
def only_one_process(root: Path, is_named: bool = True) -> Iterator[None]:
    """Lock the directory for this process.

    The system releases the lock when a process dies. Windows has no such lock.

    Args:
      root: The directory; it is made if it is missing.
      is_named: Whether to write this process's name into the lock's file, which needs room on the disk.

    Raises:
      UsageError: Another process holds the lock (the message names it), or the directory may not be written.
    """
    make_directory(root)
    if os.name == "nt":
        yield
        return
    with _locked(root) as file:
        if is_named:
            with naming(root / LOCK):
                file.truncate(0)
                os.pwrite(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        file.truncate(0)


def _locked(root: Path) -> BinaryIO:
    """Return the open, locked file of a directory. Waits for processes that only check the lock.

    `flock` by hand and not a package for locks: those know only exclusive locks, and truncate the file with the holder's name.
    """
    import fcntl

    path, until = root / LOCK, time.monotonic() + LOOK_SECONDS
    while True:
        refuse_running(root)
        with refusing_forbidden(path):
            file = open_regular(path, TO_WRITE | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass  # a process that deleted the study removed the file that was opened here
        except BlockingIOError as error:
            if time.monotonic() > until:
                file.close()
                raise StudyRunning(root, "") from error
        except OSError as error:
            log.warning("%s cannot be locked (%s): take care that no other process runs this study.", root, error)
            return file
        file.close()
        time.sleep(0.01)


def refuse_running(root: Path) -> None:
    """Raise UsageError, naming the process, if another one holds the directory. Writes nothing."""
    if (holder := holder_of(root)) is not None:
        raise StudyRunning(root, holder)


def holder_of(root: Path) -> str | None:
    """Return the description of the process that holds the directory, None if it is free. Writes nothing.

    Where the system cannot lock (some network file systems), the process that the file names counts as the holder while it lives
    on this machine.
    """
    if os.name == "nt":
        return None
    import fcntl

    try:
        with refusing_forbidden(root / LOCK), open_regular(root / LOCK, TO_READ) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _name_in(file)
            except OSError:
                return holder if _lives(holder := _name_in(file)) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"{root / LOCK}: cannot be read ({error.strerror}). Remove it if no process runs this study."
        ) from error
    return None


def _name_in(lock: BinaryIO) -> str:
    return lock.read(_MOST_OF_A_NAME).decode(errors="replace").strip()


class StudyRunning(UsageError):
    """A study that another process holds. root: its directory."""

    def __init__(self, root: Path, holder: str):
        self.root = root
        super().__init__(
            f"{root}: {holder or 'another process'} is running this study. Wait for it, or stop it and resume."
        )


def _lives(holder: str) -> bool:
    """Return whether the file's process lives on this machine."""
    found = re.fullmatch(r"process (\d+) on (.+)", holder)
    if not found or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
