"""Agents in a Ray cluster: the connection, and the actors that train."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hyperlax.backends.local_agents import StartedAgents
from hyperlax.backends.ray_desk import DeskActor
from hyperlax.backends.ray_files import LeaderDesk
from hyperlax.config.ray_options import AUTO, LOCAL, check_address
from hyperlax.errors import HyperlaxError, OptionError, counted, did_you_mean

log = logging.getLogger(__name__)

_AS_GIVEN = {"CPU": "cpu", "GPU": "gpu"}
"""Ray's name of a resource -> that in an option."""
_VARIABLE, _TOKENS = "RAY_ADDRESS", "RAY_AUTH_MODE"
_LONGEST = 300
"""Characters that are shown of an error of Ray's."""
_REACH_SECONDS, _CONNECT_SECONDS = 3.0, 6.0
_LOOK_SECONDS = 0.2
"""Seconds between two looks whether actors have died."""
_NODES_SECONDS = 1.0
"""Seconds between two looks whether nodes have come."""
_LONELY_SECONDS = 30.0
"""Seconds without any agent after which that is said."""
_GRACE_SECONDS = 5.0
_WITH_NODE = "died with its node"


@contextmanager
def connected(address: str | None, resources: Mapping[str, float]) -> Iterator[None]:
    """Connect this process to a Ray cluster, or start one of this machine, unless it is connected. Leave it after the block.

    address: host and port of the cluster's head, `auto` for that of this machine, `local` to start one; None for the one that
    Ray's own variable names, else `local`. resources: what an agent reserves, by Ray's names.

    Raises:
      HyperlaxError: There is no cluster at this address, or none can be started.
      OptionError: One was started, and this machine has less than an agent reserves.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _connect(address, resources)
    try:
        yield
    finally:
        with _silent():
            ray.shutdown()


def _connect(address: str | None, resources: Mapping[str, float]) -> None:
    import ray

    given = address or os.environ.get(_VARIABLE) or LOCAL
    check_address(given)
    if given not in (LOCAL, AUTO):
        _reach(given)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it prints a paragraph
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns otherwise
    if given == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # agents would starve beside anything else that runs here
    _silence_events()
    with _silent():
        _start_ray(given)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = {name: sum(node.get(name, 0) for node in nodes) for name in {name for node in nodes for name in node}}
    if given == LOCAL and any(there.get(name, 0) < amount for name, amount in resources.items()):
        with _silent():
            ray.shutdown()
        raise _too_small(there, resources)
    where = "on this machine" if given == LOCAL else f"at {given}"
    log.info("Ray cluster %s with %s, %s.", where, counted(len(nodes), "node"), _processors(there) or "no CPU")


def room_for(resources: Mapping[str, float]) -> int:
    """Return how many agents the nodes of the cluster have room for, whatever else they run."""
    import ray

    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return sum(int(min(there.get(name, 0) / amount for name, amount in resources.items()) + 1e-9) for there in alive)


def make_desk(study: Path) -> LeaderDesk:
    """Return the leader's side of a new desk, on this node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000, "scheduling_strategy": here}
    return LeaderDesk(ray.remote(DeskActor).options(**options).remote(), study)


class AgentActor:
    """An agent as a Ray actor."""

    def run(self, main: str, desk: Any, about: str) -> str:
        """Train until the study has ended. Return why it cannot train here, else "".

        main: module and name of the function that does, given the desk's actor and what is in `about`, as JSON.
        """
        module, _, name = main.partition(":")
        return getattr(import_module(module), name)(desk, json.loads(about))


