"""Quality of the search, and the gain from pruning, populations and confirmation.

    python benchmarks/search.py width             # width 1 equals plain Optuna; regret at widths 1, 4, 16, 64, auto
    python benchmarks/search.py fronts            # hypervolume with several objectives against Optuna's NSGA-II
    python benchmarks/search.py pruning           # refilled lanes against fixed batches: PPO CartPole, SAC Pendulum
    python benchmarks/search.py population        # PBT against random search at equal steps: PPO Pendulum
    python benchmarks/search.py confirmed         # seconds to a CartPole policy of 475, confirmed on new seeds

`--repetitions N` sets the number of seeds; both sides of a row use the same ones. Prints Markdown rows.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import bootstrap

from benchmarks.problems import SEVERAL, SINGLE, Problem
from hyperlax.pareto import hypervolume
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.space import UniformContinuous

TRIALS = 256
WIDTHS = (1, 4, 16, 64)
AUTO = 2
"""The width of `auto` on two slots."""
POPULATION, GENERATIONS = 40, 25


def space_of(problem: Problem) -> SearchSpace:
    return SearchSpace({f"x{i:02d}": UniformContinuous(domain=(0.0, 1.0)) for i in range(problem.dimensions)})


def point(params: dict[str, float]) -> np.ndarray:
    return np.array([params[name] for name in sorted(params)])


def ours(
    problem: Problem, sampler: str, width: int, trials: int, seed: int, overlaps: bool = False
) -> list[FrozenTrial]:
    """Return the trials of a study with super-batches of `width`. overlaps: whether each is asked while the one before trains."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = space_of(problem)
    objectives = len(problem.reference) or 1
    asker = OptunaSampler(space, sampler, ("minimize",) * objectives, seed, width)
    history: list[FrozenTrial] = []

    def known(start: int) -> list[FrozenTrial]:
        ended = start - width if overlaps else start
        return [trial if trial.number < ended else running(trial) for trial in history[:start]]

    while len(history) < trials:
        start = len(history)
        for new in asker.suggest(start, min(width, trials - start), known):
            made = create_trial(
                params=new.params,
                distributions=space.optuna,
                values=problem.values(point(new.params)),
                state=TrialState.COMPLETE,
                system_attrs=new.system_attrs,
            )
            made.number = len(history)
            history.append(made)
    return history


def running(trial: FrozenTrial) -> FrozenTrial:
    """Return the trial as it was while it trained."""
    before = copy.copy(trial)
    before.state, before.values, before.datetime_complete = TrialState.RUNNING, None, None
    return before


def optunas(problem: Problem, sampler: optuna.samplers.BaseSampler, trials: int) -> list[FrozenTrial]:
    """Return the trials of plain Optuna, one after another."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = space_of(problem)
    directions = [optuna.study.StudyDirection.MINIMIZE] * (len(problem.reference) or 1)
    study = optuna.create_study(directions=directions, sampler=sampler)
    for _ in range(trials):
        trial = study.ask(space.optuna)
        study.tell(trial, problem.values(point(trial.params)))
    return study.trials


def regret(problem: Problem, sampler: str, width: int, seed: int, overlaps: bool = False) -> float:
    """Return the regret of the best of TRIALS trials."""
    return min(trial.values[0] for trial in ours(problem, sampler, width, TRIALS, seed, overlaps)) - problem.least


def is_plain_optuna(problem: Problem, seed: int) -> bool:
    """Return whether width 1 gives bit-identical parameters and values to Optuna."""
    theirs = optunas(problem, optuna.samplers.TPESampler(seed=seed), TRIALS)
    return [(t.params, t.values) for t in ours(problem, "tpe", 1, TRIALS, seed)] == [
        (t.params, t.values) for t in theirs
    ]


def volumes(problem: Problem, seed: int) -> tuple[float, float]:
    """Return the hypervolumes of Hyperlax and of Optuna's NSGA-II after equally many trials."""
    trials = POPULATION * GENERATIONS
    plain = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    found = ours(problem, "nsgaii", POPULATION, trials, seed), optunas(problem, plain, trials)
    one, other = (hypervolume(-np.array([t.values for t in side]), -np.array(problem.reference)) for side in found)
    return one, other


