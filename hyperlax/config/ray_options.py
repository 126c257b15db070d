"""The values of the options of `engine: ray`."""

from __future__ import annotations

import re

from hyperlax.errors import OptionError

LOCAL, AUTO = "local", "auto"
"""Addresses of Ray: a cluster that is started on this machine, and the one that this machine is in."""
_AMOUNT = re.compile(r"\s*([^\s=]+)\s*=\s*(\d+\.?\d*|\.\d+)\s*")


def parse_resources(given: str | None) -> dict[str, float] | None:
    """Return amounts by names, None without any. Raises OptionError.

    >>> parse_resources("cpu=2,gpu=0.5")
    {'cpu': 2.0, 'gpu': 0.5}
    """
    if given is None:
        return None
    parts = [_AMOUNT.fullmatch(part) for part in given.split(",")]
    found = {part[1]: float(part[2]) for part in parts if part}
    if len(found) < len(parts) or not all(found.values()):
        problem = "{agent_resources} {0}: needs names and amounts above 0, such as cpu=2,gpu=1."
        raise OptionError("agent_resources", problem, given)
    return found


def check_address(given: str | None) -> None:
    """Raise OptionError for what is not an address of a Ray cluster."""
    if given in (None, LOCAL, AUTO):
        return
    host, _, port = given.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        problem = "{ray_address} {0}: is not the address of a Ray cluster. Use HOST:PORT of its head, auto or local."
        raise OptionError("ray_address", problem, given)
