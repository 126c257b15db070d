"""Kills a study with SIGKILL at random moments until it has died often enough, lets it end, and says what was lost.

python -m tests.faults.harness --kills 200 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.desk import told
from tests.faults.study import run_toy

Run = Callable[[Path, float], tuple[int, str]]
"""Start or resume the study of an output root, and kill it after so many seconds; its exit code, and its errors."""
TOY = Path("sac_test", "gymnax_pendulum")
TEMPORARY = re.compile(r"\..*\.tmp")


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


def kill_often(run: Run, below: Path, scratch: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill studies, one after another, until there were so many kills; how many studies that took, and trials in each.

    below: where in the output root the study is.
    Every study is killed at random moments, between 0.05 and 0.7 of the least time that an undisturbed one took, until it is
    done; then it has to be the undisturbed one.
    """
    draw, died, studies, trials = random.Random(seed), 0, 0, 0
    whole = scratch / "whole"
    began = time.monotonic()
    _until_it_ends(run, whole, whole / below, 0, 0.0, draw)
    longest = time.monotonic() - began
    while died < kills:
        root, began = scratch / f"killed_{studies}", time.monotonic()
        deaths = _until_it_ends(run, root, root / below, kills - died, longest, draw)
        longest = longest if deaths else min(longest, time.monotonic() - began)
        died += deaths
        trials = check(root / below, whole / below)
        studies += 1
    return studies, trials


def _until_it_ends(run: Run, root: Path, directory: Path, kills: int, longest: float, draw: random.Random) -> int:
    """Start a study again and again, killing it each time but at most so often; how often it died.

    AssertionError if a batch that was complete at one death is not the same later, or a process fails by itself.
    """
    died, complete = 0, dict[str, str]()
    while True:
        patience = draw.uniform(0.05, 0.7) * longest if died < kills else 600
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
    batches = [path.parent for path in directory.glob("optuna_exec_batch_*/samples/batch_*/success.txt")]
    files = [path for batch in batches for path in batch.iterdir()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check(directory: Path, whole: Path) -> int:
    """Compare a study that was killed with one that was not; how many trials both have. AssertionError where they differ."""
    survived, uninterrupted = told(directory), told(whole)
    assert [trial[0] for trial in survived] == list(range(len(uninterrupted)))
    assert all(trial[1] in ("COMPLETE", "FAIL", "PRUNED") for trial in survived)
    assert survived == uninterrupted
    left = [str(path) for path in directory.rglob("*") if TEMPORARY.fullmatch(path.name)]
    assert not left, f"half-written files: {left}"
    incomplete = [
        str(p) for p in directory.glob("optuna_exec_batch_*/samples/batch_*") if not (p / "success.txt").exists()
    ]
    assert not incomplete, f"half-written batches: {incomplete}"
    assert not (directory / "checkpoints").exists()
    return len(survived)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        studies, trials = kill_often(run_toy, TOY, Path(scratch), given.kills, given.seed)
    print(f"{given.kills} kills survived by {studies} studies of {trials} trials: none lost, none different.")


if __name__ == "__main__":
    main()
