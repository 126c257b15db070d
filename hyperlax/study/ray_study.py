"""A study whose batches train in agents of a Ray cluster: the process that holds it, and those agents."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.backends.ray_agents import RayAgents, make_desk
from hyperlax.backends.ray_cluster import connected, room_for
from hyperlax.backends.ray_desk import AgentDesk
from hyperlax.backends.work import Work
from hyperlax.config.options import SearchOptions
from hyperlax.config.ray_options import check_amounts, parse_resources
from hyperlax.config.sent_recipes import receive, send
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.machine import leave_gpu_memory, memory_share
from hyperlax.errors import OptionError, UsageError
from hyperlax.recipe import Recipe
from hyperlax.study.leading import FirstAgent, device_kind
from hyperlax.study.stopping import StopRequest
from hyperlax.study.study_run import local_backend
from hyperlax.tasks import Command, Function, Task


def run_on_ray(
    options: SearchOptions,
    recipe: Recipe,
    directory: Path,
    main: str,
    tracked: Callable[[EngineConfig], tuple[EngineConfig, str]],
    run: Callable[..., int],
) -> int:
    """Run a study whose batches agents in a Ray cluster train. Returns the exit status.

    Args:
      main: The function by which agents call `train`; see `AgentActor`.
      tracked: Returns a configuration with the place where commands are tracked, and the address for the agents.
      run: Runs the study with what `make_backend` returns, and returns the exit status. stop: see `run_study`.

    Raises HyperlaxError if there is no cluster, UsageError if the study cannot run on one.
    """
    if find_spec("ray") is None:
        raise OptionError("engine", '{engine} ray needs the package ray: pip install "hyperlax[ray]"')
    if options.devices:
        problem = "{devices} are this machine's; with {engine} ray agents have what {agent_resources} says. Leave {devices} out."
        raise OptionError("devices", problem)
    sent = send(recipe)
    resources = _resources(options.agent_resources, recipe)
    about = {
        "study": str(directory),
        "recipe": sent,
        "seconds": options.checkpoint_seconds,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    with connected(options.ray_address, resources):
        leave_gpu_memory()  # not before: a cluster of this machine has the environment of its start
        most, stop = None if options.agents == "none" else options.agents, StopRequest()
        desk = make_desk(directory, resources)
        agents = RayAgents(desk, main, about, resources, most)
        first = FirstAgent(desk, agents, stop, lambda: most or max(1, room_for(resources)))

        def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
            config, agents.about["mlflow"] = tracked(config)
            desk.clear()  # of agents of a leader that was killed
            desk.set_ended(False)
            return first.make_backend(config, checkpoints)

        try:
            return run(make_backend=make_backend, stop=stop)
        finally:
            agents.close()


def train(actor: Any, about: Mapping[str, Any], with_address: Callable[[EngineConfig, str], EngineConfig]) -> str:
    """Train batches of a study as an agent on Ray, until it has ended. Return why this node cannot train it, else "".

    actor: keeps the desk. about: as `run_on_ray` makes it, and the agent's name. with_address: returns a configuration with the
    address where commands are tracked.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hyperlax").setLevel(logging.INFO)

    def make_backend(config: EngineConfig, checkpoints: CheckpointManager) -> Backend:
        config = replace(config, task=_without_resources(config.task))
        return local_backend(with_address(config, about["mlflow"]), checkpoints)

    with tempfile.TemporaryDirectory(prefix="hyperlax-") as scratch:
        root = Path(scratch)
        desk = AgentDesk(actor, about["study"], root, about["seconds"])
        _settle(desk, about)
        try:
            place = Place(
                desk=cast(Work, desk),
                recipe=receive(about["recipe"], root / "recipe"),
                make_backend=make_backend,
                checkpoints=desk.checkpoints,
                device_kind=device_kind,
                is_over=lambda: False,
                is_led=lambda: True,
            )
            AgentProcess(place, desk.has_ended, name=about["name"]).run()
        except UsageError as error:
            return f"{socket.gethostname()} does not train: {error}"
    return ""


def _settle(desk: AgentDesk, about: Mapping[str, Any]) -> None:
    """Let this process use what Ray has reserved for it, and no more. Call it before jax starts."""
    import ray

    context = ray.get_runtime_context()
    reserved = context.get_assigned_resources()
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if 1 <= (count := _cores(reserved)) < len(there):
        os.sched_setaffinity(0, desk.ask("take_cores", context.get_node_id(), about["name"], there, count))
    share = reserved.get("GPU", 0)
    if not share:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif share < 1:
        os.environ.update(memory_share(share))
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's; tasks get their own, as without Ray
    if about["threads"] is not None:
        os.environ["OMP_NUM_THREADS"] = about["threads"]


def _resources(given: str | None, recipe: Recipe) -> dict[str, float]:
    """Return what an agent reserves, by Ray's names."""
    task = recipe.task
    amounts = parse_resources(given) or ({"cpu": task.cores, **task.resources} if task else {"cpu": 1})
    check_amounts(amounts)
    return {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): float(amount) for name, amount in amounts.items()}


def _without_resources(task: Task | None) -> Task | None:
    """Return a task that needs no resources here but GPUs: Ray has seen to the others."""
    if not isinstance(task, Function | Command):
        return task
    return replace(task, resources={name: amount for name, amount in task.resources.items() if name == "gpu"})


def _cores(resources: Mapping[str, float]) -> int:
    """Return how many cores an agent uses, at least one of those that it reserves; 0 for all of its node."""
    return max(1, int(resources["CPU"])) if resources.get("CPU") else 0
