"""Waiting for what other threads and processes do: for the event itself, and long enough for a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 240.0
"""Seconds after which an event does not come any more."""


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true, and return its value."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)
    return found
