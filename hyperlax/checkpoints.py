"""Batches saved in the middle of their training: one file each, of arrays and a head in JSON. Numpy only.

A file is numpy's `.npz` without pickles, whose checksums tell a damaged one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from hyperlax.files import convert, replacing

log = logging.getLogger(__name__)

HEAD, ARRAYS = "head", "arrays"
LARGEST_SHARE = 0.1
"""Of the time that may go into saving: after a slow save the next one waits longer."""
_NAME = re.compile(r"trial_\d+\.npz")
_POOL = re.compile(r"pool_\d+\.npz")


@dataclass(frozen=True)
class Head:
    """What a saved batch is.

    trials: their numbers in the order of the lanes. identity: by name, all that must be equal where it goes on to the same
    bits. segments: how many are done. timing: what its `timing.json` would say so far.
    """

    trials: Annotated[tuple[int, ...], Meta(min_length=1)]
    identity: dict[str, Any]
    segments: int
    timing: dict[str, float]

    def goes_on(self, identity: Mapping[str, Any]) -> bool:
        """Whether it goes on to the same bits as what has this identity now; why not is logged."""
        differing = [name for name in identity if identity[name] != self.identity.get(name)]
        if differing:
            name, trials = differing[0], ", ".join(map(str, self.trials))
            was, now = self.identity.get(name), identity[name]
            log.warning("Trials %s begin anew: they were saved with %s %s, now it is %s.", trials, name, was, now)
        return not differing


class Checkpoint:
    """The file of one batch. seconds: the least time between two saves; 0 saves whenever there is something to save."""

    def __init__(self, path: Path, seconds: float):
        self._path, self._seconds = path, seconds
        self._due = time.monotonic() + seconds

    def is_due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() >= self._due

    def load(self) -> tuple[Head, dict[str, np.ndarray]] | None:
        """What was last saved; None if nothing was, or if it cannot be read, which is logged."""
        if not self._path.exists():
            return None
        with _logging_damage(self._path), np.load(self._path, allow_pickle=False) as stored:
            head, names = _head(stored)
            return head, {name: stored[name] for name in names}
        return None

    def save(self, head: Head, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace what was saved, atomically. Where the disk will not have it, that is logged, and training goes on without."""
        began = time.monotonic()
        described = json.dumps({**asdict(head), ARRAYS: list(arrays)})
        named: dict[str, Any] = {HEAD: np.frombuffer(described.encode(), np.uint8), **arrays}
        try:
            with replacing(self._path) as temporary, temporary.open("wb") as file:
                np.savez(file, **named)
        except OSError as error:
            log.warning("%s cannot be written (%s): training goes on.", self._path, error.strerror)
        now = time.monotonic()
        self._due = now + (self._seconds and max(self._seconds, (now - began) / LARGEST_SHARE))


class Checkpoints:
    """The saved batches of one study. seconds: see `Checkpoint`."""

    def __init__(self, directory: Path, seconds: float):
        self._directory, self._seconds = directory, seconds
        self._pools_due = time.monotonic() + seconds

    def of(self, trials: Sequence[int]) -> Checkpoint:
        """The file of a batch of these trials, which is there or not."""
        return Checkpoint(self._directory / f"trial_{trials[0]:05d}.npz", self._seconds)

    def pools(self) -> Iterator[tuple[Head, dict[str, np.ndarray]]]:
        """What was saved of every pool; one that cannot be read is logged."""
        for path in self._pool_paths():
            found = Checkpoint(path, self._seconds).load()
            if found is not None:
                yield found

    def saved_trials(self) -> int:
        """How many trials are saved in the middle of their training."""
        return sum(len(head.trials) for head in _heads([*self._paths(), *self._pool_paths()]))

    def are_pools_due(self) -> bool:
        """Whether it is time to save all pools again."""
        return time.monotonic() >= self._pools_due

    def save_pools(self, states: Sequence[tuple[Head, Mapping[str, np.ndarray]]]) -> None:
        """Replace what was saved of the pools, one file after another."""
        began = time.monotonic()
        for index, (head, arrays) in enumerate(states):
            Checkpoint(self._directory / f"pool_{index:03d}.npz", self._seconds).save(head, arrays)
        for path in self._pool_paths()[len(states) :]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        now = time.monotonic()
        self._pools_due = now + (self._seconds and max(self._seconds, (now - began) / LARGEST_SHARE))

    def heads(self) -> list[Head]:
        """Of every saved batch, in the order of their first trials; one that cannot be read is logged."""
        return _heads(self._paths())

    def keep_only(self, trials: tuple[int, ...]) -> None:
        """Remove what was saved of these trials in batches of other composition: they begin anew in this one."""
        self._remove(trials, but=trials)

    def forget(self, trials: Collection[int]) -> None:
        """Remove every saved batch that holds any of these trials."""
        self._remove(trials, but=())

    def tidy(self) -> None:
        """Remove the directory if nothing is saved. Not while anything trains: a save may be about to use it."""
        with contextlib.suppress(OSError):  # not there, or not empty
            self._directory.rmdir()

    def _remove(self, trials: Collection[int], but: tuple[int, ...]) -> None:
        for path in self._paths():
            held: tuple[int, ...] = (int(path.stem.removeprefix("trial_")),)
            with contextlib.suppress(Exception):
                held = _read_head(path).trials
            if held != but and not set(held).isdisjoint(trials):
                path.unlink(missing_ok=True)

    def _pool_paths(self) -> list[Path]:
        return sorted(path for path in self._directory.glob("pool_*.npz") if _POOL.fullmatch(path.name))

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._directory.glob("trial_*.npz") if _NAME.fullmatch(path.name))


def _heads(paths: Sequence[Path]) -> list[Head]:
    """Of files in order; one that cannot be read is logged."""
    heads = []
    for path in paths:
        with _logging_damage(path):
            heads.append(_read_head(path))
    return heads


def _read_head(path: Path) -> Head:
    with np.load(path, allow_pickle=False) as stored:
        return _head(stored)[0]


def _head(stored: Mapping[str, np.ndarray]) -> tuple[Head, list[str]]:
    """The head of an open file, and the names of the arrays that were saved with it. Raises anything if it is none."""
    values = json.loads(stored[HEAD].tobytes())
    names = values.pop(ARRAYS)
    return convert(values, Head, "its head"), list(names)


@contextlib.contextmanager
def _logging_damage(path: Path) -> Iterator[None]:
    """What a file that is not as it was written may raise is anything: its trials begin anew, which is logged."""
    try:
        yield
    except Exception as error:
        log.warning("%s cannot be read (%s): its trials begin anew.", path, " ".join(str(error).split()))
