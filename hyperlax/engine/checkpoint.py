"""Sessions saved in the middle of their training: one file each, of arrays and their metadata in JSON. Numpy only.

A file is numpy's `.npz` without pickles, whose checksums tell a damaged one.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from hyperlax.errors import in_one_line, in_sentence, numbered
from hyperlax.files import convert, make_directories, open_regular, refuse_moved, remove, replacing
from hyperlax.outputs import directory_of

log = logging.getLogger(__name__)

_METADATA, _ARRAYS = "metadata", "arrays"
_LARGEST_SHARE = 0.1
"""Maximum share of the training time that is spent on saving."""
_BATCH = re.compile(r"trial_\d+\.npz")
_POOL = re.compile(r"pool_(?:([\w-]+)_)?\d+\.npz")
FILES = rf"{_BATCH.pattern}|{_POOL.pattern}"
"""The names of all files of saved sessions, as a pattern."""


@dataclass(frozen=True)
class Metadata:
    """The description of a saved session.

    trials: their numbers in the order of the lanes. identity: everything, by name, that must be equal for training to continue to
    the same bits. segments: number of segments done. timing: the entries of its `timing.json` so far.
    """

    trials: Annotated[tuple[int, ...], Meta(min_length=1)]
    identity: dict[str, Any]
    segments: int
    timing: dict[str, float]

    def is_compatible(self, identity: Mapping[str, Any]) -> bool:
        """Return whether training with this identity continues to the same bits. If not, log the reason."""
        differing = [name for name in identity if identity[name] != self.identity.get(name)]
        if differing:
            name, was, now = differing[0], self.identity.get(differing[0]), identity[differing[0]]
            log_restart(self.trials, f"saved with {name} {was}, now it is {now}")
        return not differing

    def only(self, trials: Sequence[int]) -> Metadata:
        """Return the description of some of its trials."""
        of_each = dict(zip(self.trials, self.identity["hyperparameters"], strict=True))
        identity = {**self.identity, "hyperparameters": [of_each[trial] for trial in trials]}
        return replace(self, trials=tuple(trials), identity=identity)


def log_restart(trials: Sequence[int], why: str) -> None:
    """Log that saved trials restart from the beginning, and why."""
    log.warning("%s from the beginning: %s.", in_sentence(numbered(trials, "restart")), why)


class SaveTimer:
    """The time of the next save. seconds: minimum between two saves; after a slow save the next one waits longer."""

    def __init__(self, seconds: float):
        self._seconds, self._due = seconds, time.monotonic() + seconds

    def is_due(self) -> bool:
        """Return whether it is time to save again."""
        return time.monotonic() >= self._due

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Time the save in the block, and schedule the next one."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self._due = now + (self._seconds and max(self._seconds, (now - began) / _LARGEST_SHARE))


class CheckpointManager:
    """The saved sessions of one study.

    seconds: minimum time between two saves of a batch; 0 saves at every opportunity. A batch of trials that train to their end has
    its own file. Lanes that are refilled are saved together, those of each agent apart.
    """

    _owner = ""

    def __init__(self, directory: Path, seconds: float):
        self._directory, self.seconds = directory, seconds

    def owned_by(self, agent: str) -> CheckpointManager:
        """Return one that replaces the saved lanes of an agent only."""
        owned = copy.copy(self)
        owned._owner = agent
        return owned

    def load_batch(self, trials: Sequence[int]) -> tuple[Metadata, dict[str, np.ndarray]] | None:
        """Return the last save of the batch that begins with the first of these trials; None if there is none.

        Log a file that cannot be read, and return None.
        """
        path = self._path(trials)
        return _load(path) if path.exists() else None

    def save_batch(self, metadata: Metadata, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the last save of a batch atomically. If the disk fails, log the error, and training continues."""
        _write(self._path(metadata.trials), metadata, arrays)

    def batches(self) -> list[Metadata]:
        """Return the metadata of every saved batch, ordered by first trial. Log files that cannot be read."""
        return _read_all(self._paths("trial", _BATCH))

    def pools(self) -> Iterator[tuple[Metadata, dict[str, np.ndarray]]]:
        """Yield the saved sessions of refilled lanes, the latest of agents first. Log files that cannot be read."""
        for path in sorted(self._pools(), key=_age):
            if (found := _load(path)) is not None:
                yield found

    def save_pools(self, states: Sequence[tuple[Metadata, Mapping[str, np.ndarray]]]) -> None:
        """Replace the saved sessions of refilled lanes, one file after another. Without an owner, replace those of all agents."""
        prefix = f"pool_{self._owner}_" if self._owner else "pool_"
        paths = [self._directory / f"{prefix}{index:03d}.npz" for index in range(len(states))]
        for path, (metadata, arrays) in zip(paths, states, strict=True):
            _write(path, metadata, arrays)
        for path in self._pools():
            if path not in paths and (not self._owner or _owner(path) == self._owner):
                _remove(path)
        if self._owner and not states:
            self._remove_if_empty()

    def prune_pools(self, agents: Collection[str], trials: Collection[int]) -> None:
        """Remove the saved lanes of all agents but these, unless they hold one of these trials."""
        for path in self._pools():
            if (owner := _owner(path)) and owner not in agents:
                with _logging_damage(path):
                    if not set(_read(path).trials).isdisjoint(trials):
                        continue
                _remove(path)

    def own_directory(self, trial: int) -> Path:
        """Make and return the directory where a trial's own code keeps files. It stays when the trial has ended."""
        own = directory_of(self._directory.parent, trial)
        make_directories(own)
        return own

    def saved_trials(self) -> int:
        """Return how many trials are saved in the middle of their training."""
        paths = [*self._paths("trial", _BATCH), *self._pools()]
        return sum(len(metadata.trials) for metadata in _read_all(paths))

    def prune(self, trials: tuple[int, ...]) -> None:
        """Remove saved batches that hold any of these trials, except the batch of exactly these."""
        self._remove(trials, but=trials)

    def forget(self, trials: Collection[int]) -> None:
        """Remove every saved batch that holds any of these trials."""
        self._remove(trials, but=())

    def tidy(self) -> None:
        """Remove the directory if nothing is saved. Do not call this during training: a save may be about to use it.

        An agent that was killed may have left a half-written file.
        """
        for path in self._directory.glob(".*.tmp"):
            _remove(path)
        self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):  # not there, or not empty
            refuse_moved(self._directory)
            self._directory.rmdir()

    def _remove(self, trials: Collection[int], but: tuple[int, ...]) -> None:
        for path in self._paths("trial", _BATCH):
            held: tuple[int, ...] = (int(path.stem.removeprefix("trial_")),)
            with contextlib.suppress(Exception):
                held = _read(path).trials
            if held != but and not set(held).isdisjoint(trials):
                remove(path)

    def _path(self, trials: Sequence[int]) -> Path:
        return self._directory / f"trial_{trials[0]:05d}.npz"

    def _pools(self) -> list[Path]:
        return self._paths("pool", _POOL)

    def _paths(self, kind: str, name: re.Pattern[str]) -> list[Path]:
        return sorted(path for path in self._directory.glob(f"{kind}_*.npz") if name.fullmatch(path.name))


