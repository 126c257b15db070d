"""The agents that a leader starts on its own machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hyperlax.backends.child import GRACE_SECONDS, Child, end, wait_for
from hyperlax.backends.desk import agents_of_process
from hyperlax.errors import HyperlaxError, counted

ENDS_WITH_INPUT = "HYPERLAX_AGENT_ENDS_WITH_INPUT"
"""The variable that tells an agent to end when its standard input ends: its leader has died."""
_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from hyperlax.cli import main; sys.exit(main())"
_MOST_DEATHS = 10
"""How many agents may die one after another without a result in between."""


def start_agent(study: Path, level: str, environment: Mapping[str, str] = os.environ) -> Child:
    """Start an agent on this machine. It ends when its standard input does, so also with this process."""
    words = ["agent", str(study.absolute()), "--log-level", level]
    command = [sys.executable, "-P", "-c", _START, json.dumps([str(path) for path in sys.path]), *words]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return Child(command, {**environment, ENDS_WITH_INPUT: "1"}, **streams)


class LocalAgents:
    """Agents on this machine, each a process, which are started again when they die.

    count: how many. study: its directory.
    """

    def __init__(self, count: int, study: Path):
        self._count, self._study, self._environment = count, study, dict(os.environ)
        self._children: list[Child] = []
        self._deaths = 0

    def start(self) -> None:
        """Start the agents that are missing."""
        while len(self._children) < self._count:
            self._children.append(start_agent(self._study, "WARNING", self._environment))

    def dead(self) -> dict[str, str]:
        """Return those that have died since the last call: the beginning of the agent's name, and how.

        Raises HyperlaxError if one has refused to train, or if too many have died without a result.
        """
        found = {}
        for child in [child for child in self._children if not child.is_alive()]:
            self._children.remove(child)
            how = child.wait()
            self._deaths += 1
            if how.startswith("exited") or self._deaths == _MOST_DEATHS:
                died = f"{counted(self._deaths, 'agent')} of this machine died without a result; the last one"
                raise HyperlaxError(f"{died} {how}. What it said is above.")
            found[agents_of_process(child.pid)] = how
        return found

    def have_trained(self) -> None:
        """Note that a batch has ended."""
        self._deaths = 0

    def close(self) -> None:
        """End them. They hand back what they train at the next evaluation, if that comes soon."""
        for child in self._children:
            child.input.close()
        if not wait_for(self._children, GRACE_SECONDS):
            end(self._children)
        self._children.clear()
