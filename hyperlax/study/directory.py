"""Where a study's files are, and which of its batches are complete."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.envs import slug
from hyperlax.errors import UsageError
from hyperlax.files import naming, write_text
from hyperlax.recipe import Recipe
from hyperlax.study import database
from hyperlax.study.refusals import FULL, refusing_what_is_forbidden

log = logging.getLogger(__name__)

SUCCESS = "success.txt"
LOCK = ".lock"
SAMPLES = "samples.csv"
TEMPORARY = re.compile(r"\.[^/]+\.\d+\.\d+\.tmp(-journal)?")
"""A name that `files.replacing` writes to first."""
LOOK_SECONDS = 1.0
"""For so long a process that starts waits for those that only look whether one runs."""
_WRITTEN_LAST = "trials.csv"
_EXEC_BATCH = re.compile(r"optuna_exec_batch_\d+")
BATCH = re.compile(r"batch_\d+")


class StudyDirectory:
    """The paths of a study below its root, `<output root>/<recipe>/<environment>`."""

    def __init__(self, root: Path):
        self.root = root
        self.manifest = root / "study.json"
        self.file = root / "study.yaml"
        self.database = root / "optuna_study.db"
        self.backup = root / "optuna_study.db.backup"
        self.samples = root / SAMPLES
        self.journal = root / "journal.jsonl"
        self.checkpoints = root / "checkpoints"
        self.confirmation = root / "confirmation"
        self.report = root / "report.html"

    def holds_a_study(self) -> bool:
        return self.manifest.exists() or self.database.exists()

    def check_database(self, study_name: str, is_population: bool = False) -> None:
        """Refuse a database that is damaged, gone, or of something else; see `database.check`. A population's has no repair."""
        try:
            database.check(self.database, study_name, has_batches=bool(self.complete_batches()))
        except database.Damaged as damaged:
            if not is_population:
                raise
            advice = (
                "That of a population cannot be rebuilt: put a copy back, or start anew with another --output-root."
            )
            raise database.Damaged(damaged.path, damaged.why, advice) from damaged

    def exec_batch(self, super_batch: int) -> Path:
        return self.root / f"optuna_exec_batch_{super_batch:04d}"

    def analysis(self, super_batch: int) -> Path:
        return self.exec_batch(super_batch) / "analysis"

    def close_super_batch(self, super_batch: int) -> None:
        """Mark a super-batch whose last trial has ended."""
        mark = self.exec_batch(super_batch) / SUCCESS
        if not mark.exists():
            write_text(mark, "every trial has ended and is on disk\n")

    def has_analysis(self, super_batch: int) -> bool:
        """Whether a super-batch's analysis is whole: `trials.csv` is written last."""
        return (self.analysis(super_batch) / _WRITTEN_LAST).exists()

    def analysed(self) -> int:
        """How many super-batches there are up to the last that was ever analysed."""
        found = (path.parent.name for path in self.root.glob("optuna_exec_batch_*/analysis"))
        return max(
            (int(name.removeprefix("optuna_exec_batch_")) + 1 for name in found if _EXEC_BATCH.fullmatch(name)),
            default=0,
        )

    def outdate_analyses(self, since: int) -> None:
        """Have the analyses of super-batches from `since` on count as missing."""
        for super_batch in range(since, self.analysed()):
            (self.analysis(super_batch) / _WRITTEN_LAST).unlink(missing_ok=True)
            (self.exec_batch(super_batch) / SUCCESS).unlink(missing_ok=True)

    def name(self, batch: Path) -> str:
        """A batch as a trial's attribute `batch` names it."""
        return batch.relative_to(self.root).as_posix()

    def next_batch(self, super_batch: int, named: Collection[str]) -> Path:
        """The first `samples/batch_NNNNN` of a super-batch after those that are there or `named`; not made yet."""
        samples = self.exec_batch(super_batch) / "samples"
        taken = [*samples.glob("batch_*"), *(path for path in map(self.root.joinpath, named) if path.parent == samples)]
        numbers = [int(path.name.removeprefix("batch_")) for path in taken if BATCH.fullmatch(path.name)]
        return samples / f"batch_{max(numbers, default=-1) + 1:05d}"

    def complete_batches(self) -> list[Path]:
        """Every batch whose files are all on disk, in order."""
        return [path for path in self._batches() if (path / SUCCESS).exists()]

    def discard_incomplete(self, named: Collection[str]) -> None:
        """Remove what was being written when a process died: temporary files, and batches, whose trials are run again.

        named: batches that the database has; they were complete, whatever became of them since.
        """
        for path in self._batches():
            if not (path / SUCCESS).exists() and self.name(path) not in named:
                log.info("%s was not complete; its trials are run again.", path)
                shutil.rmtree(path)
        for path in self.root.rglob(".*.tmp*"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _batches(self) -> list[Path]:
        """Batches by name; what else a user keeps there is none of this study's."""
        found = self.root.glob("optuna_exec_batch_*/samples/batch_*")
        return sorted(
            path for path in found if BATCH.fullmatch(path.name) and _EXEC_BATCH.fullmatch(path.parent.parent.name)
        )


def study_directory(arguments: SearchOptions | PbtOptions, recipe: Recipe) -> StudyDirectory:
    """Where a new study goes."""
    return StudyDirectory(Path(arguments.output_root) / recipe.name / slug(arguments.env_config))


def check_writable(directory: StudyDirectory) -> None:
    """UsageError, before anything runs, if the directory or the database of a study may not be written."""
    with refusing_what_is_forbidden(directory.root), tempfile.TemporaryFile(dir=directory.root):
        pass
    database.check_writable(directory.database)


def make_directory(path: Path) -> None:
    """Make a directory for results. UsageError if the system will not have it there; OSError if there is no room for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UsageError(
            f"--output-root: {path} cannot be made ({error.strerror}). Choose another directory."
        ) from error


@contextmanager
def only_one_process(root: Path, is_named: bool = True) -> Iterator[None]:
    """Hold the directory for this process. UsageError, naming the other one, if another does, or if nothing may be written.

    The system lets go when a process dies, so what a dead one left is taken over. Where it cannot lock (some network file
    systems), a process that the file names is believed while it lives on this machine. is_named: the file names this process, for
    which the disk needs room.
    """
    make_directory(root)
    if os.name == "nt":
        yield
        return
    descriptor = _lock(root)
    try:
        if is_named:
            with naming(root / LOCK):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(root: Path) -> int:
    """The open file by which this process holds a directory. UsageError if another one does."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        with refusing_what_is_forbidden(root / LOCK):
            descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            if _is_locked(descriptor, root, holder):
                return descriptor
            if time.monotonic() > until:
                raise _held(root, holder)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.01)


