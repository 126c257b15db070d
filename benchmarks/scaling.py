"""Scaling with the number of lanes on one device: steps/s and memory of PPO CartPole and SAC Pendulum.

    python benchmarks/scaling.py                          1 to 4,096 lanes, as far as memory allows
    python benchmarks/scaling.py --lanes 1 4 16 --plot scaling.html

Every lane trains the same shipped configuration, without evaluations. Each program is compiled and run once before it is timed.
Prints rows for benchmarks/README.md as they are measured. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import plotly.graph_objects as go

from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine import device
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Program
from hyperlax.recipe import RunLength, load
from hyperlax.trial import Trial

TASKS = {"PPO CartPole": ("ppo_mlp", "gymnax.cartpole"), "SAC Pendulum": ("sac_mlp", "gymnax.pendulum")}
LANES = [1, 4, 16, 64, 256, 1024, 4096]
SECONDS = 5.0
"""Approximate duration of a measurement; its training iterations run as one call."""


def measure(recipe_name: str, environment: str, lanes: int) -> tuple[float, float, int]:
    """Return environment steps/s over all lanes, seconds of compilation, and bytes that the compiled program needs."""
    recipe = load(recipe_name)
    workload = AlgorithmTask(recipe.config.algorithm, {}, environment, RunLength(100_000, 10, 1))
    trial = Trial(0, recipe.config.algorithm)
    algorithm: Any = workload.program(trial)
    program = Program(algorithm, lanes, 1, jax.local_devices()[0])
    own = workload.lane(trial)
    hypers = program.place(jax.tree.map(lambda leaf: np.stack([leaf] * lanes), own))
    keys = program.place(training_keys(0, range(lanes), 1))
    preparation = program.prepare(keys, hypers, program.place(evaluation_keys(0, 1)))
    state = program.start(keys, hypers)

    def train(iterations: int) -> float:
        nonlocal state
        began = time.perf_counter()
        state = jax.block_until_ready(program.train(state, hypers, 0, iterations))
        return time.perf_counter() - began

    train(1)
    iterations = max(1, round(SECONDS / train(2) * 2))
    seconds = train(iterations)
    rate = lanes * iterations * algorithm.steps_per_iteration / seconds
    return rate, preparation.seconds, program.memory_bytes()


def plot(rows: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure = go.Figure(layout={"xaxis_title": "lanes", "yaxis_title": "environment steps/s"})
    for name, points in rows.items():
        figure.add_scatter(x=[lanes for lanes, _ in points], y=[rate for _, rate in points], name=name)
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    figure.write_html(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, nargs="+", default=LANES)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    device.prepare_jax(compilation_cache=False)
    first = jax.local_devices()[0]
    print(f"{first.device_kind} ({first.platform}), jax {jax.__version__}, one batch at a time")
    print("| | lanes | steps/s | against the first row | compile | memory |\n|---|---|---|---|---|---|")
    rows: dict[str, list[tuple[int, float]]] = {}
    for name, (recipe, environment) in TASKS.items():
        rows[name] = []
        for lanes in given.lanes:
            try:
                rate, compiling, memory = measure(recipe, environment, lanes)
            except Exception as error:
                if not device.is_out_of_memory(error):
                    raise
                print(f"| {name} | {lanes} | out of memory | | | |", flush=True)
                break
            rows[name].append((lanes, rate))
            ratio = rate / rows[name][0][1]
            print(
                f"| {name} | {lanes} | {rate:,.0f} | {ratio:.1f}x | {compiling:.0f} s | {memory / 2**20:,.0f} MiB |",
                flush=True,
            )
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
