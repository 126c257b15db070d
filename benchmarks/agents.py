"""Cost of agents: of a batch that travels through files, of a leader with many agents, and what a second agent gains.

    python -m benchmarks.agents batch
    python -m benchmarks.agents ray
    python -m benchmarks.agents leader
    python -m benchmarks.agents pair

`batch`: batches of one trivial trial, one after another, in this process and by an agent in a process of its own. `ray`: the same
through an agent on Ray, in a cluster of this machine. `leader`: another process answers every batch at once under the names of 64
agents; printed is the CPU time of the leader's process per trial, before several numbers of trials. `pair`: a PPO study trained by
one agent, and by two that are pinned to a core each; printed is the time from the first trial's start to the last one's end. Each
has `--quick`, for a machine that is not quiet. `leader --profile` prints where its time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bookkeeping import TrivialBackend, options, recipe
from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.agents import Agents
from hyperlax.backends.local_agents import LocalAgents, StartedAgents
from hyperlax.backends.ray_agents import RayAgents, make_desk
from hyperlax.backends.ray_cluster import connected
from hyperlax.backends.ray_desk import AgentDesk
from hyperlax.backends.wire import TICKET, AgentCard, BatchDone, pack_done, trials_of
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.files import read_csv
from hyperlax.study.observer import Observer
from hyperlax.study.search import run_study
from hyperlax.trial import TIMELINE

DIRECTORY = Path("trivial", "gymnax_pendulum")
AGENTS = 64
MARKS = (100, 1_000, 5_000, 10_000)
AROUND = 100
"""Trials over which the CPU time before a mark is taken."""
PAIR = """\
algo_and_network_config: ppo_mlp
env_config: gymnax.cartpole
sampler: random
optuna_study_batch_size: {trials}
n_trials: {trials}
total_timesteps: {steps}
num_evaluations: 5
num_eval_episodes: 8
save_agents: none
output_root: {root}
space:
  only: true
  actor_lr: {{type: loguniform, low: 1e-4, high: 1e-3}}
"""


class _Stopwatch(Observer):
    """The time after every trial, by a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds = [clock()]

    def between(self, first: int, last: int) -> float:
        """Return the milliseconds a trial from one trial to another."""
        return 1000 * (self.seconds[last] - self.seconds[first]) / (last - first)

    def trials_ended(self, results: Any) -> None:
        """Note the time."""
        self.seconds += [self._clock()] * len(results)


class _OneByOne(TrivialBackend):
    """Trivial training in batches of one trial, as on CPUs."""

    def plan(self, trials: Any) -> Any:
        """Return a batch a trial."""
        return replace(super().plan(trials), batches=tuple((trial,) for trial in trials))


def study(
    root: Path, trials: int, together: int, watch: _Stopwatch, through: tuple[Work, StartedAgents] | None = None
) -> None:
    """Run a study of trivial trials, as many together. through: a desk and its agents that train them."""
    backend = _OneByOne()

    def make(config: Any, checkpoints: Any) -> Any:
        return Agents(through[0], backend, config, "", through[1]) if through else backend

    changes: dict[str, Any] = {"sampler": "random", "runner_hparam_batch_size": 1}
    arguments = replace(options(root, trials), optuna_study_batch_size=together, **changes)
    run_study(arguments, recipe(), make_backend=make, observers=[watch])


def in_directory(root: Path) -> tuple[Work, StartedAgents]:
    """Return the desk in a study's directory, where agents are others."""
    return Work(root / DIRECTORY), LocalAgents(root / DIRECTORY)


def train(root: Path) -> None:
    """Train as an agent, until this process is killed."""
    directory = root / DIRECTORY
    while not directory.exists():
        time.sleep(0.01)
    AgentProcess(place(Work(directory), directory), threading.Event().is_set).run()


def train_on_ray(actor: Any, about: Any) -> str:
    """Train as an agent on Ray, until its actor is killed."""
    directory = Path(about["study"])
    desk: Any = AgentDesk(actor, about["study"], directory, 60.0)
    AgentProcess(place(desk, directory), threading.Event().is_set, name=about["name"]).run()
    return ""


def place(desk: Work, directory: Path) -> Place:
    """Return the surroundings of an agent of trivial training."""
    return Place(
        desk=desk,
        recipe=recipe(),
        make_backend=lambda config, checkpoints: TrivialBackend(),
        checkpoints=lambda is_confirmation: CheckpointManager(directory / "checkpoints", 60.0),
        device_kind=lambda config: "",
        is_over=lambda: False,
        is_led=lambda: True,
    )


def answer(root: Path) -> None:
    """Answer every batch at once in the name of many agents, until this process is killed."""
    work, backend = Work(root / DIRECTORY), TrivialBackend()
    names, turn = [f"simulated-{index}-a" for index in range(AGENTS)], 0
    while True:
        for item in work.items():
            agent = names[turn % AGENTS]
            if item.kind != TICKET or not (claim := work.claim(item, agent)) or not (ticket := work.read(claim)):
                continue
            if turn < AGENTS:
                work.write_card(agent, AgentCard(agent, 1, "none", 1, "", {}))
            turn += 1
            backend.enter(trials_of(ticket.trials, recipe().config.algorithm))
            results, _ = backend.advance()
            numbers = tuple(result.number for result in results)
            work.finish(claim, pack_done(BatchDone(numbers, agent, tuple(results), backend.timing(numbers))))
        time.sleep(0.005)


