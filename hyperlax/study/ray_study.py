"""A study whose batches train in agents of a Ray cluster: the process that holds it, and those agents."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.base import Backend, EngineConfig, narrowest
from hyperlax.backends.desk import Desk
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.ray_agents import RayAgents, make_desk
from hyperlax.backends.ray_cluster import connected, room_for
from hyperlax.backends.ray_desk import AgentDesk, ClusterLost
from hyperlax.config.options import SearchOptions
from hyperlax.config.ray_options import parse_resources
from hyperlax.config.sent_recipes import receive, send
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.machine import cores, leave_gpu_memory, memory_share
from hyperlax.errors import HyperlaxError, OptionError, UsageError
from hyperlax.recipe import Recipe
from hyperlax.study.leading import device_of
from hyperlax.study.manifest import resume_command
from hyperlax.study.study_run import MakeBackend, local_backend
from hyperlax.tasks import Command, Function, Task


def run_on_ray(
    options: SearchOptions,
    recipe: Recipe,
    directory: Path,
    main: str,
    tracked: Callable[[EngineConfig], tuple[EngineConfig, str]],
    run: Callable[[MakeBackend], int],
) -> int:
    """Run a study whose batches agents in a Ray cluster train. Returns the exit status.

    Args:
      main: The function by which agents call `train`; see `AgentActor`.
      tracked: Returns a configuration with the place where commands are tracked, and the address for the agents.
      run: Runs the study with the backend that this makes, and returns the exit status.

    Raises HyperlaxError if there is no cluster, UsageError if the study cannot run on one.
    """
    if find_spec("ray") is None:
        raise OptionError("engine", '{engine} ray needs the package ray: pip install "hyperlax[ray]"')
    if options.devices:
        problem = "{devices} are this machine's; with {engine} ray agents have what {agent_resources} says. Leave {devices} out."
        raise OptionError("devices", problem)
    sent = send(recipe)
    resources = _resources(options.agent_resources, recipe)
    leave_gpu_memory()
    about = {
        "study": str(directory),
        "recipe": sent,
        "seconds": options.checkpoint_seconds,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    with connected(options.ray_address, resources):
        desk, most = make_desk(directory, resources), None if options.agents == "none" else options.agents
        at_once = (most or max(1, room_for(resources))) * (options.slots or _slots(resources, recipe))
        agents = RayAgents(desk, main, about, resources, most)

        def make_backend(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
            config, agents.about["mlflow"] = tracked(config)
            width = config.super_batch or narrowest(at_once * (config.lanes or 1), config.num_trials)
            config = replace(config, super_batch=width, devices=())
            planner = local_backend(replace(config, task=_without_resources(config.task)), checkpoints)
            desk.clear()  # of agents of a leader that was killed
            desk.set_ended(False)
            return make_agents(desk, planner, config, "", agents, checkpoints)

        try:
            return run(make_backend)
        except ClusterLost as error:
            command = resume_command(directory)
            raise HyperlaxError(f"{error} All that is complete is kept. To resume:\n  {command}") from error
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
        task = _without_resources(config.task, but=("gpu",))  # Ray has seen to the others
        return local_backend(with_address(replace(config, task=task), about["mlflow"]), checkpoints)

    with tempfile.TemporaryDirectory(prefix="hyperlax-") as scratch:
        root = Path(scratch)
        desk = AgentDesk(actor, about["study"], root, about["seconds"])
        _settle(desk, about)
        try:
            place = Place(
                desk=cast(Desk, desk),
                recipe=receive(about["recipe"], root / "recipe"),
                make_backend=make_backend,
                checkpoints=desk.checkpoints,
                device_of=lambda config: _agreed(desk, device_of(config)),
                is_over=lambda: False,
                is_led=lambda: True,
            )
            AgentProcess(place, _Ended(desk), name=about["name"]).run()
        except (HyperlaxError, OSError) as error:
            return f"{socket.gethostname()} does not train: {error}"
    return ""


class _Ended:
    """The request to end: the leader has ended the study."""

    def __init__(self, desk: AgentDesk):
        self.is_set = desk.has_ended


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


def _agreed(desk: AgentDesk, device: str) -> str:
    """Return this node's kind of device. Raise UsageError if the first agent has another."""
    agreed = desk.ask("agree", device)
    if agreed != device:
        raise UsageError(
            f"the study trains on {agreed}, and this node has {device}, where results differ in their last bits. Let agents need a "
            "resource that only nodes of one kind have."
        )
    return device


def _resources(given: str | None, recipe: Recipe) -> dict[str, float]:
    """Return what an agent reserves, by Ray's names."""
    task = recipe.task
    amounts = parse_resources(given) or ({"cpu": task.cores, **task.resources} if task else {"cpu": 1})
    return {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): float(amount) for name, amount in amounts.items()}


def _without_resources(task: Task | None, but: Collection[str] = ()) -> Task | None:
    """Return a task that needs no resources here, except some."""
    if not isinstance(task, Function | Command) or not task.resources:
        return task
    return replace(task, resources={name: amount for name, amount in task.resources.items() if name in but})


def _cores(resources: Mapping[str, float]) -> int:
    """Return how many cores an agent uses, at least one of those that it reserves; 0 for all of its node."""
    return max(1, int(resources["CPU"])) if resources.get("CPU") else 0


def _slots(resources: Mapping[str, float], recipe: Recipe) -> int:
    """Return how many batches an agent trains at once."""
    gpus, cpus = int(resources.get("GPU", 0)), _cores(resources)
    if recipe.task is not None and not recipe.task.has_programs:
        return max(1, (cpus or cores()) // recipe.task.cores)
    return max(1, gpus or cpus)
