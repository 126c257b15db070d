"""Agents of a test: threads or processes that train fakes, and a leader with a short lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.base import Backend, EngineConfig, Evicted
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.wire import Item
from hyperlax.backends.work import Work
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.recipe import Recipe
from hyperlax.trial import SegmentResult
from tests.fake_backend import FakeBackend
from tests.study_cases import Case
from tests.waiting import PATIENCE, eventually

LEASE = 30.0
DEVICE = "a device of a test"


@dataclass
class Slow(FakeBackend):
    """Takes its time for a batch, unless it has to stop. asleep: set once it trains."""

    seconds: float = 0.1
    asleep: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    began: float | None = None

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        self.asleep.set()
        self.began = self.began or time.monotonic()
        if self.woken.wait(max(0.0, self.began + self.seconds - time.monotonic())):
            self.woken.clear()
            if not self.is_stopped:
                return [], []
        self.began = None
        return super().advance()

    def wake(self) -> None:
        self.woken.set()

    def stop(self) -> None:
        self.is_stopped = True
        self.woken.set()


def leading(case: Case, planner: FakeBackend | None = None, lease: float = LEASE) -> Callable[..., Backend]:
    """What makes the backend of a study's leader."""
    work, local = Work(case.directory), LocalAgents(case.directory)

    def make(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        bound = (planner or FakeBackend()).bind(config, checkpoints)
        return make_agents(work, bound, config, DEVICE, local, checkpoints, lease)

    return make


def place_of(directory: Path, recipe: Recipe, backend: FakeBackend, **changes: Any) -> Place:
    """Where an agent trains with a fake."""
    parts: dict[str, Any] = {
        "desk": Work(directory),
        "recipe": recipe,
        "make_backend": backend.bind,
        "checkpoints": lambda is_confirmation: CheckpointManager(directory / "checkpoints", 60.0),
        "device_kind": lambda config: DEVICE,
        "is_over": lambda: False,
        "is_led": lambda: True,
    }
    return Place(**{**parts, **changes})


@contextmanager
def at_work(case: Case, *backends: FakeBackend, **changes: Any) -> Iterator[list[AgentProcess]]:
    """Agents in threads, one with each backend. changes: to their place."""
    stop, errors = threading.Event(), list[BaseException]()
    agents = [
        AgentProcess(place_of(case.directory, case.recipe, backend, **changes), stop.is_set) for backend in backends
    ]

    def run(agent: AgentProcess) -> None:
        try:
            agent.run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(agent,), daemon=True) for agent in agents]
    for thread in threads:
        thread.start()
    try:
        yield agents
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    if errors:
        raise errors[0]


@contextmanager
def meanwhile(function: Callable[..., None], *arguments: Any) -> Iterator[threading.Thread]:
    """A thread that works in the background; its exception is raised here."""
    errors = list[BaseException]()

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]


def claimed(work: Work, agent: str) -> Item:
    """The next batch that waits, claimed."""

    def claim() -> Item | None:
        waiting = [item for item in work.items() if item.kind == "ticket"]
        return work.claim(waiting[0], agent) if waiting else None

    return eventually(claim)


def has_ended(case: Case, super_batch: int = 1) -> bool:
    """Whether a super-batch has ended."""
    return (case.directory / f"optuna_exec_batch_{super_batch:04d}" / "success.txt").exists()
