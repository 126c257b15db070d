"""Cost of training Python functions in worker processes, against plain Optuna's loop in one process, and what pruning saves.

    python benchmarks/functions.py overhead     50 trials of a function that returns at once
    python benchmarks/functions.py forest       24 trials of the shipped forest
    python benchmarks/functions.py pruning      the forest with --pruner asha against none, on 2 slots: random trials, the same ones

Both sides of the first two ask TPE on SQLite, and train the same trials one after another: those that Hyperlax has suggested.
Each run is its own process. "whole" is the process with its imports and, on our side, the report. "loop" is from the first
trial's start to the last one's record, which on our side includes the start of the worker process. The forest needs scikit-learn.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna

from benchmarks.timed import Sample, in_turn, process
from hyperlax.fields import dotted
from hyperlax.files import read_csv
from hyperlax.recipe import load
from hyperlax.report import Report
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.tasks import Function

FOREST, AT_ONCE = "forest", "at_once"
IMMEDIATE = """
    from hyperlax.space import LogUniform, UniformContinuous
    from hyperlax.tasks import Function, Measure

    def train(params, report, seed):
        report(1, loss=(params["x"] - 0.3) ** 2 + params["rate"])

    def get_task():
        return Function(train, Measure("loss", "minimize"), budget=1, evaluations=1)

    def get_base_params():
        return {"x": 0.5, "rate": 0.01}

    def get_base_hyperparam_distributions():
        return {"x": UniformContinuous(domain=(0.0, 1.0)), "rate": LogUniform(domain=(1e-4, 1e-1))}
"""
PLAIN, OURS = "plain Optuna", "Hyperlax"


def ours(recipe: str, trials: int, more: str, listed: Path | None = None) -> Sample:
    """Return the seconds of a search in its own process, and its best value. listed: gets the values of its trials."""
    with tempfile.TemporaryDirectory() as scratch:
        words = f"--algo-and-network-config {recipe} --n-trials {trials} --seed 0 --log-level WARNING --output-root {scratch}"
        command = [sys.executable, "-m", "hyperlax.cli", "optuna-hp-search", *words.split(), *more.split()]
        sample = process(command, {})
        study = _study(Path(scratch))
        if listed:
            space = SearchSpace(load(recipe).space)
            listed.write_text(json.dumps([space.decode(trial.params) for trial in study.trials]))
        found = {"loop": _loop_seconds(Path(scratch)), "best": study.best_value, **_segments(Path(scratch), study)}
        return {**sample, **found}


def plain(recipe: str, listed: Path) -> Sample:
    """Return the same of Optuna's own loop."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "told.json"
        command = [sys.executable, "-m", "benchmarks.functions", "plain", recipe, str(listed), str(told)]
        sample = process(command, {"PYTHONPATH": str(Path(__file__).parents[1])})
        return {**sample, **json.loads(told.read_text())}


def loop(recipe: str, listed: Path, told: Path) -> None:
    """Run Optuna's loop in this process, and write its seconds and its best value. It trains the listed trials."""
    loaded = load(recipe)
    task, space = loaded.task, SearchSpace(loaded.space)
    assert isinstance(task, Function)
    base = dotted(loaded.config.algorithm)
    study = optuna.create_study(
        storage=f"sqlite:///{told.with_suffix('.db')}",
        sampler=optuna.samplers.TPESampler(seed=0),
        direction=cast(Any, task.measure.direction),
    )
    began = time.perf_counter()
    for params in json.loads(listed.read_text()):
        trial, values = study.ask(space.optuna), dict[str, float]()

        def deliver(step: int, now: dict[str, float], into: dict[str, float] = values) -> None:
            into.update(now)

        report = Report([task.measure.name], task.budget, task.evaluations, told.parent, deliver)
        task.train({**base, **params}, report, 0)
        report.finish()
        study.tell(trial, values[task.measure.name])
    told.write_text(json.dumps({"loop": time.perf_counter() - began, "best": study.best_value}))


def _loop_seconds(root: Path) -> float:
    """Return the seconds from the start of a study's first trial to the record of its last one."""
    intervals = [row for path in root.rglob("timeline.csv") for row in read_csv(path)]
    first = min(float(row["process"]) + float(row["began"]) for row in intervals)
    return max(path.stat().st_mtime for path in root.rglob("samples/*/success.txt")) - first


