"""This machine, as far as that is known without jax."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

_MEMORY, _USUAL_MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75
"""The variable with the share of a GPU's memory that JAX reserves, and its default."""


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def leave_gpu_memory() -> None:
    """Have this process reserve no GPU's memory, which is for the agents. Call it before jax starts."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def memory_share(share: float) -> dict[str, str]:
    """Return the variable by which JAX reserves a share of what it usually does of a GPU's memory, unless the user has set it."""
    return {_MEMORY: os.environ.get(_MEMORY, f"{_USUAL_MEMORY * share:.3f}")}


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages, without those that are not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
