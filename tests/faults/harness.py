"""Kills a study with SIGKILL at random moments until it has died often enough, lets it end, and compares it with another."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.desk import rows, told

Run = Callable[[Path, float], tuple[int, str]]
"""Start or resume the study of an output root, and kill it after so many seconds; its exit code, and its errors."""
TOY = Path("sac_test", "gymnax_pendulum")
TEMPORARY = re.compile(r"\..*\.tmp")


class Differences(NamedTuple):
    """Trials of a killed study that are missing, were recorded twice, or differ from those of the undisturbed study."""

    trials: int
    lost: int
    twice: int
    unequal: int


def commands(words: Callable[[Path], Sequence[str]]) -> Run:
    """Runs a command, which is made of an output root."""

    def run(root: Path, patience: float) -> tuple[int, str]:
        with subprocess.Popen(words(root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                _, errors = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
        return process.returncode, errors

    return run


def kill_often(run: Run, below: Path, scratch: Path, kills: int, seed: int) -> list[Differences]:
    """Kill studies, one after another, until there were so many kills; how each differs from an undisturbed one.

    below: where in the output root the study is. scratch: gets the undisturbed one as `whole`, the others as `killed_0` and so on.
    Every study is killed at random moments, at first between 0.05 and 0.7 of the least time that an undisturbed one took, later
    a little more at each death, until it is done.
    """
    draw, died, found = random.Random(seed), 0, list[Differences]()
    whole = scratch / "whole"
    began = time.monotonic()
    _until_it_ends(run, whole, whole / below, 0, 0.0, draw)
    longest = time.monotonic() - began
    while died < kills:
        root, began = scratch / f"killed_{len(found)}", time.monotonic()
        deaths = _until_it_ends(run, root, root / below, kills - died, longest, draw)
        longest = longest if deaths else min(longest, time.monotonic() - began)
        died += deaths
        check_files(root / below)
        found.append(differences(root / below, whole / below))
    return found


def _until_it_ends(run: Run, root: Path, directory: Path, kills: int, longest: float, draw: random.Random) -> int:
    """Start a study again and again, killing it each time but at most so often; how often it died.

    AssertionError if a batch that was complete at one death is not the same later, or a process fails by itself.
    """
    died, complete = 0, dict[str, str]()
    while True:
        slack = 1 + died / 8  # the machine may be busier than it was
        patience = draw.uniform(0.05, 0.7) * longest * slack if died < kills else 600
        code, errors = run(root, patience)
        now = complete_batches(directory)
        assert complete.items() <= now.items(), "a batch that was complete has changed"
        complete = now
        if code != -signal.SIGKILL:
            assert code == 0, errors[-3000:]
            return died
        died += 1


def complete_batches(directory: Path) -> dict[str, str]:
    """Path -> digest of every file in a batch that is complete."""
    files = [path for batch in _batches(directory) for path in batch.iterdir()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _batches(directory: Path) -> list[Path]:
    """The complete batches of the search and of the confirmation."""
    kinds = ("optuna_exec_batch_*/samples/batch_*", "confirmation/batch_*")
    return sorted(path.parent for kind in kinds for path in directory.glob(f"{kind}/success.txt"))


def differences(directory: Path, whole: Path) -> Differences:
    """Compare a study that was killed with one that was not."""
    survived, uninterrupted = ({trial[0]: trial for trial in told(one)} for one in (directory, whole))
    finished = {number for number, trial in survived.items() if trial[1] in ("COMPLETE", "FAIL", "PRUNED")}
    trained = [
        (batch.parent.name == "confirmation", row["trial"])
        for batch in _batches(directory)
        for row in rows(batch / "summary.csv")
    ]
    return Differences(
        trials=len(uninterrupted),
        lost=len(uninterrupted.keys() - finished),
        twice=(len(trained) - len(set(trained))) + len(survived.keys() - uninterrupted.keys()),
        unequal=sum(survived[number] != uninterrupted[number] for number in uninterrupted.keys() & finished),
    )


def check_files(directory: Path) -> None:
    """AssertionError if a study has something half-written or left over."""
    left = [str(path) for path in directory.rglob("*") if TEMPORARY.fullmatch(path.name)]
    assert not left, f"half-written files: {left}"
    incomplete = [
        str(p) for p in directory.glob("optuna_exec_batch_*/samples/batch_*") if not (p / "success.txt").exists()
    ]
    assert not incomplete, f"half-written batches: {incomplete}"
    assert not (directory / "checkpoints").exists()
