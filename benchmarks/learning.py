"""Returns of the shipped recipes with their defaults, and of the winner of a small study.

    python benchmarks/learning.py                 # every task: 5 seeds, deterministic evaluation over 32 episodes
    python benchmarks/learning.py --task sac:gymnax.pendulum:20000
    python benchmarks/learning.py --study         # 32 trials of SAC Pendulum by TPE, with the best one confirmed

A task's score is the mean return at its last evaluation, over seeds and episodes. The confirmation retrains the study's best trial
under another study seed, that is on seeds and episodes that the search never used. Exits with 1 if a mark is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import training
from hyperlax import recipe
from hyperlax.backends.base import EngineConfig
from hyperlax.backends.local import make_backend
from hyperlax.cli import main as hyperlax
from hyperlax.envs import slug
from hyperlax.fields import apply
from hyperlax.hyperparams import AlgorithmConfig, of_algorithm
from hyperlax.recipe import RunLength
from hyperlax.trial import SegmentResult, Trial


@dataclass(frozen=True)
class Task:
    """A recipe on an environment with a budget, and the mean return that it should reach."""

    recipe: str
    environment: str
    steps: int
    mark: float


TASKS = (
    Task("ppo_mlp", "gymnax.cartpole", 250_000, 490),
    Task("ppo_mlp", "gymnax.pendulum", 500_000, -200),
    Task("ppo_mlp", "gymnax.acrobot", 100_000, -90),
    Task("sac_mlp", "gymnax.pendulum", 20_000, -165),
    Task("dqn_mlp", "gymnax.cartpole", 100_000, 420),
)
STUDY = Task("sac_mlp", "gymnax.pendulum", 20_000, -160)
CONFIRMATION_SEED = 1_000_003


def train(config: AlgorithmConfig, task: Task, *, seed: int, seeds: int, episodes: int) -> SegmentResult:
    """Train one trial alone in its program."""
    backend = make_backend(
        EngineConfig(
            base=config,
            space={},
            environment=task.environment,
            run_length=RunLength(task.steps, 10, episodes),
            seed=seed,
            num_seeds=seeds,
            num_trials=1,
            super_batch=1,
        )
    )
    return training.train(backend, [Trial(0, config)])[0]


def show(label: str, outcome: SegmentResult, mark: float) -> bool:
    """Print one row of the table and return whether the mark was reached."""
    if outcome.fault_step is not None:
        print(f"| {label} | not finite at step {outcome.fault_step} | | {mark:g} | no |", flush=True)
        return False
    final = outcome.curve.mean[-1]
    reached = bool(final.mean() >= mark)
    per_seed = ", ".join(f"{value:.1f}" for value in final)
    print(f"| {label} | {final.mean():.1f} | {per_seed} | {mark:g} | {'yes' if reached else 'no'} |", flush=True)
    return reached


def run_tasks(tasks: list[Task], seed: int, seeds: int) -> bool:
    """Train every task with its recipe's defaults."""
    print(
        f"| recipe, environment, steps | mean over {seeds} seeds | each seed | mark | reached |\n|---|---|---|---|---|"
    )
    reached = [
        show(
            f"{task.recipe}, {task.environment}, {task.steps:,}",
            train(of_algorithm(recipe.load(task.recipe).config.algorithm), task, seed=seed, seeds=seeds, episodes=32),
            task.mark,
        )
        for task in tasks
    ]
    return all(reached)


def run_confirmed_study(seed: int, trials: int) -> bool:
    """Run a study as a user does, then retrain its best trial on 3 new seeds and 256 new episodes."""
    with tempfile.TemporaryDirectory() as root:
        status = hyperlax(
            [
                "optuna-hp-search",
                *("--algo-and-network-config", STUDY.recipe, "--env-config", STUDY.environment),
                *("--n-trials", str(trials), "--total-timesteps", str(STUDY.steps), "--num-evaluations", "10"),
                *("--num-eval-episodes", "16", "--seed", str(seed), "--output-root", root),
                *("--objective-names", "final_performance", "--objective-directions", "maximize"),
            ]
        )
        if status:
            return False
        best = json.loads((Path(root) / STUDY.recipe / slug(STUDY.environment) / "best_optuna_params.json").read_text())
    print(f"best of {trials}: trial {best['trial']}, {best['values']}\n{json.dumps(best['params'], indent=1)}")
    base = of_algorithm(recipe.load(STUDY.recipe).config.algorithm)
    config = apply(base, best["params"], "best trial")
    outcome = train(config, STUDY, seed=CONFIRMATION_SEED, seeds=3, episodes=256)
    return show(f"best of {trials} trials, confirmed", outcome, STUDY.mark)


def parse_task(text: str) -> Task:
    """Parse recipe:environment:steps, e.g. sac:gymnax.pendulum:20000; the mark comes from the table if it has one."""
    name, environment, steps = text.split(":")
    name = name if name.endswith("_mlp") else f"{name}_mlp"
    marks = {(task.recipe, task.environment, task.steps): task.mark for task in TASKS}
    return Task(name, environment, int(steps), marks.get((name, environment, int(steps)), float(-np.inf)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", type=parse_task, help="recipe:environment:steps; repeat for several")
    parser.add_argument("--seed", type=int, default=0, help="study seed (default 0)")
    parser.add_argument("--num-seeds", type=int, default=5, help="seeds per task (default 5)")
    parser.add_argument("--study", action="store_true", help="run the study and its confirmation instead")
    parser.add_argument("--n-trials", type=int, default=32, help="trials of the study (default 32)")
    arguments = parser.parse_args()
    if arguments.study:
        return 0 if run_confirmed_study(arguments.seed, arguments.n_trials) else 1
    return 0 if run_tasks(arguments.task or list(TASKS), arguments.seed, arguments.num_seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
