"""Measured costs of compiling and running on this machine, kept between studies beside the compiled programs.

The model of one iteration of a batch is  latency + runs (seconds_per_step steps + seconds_per_flop flops),  where `runs` is
lanes x seeds. Its three numbers are fitted to what was measured, drawn to the guesses below while little was.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
from msgspec import Meta

from hyperlax.errors import UsageError
from hyperlax.files import decode, write_json
from hyperlax.recipe import RunLength

log = logging.getLogger(__name__)

FILE = "costs.json"
_LAYOUT = "devices 1"
_KEPT = 40
LARGEST = 1e18
"""Upper bound of plausible steps, multiplications and seconds of a batch."""
_GUESSES = {"cpu": (1e-3, 2e-6, 1e-10), "other": (5e-3, 1e-9, 1e-12)}
"""Guesses before any measurement: latency, seconds per step, seconds per multiplication. `cpu` was measured with PPO on two cores
of a server, `other` is not measured at all."""
_GUESSED_COMPILE, _GUESSED_LOAD, _GUESSED_EPISODE = 15.0, 1.0, 1e-4
_KEPT_FOR_NOW = "Compiled programs are kept for this run only: %s cannot be written to"
_NOT_KEPT: set[Path] = set()
"""Directories of which `tell_not_kept` has told."""
_TRUST = 0.01
"""Weight of a guess against one measurement."""


_Measured = Annotated[float, Meta(ge=0, le=LARGEST)]


class _Kind(TypedDict, total=False):
    """Measurements of one kind of training. runs: the fields of `Load`, then seconds per iteration."""

    runs: list[tuple[_Measured, _Measured, _Measured, _Measured]]
    episodes: list[_Measured]
    compiles: list[_Measured]
    loads: list[_Measured]


class _Memory(TypedDict, total=False):
    """Measurements on one kind of device.

    programs: fingerprints of the programs in the persistent cache.
    """

    kinds: dict[str, _Kind]
    programs: list[str]


class Load(NamedTuple):
    """One iteration of a batch. runs: lanes x seeds; steps and flops: of one of them."""

    runs: int
    steps: int
    flops: float


@dataclass(frozen=True)
class Run:
    """Measurements of one batch. kind: algorithm and environment, e.g. "PPO gymnax.cartpole"."""

    kind: str
    load: Load
    train_seconds_per_iteration: float
    evaluate_seconds_per_episode: float


class Costs:
    """The cost records of one kind of device. path: their file; None keeps them in this process only. Thread-safe."""

    def __init__(self, device_kind: str, platform: str, path: Path | None):
        self._device, self._path = device_kind, path
        self._guess = np.array(_GUESSES.get(platform, _GUESSES["other"]))
        self._lock = threading.Lock()
        self._memory: dict[str, Any] = self._read().get(device_kind, {})
        self._fits: dict[str, np.ndarray] = {}

    def iteration_seconds(self, kind: str, load: Load) -> float:
        """Return the seconds of one iteration of a batch."""
        with self._lock:
            if kind not in self._fits:
                self._fits[kind] = _fit(self._of(kind, "runs"), self._guess)
            return float(_features(load) @ self._fits[kind])

    def episode_seconds(self, kind: str) -> float:
        """Return the seconds of one evaluation episode of one seed of one lane."""
        return self._typical(kind, "episodes", _GUESSED_EPISODE)

    def compile_seconds(self, kind: str) -> float:
        """Return the seconds for a program that was never compiled here."""
        return self._typical(kind, "compiles", _GUESSED_COMPILE)

    def load_seconds(self, kind: str) -> float:
        """Return the seconds for a program that is in the persistent cache."""
        return self._typical(kind, "loads", _GUESSED_LOAD)

    def has_runs(self, kind: str) -> bool:
        """Return whether a batch of this kind was measured."""
        with self._lock:
            return bool(self._of(kind, "runs"))

    def knows(self, program: str) -> bool:
        """Return whether a program with this fingerprint was compiled on this machine with its cache on."""
        with self._lock:
            return program in self._memory.get("programs", ())

    def learn_run(self, run: Run) -> None:
        """Record the measurements of a batch."""

        def update(memory: dict[str, Any]) -> None:
            of_kind = memory.setdefault("kinds", {}).setdefault(run.kind, {})
            _append(of_kind, "runs", [*run.load, run.train_seconds_per_iteration])
            _append(of_kind, "episodes", run.evaluate_seconds_per_episode)

        self._update(update)
        with self._lock:
            self._fits.pop(run.kind, None)

    def learn_program(self, kind: str, program: str, seconds: float, cached: bool) -> None:
        """Record that a program is in the persistent cache, and how long it took to compile or to load."""

        def update(memory: dict[str, Any]) -> None:
            of_kind = memory.setdefault("kinds", {}).setdefault(kind, {})
            _append(of_kind, "loads" if cached else "compiles", seconds)
            programs = memory.setdefault("programs", [])
            if program not in programs:
                programs.append(program)

        self._update(update)

    def _typical(self, kind: str, what: str, guess: float) -> float:
        with self._lock:
            known = self._of(kind, what)
        return statistics.median(known) if known else guess

    def _of(self, kind: str, what: str) -> list[Any]:
        return self._memory.get("kinds", {}).get(kind, {}).get(what, [])

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the records, also on disk. Read them again first, because another process may have written meanwhile."""
        with self._lock:
            if self._path is None:
                change(self._memory)
                return
            everything = self._read()
            self._memory = everything.setdefault(self._device, {})
            change(self._memory)
            try:
                write_json(self._path, {_LAYOUT: everything})
            except OSError as error:
                tell_not_kept(self._path.parent, error.strerror or str(error))
                self._path = None

    def _read(self) -> dict[str, Any]:
        """Return the file's content; {} if it is damaged, since everything in it can be measured again."""
        if self._path is None or not self._path.exists():
            return {}
        try:
            return decode(self._path, dict[str, dict[str, _Memory]], "Costs are measured again.")[_LAYOUT]
        except UsageError as error:
            log.warning("%s", error)
        except KeyError as error:
            log.warning("%s: cannot be read (no %s). Costs are measured again.", self._path, error)
        return {}


