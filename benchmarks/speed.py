"""Speed of lanes against an Optuna loop that compiles every trial, and against trials one after another.

    python benchmarks/speed.py study        16 PPO CartPole trials including process start, cold and warm cache
    python benchmarks/speed.py sequence     16 trials, already compiled: lanes on every core, against one after another
    python benchmarks/speed.py steady       steps/s of lanes on every core, against one agent alone
    python benchmarks/speed.py second       compilations of a study's second super-batch
    python benchmarks/speed.py packing      16 trials of mixed architectures: --packing auto, pad and split, cold cache
    python benchmarks/speed.py structural   16 trials of mixed epochs, minibatches and batch sizes: one program, against one per
                                            structure

Both sides of a comparison run in one call, on the same trials. Prints Markdown rows. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna

from benchmarks.training import train
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.closed import ClosedBatches
from hyperlax.engine import device
from hyperlax.engine.registry import Registry
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import Recipe, RunLength, apply, load
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.optuna import OptunaSampler
from hyperlax.space import Categorical, Distribution, LogUniform
from hyperlax.trial import Trial

TRIALS, LANES, EVALUATIONS, EPISODES = 16, 4, 10, 16
TRACED = """
    from hyperlax.recipe import load

    def get_base_config():
        return load("ppo_mlp").config

    def get_base_hyperparam_distributions():
        return {name: found for name, found in load("ppo_mlp").space.items() if ".network." not in name}
"""
MIXED = """
    import dataclasses
    from hyperlax.hyperparams import ActorCriticNetworks, Network, Torso
    from hyperlax.recipe import load
    from hyperlax.space import Categorical, LogUniform

    def get_base_config():
        return load("ppo_mlp").config

    def get_base_hyperparam_distributions():
        sizes = [[32], [64], [128], [256], [32, 32], [64, 64], [128, 128], [256, 256], [64, 64, 64], [256, 128, 64]]
        prefix = "algorithm.network.actor_network.pre_torso."
        return {
            "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-4, 3e-3)),
            prefix + "layer_sizes": Categorical(values=sizes),
            prefix + "activation": Categorical(values=["tanh", "relu", "silu"]),
        }
