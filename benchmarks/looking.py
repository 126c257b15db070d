"""Cost of looking at large studies: `list`, `show`, `report` and the resume of a finished one, as whole processes.

    python -m benchmarks.looking                          100, 1,000, 5,000 and 10,000 trials
    python -m benchmarks.looking --trials 1000 --keep DIR

Run it from the repository's root. A study is written once, by the real loop with the trivial backend of `bookkeeping`; with
--keep it stays in DIR and is used again. Prints a row of benchmarks/README.md per number of trials: seconds of CPU and of the clock
of each command, the best of three, and the size of the report; then a line for `list` of 100 studies of 10 trials.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from benchmarks.bookkeeping import POPULATION, TrivialBackend, options
from benchmarks.timed import process
from hyperlax.backends.base import Evicted
from hyperlax.recipe import load
from hyperlax.study.search import run_study
from hyperlax.trial import LaneInterval, SegmentResult

SIZES = (100, 1000, 5000, 10000)
SMALL = 10
REPEATS = 3
RECIPE = '''"""Four hyperparameters that nothing is trained with."""

from hyperlax.hyperparams import SAC
from hyperlax.recipe import ExperimentConfig, RunLength
from hyperlax.space import LogUniform, UniformContinuous


def get_base_config():
    return ExperimentConfig(SAC(), dict.fromkeys(("quick", "default", "long"), RunLength(100, 1, 1)))


def get_base_hyperparam_distributions():
    return {
        "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-5, 1e-2)),
        "algorithm.hyperparam.q_lr": LogUniform(domain=(1e-5, 1e-2)),
        "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.9, 0.999)),
        "algorithm.hyperparam.tau": UniformContinuous(domain=(0.001, 0.1)),
    }
'''


class _Timed(TrivialBackend):
    """The trivial backend, with times: each batch trains for a second, on every lane."""

    _began = 0.0

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Return two evaluations per trial, and the second in which they were made."""
        results, evicted = super().advance()
        began, self._began = self._began, self._began + 1.0
        return [
            replace(one, intervals=(LaneInterval(0, 0, lane, 1.7e9, began, self._began),))
            for lane, one in enumerate(results)
        ], evicted

    def timing(self, numbers: Collection[int]) -> dict[str, object]:
        """Return the seconds of a batch."""
        seconds = {"compile_seconds": 0.0, "train_seconds": 0.9, "evaluate_seconds": 0.1, "wall_seconds": 1.0}
        return {**super().timing(numbers), **seconds, "peak_memory_bytes": None}


def written(root: Path, trials: int) -> Path:
    """Return the directory of a finished study of so many trials, which is written unless it is there."""
    directory = root / "trivial" / "gymnax_pendulum"
    if not (root / "finished").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        (root / "trivial.py").write_text(RECIPE)
        given = replace(options(root, trials), algo_and_network_config=str(root / "trivial.py"), sampler="random")
        with redirect_stdout(sys.stderr):
            run_study(given, load(str(root / "trivial.py")), make_backend=lambda *made_for: _Timed())
        (root / "finished").touch()
    return directory


def measured(*words: object) -> str:
    """Return the least CPU seconds of a command, and the least seconds."""
    command = [sys.executable, "-m", "hyperlax.cli", *map(str, words)]
    samples = [process(command, {}) for _ in range(REPEATS)]
    return " / ".join(f"{min(sample[name] for sample in samples):.2f}" for name in ("CPU", "wall"))


def row(root: Path, trials: int) -> str:
    """Return the row of one number of trials."""
    directory = written(root / str(trials), trials)
    resume = ("optuna-hp-search", "--resume-from", directory)
    report, *others = (
        measured(*words) for words in (("report", directory), ("show", directory), ("list", root / str(trials)), resume)
    )
    size = (directory / "report.html").stat().st_size / 1e6
    return f"| {trials:,} | {' | '.join(others)} | {report} | {size:.1f} MB |"


def many(root: Path, studies: int) -> str:
    """Return a line on a list of many studies."""
    first = written(root / "many" / "0", SMALL).parent.parent
    for number in range(1, studies):
        if not (root / "many" / str(number)).exists():
            shutil.copytree(first, root / "many" / str(number))
    return f"`list` of {studies} studies of {SMALL} trials: {measured('list', root / 'many')}"


def main() -> None:
    """Write the studies and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="*", default=SIZES)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (given.keep or Path(scratch)).absolute()
        print(f"CPU / wall seconds; super-batches of {POPULATION}")
        print("| trials | `show` | `list` | resume | `report` | size of the report |\n|---|---|---|---|---|---|")
        for trials in given.trials:
            print(row(root, trials), flush=True)
        print(many(root, given.studies))


if __name__ == "__main__":
    main()