@contextmanager
def beside(work: Callable[[Path], None], root: Path) -> Iterator[None]:
    """Do work in a process of its own, which is killed after the block."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(root,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def batch(root: Path, is_quick: bool) -> None:
    """Print the time of a batch, here and through an agent."""
    count = 40 if is_quick else 200
    alone, through = _Stopwatch(time.perf_counter), _Stopwatch(time.perf_counter)
    study(root / "alone", count, 1, alone)
    with beside(train, root / "agent"):
        study(root / "agent", count, 1, through, in_directory(root / "agent"))
    _compare(alone, through, count, "an agent")


def ray(root: Path, is_quick: bool) -> None:
    """Print the time of a batch, here and through an agent on Ray."""
    count = 40 if is_quick else 200
    alone, through, directory = _Stopwatch(time.perf_counter), _Stopwatch(time.perf_counter), root / "ray" / DIRECTORY
    study(root / "alone", count, 1, alone)
    with connected("local", {"CPU": 1}):
        desk = make_desk(directory, {"CPU": 1})
        agents = RayAgents(desk, "benchmarks.agents:train_on_ray", {"study": str(directory)}, {"CPU": 1}, 1)
        try:
            study(root / "ray", count, 1, through, (desk, agents))
        finally:
            agents.close()
    _compare(alone, through, count, "an agent on Ray")


def _compare(alone: _Stopwatch, through: _Stopwatch, count: int, what: str) -> None:
    here, there = (watch.between(10, count) for watch in (alone, through))
    print(f"a batch: {here:.1f} ms here, {there:.1f} ms through {what}, which adds {there - here:.1f} ms")


def leader(root: Path, is_quick: bool, is_profiled: bool) -> None:
    """Print the CPU time of a leader per trial."""
    marks = (100, 300) if is_quick else MARKS
    watch, profile = _Stopwatch(time.process_time), cProfile.Profile()
    with beside(answer, root):
        if is_profiled:
            profile.enable()
        study(root, marks[-1], 2 * AGENTS, watch, in_directory(root))
        profile.disable()
    print(f"CPU of a leader of {AGENTS} agents, ms a trial over the last {AROUND} trials")
    for mark in marks:
        print(
            f"{mark:6d} trials  {watch.between(mark - AROUND, mark):5.1f}  from the first one {watch.between(0, mark):5.1f}"
        )
    if is_profiled:
        pstats.Stats(profile).sort_stats("cumtime").print_stats(60)


def pair(root: Path, is_quick: bool) -> None:
    """Print the time of a study that one agent trains, and of one that two do."""
    trials, steps, rounds = (4, 50_000, 1) if is_quick else (16, 400_000, 3)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("pair needs two cores.")
    for number, core in enumerate(cores):
        pinned_study(root / f"warm_{number}", 1, 20_000, [core])
    ratios = []
    for number in range(rounds):
        one = pinned_study(root / f"one_{number}", trials, steps, cores[:1])
        two = pinned_study(root / f"two_{number}", trials, steps, cores)
        ratios.append(one / two)
        print(
            f"{trials} trials: {one:.1f} s by one agent, {two:.1f} s by two: {ratios[-1]:.2f} times as fast", flush=True
        )
    print(f"two agents: {statistics.median(ratios):.2f} times as fast as one")


def pinned_study(root: Path, trials: int, steps: int, cores: list[int]) -> float:
    """Return the seconds from the first trial's start to the last one's end, in a study with an agent on each of some cores."""
    root.mkdir()
    file = root / "study.yaml"
    file.write_text(PAIR.format(trials=trials, steps=steps, root=root), encoding="utf-8")
    directory = root / "ppo_mlp" / "gymnax_cartpole"
    lead = _start(["run-study", str(file), "--agents", "0", "--quiet"])
    while not (directory / "work" / "leader.json").exists():
        if lead.poll() is not None:
            raise SystemExit("the study has failed.")
        time.sleep(0.05)
    agents = [_start(["agent", str(directory), "--log-level", "WARNING"], core) for core in cores]
    if lead.wait() or any(agent.wait() for agent in agents):
        raise SystemExit("the study has failed.")
    times = [
        (float(row["process"]) + float(row["began"]), float(row["process"]) + float(row["ended"]))
        for path in directory.rglob(TIMELINE)
        for row in read_csv(path)
    ]
    return max(ended for _, ended in times) - min(began for began, _ in times)


def _start(words: list[str], core: int | None = None) -> subprocess.Popen[bytes]:
    pin = [] if core is None else ["taskset", "-c", str(core)]
    return subprocess.Popen([*pin, sys.executable, "-m", "hyperlax.cli", *words], stdout=subprocess.DEVNULL)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("batch", "ray", "leader", "pair"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.what == "leader":
            leader(Path(scratch), given.quick, given.profile)
        else:
            {"batch": batch, "ray": ray, "pair": pair}[given.what](Path(scratch), given.quick)


if __name__ == "__main__":
    main()
