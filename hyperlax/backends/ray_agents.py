"""The actors that train in a Ray cluster, and their start."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hyperlax.backends.base import BackendLost
from hyperlax.backends.local_agents import StartedAgents
from hyperlax.backends.ray_cluster import beginning_of, in_words, room_for
from hyperlax.backends.ray_desk import DeskActor, LeaderDesk
from hyperlax.errors import counted

log = logging.getLogger(__name__)

_NODES_SECONDS = 1.0
"""Seconds between two looks whether nodes have come."""
_GRACE_SECONDS = 5.0
_WITH_NODE = "died with its node"
_NODE = "ray.io/node-id"
"""Ray's label of a node with its id."""


def make_desk(study: Path, resources: Mapping[str, float]) -> LeaderDesk:
    """Return the leader's side of a new desk, on this node. resources: see `RayAgents`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000, "scheduling_strategy": here}
    return LeaderDesk(
        ray.remote(DeskActor).options(**options).remote(str(study.absolute())), study, in_words(resources)
    )


class AgentActor:
    """An agent as a Ray actor."""

    def run(self, main: str, desk: Any, about: str) -> tuple[str, str]:
        """Train until the study has ended. Return the id of this node, and why it cannot train, else "".

        main: module and name of the function that does, given the desk's actor and what is in `about`, as JSON.
        """
        import ray

        module, _, name = main.partition(":")
        return ray.get_runtime_context().get_node_id(), getattr(import_module(module), name)(desk, json.loads(about))


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
        self._started, self._refusals = 0, dict[str, str]()
        self._started_at = 0.0

    def start(self) -> None:
        """Start the agents that are missing. They begin as soon as a node has room for them."""
        now = time.monotonic()
        if now - self._started_at < _NODES_SECONDS:
            return
        self._started_at = now
        while len(self._running) < self._wanted():
            self._start_one()

    def dead(self) -> dict[str, str]:
        import ray

        found = dict[str, str]()
        if not self._running:
            return found
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in ended:
            name, actor = self._running.pop(reference)
            how = self._end_of(reference, actor)
            self._forget(name)
            if how:
                found[name] = how
        return found

    def close(self) -> None:
        """End them and the desk, whatever has died: an error that ends the study matters more."""
        import ray

        is_used = self._running and self._desk.study.is_dir()
        with _logging():
            if is_used:
                self._desk.set_ended(True)
                self._desk.wait()  # which lets them look
                ray.wait(list(self._running), num_returns=len(self._running), timeout=_GRACE_SECONDS)
        for actor in (*(actor for _, actor in self._running.values()), self._desk.actor):
            with _logging():
                ray.kill(actor)
        with suppress(OSError):
            for name, _ in self._running.values():
                self._desk.remove_card(name)
            self._desk.set_ended(False)
        self._running.clear()

    def _forget(self, name: str) -> None:
        """Forget an agent that has ended, and let others have its cores."""
        self._desk.remove_card(name)
        self._desk.actor.release_cores.remote(name)

    def _wanted(self) -> int:
        """Return how many agents there may be, on nodes that can train."""
        return self._most or max(1, room_for(self._resources, self._refusals))

    def _start_one(self) -> None:
        import ray

        self._started += 1
        name = f"ray-{self._started}-{os.urandom(2).hex()}"
        others = {key: amount for key, amount in self._resources.items() if key not in ("CPU", "GPU")}
        reserved: dict[str, Any] = {
            "num_cpus": self._resources.get("CPU", 0),
            "num_gpus": self._resources.get("GPU", 0),
        }
        if self._refusals:
            reserved["label_selector"] = {_NODE: f"!in({','.join(self._refusals)})"}
        try:
            actor = ray.remote(AgentActor).options(**reserved, resources=others).remote()
        except ValueError as error:  # about an accelerator
            raise BackendLost(
                f"Ray starts no agent with {in_words(self._resources)} ({beginning_of(error)})."
            ) from error
        reference = actor.run.remote(self._main, self._desk.actor, json.dumps({**self.about, "name": name}))
        self._running[reference] = name, actor

    def _end_of(self, reference: Any, actor: Any) -> str:
        """Return how an agent has died, "" if it has ended by itself. Raise BackendLost if no agent can train."""
        import ray
        from ray.exceptions import RayError

        try:
            node, problem = ray.get(reference)
        except RayError as error:
            ray.kill(actor)  # one that cannot be reached may still run
            how = _how_it_died(error)
            if how != _WITH_NODE and self._lose_one():
                raise BackendLost(
                    f"{counted(self._deaths, 'agent')} of the Ray cluster died without a result; the last one {how}."
                ) from error
            return how
        if problem:
            if problem not in self._refusals.values():
                log.warning("%s", problem)
            self._refusals[node] = problem
            if not room_for(self._resources, self._refusals):
                said = " ".join(dict.fromkeys(self._refusals.values()))
                raise BackendLost(f"No agent of the Ray cluster can train this study. {said}")
        return ""


@contextmanager
def _logging() -> Iterator[None]:
    """Log any exception of the block: Ray may raise anything when its parts have died."""
    try:
        yield
    except Exception:
        log.debug("Ray could not end the agents properly:", exc_info=True)


def _how_it_died(error: Exception) -> str:
    """Return how an agent has died, in words that follow its name."""
    from ray.exceptions import OutOfMemoryError, RayTaskError

    if isinstance(error, RayTaskError):
        return f"failed ({beginning_of(error.cause or error)})"
    if isinstance(error, OutOfMemoryError) or "OutOfMemory" in str(error):
        return "was killed because the memory of its node ran out"
    return _WITH_NODE if "node has died" in str(error) or "node died" in str(error) else "died"
