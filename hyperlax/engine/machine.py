"""This machine, as far as that is known without jax."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages, without those that are not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
