"""Where a study's files are, and which of its batches are complete."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperlax.errors import UsageError

log = logging.getLogger(__name__)

SUCCESS = "success.txt"
_BATCH = re.compile(r"batch_\d+")


class StudyDirectory:
    """The paths of a study below its root, `<output root>/<recipe>/<environment>`."""

    def __init__(self, root: Path):
        self.root = root
        self.manifest = root / "study.json"
        self.database = root / "optuna_study.db"
        self.report = root / "report.html"

    def holds_a_study(self) -> bool:
        return self.manifest.exists() or self.database.exists()

    def exec_batch(self, super_batch: int) -> Path:
        return self.root / f"optuna_exec_batch_{super_batch:04d}"

    def analysis(self, super_batch: int) -> Path:
        return self.exec_batch(super_batch) / "analysis"

    def next_batch(self, super_batch: int) -> Path:
        """The first free `samples/batch_NNNNN` of a super-batch; not made yet."""
        samples = self.exec_batch(super_batch) / "samples"
        taken = [
            int(path.name.removeprefix("batch_")) for path in samples.glob("batch_*") if _BATCH.fullmatch(path.name)
        ]
        return samples / f"batch_{max(taken, default=-1) + 1:05d}"

    def complete_batches(self) -> list[Path]:
        """Every batch whose files are all on disk, in order."""
        return [path for path in self._batches() if (path / SUCCESS).exists()]

    def discard_incomplete(self) -> None:
        """Remove the batches that were being written when a process died; their trials are run again."""
        for path in self._batches():
            if not (path / SUCCESS).exists():
                log.info("%s was not complete; its trials are run again.", path)
                shutil.rmtree(path)

    def _batches(self) -> list[Path]:
        """Batches by name; what else a user keeps there is none of this study's."""
        found = self.root.glob("optuna_exec_batch_*/samples/batch_*")
        return sorted(path for path in found if _BATCH.fullmatch(path.name))


def make_directory(path: Path) -> None:
    """Make a directory for results. UsageError if the system will not have it there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output-root: {path} cannot be made ({error.strerror}). Choose another directory."
        ) from error


@contextmanager
def only_one_process(root: Path) -> Iterator[None]:
    """Hold the directory for this process. UsageError if another one does; the system lets go when a process dies."""
    make_directory(root)
    if os.name == "nt":
        yield
        return
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{root}: another process is running this study. Wait for it, or stop it and resume."
            ) from error
        except OSError as error:
            log.warning("%s cannot be locked (%s): take care that no other process runs this study.", root, error)
        yield
    finally:
        os.close(descriptor)
