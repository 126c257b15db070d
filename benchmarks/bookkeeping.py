"""Bookkeeping cost of a trial (ask, tell, write files) as a study grows, beside that of Optuna's sampler alone.

    python benchmarks/bookkeeping.py
    python benchmarks/bookkeeping.py --sampler nsgaii --pages --trials 100 1000

Runs one study of trials without training through `run_study`, in super-batches of 50, as long as the largest number of trials. It
writes every file; without `--pages` the analysis of a super-batch is its tables alone, no plot and no report. Prints a row per
number of trials: milliseconds of a trial until then, and of the latest fifth, where the growth shows. CPU is that of the whole
process, the thread of the pages included. Optuna is its own loop with the same sampler and objective in memory, or in SQLite
with `--sqlite`, which takes about 50 ms a trial.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna

from hyperlax.analysis.pages import write_pages
from hyperlax.analysis.tables import write_best, write_trials
from hyperlax.backends.base import Backend, Evicted
from hyperlax.config.options import SearchOptions
from hyperlax.hyperparams import SAC, of_algorithm
from hyperlax.recipe import ExperimentConfig, Recipe, RunLength
from hyperlax.space import LogUniform, UniformContinuous
from hyperlax.study.directory import TRIALS
from hyperlax.study.observer import Pages
from hyperlax.study.record import StudyRecord
from hyperlax.study.search import run_study
from hyperlax.trial import Curve, Plan, SegmentResult, Trial

POPULATION, LANES = 50, 8
SPACE = {
    "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-5, 1e-2)),
    "algorithm.hyperparam.q_lr": LogUniform(domain=(1e-5, 1e-2)),
    "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.9, 0.999)),
    "algorithm.hyperparam.tau": UniformContinuous(domain=(0.001, 0.1)),
}


class TrivialBackend(Backend):
    """A backend without training: a trial's return is a sum of its hyperparameters."""

    lanes, slots, device = LANES, 1, "none"

    def __init__(self) -> None:
        self.packing = {}
        self._batch: list[Trial] = []

    @property
    def occupied(self) -> int:
        """No lanes."""
        return 0

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Return batches of LANES trials."""
        batches = tuple(tuple(trials[i : i + LANES]) for i in range(0, len(trials), LANES))
        return Plan(batches, 1, 1, None)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = 0) -> list[int]:
        """Take a batch."""
        self._batch = list(trials)
        return [trial.number for trial in trials]

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Return two evaluations per trial."""
        batch, self._batch = self._batch, []
        return [_result(trial) for trial in batch], []

    def timing(self, numbers: Collection[int]) -> dict[str, object]:
        """Return the steps."""
        return {"steps": 100 * len(numbers)}


def value(gamma: float, tau: float, actor_lr: float, q_lr: float) -> float:
    """Return the objective."""
    return -1000.0 + 100.0 * gamma + tau + actor_lr + q_lr


def _result(trial: Trial) -> SegmentResult:
    own = vars(of_algorithm(trial.config).hyperparam)
    last = value(*(own[name] for name in ("gamma", "tau", "actor_lr", "q_lr")))
    mean = np.array([[-1200.0], [last]])
    curve = Curve(np.array([0, 100]), mean, np.zeros_like(mean), mean, mean, np.ones_like(mean), 1, 100)
    return SegmentResult(trial.number, 0, 1, curve, None, True, None, 1, 0.0)


def recipe() -> Recipe:
    """Return the recipe of the study."""
    config = ExperimentConfig(SAC(), dict.fromkeys(("quick", "default", "long"), RunLength(100, 1, 1)))
    return Recipe("trivial", Path("trivial.py"), config, dict(SPACE))


