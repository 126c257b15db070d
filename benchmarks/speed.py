"""Speed of training and of whole studies: against exact-size programs, against another version of Hyperlax, and against rejax.

    python benchmarks/speed.py mixed            a program for all sizes of the space against one of each trial's own size
    python benchmarks/speed.py rate             steps/s a core of mixed programs
    python benchmarks/speed.py study            the shipped study of 16 PPO trials, cold and warm, its start and its end
    python benchmarks/speed.py pruning          64 PPO trials with --pruner asha
    python benchmarks/speed.py architectures    16 PPO trials of 13 architectures: --packing auto against split
    python benchmarks/speed.py wide             12 SAC trials of 64, 256 or 512 units: --packing auto against pad
    python benchmarks/speed.py batch            --runner-hparam-batch-size 4 against auto
    python benchmarks/speed.py rejax --rejax-python PATH    16 PPO trials with rejax: a jit per trial, and one vmap

`--against DIR`, for all but `mixed` and `rejax`, runs the same commands in a checkout of another version as well, with its
DIR/.venv/bin/python or with `--python PATH`. Sides run in turn. Cold: the cache of compiled programs is empty; warm: the same
command has run before. Prints Markdown rows of medians. CPU is the processes' CPU time. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from benchmarks.timed import Row, Sample, Version, in_turn, print_table, process

HERE = "this version"
SAC, PPO, DQN = ("sac_mlp", "gymnax.pendulum"), ("ppo_mlp", "gymnax.cartpole"), ("dqn_mlp", "gymnax.cartpole")
RECIPES = {
    "traced": """
        from hyperlax.recipe import load

        def get_base_config():
            return load("ppo_mlp").config

        def get_base_hyperparam_distributions():
            names = ["actor_lr", "critic_lr", "gamma", "gae_lambda", "clip_eps", "ent_coef"]
            return {f"algorithm.hyperparam.{name}": load("ppo_mlp").space[f"algorithm.hyperparam.{name}"] for name in names}
    """,
    "architectures": """
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
    """,
    "wide": """
        from hyperlax.recipe import load
        from hyperlax.space import Categorical, LogUniform

        def get_base_config():
            return load("sac_mlp").config

        def get_base_hyperparam_distributions():
            sizes = Categorical(values=[[64, 64], [256, 256], [512, 512]])
            return {
                "algorithm.hyperparam.actor_lr": LogUniform(domain=(1e-6, 1e-2)),
                "algorithm.network.actor_network.pre_torso.layer_sizes": sizes,
            }
    """,
}


@dataclass(frozen=True)
class Bench:
    """The sides of a run, and the place of recipes and caches. quick: tiny sizes, to see that everything runs."""

    scratch: Path
    rounds: int
    quick: bool
    other: Version | None

    @cached_property
    def sides(self) -> list[Version]:
        mine = Version(HERE, Path(__file__).parents[1], Path(sys.executable))
        return [self.other, mine] if self.other else [mine]

    @property
    def base(self) -> str:
        return self.other.name if self.other else "another version"

    def words(self, task: tuple[str, str], trials: int, steps: int, evaluations: int, more: str = "") -> str:
        """Return the options of a search. task: a recipe, shipped or of RECIPES, and an environment."""
        recipe, environment = task
        if recipe in RECIPES:
            path = self.scratch / f"{recipe}.py"
            path.write_text(textwrap.dedent(RECIPES[recipe]))
            recipe = str(path)
        length = f"--total-timesteps {steps} --num-evaluations {evaluations} --num-eval-episodes 16"
        sampler = "--sampler random --seed 0 --log-level WARNING"
        return f"--algo-and-network-config {recipe} --env-config {environment} --n-trials {trials} {length} {sampler} {more}"

    def study(self, task: tuple[str, str], trials: int, steps: int, more: str = "", evaluations: int = 10) -> str:
        """Return the options of a search of this size, or of a tiny one."""
        if self.quick:
            trials, steps, evaluations = 2, 4_096, 4
        return self.words(task, trials, steps, evaluations, more)

    def new_cache(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def warm(self, version: Version, words: str, cache: Path | None = None) -> Callable[[], Sample]:
        """Run a search once, to compile its programs. Return it as a case."""
        cache = cache or self.new_cache()
        version.search(words, cache)
        return partial(version.search, words, cache)

    def cold(self, version: Version, words: str) -> Sample:
        return version.search(words, self.new_cache())

    def cold_and_warm(self, run: Callable[[Path, int], Sample]) -> Sample:
        """Return the seconds of two runs, numbered 0 and 1, with one cache, which is empty at first."""
        cache = self.new_cache()
        both = {"cold": run(cache, 0), "warm": run(cache, 1)}
        return {f"{name}, {quantity}": value for name, one in both.items() for quantity, value in one.items()}

    def report(self, cases: dict[str, Callable[[], Sample]], rows: list[Row]) -> None:
        print_table(rows, in_turn(cases, self.rounds))


def times(name: str, base: str, own: str, mark: float | None, prefix: str = "") -> list[Row]:
    """Return the row of the wall time, which has the mark, and that of the CPU time."""
    return [Row(name, f"{prefix}wall", base, own, mark), Row(name, f"{prefix}CPU", base, own)]


def mixed(bench: Bench) -> None:
    from benchmarks.mixed import exact_and_mixed  # imports jax, which the other commands leave to their processes

    runs = (
        ("PPO CartPole", PPO, 1, 0.9),
        ("DQN CartPole", DQN, 1, 0.9),
        ("SAC Pendulum", SAC, 1, 0.9),
        ("PPO CartPole, 3 seeds", PPO, 3, None),
    )
    for name, task, seeds, mark in runs[: 1 if bench.quick else None]:
        cases, steps = exact_and_mixed(
            *task, seeds, trials=2 if bench.quick else 6, seconds=0.01 if bench.quick else 0.5
        )
        rows = [Row(name, "CPU", "exact", "mixed", mark, steps=steps), Row(name, "wall", "exact", "mixed", steps=steps)]
        bench.report(cases, rows)


def rate(bench: Bench) -> None:
    """Compare what additional steps cost: the difference between a long and a short study, with 8 trials in one program."""
    runs = (
        ("PPO CartPole", PPO, 1, 100_000, 2.0),
        ("DQN CartPole", DQN, 1, 50_000, 2.0),
        ("SAC Pendulum", SAC, 1, 10_000, 2.0),
        ("PPO CartPole, 3 seeds", PPO, 3, 50_000, 1.8),
    )
    for name, task, seeds, steps, mark in runs[: 1 if bench.quick else None]:
        trials, steps, less = (2, 4_096, 2_048) if bench.quick else (8, steps, steps // 5)
        more = f"--packing pad --num-seeds {seeds}"
        long, short = (bench.words(task, trials, length, 2, more) for length in (steps, less))
        cases = {}
        for version in bench.sides:
            cache = bench.new_cache()  # one for both, so that both have as many lanes
            both = bench.warm(version, long, cache), bench.warm(version, short, cache)
            cases[version.name] = partial(_difference, *both)
        extra = (steps - less) * seeds * trials
        rows = [Row(name, "CPU", bench.base, HERE, mark, steps=extra), Row(name, "wall", bench.base, HERE, steps=extra)]
        bench.report(cases, rows)


def _difference(long: Callable[[], Sample], short: Callable[[], Sample]) -> Sample:
    less = short()
    return {quantity: max(value - less[quantity], 1e-3) for quantity, value in long().items()}


def study(bench: Bench) -> None:
    words = bench.study(PPO, 16, 100_000)
    name = "16 PPO trials"
    rows = [
        *times(name, bench.base, HERE, 1.7, "cold, "),
        *times(name, bench.base, HERE, 2.2, "warm, "),
        Row("process start to the first training step", "warm, start", bench.base, HERE, limit=3.0),
        Row("last batch to exit", "warm, end", bench.base, HERE, limit=1.0),
    ]
    cases = {v.name: partial(bench.cold_and_warm, lambda cache, _, v=v: v.search(words, cache)) for v in bench.sides}
    bench.report(cases, rows)


def pruning(bench: Bench) -> None:
    words = bench.study(PPO, 64, 100_000, "--pruner asha", evaluations=36)
    bench.report({v.name: bench.warm(v, words) for v in bench.sides}, times("64 trials, asha", bench.base, HERE, 1.8))


def architectures(bench: Bench) -> None:
    words = bench.study(("architectures", PPO[1]), 16, 100_000)
    exact = "exact sizes (split)"
    cases = {v.name: partial(bench.cold, v, f"{words} --packing auto") for v in bench.sides}
    cases |= {exact: partial(bench.cold, bench.sides[-1], f"{words} --packing split")}
    rows = times("13 architectures, cold", bench.base, HERE, None) + times("the same", exact, HERE, 1.0)
    bench.report(cases, [replace(rows[0], limit=60.0), *rows[1:]])


def wide(bench: Bench) -> None:
    words = bench.study(("wide", SAC[1]), 12, 8_000)
    cases = {f"{v.name}, padded": bench.warm(v, f"{words} --packing pad") for v in bench.sides}
    cases |= {HERE: bench.warm(bench.sides[-1], f"{words} --packing auto")}
    rows = [row for base in list(cases)[:-1] for row in times("SAC, 64, 256 or 512 units", base, HERE, None)]
    bench.report(cases, [replace(rows[0], mark=2.0), *rows[1:]])


def batch(bench: Bench) -> None:
    """Compare batches of 4 with `auto` of this version. The mark is a cost of at most 1.1."""
    words = bench.study(PPO, 16, 100_000)
    four = "--runner-hparam-batch-size 4"
    cases = {f"{v.name}, batches of 4": bench.warm(v, f"{words} {four}") for v in bench.sides}
    cases |= {HERE: bench.warm(bench.sides[-1], words)}
    own = f"{HERE}, batches of 4"
    rows = times("batches of 4, against auto", HERE, own, 0.91)
    if bench.other:
        rows += times("batches of 4", f"{bench.base}, batches of 4", own, None)
    bench.report(cases, rows)


def rejax(bench: Bench, python: Path) -> None:
    """Compare equal work: 100 iterations, 10 evaluations of 16 episodes, and 6 hyperparameters that differ.

    Cold: a search with an empty cache. Warm: a second search, which tries other hyperparameters.
    """
    trials, steps, evaluations = (2, 2_048, 2) if bench.quick else (16, 102_400, 10)
    script = Path(__file__).with_name("rejax_trials.py")
    flags = {
        "XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    }  # as Hyperlax; vmap may hang without it
    flags |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}

    words = bench.words(("traced", PPO[1]), trials, steps, evaluations)

    def theirs(how: str, cache: Path | None, seed: int) -> Sample:
        numbers = map(str, (trials, steps, evaluations, 16, seed))
        kept = {"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {}
        return process([str(python), str(script), how, *numbers], flags | kept)

    def ours(cache: Path, seed: int) -> Sample:
        return bench.sides[-1].search(words.replace("--seed 0", f"--seed {seed}"), cache)

    def no_cache(how: str) -> Sample:
        return {f"warm, {quantity}": value for quantity, value in theirs(how, None, 1).items()}

    each, vmap, default = "a jit per trial", "one vmap", "one vmap, JAX's cache off"
    sides = {each: partial(theirs, "each"), vmap: partial(theirs, "vmap"), HERE: ours}
    cases: dict[str, Callable[[], Sample]] = {name: partial(bench.cold_and_warm, run) for name, run in sides.items()}
    cases |= {default: partial(no_cache, "vmap")}
    rows = [
        row
        for base, mark, heat in (
            (each, 7, "cold"),
            (each, 14, "warm"),
            (vmap, 1.6, "cold"),
            (vmap, 3, "warm"),
            (default, 3, "warm"),
        )
        for row in times(f"rejax, {base}", base, HERE, mark, f"{heat}, ")
    ]
    bench.report(cases, rows)


COMMANDS: dict[str, Callable[[Bench], None]] = {
    "mixed": mixed,
    "rate": rate,
    "study": study,
    "pruning": pruning,
    "architectures": architectures,
    "wide": wide,
    "batch": batch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*COMMANDS, "rejax"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="DIR", help="checkout of another version")
    parser.add_argument("--python", type=Path, metavar="PATH", help="its Python (default: DIR/.venv/bin/python)")
    parser.add_argument("--rejax-python", type=Path, metavar="PATH", help="Python with rejax")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    given = parser.parse_args()
    if given.what == "rejax" and not given.rejax_python:
        parser.error("rejax needs --rejax-python")
    other = None
    if given.against:
        root = given.against.resolve()
        other = Version(root.name, root, given.python or root / ".venv/bin/python")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), given.rounds, given.quick, other)
        if given.what == "rejax":
            rejax(bench, given.rejax_python)
        else:
            COMMANDS[given.what](bench)


if __name__ == "__main__":
    main()