def _is_locked(descriptor: int, root: Path, holder: str) -> bool:
    """Lock an open file. False if another try may do better: some process looks at it, or has just deleted it.

    UsageError if another process runs the study: it alone keeps others from sharing the lock.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(root, holder) from error
        return False
    except OSError as error:
        if _lives(holder):
            raise _held(root, holder) from error
        log.warning("%s cannot be locked (%s): take care that no other process runs this study.", root, error)
        return True
    return _is_there(descriptor, root / LOCK)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def refuse_running(root: Path) -> None:
    """UsageError, naming it, if another process holds the directory; nothing is written."""
    if (holder := holder_of(root)) is not None:
        raise _held(root, holder)


def holder_of(root: Path) -> str | None:
    """What a process that holds the directory says of itself, None if none does; nothing is written."""
    if os.name == "nt":
        return None
    import fcntl

    with refusing_what_is_forbidden(root):
        exists = (root / LOCK).exists()
    if not exists:
        return None
    with refusing_what_is_forbidden(root / LOCK), (root / LOCK).open(encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
        except OSError:
            return None
    return None


def _held(root: Path, holder: str) -> UsageError:
    return UsageError(
        f"{root}: {holder or 'another process'} is running this study. Wait for it, or stop it and resume."
    )


def _lives(holder: str) -> bool:
    """Whether the file's process is one of this machine and alive."""
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
