"""`--join`, the same command on every machine: one process leads the study, and the others train for it until one of them leads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hyperlax.backends.child import Child
from hyperlax.backends.local_agents import Share, start_agent
from hyperlax.config.stored import MANIFEST
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.study.lock import StudyRunning, holder_of
from hyperlax.study.stopping import StopRequest, stopping_on_signals

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


def lead_or_join(plan: Callable[[bool], tuple[Path, Callable[[], int]]], share: Share, level: str) -> int:
    """Lead the study that `plan` returns, or train for the process that leads it until that ends. Returns the exit status.

    Args:
      plan: Returns the study's directory and the function that runs it. Has whether this process has trained for a leader that has
        ended. While another process holds the study, it raises UsageError, maybe from a StudyRunning, which it does not before it
        has compared its options with those on disk.
      share: Of the agent that trains for another process.
      level: The lowest level of messages that this agent prints.
    """
    takes_over = is_compared = False
    while True:
        try:
            directory, run = plan(takes_over)
        except UsageError as error:
            running = error if isinstance(error, StudyRunning) else error.__cause__
            if not isinstance(running, StudyRunning):
                raise
        else:
            try:
                return run()
            except UsageError:
                if holder_of(directory) is None:
                    raise
            continue
        stop = StopRequest()
        if not is_compared:
            is_compared = _has_begun(running.root, stop)
        elif (status := _train_for_leader(running.root, share, level, stop)) is not None:
            return status
        else:
            takes_over = True
        if stop.is_set():
            return stop.exit_status


def _has_begun(root: Path, stop: StopRequest) -> bool:
    """Wait until the leader has written the study's options. Return False if it has ended before, or a stop is requested."""
    with stopping_on_signals(stop):
        while not (root / MANIFEST).exists():
            if stop.is_set() or holder_of(root) is None:
                return False
            time.sleep(_LOOK_SECONDS)
    return True


def _train_for_leader(root: Path, share: Share, level: str, stop: StopRequest) -> int | None:
    """Train until the study has ended, and return the exit status; None as soon as nobody leads the study.

    Raises HyperlaxError if the study was moved or removed: that makes its lock disappear, too.
    """
    with stopping_on_signals(stop):
        log.info("Training for %s, which runs the study in %s.", holder_of(root) or "another process", root)
        place = _place(root)
        child = start_agent(root, level, share)
        is_led = _wait(child, stop, root)
    how = child.wait()
    if stop.is_set():
        return stop.exit_status
    if place is None or _place(root) != place:
        raise HyperlaxError(f"{root}: the study was moved or removed.")
    if not is_led:
        return None
    if how != "exited with status 0":
        raise HyperlaxError(
            f"The agent that trained for the study in {root} {how}. To continue, run the command again."
        )
    return 0


def _wait(child: Child, stop: StopRequest, root: Path) -> bool:
    """Wait until an agent has ended, which it is asked to when nobody leads the study. Return whether that was not so."""
    is_led, is_asked = True, False
    while child.is_alive():
        is_led = is_led and holder_of(root) is not None
        if not is_asked and (stop.is_set() or not is_led):
            is_asked = True
            child.input.close()
        time.sleep(_LOOK_SECONDS)
    return is_led


def _place(root: Path) -> tuple[int, int] | None:
    """Return what tells a study's directory from another one of its name, None if there is no study."""
    with suppress(OSError):
        if (root / MANIFEST).exists():
            found = root.stat()
            return found.st_dev, found.st_ino
    return None
