"""Twelve architectures of the shipped digits classifier: lanes of one program against a process a trial, and against joblib.

    python benchmarks/lanes.py

All sides train the same configurations with the functions of recipes/digits.py, and evaluate as often. "a process a trial" starts
Python for each, one after another, as a shell loop over a script does. "joblib" trains in as many processes as there are cores,
which stay alive. Both compile a plain JAX loop of the exact size for each architecture. "lanes" is a sweep from the command line,
with its files and its report, once with an empty cache of programs and once with what an earlier sweep has left there. Each run
is its own process, with its imports. Needs scikit-learn. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.timed import Row, Sample, in_turn, print_table, process
from hyperlax.files import read_csv
from hyperlax.recipe import load
from hyperlax.tasks import Lanes

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "digits.py"
SIZES = [
    (8, 8),
    (16, 16),
    (32, 16),
    (32, 32),
    (64, 16),
    (64, 32),
    (64, 64),
    (96, 48),
    (128, 32),
    (128, 64),
    (128, 128),
    (256, 64),
]
FIRST, AGAIN, ALONE, JOBLIB = "lanes, nothing compiled", "lanes", "a process a trial", "joblib"


def rows(count: int) -> list[dict[str, Any]]:
    """Return the configurations."""
    recipe = load(str(RECIPE))
    assert isinstance(recipe.task, Lanes)
    return [
        {**recipe.task.defaults, "lr": 0.002, "dropout": 0.1, "width_1": first, "width_2": second}
        for first, second in SIZES[:count]
    ]


def trained(values: dict[str, Any]) -> float:
    """Return the accuracy of a configuration, trained by a plain loop at its exact size."""
    import jax
    import jax.numpy as jnp

    task: Any = load(str(RECIPE)).task
    sizes = {name for name, rule in task.rules.items() if rule.kind == "padded"}
    own = {name: SimpleNamespace(size=n, live=n, mask=jnp.ones(n)) for name, n in values.items() if name in sizes}
    hypers = SimpleNamespace(**{**values, **own})
    segment = task.budget // task.evaluations

    @jax.jit
    def train(state: Any, key: Any) -> Any:
        return jax.lax.fori_loop(0, segment, lambda i, s: task.step(s, hypers, jax.random.fold_in(key, i)), state)

    evaluate = jax.jit(lambda state, key: task.evaluate(state, hypers, key))
    key = jax.random.key(0)
    state, accuracy = jax.jit(lambda key: task.init(key, hypers))(key), 0.0
    for number in range(task.evaluations):
        state = train(state, jax.random.fold_in(key, number))
        accuracy = float(evaluate(state, key)["accuracy"])
    return accuracy


def lanes(listed: Path, cache: Path | None) -> Sample:
    """Return the seconds of a sweep over the listed configurations. cache: of programs; None begins with an empty one."""
    with tempfile.TemporaryDirectory() as scratch:
        samples = Path(scratch) / "samples.csv"
        found = json.loads(listed.read_text())
        with samples.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
        words = f"--algo-and-network-config {RECIPE} --load-hyperparams {samples} --log-level WARNING --output-root {scratch}"
        command = [sys.executable, "-m", "hyperlax.cli", "sweep-hp-samples", *words.split()]
        sample = process(
            command, {"PYTHONPATH": str(ROOT), "HYPERLAX_CACHE_DIR": str(cache or Path(scratch) / "cache")}
        )
        best = max(float(row["accuracy"]) for path in Path(scratch).rglob("summary.csv") for row in read_csv(path))
        return {**sample, "best": best}


def others(listed: Path, *commands: str) -> Sample:
    """Return the seconds of this script's own commands, one after another."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "told.txt"
        samples = [
            process(
                [sys.executable, "-m", "benchmarks.lanes", *one.split(), str(listed), str(told)],
                {"PYTHONPATH": str(ROOT)},
            )
            for one in commands
        ]
        best = max(map(float, told.read_text().split()))
    return {**{name: sum(sample[name] for sample in samples) for name in ("wall", "CPU")}, "best": best}


def compare(count: int, rounds: int) -> None:
    """Print how often the lanes fit into the time of the others."""
    with tempfile.TemporaryDirectory() as scratch:
        listed, cache = Path(scratch) / "listed.json", Path(scratch) / "cache"
        listed.write_text(json.dumps(rows(count)))
        lanes(listed, cache)
        cases: dict[str, Callable[[], Sample]] = {
            FIRST: partial(lanes, listed, None),
            AGAIN: partial(lanes, listed, cache),
            ALONE: partial(others, listed, *(f"one {place}" for place in range(count))),
            JOBLIB: partial(others, listed, "joblib"),
        }
        samples = in_turn(cases, rounds)
    pairs = [(base, own) for base in (ALONE, JOBLIB) for own in (FIRST, AGAIN)]
    print_table([Row(f"{base} / {own}", "wall", base, own, mark=5) for base, own in pairs], samples)
    best = ", ".join(f"{name} {found[0]['best']:.4f}" for name, found in samples.items())
    print(f"\nBest accuracy: {best}")


def child(what: str, *given: str) -> None:
    """Train in this process, or in others of joblib, and add the accuracies to a file."""
    *place, listed, told = given
    found = json.loads(Path(listed).read_text())
    if what == "one":
        accuracies = [trained(found[int(place[0])])]
    else:
        from joblib import Parallel, delayed  # pyright: ignore[reportMissingImports]

        accuracies = Parallel(n_jobs=len(os.sched_getaffinity(0)))(delayed(trained)(values) for values in found)
    with Path(told).open("a") as file:
        file.write("".join(f"{accuracy}\n" for accuracy in accuracies))


def main() -> None:
    """Run the comparison and print its table."""
    if sys.argv[1:2] in (["one"], ["joblib"]):
        child(*sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 architectures, to see that everything runs")
    given = parser.parse_args()
    compare(2 if given.quick else len(SIZES), given.rounds)


if __name__ == "__main__":
    main()
