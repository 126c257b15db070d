"""Bookkeeping cost of a trial (ask, tell, write files) against plain Optuna's `study.optimize` on SQLite.

    python benchmarks/bookkeeping.py

Runs 1,000 trials of a trivial objective by NSGA-II with a population of 50: once through `run_study`, which writes every file
except the analysis pages, and once with the same sampler and objective in Optuna's own loop. Prints one line per side and their
ratio. With `--trials 1016 --pages`, the last super-batch costs what it does in a study with 1,000 finished trials, pages included.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna

from hyperlax.analysis.pages import write_pages
from hyperlax.backends.base import Evicted
from hyperlax.config.options import SearchOptions
from hyperlax.hyperparams import SAC, of_algorithm
from hyperlax.recipe import ExperimentConfig, Recipe, RunLength
from hyperlax.space import LogUniform, UniformContinuous
from hyperlax.study.observer import Pages
from hyperlax.study.search import run_study
from hyperlax.trial import Curve, Plan, SegmentResult, Trial

POPULATION, LANES = 50, 8
SPACE = {
    "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-5, 1e-2)),
    "algorithm.hyperparam.q_lr": LogUniform(domain=(1e-5, 1e-2)),
    "algorithm.hyperparam.gamma": UniformContinuous(domain=(0.9, 0.999)),
    "algorithm.hyperparam.tau": UniformContinuous(domain=(0.001, 0.1)),
}


class TrivialBackend:
    """A backend without training: a trial's return is a sum of its hyperparameters."""

    lanes, slots, device = LANES, 1, "none"
    occupied = preparing = 0

    def __init__(self) -> None:
        self.packing: dict[str, object] = {}
        self._batch: list[Trial] = []

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """Return batches of LANES trials."""
        batches = tuple(tuple(trials[i : i + LANES]) for i in range(0, len(trials), LANES))
        return Plan(batches, 1, 1, None)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = 0) -> list[int]:
        """Take a batch."""
        self._batch = list(trials)
        return [trial.number for trial in trials]

    def begin(self) -> None:
        """Do nothing in the background."""

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Return two evaluations per trial."""
        batch, self._batch = self._batch, []
        return [_result(trial) for trial in batch], []

    def copy(self, source: int, into: Trial) -> None:
        """Refuse: nothing is copied here."""
        raise NotImplementedError

    def stop(self) -> None:
        """Do nothing: trials end at once."""

    def wake(self) -> None:
        """Do nothing: nobody waits."""

    def leave(self, number: int) -> None:
        """Do nothing."""

    def save(self) -> None:
        """Do nothing."""

    def restore(self, trials: Mapping[int, Trial], unfinished: Collection[int]) -> list[SegmentResult]:
        """Return nothing."""
        return []

    def timing(self, numbers: Collection[int]) -> dict[str, object]:
        """Return the steps."""
        return {"steps": 100 * len(numbers)}

    def close(self) -> None:
        """Do nothing."""


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


def ours(root: Path, trials: int, pages: bool) -> tuple[float, list[float]]:
    """Return the seconds of a whole study and of each of its super-batches."""
    ends = [time.perf_counter()]

    def write(record, directory, is_latest):
        if pages:
            write_pages(record, directory, is_latest)
        ends.append(time.perf_counter())

    backend = TrivialBackend()
    run_study(options(root, trials), recipe(), make_backend=lambda *made_for: backend, observers=[Pages(write)])
    return ends[-1] - ends[0], [b - a for a, b in itertools.pairwise(ends)]


def plain_optuna(root: Path, trials: int) -> float:
    """Return the seconds of the same study in Optuna's own loop."""
    study = optuna.create_study(
        direction="maximize",
        storage=f"sqlite:///{root / 'plain.db'}",
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0),
    )

    def objective(trial: optuna.Trial) -> float:
        rates = [trial.suggest_float(name, 1e-5, 1e-2, log=True) for name in ("actor_lr", "q_lr")]
        return value(trial.suggest_float("gamma", 0.9, 0.999), trial.suggest_float("tau", 0.001, 0.1), *rates)

    began = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - began


def main() -> None:
    """Run both sides and print their times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--pages", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        own, parts = ours(Path(scratch) / "ours", given.trials, given.pages)
        theirs = plain_optuna(Path(scratch), given.trials)
    print(f"hyperlax: {own:.1f} s, {1000 * own / given.trials:.1f} ms a trial")
    print(f"          first super-batch {parts[0]:.2f} s, last {parts[-1]:.2f} s")
    print(f"optuna:   {theirs:.1f} s, {1000 * theirs / given.trials:.1f} ms a trial")
    print(f"ratio:    {theirs / own:.2f}")


if __name__ == "__main__":
    main()