def tell_not_kept(directory: Path, reason: str, is_read: bool = False) -> None:
    """Log, once a process, that compiled programs and their costs cannot be written, or read."""
    if directory in _NOT_KEPT:
        return
    _NOT_KEPT.add(directory)
    told = "Programs are compiled again: not all in %s can be read" if is_read else _KEPT_FOR_NOW
    log.warning(f"{told} (%s). Set HYPERLAX_CACHE_DIR to another directory.", directory, reason)


def training_seconds(costs: Costs, kind: str, load: Load, run_length: RunLength) -> float:
    """Return the predicted seconds of one batch: training to the budget, and every evaluation."""
    iterations = -(-run_length.total_timesteps // load.steps)
    episodes = (run_length.num_evaluations + 1) * load.runs * run_length.num_eval_episodes
    return iterations * costs.iteration_seconds(kind, load) + episodes * costs.episode_seconds(kind)


def making_seconds(costs: Costs, kind: str, name: str) -> float:
    """Return the predicted seconds until a program is executable: loaded if it is on disk, else compiled."""
    return costs.load_seconds(kind) if costs.knows(name) else costs.compile_seconds(kind)


def fingerprint(*parts: Any) -> str:
    """Return a name for a program, the same in every process, from the texts of its parts."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _append(memory: dict[str, Any], what: str, value: Any) -> None:
    memory[what] = [*memory.get(what, []), value][-_KEPT:]


def _features(load: Load) -> np.ndarray:
    return np.array([1.0, load.runs * load.steps, load.runs * load.flops])


def _fit(runs: list[Any], guess: np.ndarray) -> np.ndarray:
    """Fit by least squares of relative errors. Guesses count as weak measurements; no result is below a twentieth of its guess."""
    rows = [_features(Load(*run[:3])) / run[3] for run in runs if run[3] > 0]
    matrix = np.array([*rows, *(np.diag(1 / guess) * np.sqrt(_TRUST))])
    wanted = np.array([1.0] * len(rows) + [np.sqrt(_TRUST)] * len(guess))
    return np.maximum(np.linalg.lstsq(matrix, wanted, rcond=None)[0], guess / 20)