def width(repetitions: int) -> None:
    """Check equality at width 1, then print a row per problem and width with wins against random search of the same seed."""
    with ProcessPoolExecutor() as processes:
        print(
            f"| median regret after {TRIALS} trials | width | 95 % interval | better than random |\n|---|---|---|---|"
        )
        for problem in SINGLE:
            equal = list(processes.map(partial(is_plain_optuna, problem), range(3)))
            print(f"| {problem.name}: width 1 is plain Optuna | | | {sum(equal)} of {len(equal)} seeds |")
            draws = list(processes.map(partial(regret, problem, "random", 16), range(repetitions)))
            for name, wide in (*((str(wide), wide) for wide in WIDTHS), ("auto on 2 slots", AUTO)):
                one = partial(regret, problem, "tpe", wide, overlaps=wide == AUTO)
                found = list(processes.map(one, range(repetitions)))
                wins = sum(mine < other for mine, other in zip(found, draws, strict=True))
                low, high = interval(found, np.median)
                print(
                    f"| {problem.name} {np.median(found):.3f} | {name} | {low:.3f} to {high:.3f} | "
                    f"{wins} of {repetitions} |",
                    flush=True,
                )
            low, high = interval(draws, np.median)
            print(f"| {problem.name} {np.median(draws):.3f} | random | {low:.3f} to {high:.3f} | |", flush=True)


def fronts(repetitions: int) -> None:
    """Print a row per problem: the hypervolume divided by Optuna's, over paired seeds."""
    trials = POPULATION * GENERATIONS
    print(
        f"| NSGA-II, {trials} trials, population {POPULATION} | ours / Optuna's hypervolume | 95 % interval |\n|---|---|---|"
    )
    with ProcessPoolExecutor() as processes:
        for problem in SEVERAL:
            pairs = list(processes.map(partial(volumes, problem), range(repetitions)))
            ratios = [one / other for one, other in pairs]
            low, high = interval(ratios, np.mean)
            print(f"| {problem.name} | {np.mean(ratios):.3f} | {low:.3f} to {high:.3f} |", flush=True)