"""


def suggested(recipe: Recipe, count: int = TRIALS) -> list[Trial]:
    """Return the first trials of a study of this recipe."""
    space = SearchSpace(recipe.space)
    asked = OptunaSampler(space, "random", ("maximize",), 0, count).suggest(0, count, lambda start: [])
    base = recipe.config.algorithm
    return [Trial(n, apply(base, space.decode(one.params), "benchmark")) for n, one in enumerate(asked)]


def search(recipe: Path, root: Path, cache: Path, steps: int, *more: str) -> float:
    """Return the seconds of a whole `optuna-hp-search` in its own process."""
    words = f"-m hyperlax.cli optuna-hp-search --env-config gymnax.cartpole --n-trials {TRIALS} --sampler random"
    words += f" --total-timesteps {steps} --num-evaluations {EVALUATIONS} --num-eval-episodes {EPISODES}"
    command = [
        sys.executable,
        *words.split(),
        "--algo-and-network-config",
        str(recipe),
        "--output-root",
        str(root),
        *more,
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "HYPERLAX_CACHE_DIR": str(cache)})
    return time.perf_counter() - began


def compiled_programs(root: Path) -> int:
    """Return how many programs the batches below a directory compiled."""
    return sum(json.loads(path.read_text())["programs_compiled"] for path in root.rglob("timing.json"))


def compiled_each(recipe: Recipe, steps: int, count: int) -> float:
    """Return the seconds per trial if each is compiled and trained alone: an Optuna loop without its bookkeeping."""
    device.prepare_jax(compilation_cache=False)
    began = time.perf_counter()
    for trial in suggested(recipe)[:count]:
        alone = AlgorithmTask(trial.algorithm, {}, "gymnax.cartpole", RunLength(steps, EVALUATIONS, EPISODES))
        train(batches(alone, 1, device.slot_devices()[:1]), [trial])
    return (time.perf_counter() - began) / count


def batches(workload: AlgorithmTask, lanes: int, slots: list[Any], registry: Registry | None = None) -> ClosedBatches:
    return ClosedBatches(workload, registry or Registry(lanes, 1), seed=0, slot_devices=slots)


def compiled_already(recipe: Recipe, environment: str, steps: int, lanes: int, slots: int) -> float:
    """Return the seconds for all trials in already compiled programs, including evaluations."""
    device.prepare_jax(compilation_cache=True)
    space = {name: found for name, found in recipe.space.items() if ".network." not in name}
    trials = suggested(Recipe(recipe.name, recipe.path, recipe.config, space))
    load_ = AlgorithmTask(recipe.config.algorithm, space, environment, RunLength(steps, EVALUATIONS, EPISODES))
    registry, devices = Registry(lanes, 1), device.slot_devices()[:slots]
    train(batches(load_, lanes, devices, registry), trials[:lanes])
    began = time.perf_counter()
    train(batches(load_, lanes, devices, registry), trials)
    return time.perf_counter() - began


def study(steps: int, baseline_trials: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "traced.py"
        recipe.write_text(textwrap.dedent(TRACED))
        cold = search(recipe, Path(scratch) / "cold", Path(scratch) / "cache", steps)
        warm = search(recipe, Path(scratch) / "warm", Path(scratch) / "cache", steps)
        each = compiled_each(load(str(recipe)), steps, baseline_trials)
    theirs = each * TRIALS
    note = "" if baseline_trials == TRIALS else f" ({baseline_trials} trials run, scaled)"
    print(f"| {TRIALS} trials compiled one by one{note} | {theirs:.0f} s | |")
    print(f"| hyperlax, cold cache | {cold:.0f} s | {theirs / cold:.1f}x |")
    print(f"| hyperlax, warm cache | {warm:.0f} s | {theirs / warm:.1f}x |", flush=True)


def sequence() -> None:
    slots = len(device.slot_devices())
    for name, environment, steps in (("ppo_mlp", "gymnax.cartpole", 100_000), ("sac_mlp", "gymnax.pendulum", 20_000)):
        one = compiled_already(load(name), environment, steps, 1, 1)
        many = compiled_already(load(name), environment, steps, LANES, slots)
        speed = steps * TRIALS / many
        print(
            f"| {name} {environment} {steps} | {one:.1f} s | {many:.1f} s | {one / many:.2f}x | {speed:,.0f} steps/s |",
            flush=True,
        )


def packing(steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "mixed.py"
        recipe.write_text(textwrap.dedent(MIXED))
        print(f"architectures: {len({repr(t.algorithm.network) for t in suggested(load(str(recipe)))})}")
        seconds = {}
        for how in ("auto", "pad", "split"):
            root, cache = Path(scratch) / how, Path(scratch) / f"{how}_cache"
            seconds[how] = search(recipe, root, cache, steps, "--packing", how)
            print(f"| {how} | {steps} | {seconds[how]:.0f} s | {compiled_programs(root)} programs |", flush=True)
        print(f"auto against the better: {seconds['auto'] / min(seconds['pad'], seconds['split']):.2f}x", flush=True)


def steady_state() -> None:
    """Print steps/s with the shipped PPO configuration in every lane: the gain from lanes and cores alone."""
    device.prepare_jax(compilation_cache=True)
    recipe, slots = load("ppo_mlp"), device.slot_devices()
    steps, rates = 200_000, []
    for lanes, cores in ((1, 1), (LANES, len(slots))):
        workload = AlgorithmTask(recipe.config.algorithm, {}, "gymnax.cartpole", RunLength(steps, 1, 1))
        registry = Registry(lanes, 1)
        trials = [Trial(number, recipe.config.algorithm) for number in range(2 * cores * lanes)]
        train(batches(workload, lanes, slots[:cores], registry), trials[:lanes])
        began = time.perf_counter()
        train(batches(workload, lanes, slots[:cores], registry), trials)
        rates.append(steps * len(trials) / (time.perf_counter() - began))
    print(f"| one agent | {rates[0]:,.0f} steps/s | |")
    print(f"| {LANES} lanes x {len(slots)} slots | {rates[1]:,.0f} steps/s | {rates[1] / rates[0]:.2f}x |", flush=True)


def second() -> None:
    """Print the compilations of two super-batches of mixed architectures, epochs and minibatches, with an empty cache."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "study"
        more = ("--optuna-study-batch-size", "8", "--num-eval-episodes", "4")
        search(Path("ppo_mlp"), root, Path(scratch) / "cache", 20_000, *more)
        for name in ("optuna_exec_batch_0000", "optuna_exec_batch_0001"):
            timings = [json.loads(path.read_text()) for path in root.glob(f"*/*/{name}/samples/*/timing.json")]
            print(
                f"| {name} | {sum(timing['programs_compiled'] for timing in timings)} programs compiled |", flush=True
            )


