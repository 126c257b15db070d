"""The place where a flow's coordinator leaves its address for the trials: a file in a directory that all of them see."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from hyperlax.errors import HyperlaxError
from hyperlax.files import decode, state_directory, write_json

VARIABLE = "HYPERLAX_RENDEZVOUS"
_KEPT_SECONDS = 7 * 24 * 3600.0
"""Time after which files of ended coordinators are removed."""


@dataclass(frozen=True)
class Meeting:
    """The content of a coordinator's file. address: host:port. is_over: whether it has ended, with the study of its run."""

    address: str
    is_over: bool = False

    def write(self, coordinator_id: str) -> None:
        """Write it for the trials of a coordinator."""
        path = _path(coordinator_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, asdict(self))


def find_meeting(coordinator_id: str) -> Meeting | None:
    """Return what a coordinator has written, None if that is nothing so far."""
    path = _path(coordinator_id)
    return decode(path, Meeting) if path.exists() else None


def await_coordinator(coordinator_id: str, timeout: float = 120, poll_interval: float = 0.5) -> str:
    """Wait until the coordinator of a run can be reached. Return its address, host:port.

    Args:
      coordinator_id: As in the flow's `self.coordinator_id`, the id of its run.
      timeout, poll_interval: Seconds.

    Raises HyperlaxError if it cannot be reached in that time.
    """
    until = time.monotonic() + timeout
    while (found := find_meeting(coordinator_id)) is None:
        if time.monotonic() > until:
            raise HyperlaxError(
                f"The coordinator of run {coordinator_id} was not there after {timeout:g} s. Its step needs a worker of its own "
                f"(max-workers of at least 2), and a task on another machine the same directory in {VARIABLE}."
            )
        time.sleep(poll_interval)
    return found.address


def forget_old_meetings() -> None:
    """Remove files of coordinators that ended long ago."""
    for path in _directory().glob("*.json"):
        with suppress(OSError, HyperlaxError):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS and decode(path, Meeting).is_over:
                path.unlink()


def _directory() -> Path:
    return Path(os.environ.get(VARIABLE) or state_directory() / "metaflow")


def _path(coordinator_id: str) -> Path:
    return _directory() / f"{quote(coordinator_id, safe='')}.json"