def options(root: Path, trials: int) -> SearchOptions:
    """Return the options of the study."""
    return SearchOptions(
        algo_and_network_config="trivial",
        env_config="gymnax.pendulum",
        study_name="trivial",
        n_trials=trials,
        objective_names=("peak_performance",),
        objective_directions=("maximize",),
        sampler="nsgaii",
        default_trial=False,
        enqueue=None,
        constraints=(),
        pruner="none",
        pruner_min_segments=3,
        pruner_reduction_factor=3,
        pruner_percentile=25.0,
        optuna_study_batch_size=POPULATION,
        runner_hparam_batch_size=LANES,
        packing="auto",
        output_root=str(root),
        log_level="WARNING",
        seed=0,
        num_seeds=1,
        aggregate="mean",
        seed_schedule="fixed",
        total_timesteps=100,
        num_evaluations=1,
        num_eval_episodes=1,
        confirm_top=0,
        confirm_seeds=10,
        timeout=None,
        save_agents="none",
        max_failure_rate=0.5,
        checkpoint_seconds=60.0,
        compilation_cache=False,
    )


Clock = tuple[float, float]
"""Seconds of CPU of this process, and of the clock on the wall."""


def now() -> Clock:
    """Return the time."""
    return time.process_time(), time.perf_counter()


def ours(root: Path, trials: int, sampler: str, pages: bool) -> list[Clock]:
    """Return the time at the start of a study and at the end of each of its super-batches, with their analyses."""
    ends = [now()]

    def write(record: StudyRecord, directory: Path | None, is_latest: bool) -> None:
        if pages:
            write_pages(record, directory, is_latest)
        for place in () if pages else filter(None, (directory, record.directory if is_latest else None)):
            write_best(record, place)
            write_trials(record, place / TRIALS)
        ends.append(now())

    backend = TrivialBackend()
    chosen = replace(options(root, trials), sampler=sampler)
    with redirect_stdout(io.StringIO()):
        run_study(chosen, recipe(), make_backend=lambda *made_for: backend, observers=[Pages(write)])
    return ends


def optunas(trials: int, sampler: str, storage: str | None) -> list[Clock]:
    """Return the same times of Optuna's own loop."""
    made = {
        "nsgaii": lambda: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0),
        "random": lambda: optuna.samplers.RandomSampler(seed=0),
    }
    study = optuna.create_study(direction="maximize", storage=storage, sampler=made[sampler]())
    ends = [now()]

    def objective(trial: optuna.Trial) -> float:
        rates = [trial.suggest_float(name, 1e-5, 1e-2, log=True) for name in ("actor_lr", "q_lr")]
        return value(trial.suggest_float("gamma", 0.9, 0.999), trial.suggest_float("tau", 0.001, 0.1), *rates)

    for _ in range(trials // POPULATION):
        study.optimize(objective, n_trials=POPULATION)
        ends.append(now())
    return ends


def milliseconds(ends: Sequence[Clock], first: int, last: int) -> tuple[float, float]:
    """Return the milliseconds of a trial between two numbers of super-batches, of CPU and of the clock."""
    (cpu, wall), (cpu_then, wall_then) = ends[first], ends[last]
    count = (last - first) * POPULATION / 1000
    return (cpu_then - cpu) / count, (wall_then - wall) / count


def main() -> None:
    """Run both sides and print their times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 5000, 10000])
    parser.add_argument("--sampler", choices=("random", "nsgaii"), default="random")
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--sqlite", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    most = max(given.trials)
    with tempfile.TemporaryDirectory() as scratch:
        own = ours(Path(scratch), most, given.sampler, given.pages)
        theirs = optunas(most, given.sampler, f"sqlite:///{scratch}/plain.db" if given.sqlite else None)
    what = "with pages" if given.pages else "without pages"
    print(f"{given.sampler}, super-batches of {POPULATION}, {what}, ms of a trial:\n")
    print(
        "| trials | CPU so far | CPU, latest fifth | wall, latest fifth | Optuna, CPU, latest fifth | CPU beyond Optuna |"
    )
    print("|---|---|---|---|---|---|")
    for trials in given.trials:
        last = trials // POPULATION
        recent = last - max(1, last // 5)
        cpu, wall = milliseconds(own, recent, last)
        optuna_cpu, _ = milliseconds(theirs, recent, last)
        cells = (milliseconds(own, 0, last)[0], cpu, wall, optuna_cpu, cpu - optuna_cpu)
        print(f"| {trials:,} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
