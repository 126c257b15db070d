"""Files with what a process says: of a flood only its beginning and its end."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperlax.files import open_regular

OWN_FILES = "trials"
"""The directory of a study where each trial has one with the files of its own code, and with its output while it trains."""
KEPT_OUTPUT = r"trial_\d+\.(output|seed_\d+\.(out|err))\.txt"
"""The names of the outputs in the directory of a batch."""
_MOST_BYTES = 2_000_000
"""Bytes that are kept of the beginning of a stream, and of its end."""
_LAST_LINES = 15
"""Lines that are shown of a failed trial."""
_LAST_BYTES = 16_384


class BoundedFile:
    """A file that keeps the beginning of what is written, and its end, with a line between that says how much is left out.

    The end is written when the file is closed, if it does not follow the beginning. A full disk does not fail the trial.
    """

    def __init__(self, path: Path):
        self._file, self._room = path.open("wb", buffering=0), _MOST_BYTES
        self._end: deque[bytes] = deque()
        self._held = self._left_out = 0

    def write(self, block: bytes) -> None:
        """Add a block of bytes."""
        first, rest = block[: self._room], block[self._room :]
        self._room -= len(first)
        with suppress(OSError):
            self._file.write(first)
        if rest:
            self._end.append(rest)
            self._held += len(rest)
        while self._end and self._held - len(self._end[0]) >= _MOST_BYTES:
            dropped = len(self._end.popleft())
            self._held, self._left_out = self._held - dropped, self._left_out + dropped

    def close(self) -> None:
        """Write the end."""
        with suppress(OSError), self._file:
            if self._left_out:
                self._file.write(f"\n... {self._left_out:,} bytes are left out here ...\n".encode())
            self._file.writelines(self._end)


def directory_of(root: Path, trial: int) -> Path:
    """Return the directory of a trial's own files, of the study in `root`."""
    return root / OWN_FILES / f"trial_{trial:05d}"


def study_of(directory: Path) -> Path:
    """Return the directory of the study in which `directory` is that of a trial's own files."""
    return directory.parents[1]


def run_file(directory: Path, index: int) -> Path:
    """Return the file with the id of the MLflow run of a trial's seed. directory: of the trial."""
    return directory / f"seed_{index}.mlflow.json"


def points_file(directory: Path, index: int) -> Path:
    """Return the file with the reports of a seed while its trial has not ended. directory: of the trial."""
    return directory / f"seed_{index}.jsonl"


@contextmanager
def moving_outputs(root: Path, trials: Collection[int], batch: Path) -> Iterator[None]:
    """Move the outputs of trials into the directory of their batch. They are in both while the block marks it as complete.

    So an interruption loses none, and a trial that is retried does not write over them. It does not find the reports of its failed
    try either. root: has the directories of trials.
    """
    directories = [directory_of(root, number) for number in trials]
    found = [path for directory in directories for path in directory.glob("*.txt") if not path.is_symlink()]
    moved = {path: batch / f"{path.parent.name}.{path.name}" for path in found}
    for path, to in moved.items():
        with suppress(OSError):  # not every file system has links
            os.link(path, to)
    yield
    for path, to in moved.items():
        with suppress(OSError):
            path.unlink() if to.exists() else path.replace(to)
    for path in [path for directory in directories for path in directory.glob("seed_*[0-9].jsonl")]:
        with suppress(OSError):
            path.unlink()


def said_last(root: Path, trial: int, batch: Path | None) -> list[str]:
    """Return the last lines that a trial wrote to standard error, else to standard output; none if it wrote nothing.

    batch: the directory of its batch, if it has one.
    """
    own = directory_of(root, trial)
    found = [*own.glob("*.txt"), *(batch.glob(f"{own.name}.*.txt") if batch else ())]
    found.sort(key=lambda path: path.lstat().st_mtime, reverse=True)
    for ending in (".err.txt", ".txt"):
        paths = (path for path in found if path.name.endswith(ending))
        if lines := next((lines for path in paths if (lines := last_lines(path, _LAST_LINES))), None):
            return lines
    return []


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a file that are not blank; none if it cannot be read."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [
        "".join(c if c.isprintable() else " " for c in line.rstrip("\r").rpartition("\r")[2]).rstrip()
        for line in text.split("\n")
    ]
    return [line for line in lines if line][-count:]
