"""A study whose leader and agents are processes of their own, for tests to kill: training is a fake's, all else is real."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperlax.backends import agent_process, agents, open_agents
from hyperlax.backends.agent_process import AgentProcess
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from tests.agents_at_work import Slow, leading, place_of
from tests.faults.harness import complete_batches
from tests.faults.study import ARGUMENTS, IMPORTED_ONCE
from tests.study_cases import Case

_LEASE = 0.5
_FORKS = multiprocessing.get_context("forkserver")


def kill_leaders_and_agents(root: Path, kills: int, seed: int, **changes: Any) -> int:
    """Run a study with two agents to its end, and kill one of the three at random moments; how many kills that took.

    changes: to its arguments. AssertionError if a batch that was complete is not the same later.
    """
    _FORKS.set_forkserver_preload([*IMPORTED_ONCE, __name__])
    draw, died, errors = random.Random(seed), 0, root.with_suffix(".err")
    roles: list[Callable[..., None]] = [_lead, _train, _train]
    processes = [_start(role, root, errors, changes) for role in roles]
    complete = dict[str, str]()
    try:
        while processes[0].is_alive() or processes[0].exitcode != 0:
            if not processes[0].is_alive():
                raise AssertionError(errors.read_text()[-3000:])
            processes[0].join(draw.uniform(0.02, 0.4))
            now = complete_batches(root / Case(root).directory.relative_to(root))
            assert complete.items() <= now.items(), "a batch that was complete has changed"
            complete = now
            if died < kills and processes[0].is_alive():
                victim = draw.randrange(len(roles))
                processes[victim].kill()
                processes[victim].join()
                processes[victim] = _start(roles[victim], root, errors, changes)
                died += 1
        for process in processes:
            process.join(20)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return died


def _start(role: Callable[..., None], root: Path, errors: Path, changes: dict[str, Any]) -> Any:
    process = _FORKS.Process(target=role, args=(root, errors, changes))
    process.start()
    return process


def _lead(root: Path, errors: Path, changes: dict[str, Any]) -> None:
    _to_file(errors)
    agents.MOST_LOSSES = open_agents.MOST_LOSSES = 1000
    case = Case(root, **{**ARGUMENTS, **changes})
    run = case.resume if (case.directory / "study.json").exists() else case.start
    status = run(leading(case, lease=_LEASE))
    Work(case.directory).set_ended(True)
    sys.exit(status)


def _train(root: Path, errors: Path, changes: dict[str, Any]) -> None:
    _to_file(errors)
    agent_process._LOOK_SECONDS = 0.1
    case = Case(root, **{**ARGUMENTS, **changes})
    while not (case.directory / "study.json").exists():
        time.sleep(0.01)
    saves = CheckpointManager(case.directory / "checkpoints", 0.0)
    place = place_of(case.directory, case.recipe, Slow(seconds=0.05), checkpoints=lambda is_confirmation: saves)
    AgentProcess(place, threading.Event().is_set).run()


def _to_file(errors: Path) -> None:
    for descriptor, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