def _segments(root: Path, study: optuna.Study) -> dict[str, float]:
    """Return the reports that count, and all that were made: a function continues where rivals are not known yet."""
    timings = [json.loads(path.read_text()) for path in root.rglob("samples/*/timing.json")]
    counted = sum(len(trial.intermediate_values) for trial in study.trials)
    return {"counted": counted, "made": sum(one.get("lane_segments", one["useful_lane_segments"]) for one in timings)}


def _study(root: Path) -> optuna.Study:
    (database,) = root.rglob("optuna_study.db")
    return optuna.load_study(study_name=None, storage=f"sqlite:///{database}")


def compare(name: str, recipe: str, trials: int, rounds: int) -> None:
    """Print what our side costs more, of a trial and of the whole."""
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "listed.json"
        ours(recipe, trials, "--slots 1", listed)
        cases: dict[str, Callable[[], Sample]] = {
            PLAIN: partial(plain, recipe, listed),
            OURS: partial(ours, recipe, trials, "--slots 1"),
        }
        samples = in_turn(cases, rounds)
    best = {side: found[0]["best"] for side, found in samples.items()}
    print(f"| {name} | {PLAIN} | {OURS} | more, a trial | of ours |\n|---|---|---|---|---|")
    for row, quantity in (("loop", "loop"), ("whole", "wall"), ("whole, CPU", "CPU")):
        theirs, own = ([sample[quantity] for sample in samples[side]] for side in (PLAIN, OURS))
        more = statistics.median(b - a for a, b in zip(theirs, own, strict=True))
        share = statistics.median((b - a) / b for a, b in zip(theirs, own, strict=True))
        a, b = statistics.median(theirs), statistics.median(own)
        print(f"| {row} | {a:.2f} s | {b:.2f} s | {1000 * more / trials:.1f} ms | {100 * share:.1f} % |", flush=True)
    print(f"| best | {best[PLAIN]:.4f} | {best[OURS]:.4f} | | |")


def overhead(rounds: int, quick: bool) -> None:
    trials = 3 if quick else 50
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{AT_ONCE}.py"
        path.write_text(textwrap.dedent(IMMEDIATE))
        compare(f"{trials} trials that return at once", str(path), trials, rounds)


def forest(rounds: int, quick: bool) -> None:
    trials = 2 if quick else 24
    compare(f"{trials} forests", FOREST, trials, rounds)


def pruning(rounds: int, quick: bool) -> None:
    trials = 4 if quick else 48
    more = "--slots 2 --pruner-min-segments 1 --sampler random"  # any other suggests other trials where some are pruned
    cases: dict[str, Callable[[], Sample]] = {
        pruner: partial(ours, FOREST, trials, f"{more} --pruner {pruner}") for pruner in ("none", "asha")
    }
    samples = in_turn(cases, rounds)
    print(f"| {trials} forests on 2 slots | none | asha | ratio |\n|---|---|---|---|")
    for row, quantity in (("loop", "loop"), ("whole", "wall"), ("whole, CPU", "CPU")):
        every, pruned = ([sample[quantity] for sample in samples[name]] for name in cases)
        ratio = statistics.median(a / b for a, b in zip(every, pruned, strict=True))
        print(
            f"| {row} | {statistics.median(every):.2f} s | {statistics.median(pruned):.2f} s | {ratio:.2f} |",
            flush=True,
        )
    folds = [[int(samples[name][0][kind]) for name in cases] for kind in ("counted", "made")]
    for row, (every, pruned) in zip(("folds that count", "folds trained"), folds, strict=True):
        print(f"| {row} | {every} | {pruned} | {every / pruned:.2f} |")
    best = [samples[name][0]["best"] for name in cases]
    print(f"| best accuracy | {best[0]:.4f} | {best[1]:.4f} | |")


PARTS: dict[str, Callable[[int, bool], None]] = {"overhead": overhead, "forest": forest, "pruning": pruning}


def main() -> None:
    """Run a part and print its table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sys.argv[1:2] == ["plain"]:
        loop(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    given = parser.parse_args()
    PARTS[given.what](given.rounds, given.quick)


if __name__ == "__main__":
    main()