STRUCTURES = {
    "ppo_mlp": {
        "algorithm.hyperparam.epochs": Categorical(values=[1, 2, 4]),
        "algorithm.hyperparam.num_minibatches": Categorical(values=[4, 8, 16]),
        "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-4, 3e-3)),
    },
    "sac_mlp": {
        "algorithm.hyperparam.epochs": Categorical(values=[2, 4, 8]),
        "algorithm.hyperparam.total_batch_size": Categorical(values=[32, 64, 128]),
        "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-4, 3e-3)),
    },
}


def structural(name: str, environment: str, steps: int) -> None:
    """Time epochs x minibatches of PPO, or epochs x batch sizes of SAC, with nothing cached on either side."""
    device.prepare_jax(compilation_cache=False)
    recipe, length, space = load(name), RunLength(steps, EVALUATIONS, EPISODES), STRUCTURES[name]
    trials = suggested(Recipe(recipe.name, recipe.path, recipe.config, space))
    slots = device.slot_devices()

    def backend(base: AlgorithmConfig, space: Mapping[str, Distribution], some: list[Any]) -> ClosedBatches:
        return batches(AlgorithmTask(base, space, environment, length), LANES, some)

    def structure(trial: Trial) -> tuple[int, ...]:
        own = vars(trial.algorithm.hyperparam)
        return tuple(own[part] for part in ("epochs", "num_minibatches", "total_batch_size") if part in own)

    began, groups = time.perf_counter(), {}
    train(backend(recipe.config.algorithm, space, slots), trials)
    one, began = time.perf_counter() - began, time.perf_counter()
    for trial in trials:
        groups.setdefault(structure(trial), []).append(trial)
    with ThreadPoolExecutor(len(slots)) as threads:
        list(threads.map(lambda group: train(backend(group[0].algorithm, {}, slots[:1]), group), groups.values()))
    each = time.perf_counter() - began
    print(f"| {name} {steps}, one program per structure | {len(groups)} | {each:.0f} s | |")
    print(f"| {name} {steps}, hyperlax | 1 | {one:.0f} s | {each / one:.1f}x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["study", "sequence", "steady", "second", "packing", "structural"])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--baseline-trials", type=int, default=TRIALS)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if given.what == "study":
        study(given.steps, given.baseline_trials)
    elif given.what == "sequence":
        sequence()
    elif given.what == "steady":
        steady_state()
    elif given.what == "second":
        second()
    elif given.what == "structural":
        structural("ppo_mlp", "gymnax.cartpole", given.steps)
        structural("sac_mlp", "gymnax.pendulum", given.steps // 10)
    else:
        packing(given.steps)


if __name__ == "__main__":
    main()
