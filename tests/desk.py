"""A user's desk: recipes small enough for a test, the command in a process of its own, and the files read back."""

from __future__ import annotations

import csv
import fcntl
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from hyperlax import cli
from hyperlax.envs import registry
from hyperlax.trial import Curve

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = {"ppo_mlp": "gymnax.cartpole", "sac_mlp": "gymnax.pendulum", "dqn_mlp": "gymnax.cartpole"}
OBJECTIVES = {
    "ppo_mlp": {"peak_performance": "maximize"},
    "sac_mlp": {"peak_performance": "maximize", "num_parameters": "minimize"},
    "dqn_mlp": {"final_performance": "maximize"},
}
SEEDS, EVALUATIONS, TRIALS, BUDGET = 2, 2, 4, 512
SMALLER = {
    r"LAYER_SIZES = .*": "LAYER_SIZES = [[4], [8]]",
    r"ACTIVATIONS = .*": 'ACTIVATIONS = ["tanh"]',
    r"total_num_envs=\d+": "total_num_envs=4",
    r"rollout_length=128": "rollout_length=16",
    r"warmup_rollout_length=\d+": "warmup_rollout_length=16",
    r"total_batch_size=\d+": "total_batch_size=16",
    r"num_minibatches=\d+": "num_minibatches=2",
    r"UniformDiscrete\(domain=\(\d+, \d+\)\)": "UniformDiscrete(domain=(1, 3))",
}


def write_small_recipes(desk: Path) -> None:
    """The shipped recipes with networks and rollouts small enough for a test, into `desk`/recipes."""
    (desk / "recipes").mkdir(parents=True)
    for name in ENVIRONMENTS:
        text = (ROOT / "recipes" / f"{name}.py").read_text()
        for pattern, replacement in SMALLER.items():
            text = re.sub(pattern, replacement, text)
        (desk / "recipes" / f"{name}.py").write_text(text)


@contextmanager
def one_at_a_time(desk: Path) -> Iterator[None]:
    """One worker of pytest at a time: all of them work at the same desk."""
    with desk.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def python(*words: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository: `-c` and a program, or `-m` and a module, and their arguments."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def forget_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know of the environments what a fresh process knows."""
    monkeypatch.setattr(registry, "_factories", {})
    monkeypatch.setattr(registry, "_made", {})


def popen(desk: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command in the desk. Optimization level 1: this compiles much and trains little."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
    return subprocess.Popen(
        [sys.executable, "-m", "hyperlax.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
    )


def hyperlax(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the desk to its end."""
    with popen(desk, *arguments) as process:
        try:
            out, err = process.communicate(timeout=600)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def search(recipe: str, output_root: str = "studies") -> list[str]:
    """The arguments of a recipe's study."""
    objectives = OBJECTIVES[recipe]
    sampler = "nsgaii" if len(objectives) > 1 else "tpe"
    words = f"optuna-hp-search --algo-and-network-config {recipe} --env-config {ENVIRONMENTS[recipe]} --study-name tiny_{recipe}"
    words += (
        f" --n-trials {TRIALS} --optuna-study-batch-size 4 --runner-hparam-batch-size 2 --sampler {sampler} --seed 1"
    )
    words += f" --num-seeds {SEEDS} --total-timesteps {BUDGET} --num-evaluations {EVALUATIONS} --num-eval-episodes 2"
    words += f" --objective-names {' '.join(objectives)} --objective-directions {' '.join(objectives.values())}"
    return [*words.split(), "--output-root", output_root]


def study_of(desk: Path, recipe: str, output_root: str = "studies") -> Path:
    """The directory of a recipe's study."""
    return desk / output_root / recipe / ENVIRONMENTS[recipe].replace(".", "_")


def finished_study(desk: Path, recipe: str) -> Path:
    """The directory of a recipe's study, which is run if it is not there."""
    directory = study_of(desk, recipe)
    with one_at_a_time(desk):
        if not directory.exists():
            run = hyperlax(desk, *search(recipe))
            assert run.returncode == 0, run.stderr
            assert f"{TRIALS} trials finished: {TRIALS} COMPLETE." in run.stdout
    return directory


def run(command: str) -> None:
    """Run a command in this process and in the working directory, to its end."""
    assert cli.main(shlex.split(command)) == 0


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def batches(directory: Path) -> list[Path]:
    return sorted(directory.glob("optuna_exec_batch_*/samples/batch_*"))


def optuna_trials(directory: Path) -> list[optuna.trial.FrozenTrial]:
    """As plain Optuna sees them."""
    return optuna.load_study(study_name=None, storage=f"sqlite:///{directory / 'optuna_study.db'}").trials


def told(directory: Path) -> list[tuple[Any, ...]]:
    """Per trial what two runs of one command must agree on to the last bit: all but the times and the batch it ran in."""
    unequal = ("batch", "train_seconds")
    return [
        (t.number, t.state.name, t.params, t.values, {n: v for n, v in t.user_attrs.items() if n not in unequal})
        for t in optuna_trials(directory)
    ]


def results(directory: Path) -> list[tuple[Any, ...]]:
    """What two runs of one study must agree on, also in agents: its database and its curves."""
    trials = optuna_trials(directory)
    ends = [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in trials]
    return [*ends, *sorted(tuple(row.values()) for path in directory.rglob("curves.csv") for row in rows(path))]


def curves(directory: Path) -> dict[str, list[str]]:
    """Per trial its lines of curves.csv, as they were written."""
    lines = defaultdict(list)
    for batch in batches(directory):
        for line in (batch / "curves.csv").read_text().splitlines()[1:]:
            lines[line.split(",")[0]].append(line)
    return dict(lines)


def summaries(directory: Path) -> dict[int, dict[str, str]]:
    """Trial number -> its row of summary.csv."""
    return {int(row["trial"]): row for batch in batches(directory) for row in rows(batch / "summary.csv")}


def curve(trial: int, table: list[dict[str, str]]) -> Curve:
    """A trial's curve, read from curves.csv alone."""
    own = [row for row in table if int(row["trial"]) == trial]
    steps = sorted({int(row["step"]) for row in own})

    def column(name: str) -> np.ndarray:
        values = {(int(row["step"]), int(row["seed"])): float(row[name]) for row in own}
        return np.array([[values[step, seed] for seed in range(SEEDS)] for step in steps])

    measured = [column(name) for name in ("mean", "std", "min", "max", "length")]
    return Curve(np.array(steps), *measured, episodes=int(own[0]["episodes"]), budget=BUDGET)
