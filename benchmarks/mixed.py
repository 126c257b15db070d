"""Trials in a program for all sizes of a space, against each in a program of its own size, in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import optuna

from benchmarks.timed import Sample
from benchmarks.training import Training
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine import device
from hyperlax.engine.lanes import Program
from hyperlax.fields import apply
from hyperlax.hyperparams import of_algorithm
from hyperlax.recipe import Recipe, RunLength, load
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.trial import Trial

LENGTH = RunLength(100_000, 10, 16)
WARM_UP = 2_000
"""Environment steps before timing: SAC and DQN begin to learn after about 1,000."""


def suggested(recipe: Recipe, count: int) -> list[Trial]:
    """Return the first trials of a random study of this recipe."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = SearchSpace(recipe.space)
    asked = OptunaSampler(space, "random", ("maximize",), 0, count).suggest(0, count, lambda start: [])
    base = recipe.config.algorithm
    return [Trial(n, apply(base, space.decode(one.params), "benchmark")) for n, one in enumerate(asked)]


def exact_and_mixed(
    name: str, environment: str, seeds: int, trials: int, seconds: float
) -> tuple[dict[str, Callable[[], Sample]], float]:
    """Compile the programs, one lane each. Return both cases, and the environment steps that each of them trains.

    seconds: about how long a trial trains in its own program, per round.
    """
    device.prepare_jax(compilation_cache=True)
    recipe, place = load(name), jax.local_devices()[0]
    mixed = AlgorithmTask(of_algorithm(recipe.config.algorithm), recipe.space, environment, LENGTH)
    programs: dict[object, Program] = {}
    cases: dict[str, list[Callable[[], Sample]]] = {"exact": [], "mixed": []}
    steps = 0
    for trial in suggested(recipe, trials):
        exact = AlgorithmTask(of_algorithm(trial.config), {}, environment, LENGTH)
        both: dict[str, Training] = {}
        for case, task in (("exact", exact), ("mixed", mixed)):
            algorithm = task.program(trial)
            program = programs.setdefault(algorithm, Program(algorithm, 1, seeds, place))
            both[case] = Training(program, task, [trial])
            both[case].advance(-(-WARM_UP // algorithm.steps_per_iteration))
        iterations = max(1, round(seconds / both["exact"].advance(2)["wall"] * 2))
        both["mixed"].advance(2)
        steps += iterations * seeds * mixed.program(trial).steps_per_iteration
        for case, training in both.items():
            cases[case].append(partial(training.advance, iterations))
    return {case: partial(_sum, runs) for case, runs in cases.items()}, steps


def _sum(runs: list[Callable[[], Sample]]) -> Sample:
    samples = [run() for run in runs]
    return {quantity: sum(sample[quantity] for sample in samples) for quantity in samples[0]}
