"""Cost of agents: of a batch that travels through files, and of a leader with many agents.

    python -m benchmarks.agents

First, batches of one trivial trial, one after another, in this process and by an agent in a process of its own. Then a simulation:
a thread answers every batch at once under the names of 64 agents, and the CPU time of the leader's thread is printed per trial, for
each tenth of the trials.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bookkeeping import TrivialBackend, options, recipe
from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.agents import Agents
from hyperlax.backends.desk import TICKET, AgentCard
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.wire import BatchDone, pack_done, trials_of
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.study.observer import Observer
from hyperlax.study.search import run_study

DIRECTORY = Path("trivial", "gymnax_pendulum")
AGENTS = 64


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


def study(root: Path, trials: int, together: int, watch: _Stopwatch, with_agents: bool) -> None:
    """Run a study of trivial trials, as many together."""
    work, backend = Work(root / DIRECTORY), TrivialBackend()

    def make(config: Any, checkpoints: Any) -> Any:
        return Agents(work, backend, config, "", LocalAgents(work.study)) if with_agents else backend

    changes: dict[str, Any] = {"sampler": "random", "runner_hparam_batch_size": 1}
    arguments = replace(options(root, trials), optuna_study_batch_size=together, **changes)
    run_study(arguments, recipe(), make_backend=make, observers=[watch])


def train(root: Path) -> None:
    """Train as an agent, until this process is killed."""
    directory = root / DIRECTORY
    place = Place(
        desk=Work(directory),
        recipe=recipe(),
        make_backend=lambda config, checkpoints: TrivialBackend(),  # pyright: ignore[reportArgumentType]
        checkpoints=lambda is_confirmation: CheckpointManager(directory / "checkpoints", 60.0),
        device_of=lambda config: "",
        is_over=lambda: False,
        is_led=lambda: True,
    )
    while not directory.exists():
        time.sleep(0.01)
    AgentProcess(place, threading.Event()).run()


def answer(root: Path, is_over: Callable[[], bool]) -> None:
    """Answer every batch at once, in the name of many agents."""
    work, backend = Work(root / DIRECTORY), TrivialBackend()
    names, turn = [f"simulated-{index}-a" for index in range(AGENTS)], 0
    while not is_over():
        for item in work.items():
            agent = names[turn % AGENTS]
            if item.kind != TICKET or not (claim := work.claim(item, agent)) or not (ticket := work.read(claim)):
                continue
            if turn < AGENTS:
                work.write_card(agent, AgentCard(agent, 1, "none", 1, "", {}))
            turn += 1
            backend.enter(trials_of(ticket["trials"], recipe().config.algorithm))
            results, _ = backend.advance()
            numbers = tuple(result.number for result in results)
            work.finish(claim, pack_done(BatchDone(numbers, agent, tuple(results), backend.timing(numbers))))
        time.sleep(0.005)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--trials", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        alone, through = _Stopwatch(time.perf_counter), _Stopwatch(time.perf_counter)
        study(Path(scratch, "alone"), given.batches, 1, alone, with_agents=False)
        agent = multiprocessing.get_context("spawn").Process(target=train, args=(Path(scratch, "agent"),), daemon=True)
        agent.start()
        study(Path(scratch, "agent"), given.batches, 1, through, with_agents=True)
        agent.kill()
        means = [watch.between(10, given.batches) for watch in (alone, through)]
        print(f"a batch: {means[0]:.1f} ms, through an agent {means[1]:.1f} ms")
        watch, over = _Stopwatch(time.thread_time), threading.Event()
        simulated = threading.Thread(target=answer, args=(Path(scratch, "many"), over.is_set), daemon=True)
        simulated.start()
        study(Path(scratch, "many"), given.trials, 2 * AGENTS, watch, with_agents=True)
        over.set()
        simulated.join()
    tenth = given.trials // 10
    spent = " ".join(f"{watch.between(place, place + tenth):.1f}" for place in range(0, 10 * tenth, tenth))
    print(f"CPU of a leader of {AGENTS} agents, ms a trial: {spent}")


if __name__ == "__main__":
    main()
