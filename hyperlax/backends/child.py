"""A process that is ended with everything that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

GRACE_SECONDS = 10.0
"""Time between TERM and KILL."""
_POLL_SECONDS = 0.02
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL", "SIGBUS")
"""Signals by which a process's own code ends it."""


def python(code: str, *words: str) -> list[str]:
    """Return the command of a Python process that imports from where this one does, and runs code with these `sys.argv`."""
    start = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    return [sys.executable, "-P", "-c", start + code, json.dumps([str(path) for path in sys.path]), *words]


class Child:
    """A process that leads a session and a process group of its own.

    A Ctrl-C in the terminal does not reach it. What it starts belongs to its group and ends with it. On Linux so do processes that
    have left the group, such as daemons: they have inherited a variable of its environment that no other process has.

    pid: the process and its group. input, output, error: its standard streams, None if they are not pipes.
    """

    input: Any
    output: Any
    error: Any

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, **streams: Any):
        """Start a process. streams: `stdin`, `stdout`, `stderr` and `cwd` as in `subprocess.Popen`.

        Raises OSError if the command cannot be started.
        """
        mark = f"HYPERLAX_PROCESS_{uuid.uuid4().hex}"
        self._mark = f"{mark}=1".encode()
        environment = {**(os.environ if environment is None else environment), mark: "1"}
        self._process = child = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
        self.pid, self.input, self.output, self.error = child.pid, child.stdin, child.stdout, child.stderr
        self._is_over = False

    @property
    def status(self) -> int:
        """Its exit status, once it has ended; the negative number of the signal that has killed it."""
        assert self._process.returncode is not None
        return self._process.returncode

    def has_ended(self, seconds: float) -> bool:
        """Return whether the process has ended, after waiting for that at most for some seconds. Its group may still run."""
        if seconds:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        return self._process.poll() is not None

    def wait(self) -> str:
        """Wait until the process has ended, and return how, in words. Processes that it started may still run; see `end`."""
        status = self._process.wait()
        if status >= 0:
            return f"exited with status {status}"
        return f"{'crashed with' if self.has_crashed else 'was killed by'} {_name(-status)}"

    @property
    def has_crashed(self) -> bool:
        """True if its own code has ended it by a signal, False also if another process has."""
        return self.status < 0 and _name(-self.status) in _CRASHES

    def is_alive(self) -> bool:
        """Return whether the process, anything in its group, or anything else that it started is alive."""
        if not self._is_over:
            has_ended = self._process.poll() is not None
            self._is_over = has_ended and not _has_group(self.pid) and not _with_mark(self._mark)
        return not self._is_over

    def send(self, number: int) -> None:
        """Send a signal to the process and all that it has started."""
        if not self.is_alive():
            return
        with suppress(OSError):  # it has just ended
            os.killpg(self.pid, number)
        for pid in _with_mark(self._mark):
            with suppress(OSError):
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, number)


def end(children: Collection[Child], grace: float | None = None) -> None:
    """Send TERM to the processes and their groups, wait until all have ended, and KILL those that live after `grace` seconds."""
    for child in children:
        child.send(signal.SIGTERM)
    if not wait_for(children, GRACE_SECONDS if grace is None else grace):
        for child in children:
            child.send(signal.SIGKILL)
        wait_for(children, GRACE_SECONDS)


def wait_for(children: Collection[Child], seconds: float) -> bool:
    """Wait until all processes and their groups have ended, or the time is over. Return whether they have."""
    until = time.monotonic() + seconds
    while any(child.is_alive() for child in children):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _name(number: int) -> str:
    """Return the name of a signal."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _with_mark(mark: bytes) -> list[int]:
    """Return the processes that are alive and have a mark in their environment; none where the system does not show it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _has_group(pid: int) -> bool:
    """Return whether a process group has members that are alive.

    Zombies are members for the system, and stay where nobody collects them, as in a container whose first process is this one.
    """
    try:
        os.killpg(pid, 0)
    except OSError:
        return False
    stats = [_read(path) for path in Path("/proc").glob("[0-9]*/stat")]
    states = [
        (state, int(group)) for state, _, group in (stat.rpartition(")")[2].split()[:3] for stat in stats if stat)
    ]
    return not states or any(group == pid and state not in "ZX" for state, group in states)


def beginning(pid: int) -> str:
    """Return when and where a process of this machine began, in words that no other process has; "" if that is not known."""
    stat, boot = _read(Path(f"/proc/{pid}/stat")), _read(Path("/proc/sys/kernel/random/boot_id")).strip()
    if not stat or not boot:  # no Linux
        return ""
    state, *others = stat.rpartition(")")[2].split()
    if state in "ZX":
        return "ended"
    numbers = ""
    with suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return f"began {others[18]} ticks after boot {boot}, number in {numbers}"


def has_died(pid: int, began: str) -> bool:
    """Return whether a process of this machine is known to have died. began: its `beginning`, "" if that is not known."""
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
    return bool(began) and beginning(pid) not in ("", began)


def is_known_dead(pid: int, began: str) -> bool:
    """Return whether a process of any machine is known to have died: one of this machine, whose number means the same here.

    began: its `beginning`.
    """
    place = beginning(os.getpid()).partition(" after ")[2]
    return bool(place) and began.partition(" after ")[2] == place and has_died(pid, began)


def _read(path: Path) -> str:
    """Return the content of a file; empty if it is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
