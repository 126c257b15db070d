"""Scaling with the number of lanes: everything that is to be measured on an accelerator, in one command of a few minutes.

    python benchmarks/scaling.py --minutes 8
    python benchmarks/scaling.py --minutes 2 --lanes 1 4 16     # less of it

In this order: a whole study of 100 SAC trials; an out-of-memory error and the return to fewer lanes; the gain from a second device;
steps/s and memory of PPO CartPole and SAC Pendulum from 1 to 4,096 lanes, without evaluations. A part starts only if it is expected
to end in time; the last line says what was left out. Writes scaling.md and scaling.png to --output as it measures. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from benchmarks.timed import Version
from benchmarks.training import Training, train
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.closed import ClosedBatches
from hyperlax.engine import device
from hyperlax.engine.lanes import Program
from hyperlax.engine.programs import Programs
from hyperlax.fields import apply
from hyperlax.hyperparams import of_algorithm
from hyperlax.recipe import RunLength, load
from hyperlax.trial import Trial

PPO, SAC = "PPO CartPole", "SAC Pendulum"
TASKS = {PPO: ("ppo_mlp", "gymnax.cartpole"), SAC: ("sac_mlp", "gymnax.pendulum")}
LANES = [1, 4, 16, 64, 256, 1024, 4096]
SECONDS = 3.0
"""Approximate duration of a measurement; its training iterations run as one call."""
SHARE_OF_STUDY = 0.4
"""The part of the time after which the whole study is given up."""


@dataclass
class Report:
    """The results so far, and the time that is left. Written again after every one, so that a run that is stopped leaves them.

    rows: the table's rows, by task and lanes. rates: steps/s. compiling, iterating: seconds to compile a task's last program and of
    one iteration of a lane in it, from which the next duration is guessed.
    """

    output: Path
    deadline: float
    lines: list[str] = field(default_factory=list)
    rows: dict[tuple[str, int], str] = field(default_factory=dict)
    rates: dict[str, dict[int, float]] = field(default_factory=lambda: {name: {} for name in TASKS})
    compiling: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 20.0))
    iterating: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 0.0))
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def has_time(self, part: str, seconds: float) -> bool:
        """Return whether this part can be measured; note it otherwise."""
        if seconds > self.left:
            self.left_out.append(f"{part} (about {seconds:.0f} s, {max(self.left, 0):.0f} s left)")
        return seconds <= self.left

    def add(self, *lines: str) -> None:
        self.lines += lines
        self.write()

    def write(self) -> str:
        """Write and return the text."""
        head = ["| | lanes | steps/s | against 1 lane | compile | memory |", "|---|---|---|---|---|---|"]
        order = sorted(self.rows, key=lambda at: (list(TASKS).index(at[0]), at[1]))
        text = (
            "\n".join([*self.lines, *head, *(self.rows[at] for at in order), "", *self.knees(), *self.missing()]) + "\n"
        )
        (self.output / "scaling.md").write_text(text)
        return text

    def knees(self) -> list[str]:
        """Return, for each task, the fewest lanes that reach half the greatest speed measured."""
        return [
            f"{name}: {min(n for n, rate in rates.items() if rate >= max(rates.values()) / 2)} lanes reach half the greatest speed."
            for name, rates in self.rates.items()
            if rates
        ]

    def missing(self) -> list[str]:
        return [f"Not measured: {'; '.join(self.left_out)}."] if self.left_out else []

    def plot(self) -> None:
        figure, axes = plt.subplots(figsize=(6, 4))
        for name, rates in self.rates.items():
            axes.loglog(*zip(*sorted(rates.items()), strict=True), marker="o", label=name) if rates else None
        axes.set(xlabel="lanes", ylabel="environment steps/s")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(self.output / "scaling.png", dpi=120, bbox_inches="tight")


def task_of(name: str, run_length: RunLength, count: int) -> tuple[AlgorithmTask, list[Trial]]:
    """Return a task, and trials of the shipped configuration without a warm-up, in which nothing would be learned."""
    recipe, environment = TASKS[name]
    config = of_algorithm(load(recipe).config.algorithm)
    if config.warm_up:
        config = apply(config, {f"algorithm.hyperparam.{config.warm_up}": 0}, "benchmark")
    return AlgorithmTask(config, {}, environment, run_length), [Trial(number, config) for number in range(count)]


def study(report: Report, trials: int, steps: int) -> None:
    """Time a whole search in its own process, with nothing compiled before."""
    words = (
        f"--algo-and-network-config sac_mlp --env-config gymnax.pendulum --n-trials {trials} --total-timesteps {steps}"
    )
    words += f" --sampler random --optuna-study-batch-size {trials} --log-level WARNING"
    here = Version("this version", Path(__file__).parents[1], Path(sys.executable))
    name, limit = f"{trials} SAC trials, {steps:,} steps each", report.left * SHARE_OF_STUDY
    with tempfile.TemporaryDirectory() as cache:
        try:
            cold = here.search(words, Path(cache), limit)
        except TimeoutError:
            report.left_out.append(f"a study of {name} (not finished after {limit:.0f} s)")
            return
    rate = f"{trials * steps / cold['wall']:,.0f}"
    report.add("| a whole study | seconds | until training | after the last batch | steps/s |", "|---|---|---|---|---|")
    report.add(f"| {name}, cold | {cold['wall']:.1f} | {cold['start']:.1f} | {cold['end']:.1f} | {rate} |", "")


def memory(report: Report, lanes: int, steps: int) -> None:
    """Train more trials at once than fit: the memory of an accelerator is filled, a CPU only pretends that little is free."""
    if not report.has_time("out of memory", 5 * report.compiling[SAC]):
        return
    place = jax.local_devices()[0]
    is_real = place.platform != "cpu"
    task, trials = task_of(SAC, RunLength(steps, 2, 16), lanes)
    program = Program(task.program(trials[0]), lanes, 1, place)
    report.compiling[SAC] = Training(program, task, trials).prepare().seconds
    need = program.memory_bytes()
    room = round(0.6 * need)
    filled = fill(place, room) if is_real else None
    registry = Programs(lanes, 1, room=None if is_real else lambda device: room)
    began = time.perf_counter()
    done = train_what_fits(ClosedBatches(task, registry, seed=0, slot_devices=[place]), trials)
    seconds = time.perf_counter() - began
    del filled
    (settled,) = registry.settled().values()
    how = "an error of the device" if is_real else "refused by the estimate, since a CPU's memory is not filled"
    report.add(
        "| out of memory | needed | free | lanes after it | trials trained | seconds |", "|---|---|---|---|---|---|"
    )
    sizes = f"{need / 2**20:,.0f} MiB | {room / 2**20:,.0f} MiB"
    report.add(f"| {lanes} lanes, {how} | {sizes} | {settled} | {done} of {lanes} | {seconds:.1f} |", "")


def fill(place: Any, room: int) -> list[jax.Array]:
    """Return arrays that leave about `room` bytes of the device free."""
    held: list[jax.Array] = []
    with jax.default_device(place):
        while (more := (device.free_bytes(place) or 0) - room) > 2**20:
            held.append(jax.block_until_ready(jnp.zeros(min(more, 2**30), jnp.uint8)))
    return held


def train_what_fits(backend: ClosedBatches, trials: Sequence[Trial]) -> int:
    """Train all trials as a study does: what ran out of memory enters again. Return how many ended."""
    ended: set[int] = set()
    entering: Sequence[Trial] = trials
    while len(ended) < len(trials):
        for batch in backend.plan(entering).batches:
            backend.enter(batch)
        results, evicted = backend.advance()
        ended |= {result.number for result in results if result.is_done}
        again = [number for eviction in evicted for number in eviction.numbers]
        if any(eviction.error and not device.is_out_of_memory(eviction.error) for eviction in evicted):
            raise RuntimeError("training failed") from evicted[0].error
        entering = [trial for trial in trials if trial.number in again]
    backend.close()
    return len(ended)


def devices(report: Report, lanes: int, steps: int) -> None:
    """Time two batches per device, on one device and on all."""
    found = jax.local_devices()
    if len(found) == 1:
        report.left_out.append("several devices (there is one)")
        return
    if not report.has_time("several devices", 2 * report.compiling[PPO] * len(found)):
        return
    task, trials = task_of(PPO, RunLength(steps, 2, 16), 2 * len(found) * lanes)
    seconds = []
    for used in (found[:1], found):
        registry = Programs(lanes, 1)
        train(ClosedBatches(task, registry, seed=0, slot_devices=used), trials)
        began = time.perf_counter()
        train(ClosedBatches(task, registry, seed=0, slot_devices=used), trials)
        seconds.append(time.perf_counter() - began)
    report.add(
        f"| {len(trials)} PPO trials, {lanes} lanes | 1 device | {len(found)} devices | ratio |", "|---|---|---|---|"
    )
    one, all_ = seconds
    report.add(f"| {steps:,} steps each, already compiled | {one:.1f} s | {all_:.1f} s | {one / all_:.2f} |", "")


def rung(report: Report, name: str, lanes: int, seconds: float) -> bool:
    """Measure one number of lanes. Return whether they fit into memory."""
    expected = 1.3 * report.compiling[name] + max(3 * seconds, 4 * lanes * report.iterating[name])
    if not report.has_time(f"{name} with {lanes} lanes", expected):
        return True
    task, trials = task_of(name, RunLength(20_000 if name == SAC else 100_000, 10, 16), lanes)
    program = Program(task.program(trials[0]), lanes, 1, jax.local_devices()[0])
    try:
        training = Training(program, task, trials)
        report.compiling[name] = training.prepare().seconds
        training.advance(1)
        report.iterating[name] = training.advance(2)["wall"] / 2 / lanes
        iterations = max(1, round(seconds / (report.iterating[name] * lanes)))
        took = training.advance(iterations)["wall"]
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
        report.rows[name, lanes] = f"| {name} | {lanes} | out of memory | | | |"
        return False
    rates = report.rates[name]
    rates[lanes] = lanes * iterations * program.algorithm.steps_per_iteration / took
    ratio = f"{rates[lanes] / rates[1]:.1f}" if 1 in rates else ""
    costs = f"{report.compiling[name]:.0f} s | {program.memory_bytes() / 2**20:,.0f} MiB"
    report.rows[name, lanes] = f"| {name} | {lanes} | {rates[lanes]:,.0f} | {ratio} | {costs} |"
    print(report.rows[name, lanes], file=sys.stderr, flush=True)
    report.write()
    return True


def ladder(report: Report, numbers: Sequence[int], seconds: float) -> None:
    """Measure every second number of lanes first, so that little time still shows the whole range."""
    full: set[str] = set()
    for lanes in [*numbers[::2], *numbers[1::2]]:
        for name in TASKS:
            if name not in full and not rung(report, name, lanes, seconds):
                full.add(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--lanes", type=int, nargs="+", default=LANES)
    parser.add_argument("--output", type=Path, default=Path("scaling"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    report = Report(given.output, time.monotonic() + 60 * given.minutes)
    study(
        report, *((2, 1_200) if given.quick else (100, 20_000))
    )  # first: later this process holds the device's memory
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HYPERLAX_CACHE_DIR"] = cache
        device.prepare_jax(compilation_cache=True)
        first = jax.local_devices()[0]
        report.lines.insert(
            0, f"{first.device_kind} ({first.platform}), jax {jax.__version__}, Hyperlax {device.VERSION}\n"
        )
        memory(report, *((4, 64) if given.quick else (64, 4_000)))
        devices(report, *((2, 2_048) if given.quick else (64, 100_000)))
        ladder(report, sorted(given.lanes), 0.01 if given.quick else SECONDS)
    report.plot()
    print(report.write())


if __name__ == "__main__":
    main()