def _owner(path: Path) -> str:
    """Return the agent of saved lanes, "" if there is none."""
    found = _POOL.fullmatch(path.name)
    return found[1] or "" if found else ""


def _age(path: Path) -> tuple[bool, float, str]:
    """Return a key that orders saved lanes: those of agents first, the latest before the others."""
    with contextlib.suppress(OSError):
        return (False, -path.stat().st_mtime, path.name) if _owner(path) else (True, 0.0, path.name)
    return True, 0.0, path.name


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        remove(path)


def _write(path: Path, metadata: Metadata, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace a file atomically. Log an error of the disk instead of raising it; that the study is gone is said elsewhere."""
    described = json.dumps({**asdict(metadata), _ARRAYS: list(arrays)})
    named: dict[str, Any] = {_METADATA: np.frombuffer(described.encode(), np.uint8), **arrays}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **named)
    except OSError as error:
        level = logging.DEBUG if isinstance(error, FileNotFoundError) else logging.WARNING
        log.log(level, "%s cannot be written (%s): training continues.", path, error.strerror)


def _load(path: Path) -> tuple[Metadata, dict[str, np.ndarray]] | None:
    """Return the content of a file; None if it cannot be read, which is logged."""
    with _logging_damage(path), open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
        metadata, names = _metadata(stored)
        return metadata, {name: stored[name] for name in names}
    return None


def _read_all(paths: Sequence[Path]) -> list[Metadata]:
    found = []
    for path in paths:
        with _logging_damage(path):
            found.append(_read(path))
    return found


def _read(path: Path) -> Metadata:
    with open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
        return _metadata(stored)[0]


def _metadata(stored: Mapping[str, np.ndarray]) -> tuple[Metadata, list[str]]:
    """Return the metadata of an open file, and the names of its arrays. A file without metadata may raise any exception."""
    values = json.loads(stored[_METADATA].tobytes())
    names = values.pop(_ARRAYS)
    return convert(values, Metadata, "its metadata"), list(names)


@contextlib.contextmanager
def _logging_damage(path: Path) -> Iterator[None]:
    """Log any exception that the block raises while it reads a damaged file."""
    try:
        yield
    except Exception as error:
        log.warning("%s cannot be read (%s): its trials restart from the beginning.", path, in_one_line(error))
