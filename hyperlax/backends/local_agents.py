"""The agents that a leader starts on its own machine."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hyperlax.backends.base import BackendLost
from hyperlax.backends.child import GRACE_SECONDS, Child, end, python, wait_for
from hyperlax.backends.wire import agents_of_process
from hyperlax.engine.machine import memory_share
from hyperlax.errors import STOPPED, counted

ENDS_WITH_INPUT = "HYPERLAX_AGENT_ENDS_WITH_INPUT"
"""The variable that tells an agent to end when its standard input ends: its leader has died."""
_MOST_DEATHS = 10
"""How many agents may die one after another without a result in between."""


@dataclass(frozen=True)
class Share:
    """An agent's part of its machine. words: options of its command. variables: of its environment."""

    words: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def shares(count: int, slots: int, gpus: Sequence[str] = (), devices: Sequence[int] = ()) -> list[Share]:
    """Return the part of a machine that each of several agents gets: a device or several, and a part of the slots.

    Agents that outnumber the GPUs share their memory. The cores are not divided: a program's bits may depend on their number.

    Args:
      slots: Batches that train at once on the whole machine.
      gpus: Names of its GPUs for CUDA_VISIBLE_DEVICES, [] if none is used.
      devices: Numbers of its other devices, [] if there is one only.

    >>> [share.words for share in shares(3, 4)]
    [('--slots', '2'), ('--slots', '1'), ('--slots', '1')]
    >>> [share.variables["CUDA_VISIBLE_DEVICES"] for share in shares(2, 3, ["0", "1", "2"])]
    ['0,2', '1']
    """
    found = []
    for agent in range(count):
        words = ["--slots", str(max(1, slots // count + (agent < slots % count)))]
        if devices:
            words += ["--devices", ",".join(map(str, devices[agent::count] or [devices[agent % len(devices)]]))]
        variables = {}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[agent::count] or [gpus[agent % len(gpus)]])
        if len(gpus) < count and gpus:
            variables |= memory_share(1 / -(-count // len(gpus)))
        found.append(Share(tuple(words), variables))
    return found


def start_agent(study: Path, level: str, share: Share, environment: Mapping[str, str] = os.environ) -> Child:
    """Start an agent on this machine. It ends when its standard input does, so also with this process."""
    words = ["agent", str(study.absolute()), "--log-level", level, *share.words]
    command = python("from hyperlax.cli import main; sys.exit(main())", *words)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return Child(command, {**environment, **share.variables, ENDS_WITH_INPUT: "1"}, **streams)


class StartedAgents(ABC):
    """Agents that a leader starts. Only so many may die one after another without a result in between."""

    _deaths = 0

    @abstractmethod
    def start(self) -> None:
        """Start the agents that are missing."""

    @abstractmethod
    def dead(self) -> dict[str, str]:
        """Return those that have died since the last call: the beginning of the agent's name, and how.

        Raises BackendLost if none may train, or if too many have died without a result.
        """

    @abstractmethod
    def close(self) -> None:
        """End them. They hand back what they train at the next evaluation, if that comes soon."""

    def have_trained(self) -> None:
        """Note that a batch has ended."""
        self._deaths = 0

    def _lose_one(self) -> bool:
        """Count a death. Return whether it is one too many."""
        self._deaths += 1
        return self._deaths == _MOST_DEATHS


class LocalAgents(StartedAgents):
    """Agents on this machine, each a process, which are started again when they die.

    study: its directory. shares: the part of the machine that each agent gets, none at first.
    """

    def __init__(self, study: Path):
        self._study, self._environment = study, dict(os.environ)
        self.shares: Sequence[Share] = ()
        self._children: dict[int, Child] = {}

    def start(self) -> None:
        for agent, share in enumerate(self.shares):
            if agent not in self._children:
                self._children[agent] = start_agent(self._study, "WARNING", share, self._environment)

    def dead(self) -> dict[str, str]:
        found = {}
        for agent, child in [(agent, child) for agent, child in self._children.items() if not child.is_alive()]:
            del self._children[agent]
            how = child.wait()
            if child.status >= 0 and child.status not in STOPPED:
                raise BackendLost(f"An agent of this machine {how}; what it said is above.")
            if self._lose_one():
                died = f"{counted(self._deaths, 'agent')} of this machine died without a result"
                raise BackendLost(f"{died}; the last one {how}.")
            found[agents_of_process(child.pid)] = how
        return found

    def close(self) -> None:
        children = list(self._children.values())
        for child in children:
            child.input.close()
        if not wait_for(children, GRACE_SECONDS):
            end(children)
        self._children.clear()