class RayAgents(StartedAgents):
    """Agents in a Ray cluster, each an actor, which are started again when they die and when nodes come.

    Args:
      desk: The leader's side of the desk.
      main: See `AgentActor.run`.
      about: What they need to know, as JSON; each also gets its name. It may be added to before the first one starts.
      resources: What each agent reserves, by Ray's names: CPU, GPU and those that the nodes give themselves.
      most: The most agents; None for as many as the cluster has room for.
    """

    def __init__(
        self,
        desk: LeaderDesk,
        main: str,
        about: Mapping[str, Any],
        resources: Mapping[str, float],
        most: int | None,
    ):
        self._desk, self._main, self.about = desk, main, dict(about)
        self._resources, self._most = dict(resources), most
        self._running: dict[Any, tuple[str, Any]] = {}
        self._started = self._refused = 0
        self._looked = self._started_at = 0.0
        self._lonely_since, self._is_lonely = time.monotonic(), False

    def start(self) -> None:
        """Start the agents that are missing. They begin as soon as a node has room for them."""
        now = time.monotonic()
        if now - self._started_at < _NODES_SECONDS:
            return
        self._started_at = now
        while len(self._running) < self._wanted():
            self._start_one()
        self._tell_if_lonely()

    def dead(self) -> dict[str, str]:
        """Return those that have died since the last call, and how.

        Raises HyperlaxError if none may train, or if too many have died without a result.
        """
        import ray

        now = time.monotonic()
        if not self._running or now - self._looked < _LOOK_SECONDS:
            return {}
        self._looked, found = now, {}
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in ended:
            name, actor = self._running.pop(reference)
            how = self._end_of(reference, actor)
            self._desk.remove_card(name)
            if how:
                found[name] = how
        return found

    def close(self) -> None:
        """End them and the desk, whatever has died: an error that ends the study matters more."""
        import ray

        with suppress(Exception):
            self._desk.set_ended(True)
            if self._running:
                ray.wait(list(self._running), num_returns=len(self._running), timeout=_GRACE_SECONDS)
        for actor in (*(actor for _, actor in self._running.values()), self._desk.actor):
            with suppress(Exception):
                ray.kill(actor)
        self._running.clear()

    def _wanted(self) -> int:
        """Return how many agents there may be."""
        return (self._most or max(1, room_for(self._resources))) - self._refused

    def _start_one(self) -> None:
        import ray

        self._started += 1
        name = f"ray-{self._started}-{os.urandom(2).hex()}"
        others = {key: amount for key, amount in self._resources.items() if key not in ("CPU", "GPU")}
        reserved = {"num_cpus": self._resources.get("CPU", 0), "num_gpus": self._resources.get("GPU", 0)}
        actor = ray.remote(AgentActor).options(**reserved, resources=others).remote()
        reference = actor.run.remote(self._main, self._desk.actor, json.dumps({**self.about, "name": name}))
        self._running[reference] = name, actor

    def _end_of(self, reference: Any, actor: Any) -> str:
        """Return how an agent has died, "" if it has ended by itself. Raise HyperlaxError if no agent can train."""
        import ray
        from ray.exceptions import RayError

        try:
            problem = ray.get(reference)
        except RayError as error:
            ray.kill(actor)  # one that cannot be reached may still run
            how = _how_it_died(error)
            if how != _WITH_NODE and self._lose_one():
                raise HyperlaxError(
                    f"{counted(self._deaths, 'agent')} of the Ray cluster died without a result; the last one {how}."
                ) from error
            return how
        if problem:
            self._refused += 1
            log.warning("%s", problem)
            if self._wanted() <= 0:
                raise HyperlaxError("No agent of the Ray cluster can train this study. What they said is above.")
        return ""

    def _tell_if_lonely(self) -> None:
        """Say once that no agent has begun for some time."""
        now = time.monotonic()
        if self._desk.has_agents():
            self._lonely_since, self._is_lonely = now, False
        elif not self._is_lonely and now - self._lonely_since > _LONELY_SECONDS:
            self._is_lonely = True
            need = _in_words(self._resources)
            log.info("No agent has begun on Ray yet: they are starting, or no node has room for %s.", need)


