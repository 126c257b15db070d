"""The values of the options of `engine: ray`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hyperlax.errors import OptionError

LOCAL, AUTO = "local", "auto"
"""Addresses of Ray: a cluster that is started on this machine, and the one that this machine is in."""
_OF_RAY, _SMALLEST = ("memory", "object_store_memory", "bundle"), 0.0001
"""Names of resources that Ray gives to nobody, and the smallest amount that it counts."""
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
    check_amounts(found)
    return found


def check_amounts(amounts: Mapping[str, float]) -> None:
    """Raise OptionError for amounts that no Ray cluster gives."""
    for name, amount in amounts.items():
        if name in _OF_RAY or not name.isascii():
            why = "Ray has no resource of this name. Use cpu, gpu, or a name from `ray start --resources`."
        elif amount < _SMALLEST:
            why = f"Ray counts at least {_SMALLEST} of a resource. Give more."
        elif name.lower() == "gpu" and amount > 1 and amount % 1:
            why = "Ray gives a part of one GPU, or whole ones. Give at most 1, or a whole number."
        else:
            continue
        raise OptionError("agent_resources", f"{{agent_resources}} {{0}}: {why}", f"{name}={amount:g}")


def check_address(given: str | None) -> None:
    """Raise OptionError for what is not an address of a Ray cluster."""
    if given in (None, LOCAL, AUTO):
        return
    host, _, port = given.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        problem = "{ray_address} {0}: is not the address of a Ray cluster. Use HOST:PORT of its head, auto or local."
        raise OptionError("ray_address", problem, given)
