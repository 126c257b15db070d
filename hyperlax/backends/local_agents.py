"""The agents that a leader starts on its own machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hyperlax.backends.child import GRACE_SECONDS, Child, end, wait_for
from hyperlax.backends.work import agents_of_process
from hyperlax.errors import HyperlaxError, counted

ENDS_WITH_INPUT = "HYPERLAX_AGENT_ENDS_WITH_INPUT"
"""The variable that tells an agent to end when its standard input ends: its leader has died."""
_START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from hyperlax.cli import main; sys.exit(main())"
_MOST_DEATHS = 10
"""How many agents may die one after another without a result in between."""


class LocalAgents:
    """Agents on this machine, each a process, which are started again when they die.

    count: how many. study: its directory.
    """

    def __init__(self, count: int, study: Path):
        self._count = count
        paths = json.dumps([str(path) for path in sys.path])
        words = ["agent", str(study.absolute()), "--log-level", "WARNING"]
        self._command = [sys.executable, "-P", "-c", _START, paths, *words]
        self._environment = {**os.environ, ENDS_WITH_INPUT: "1"}
        self._children: list[Child] = []
        self._deaths = 0

    def start(self) -> None:
        """Start the agents that are missing."""
        while len(self._children) < self._count:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
            self._children.append(Child(self._command, self._environment, **streams))

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
