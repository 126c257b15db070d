"""A study that agents train: the process that holds it, and those that join it."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.backends.local_agents import ENDS_WITH_INPUT, LocalAgents, Share, StartedAgents, shares
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.wire import LEASE_SECONDS, AgentCard, Engine
from hyperlax.backends.work import Work
from hyperlax.config.stored import read_arguments
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.machine import gpus, leave_gpu_memory
from hyperlax.errors import TERMINATED, UsageError
from hyperlax.files import staying
from hyperlax.recipe import Recipe
from hyperlax.study.directory import CHECKPOINTS, StudyDirectory
from hyperlax.study.io_errors import ending_on_io_error, run_again
from hyperlax.study.lock import holder_of
from hyperlax.study.stopping import StopRequest, stopping_on_signals
from hyperlax.study.study_run import MakeBackend, local_backend, local_planner

log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0
"""Seconds after which a leader that waits for the first agent says again that it lives."""


def run_with_agents(
    directory: Path,
    count: int,
    tracked: Callable[[EngineConfig], EngineConfig],
    run: Callable[..., int],
    begun: str = "",
) -> int:
    """Run a study whose batches agents train. Returns the exit status.

    Args:
      directory: Of the study.
      count: Agents that are started on this machine, which they divide. If there are none, the first that joins chooses programs.
      tracked: Returns a configuration with the place where commands are tracked.
      run: Runs the study with what `make_backend` returns, and returns the exit status. stop: see `run_study`.
      begun: A sentence to log once this process leads, if any.
    """
    work, local, notes = Work(directory), LocalAgents(directory), [begun] if begun else []
    stop = StopRequest()
    first = FirstAgent(work, local, stop)
    leave_gpu_memory()

    def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        while notes:
            log.info("%s", notes.pop())
        work.set_ended(False)
        config = tracked(config)
        if not count:
            return first.make_backend(config, checkpoints)
        planner = local_backend(config, checkpoints)
        local.shares = local.shares or _shares(count, planner.slots, config)
        return make_agents(work, planner, config, device_kind(config), local, checkpoints)

    try:
        return run(make_backend=make_backend, stop=None if count else stop)
    finally:
        local.close()


def _shares(count: int, slots: int, config: EngineConfig) -> list[Share]:
    """Return the part of this machine that each of its agents gets. slots: of the whole machine."""
    if not config.has_programs:
        return shares(count, slots, gpus() if config.task and "gpu" in config.task.resources else ())
    from hyperlax.engine.device import local_devices

    found, names = local_devices(config.devices), gpus()
    if names and all(device.platform == "gpu" for device in found.values()):
        return shares(count, slots, [names[number] for number in found])
    return shares(count, slots, devices=list(found) if config.devices or len(found) > 1 else ())


def device_kind(config: EngineConfig) -> str:
    """Return the kind of this machine's device, which decides the bits of a program's results; "" for what trains in processes."""
    if not config.has_programs:
        return ""
    from hyperlax.engine.device import identity

    return identity()["device"]


class FirstAgent:
    """The first agent of a study whose agents are on other machines than its leader. That agent chooses programs, lanes and slots.

    A configuration without tickets is the question, and a card that an agent has written since is the answer.
    """

    def __init__(
        self,
        desk: Work,
        agents: StartedAgents,
        stop: StopRequest,
        num_agents: Callable[[], int] = lambda: 1,
        lease: float = LEASE_SECONDS,
    ):
        """Make one that is asked once. stop: ends the waiting. num_agents: returns how many there will be. lease: see `Agents`."""
        self._desk, self._agents, self._stop, self._num_agents, self._lease = desk, agents, stop, num_agents, lease
        self._card: AgentCard | None = None

    def make_backend(self, config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        """Return the backend of a study that agents train as on the first one's machine. Wait for it, unless it is known.

        If a stop is requested meanwhile, the backend is planned for this machine, and trains nothing.
        """
        card = self._card or self._wait(config)
        if card is None:
            planner = local_planner(config, checkpoints)
        else:
            self._card, slots = card, card.slots * self._num_agents()
            own = {**card.packing, "super_batch": config.width(card.lanes * slots)}
            chosen = own if config.chosen is None else config.chosen
            planner = local_planner(replace(config, chosen=chosen), checkpoints)
            planner.slots, planner.device = slots, card.device
        kind = card.device_kind if card else ""
        return make_agents(self._desk, planner, config, kind, self._agents, checkpoints, self._lease)

    def _wait(self, config: EngineConfig) -> AgentCard | None:
        """Return the card of an agent that has chosen, or of any if the choice is known. Return None if a stop is requested."""
        before, asked = self._desk.cards(), -math.inf
        engine = Engine.of(config, config.chosen, "", self._lease)
        self._desk.set_stopping(False)
        self._desk.put_engine(engine.digest, engine.to_json())
        log.info("Waiting for the first agent. %s", self._desk.invitation)
        while not self._stop.is_set():
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                self._desk.lead(engine.digest)
            self._agents.start()
            self._agents.dead()
            for agent, (card, written) in self._desk.cards().items():
                is_new = agent not in before or written != before[agent][1]
                if is_new and (config.chosen is not None or card.engine == engine.digest):
                    return card
            self._desk.wait()
        return None


def join(
    directory: StudyDirectory,
    recipe: Recipe,
    load: Callable[[], Recipe],
    seconds: float,
    make_backend: MakeBackend,
    *,
    any_device: bool,
    idle_timeout: float | None,
) -> int:
    """Train batches of a study that another process leads, until it has ended. Returns the exit status.

    load: loads its recipe again. seconds: between two checkpoints. make_backend: returns that of this machine. any_device,
    idle_timeout: see `AgentProcess`.
    """

    def checkpoints(is_confirmation: bool) -> CheckpointManager:
        return CheckpointManager(
            directory.confirmation / CHECKPOINTS if is_confirmation else directory.checkpoints, seconds
        )

    def is_led() -> bool:
        return holder_of(directory.root) is not None

    def trains_alone() -> bool:
        with suppress(UsageError):
            return read_arguments(directory.root, "agent").get("agents") == "none"
        return False

    def is_over() -> bool:
        if is_led() or work.root.is_dir():  # there the process that ends the study says so
            return False
        with suppress(UsageError):
            asked = read_arguments(directory.root, "agent")
            return directory.ended() >= asked["n_trials"] and directory.confirmed() >= asked.get("confirm_top", 0)
        return False

    work, is_started = Work(directory.root), ENDS_WITH_INPUT in os.environ
    place = Place(
        desk=work,
        recipe=recipe,
        load=load,
        make_backend=make_backend,
        checkpoints=checkpoints,
        device_kind=device_kind,
        is_over=is_over,
        is_led=lambda: is_started or is_led(),  # who started it says who leads
        trains_alone=trains_alone,
    )
    advice = (lambda remedy: f"{remedy}.") if is_started else run_again  # its leader says how to continue
    stop = StopRequest()
    agent = AgentProcess(place, stop.is_set, any_device, idle_timeout)
    stop.tell(agent.stop)
    if is_started:
        threading.Thread(target=_end_with_input, args=(stop,), daemon=True).start()
    with stopping_on_signals(stop), ending_on_io_error(directory.database, advice), staying(directory.root):
        try:
            work.check_claims(is_led())
            agent.run()
        except OSError:
            work.check_there()
            raise
    return stop.exit_status if stop.is_set() else 0


def _end_with_input(stop: StopRequest) -> None:
    """Request a stop when standard input ends."""
    while os.read(0, 1):
        pass
    stop.exit_status = TERMINATED
    stop.set()