def _in_words(resources: Mapping[str, float]) -> str:
    """Return what an agent reserves, as in the option."""
    return ",".join(f"{_AS_GIVEN.get(name, name)}={amount:g}" for name, amount in resources.items())


def _processors(there: Mapping[str, float]) -> str:
    return " and ".join(counted(int(there[name]), name) for name in _AS_GIVEN if there.get(name))


def _too_small(there: Mapping[str, float], resources: Mapping[str, float]) -> OptionError:
    """Return the error of a machine that has not what an agent reserves."""
    missing = [_AS_GIVEN.get(name, name) for name in resources if not there.get(name)]
    has = " and no ".join([_processors(there), *(f"`{name}`" for name in missing)])
    meant = "".join(did_you_mean(name, _AS_GIVEN.values()) for name in missing if name not in _AS_GIVEN.values())
    fix = f"{meant}Give less, or the {{ray_address}} of a cluster that has it."
    return OptionError(
        "agent_resources", f"{{agent_resources}} {{0}}: this machine has {has}. {fix}", _in_words(resources)
    )


def _how_it_died(error: Exception) -> str:
    """Return how an agent has died, in words that follow its name."""
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayTaskError

    if isinstance(error, RayTaskError):
        return f"failed ({_in_one_line(error.cause or error)})"
    if isinstance(error, OutOfMemoryError) or "OutOfMemory" in str(error):
        return "was killed because the memory of its node ran out"
    if isinstance(error, ActorUnavailableError):
        return "cannot be reached"
    return _WITH_NODE if "node has died" in str(error) or "node died" in str(error) else "died"


def _start_ray(address: str) -> None:
    """Call `ray.init`. Raises HyperlaxError if that fails.

    It may ask a port where something else answers for minutes, so it has a thread that can be left behind. A cluster of this
    machine is not started in one, since it ends with the thread that has started it.
    """
    errors = list[BaseException]()

    def start() -> None:
        import ray

        own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False, **own)
        except (Exception, SystemExit) as error:
            errors.append(error)

    if address == LOCAL:
        with _in_own_sessions():
            start()
    else:
        thread = threading.Thread(target=start, daemon=True, name="ray.init")
        thread.start()
        thread.join(_CONNECT_SECONDS)
        if thread.is_alive():
            raise _unreachable(address, "what answers there is not Ray, or is too slow")
    if errors:
        raise _unreachable(address, _in_one_line(errors[0]) or type(errors[0]).__name__) from errors[0]


def _reach(address: str) -> None:
    """Raise HyperlaxError if nothing answers at host and port within some seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, why: str) -> HyperlaxError:
    """Return the error of a cluster that cannot be used."""
    start = "Start one with `ray start --head`, or leave the address out to train on this machine."
    if address == LOCAL:
        return HyperlaxError(f"Ray cannot start on this machine ({why}).")
    if address == AUTO and "any running Ray instance" in why:
        return HyperlaxError(f"This machine is not in a Ray cluster. {start}")
    token = "" if _TOKENS in os.environ else f" If it asks for a token, set {_TOKENS}=token."
    return HyperlaxError(f"No Ray cluster can be used at {address} ({why}). {start}{token}")


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST].removesuffix(".")


def _silence_events() -> None:
    """Keep what Ray says of every worker that dies off the terminal, for which it has no setting. Here one line says so."""
    worker: Any = import_module("ray._private.worker")
    worker.print_to_stdstream = lambda *arguments, **more: None


@contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Let Ray start each process in a session of its own, for which it has no setting. They end with this process as before.

    `timeout`, service managers and terminals signal a process and its group. That is to reach the leader, which ends the agents
    and the cluster in order, and not those. Only on Linux: elsewhere Ray ends them by their group.
    """
    services: Any = import_module("ray._private.services")
    before = services.ConsolePopen
    if sys.platform == "linux":
        services.ConsolePopen = partial(before, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what Ray's native code writes to standard error off the terminal. Exceptions say what matters of it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
