"""A Ray cluster: the connection to one, or one that is started on this machine."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hyperlax.config.ray_options import AUTO, LOCAL, check_address
from hyperlax.errors import TERMINATED, HyperlaxError, OptionError, counted, in_lower, in_one_line

log = logging.getLogger(__name__)

_AS_GIVEN = {"CPU": "cpu", "GPU": "gpu"}
"""Ray's name of a resource -> that in an option."""
_VARIABLE, _TOKENS = "RAY_ADDRESS", "RAY_AUTH_MODE"
_TOKEN = Path("~/.ray/auth_token")
"""Made by Ray when it first starts a cluster. It is sent to a cluster at an address only if `_TOKENS` says so."""
_LONGEST = 300
"""Characters that are shown of an error of Ray's."""
_REACH_SECONDS, _CONNECT_SECONDS = 3.0, 6.0
_START = "Start one with `ray start --head`, or leave the address out to train on this machine."


class _Terminated(HyperlaxError):
    """The end of a process that gets SIGTERM while it connects, or has connected and runs no study."""

    exit_code = TERMINATED


@contextmanager
def connected(address: str | None, resources: Mapping[str, float]) -> Iterator[None]:
    """Connect this process to a Ray cluster, or start one of this machine, unless it is connected. Leave it after the block.

    address: host and port of the cluster's head, `auto` for that of this machine, `local` to start one; None for the one that
    Ray's own variable names, else `local`. resources: what an agent reserves, by Ray's names.

    Raises:
      HyperlaxError: There is no cluster at this address, or none can be started.
      OptionError: One was started, and this machine has less than an agent reserves.

    Also raises HyperlaxError for a SIGTERM, for which Ray has a handler of its own that ends the process.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        _connect(address, resources)
        yield
    except SystemExit as error:
        raise _Terminated("interrupted.") from error
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
    there = sum(map(Counter[str], nodes), Counter[str]())
    has = " and ".join(counted(int(there[name]), name) for name in _AS_GIVEN if there[name]) or "no CPU"
    if given == LOCAL and any(there[name] < amount for name, amount in resources.items()):
        has = " and no ".join([has, *(_AS_GIVEN.get(name, name) for name in resources if not there[name])])
        problem = f"{{agent_resources}} {{0}}: this machine has {has}. Give less, or the {{ray_address}} of a cluster that has it."
        raise OptionError("agent_resources", problem, in_words(resources))
    where = "on this machine" if given == LOCAL else f"at {given}"
    log.info("Ray cluster %s with %s, %s.", where, counted(len(nodes), "node"), has)


def room_for(resources: Mapping[str, float], without: Container[str] = ()) -> int:
    """Return how many agents the nodes of the cluster have room for, whatever else they run. without: ids of other nodes."""
    import ray

    alive = (node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without)
    return sum(int(min(there.get(name, 0) / amount for name, amount in resources.items()) + 1e-9) for there in alive)


def in_words(resources: Mapping[str, float]) -> str:
    """Return what an agent reserves, as in the option."""
    return ",".join(f"{_AS_GIVEN.get(name, name)}={amount:g}" for name, amount in resources.items())


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
    if errors and isinstance(errors[0], SystemExit):
        raise errors[0]
    if errors:
        raise _unreachable(address, beginning_of(errors[0])) from errors[0]


def _reach(address: str) -> None:
    """Raise HyperlaxError if nothing answers at host and port within some seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, why: str) -> HyperlaxError:
    """Return the error of a cluster that cannot be used."""
    if address == LOCAL:
        return HyperlaxError(
            f"Ray cannot start on this machine ({why}). To train here without Ray, use the engine local."
        )
    if address == AUTO and "any running Ray instance" in why:
        return HyperlaxError(f"This machine is not in a Ray cluster. {_START}")
    found = f"No Ray cluster can be used at {address} ({why})."
    if _TOKENS in os.environ:
        return HyperlaxError(f"{found} {_START}")
    if _TOKEN.expanduser().is_file():
        found = f"{found} If it asks for the token in {_TOKEN}, run `export {_TOKENS}=token` first."
        return HyperlaxError(f"{found} If there is no cluster: {in_lower(_START)}")
    return HyperlaxError(f"{found} {_START} If it asks for a token, run `export {_TOKENS}=token` first.")


def beginning_of(error: BaseException) -> str:
    """Return the beginning of an error's message, in one line."""
    return in_one_line(error)[:_LONGEST].removesuffix(".")


def _silence_events() -> None:
    """Keep what Ray says of every worker that dies off the terminal, for which it has no setting. Here one line says so."""
    worker: Any = import_module("ray._private.worker")
    worker.print_to_stdstream = lambda *arguments, **more: None


@contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Let Ray start each process in a session of its own, for which it has no setting. They end with this process as before.

    `timeout`, service managers and terminals signal a process and its group. Only the leader is to get that: it ends the agents
    and the cluster in order. Elsewhere than on Linux Ray ends its processes by their group, so they stay in it.
    """
    services: Any = import_module("ray._private.services")
    before = getattr(services, "ConsolePopen", None)
    if sys.platform != "linux" or before is None:
        yield
        return
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
