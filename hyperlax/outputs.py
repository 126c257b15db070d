"""Files with what a process says: of a flood only its beginning and its end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path

from hyperlax.files import open_regular

OWN_FILES = "trials"
"""The directory of a study where each trial has one with its output, and with the files of its own code."""
MOST_BYTES = 2_000_000
"""Bytes that are kept of the beginning of a stream, and of its end."""
LAST_LINES = 15
"""Lines that are shown of a failed trial."""
_LAST_BYTES = 16_384


class BoundedFile:
    """A file that keeps the beginning of what is written, and its end, with a line between that says how much is left out.

    The end is written when the file is closed, if it does not follow the beginning. A full disk is no error of the trial.
    """

    def __init__(self, path: Path):
        self._file, self._room = path.open("wb", buffering=0), MOST_BYTES
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
        while self._end and self._held - len(self._end[0]) >= MOST_BYTES:
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


def run_file(directory: Path, index: int) -> Path:
    """Return the file with the id of the MLflow run of a trial's seed. directory: of the trial."""
    return directory / f"seed_{index}.mlflow.json"


def said_last(directory: Path, count: int) -> list[str]:
    """Return the last lines that a trial wrote to standard error, else to standard output; none if it wrote nothing."""
    for pattern in ("*.err.txt", "*.txt"):
        paths = sorted(directory.glob(pattern), key=lambda path: path.lstat().st_mtime, reverse=True)
        if lines := next((lines for path in paths if (lines := last_lines(path, count))), None):
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