def interval(values: Sequence[float], statistic: Callable[..., object]) -> tuple[float, float]:
    """Return the 95 % interval by percentile bootstrap."""
    if len(set(values)) == 1:
        return values[0], values[0]
    found = bootstrap(
        (np.array(values),), statistic, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Search:
    """A recipe on an environment, with the steps and segments of its trials."""

    recipe: str
    environment: str
    steps: int
    segments: int


LANES = 2
SEARCHES = (
    Search("ppo_mlp", "gymnax.cartpole", 100_000, 36),
    Search("sac_mlp", "gymnax.pendulum", 4_000, 16),
)


def pruning(repetitions: int, searches: Sequence[Search] = SEARCHES) -> None:
    """Print a row per task and pruner, with a warm cache: wall seconds, device calls, confirmed return of the winner."""
    print(
        "| 64 trials | pruner | wall seconds | train calls | confirmed winner | standard error | each |\n"
        "|---|---|---|---|---|---|---|"
    )
    for search in searches:
        run_search(search, "asha", repetitions, trials=2 * LANES)
        for pruner in ("none", "asha"):
            found = [run_search(search, pruner, seed) for seed in range(repetitions)]
            seconds, calls, returns = (np.array(column, float) for column in zip(*found, strict=True))
            error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else float("nan")
            each = ", ".join(f"{time:.0f} s {value:.1f}" for time, value in zip(seconds, returns, strict=True))
            print(
                f"| {search.recipe} {search.environment} | {pruner} | {seconds.mean():.0f} | {calls.mean():.0f} | "
                f"{returns.mean():.1f} | {error:.1f} | {each} |",
                flush=True,
            )


def run_search(search: Search, pruner: str, seed: int, trials: int = 64) -> tuple[float, float, float]:
    """Return the seconds of one study, its calls of `train`, and its winner's mean return on 5 new seeds."""
    with tempfile.TemporaryDirectory() as root:
        words = f"optuna-hp-search --algo-and-network-config {search.recipe} --env-config {search.environment}"
        words += (
            f" --total-timesteps {search.steps} --num-evaluations {search.segments} --n-trials {trials} --seed {seed}"
        )
        words += f" --pruner {pruner} --packing pad --runner-hparam-batch-size {LANES} --log-level WARNING"
        began = time.perf_counter()
        hyperlax(*words.split(), "--output-root", root)
        seconds = time.perf_counter() - began
        directory = Path(root, search.recipe, search.environment.replace(".", "_"))
        timings = [json.loads(path.read_text()) for path in directory.glob("optuna_exec_batch_*/samples/*/timing.json")]
        calls = sum(timing.get("lane_segments", LANES * search.segments) for timing in timings) / LANES
        hyperlax("optuna-hp-search", "--resume-from", str(directory), "--confirm-top", "1", "--confirm-seeds", "5")
        return seconds, calls, confirmed_mean(directory / "confirmation.csv", "peak")


def population(repetitions: int) -> None:
    """Print the final return of PBT's best member and of the best random trial, both on 5 new seeds."""
    print("| PPO Pendulum, 16 x 300,000 steps | mean of the best, on new seeds | each |\n|---|---|---|")
    for name, run in (("pbt", run_pbt), ("random search", run_random)):
        found = [run(seed) for seed in range(repetitions)]
        print(f"| {name} | {np.mean(found):.1f} | {', '.join(f'{value:.1f}' for value in found)} |", flush=True)


LENGTH = "--total-timesteps 300000 --num-eval-episodes 16 --log-level WARNING"


def run_pbt(seed: int) -> float:
    with tempfile.TemporaryDirectory() as root:
        words = f"pbt --algo-and-network-config ppo_mlp --env-config gymnax.pendulum --population-size 16 --seed {seed} {LENGTH}"
        hyperlax(*words.split(), "--num-intervals", "15", "--output-root", root)
        schedule = Path(root, "ppo_mlp", "gymnax_pendulum", "pbt_schedule.json")
        hyperlax("pbt-replay", str(schedule), "--output-root", str(Path(root, "replay")))
        (summary,) = Path(root, "replay").glob("**/summary.csv")
        return column(summary, "final_performance")


def run_random(seed: int) -> float:
    with tempfile.TemporaryDirectory() as root:
        words = "optuna-hp-search --algo-and-network-config ppo_mlp --env-config gymnax.pendulum --sampler random"
        words += f" --n-trials 16 --seed {seed} {LENGTH} --num-evaluations 15 --objective-names final_performance"
        hyperlax(*words.split(), "--output-root", root, "--confirm-top", "1", "--confirm-seeds", "5")
        return confirmed_mean(Path(root, "ppo_mlp", "gymnax_pendulum", "confirmation.csv"), "final")


WAYS = (
    ("lanes refilled", f"--pruner asha --runner-hparam-batch-size {LANES} --packing pad"),
    ("fixed batches", f"--runner-hparam-batch-size {LANES} --packing pad"),
    ("one trial after another", "--optuna-study-batch-size 1 --runner-hparam-batch-size 1 --packing pad"),
)


def confirmed(repetitions: int) -> None:
    """Print a row per mode, with a warm cache: wall seconds of search and confirmation, and how often the winner reaches 475."""
    print(
        "| 32 PPO trials on CartPole, 100,000 steps | seconds | confirmed winners of 475 | means |\n|---|---|---|---|"
    )
    for name, flags in WAYS:
        run_confirmed(flags, repetitions, trials=2 * LANES)
        found = [run_confirmed(flags, seed) for seed in range(repetitions)]
        seconds, means = zip(*found, strict=True)
        reached = sum(value >= 475 for value in means)
        listed = ", ".join(f"{value:.0f}" for value in means)
        print(f"| {name} | {np.mean(seconds):.0f} | {reached} of {repetitions} | {listed} |", flush=True)


def run_confirmed(flags: str, seed: int, trials: int = 32) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as root:
        words = "optuna-hp-search --algo-and-network-config ppo_mlp --env-config gymnax.cartpole --no-default-trial"
        words += f" --n-trials {trials} --seed {seed} --total-timesteps 100000 --num-evaluations 36 --log-level WARNING"
        words += f" --confirm-top 1 --confirm-seeds 5 {flags}"
        began = time.perf_counter()
        hyperlax(*words.split(), "--output-root", root)
        seconds = time.perf_counter() - began
        return seconds, confirmed_mean(Path(root, "ppo_mlp", "gymnax_cartpole", "confirmation.csv"), "final")


def confirmed_mean(path: Path, name: str) -> float:
    """Return the mean over the winner's new seeds; the winner may be the recipe's default configuration."""
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    (winner,) = {row[0] for row in rows} - {"default"} or {"default"}
    return float(np.mean([float(row[header.index(name)]) for row in rows if row[0] == winner]))


def column(path: Path, name: str) -> float:
    """Return a column of a CSV file with one row."""
    header, row = (line.split(",") for line in path.read_text().splitlines()[:2])
    return float(row[header.index(name)])


def hyperlax(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "hyperlax.cli", *words], check=True, stdout=subprocess.DEVNULL)


PARTS: dict[str, tuple[Callable[[int], None], int]] = {
    "width": (width, 30),
    "fronts": (fronts, 10),
    "pruning": (pruning, 5),
    "population": (population, 5),
    "confirmed": (confirmed, 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--recipe", choices=[search.recipe for search in SEARCHES], help="for pruning (default: both)")
    given = parser.parse_args()
    run, usual = PARTS[given.part]
    if given.recipe:
        run = partial(pruning, searches=[search for search in SEARCHES if search.recipe == given.recipe])
    run(given.repetitions or usual)


if __name__ == "__main__":
    main()
