"""Batches that are complete on disk and that the database does not know."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hyperlax.study.amendments import Amendments
from hyperlax.study.batch_files import trials_of
from hyperlax.study.directory import StudyDirectory


def untold_trials(directory: StudyDirectory, told: Collection[str]) -> dict[int, Path]:
    """Trials that have ended by what is on disk, with their batches, of `untold_batches`."""
    amendments = Amendments(directory.amendments)
    return {
        number: path
        for path in untold_batches(directory, amendments, told)
        for number in trials_of(path)
        if not amendments.is_retried(number, directory.name(path))
    }


def untold_batches(directory: StudyDirectory, amendments: Amendments, told: Collection[str]) -> list[Path]:
    """The complete batches that no trial names, but for those of which nothing counts: all their trials were run again.

    told: what trials name. A batch that one of them names was told whole, and its files are not needed. Raises DamagedBatch.
    """
    named = ((path, directory.name(path)) for path in directory.complete_batches())
    untold = [(path, name) for path, name in named if name not in told]
    return [path for path, name in untold if not all(amendments.is_retried(n, name) for n in trials_of(path))]
