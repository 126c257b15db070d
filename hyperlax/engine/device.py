"""Where batches run: the devices, how many batches at once, how many lanes, and the cache of compiled programs."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import jax

from hyperlax.engine.keys import pin_generator
from hyperlax.xla import require_safe_scheduler

CACHE_VARIABLE = "HYPERLAX_CACHE_DIR"
LANES_PER_CPU_SLOT = 8


def cache_directory() -> Path:
    """`$HYPERLAX_CACHE_DIR`, else `hyperlax/` in the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "hyperlax" / "programs"


def prepare_jax(compilation_cache: bool) -> None:
    """Pin the random generator and turn the persistent compilation cache on or off.

    Raises:
      UsageError: jax was started in a way that would hang on this CPU.
    """
    require_safe_scheduler(jax.default_backend())
    pin_generator()
    jax.config.update("jax_enable_compilation_cache", compilation_cache)
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slot_devices() -> list[Any]:
    """The device of every slot: on CPU the one device once per core, otherwise every local device once."""
    devices = jax.local_devices()
    return devices * cores() if devices[0].platform == "cpu" else devices


def automatic_lanes(super_batch: int, slots: list[Any]) -> int:
    """Lanes for `--runner-hparam-batch-size auto`: a super-batch spread over all slots.

    On a CPU at most 8: two threads with 2 to 8 lanes each were measured to use both cores fully, more gains nothing.
    """
    spread = -(-super_batch // len(slots))
    return min(spread, LANES_PER_CPU_SLOT) if slots[0].platform == "cpu" else spread


def peak_memory_bytes(device: Any) -> int:
    """Most bytes in use so far: on the device where it keeps count, else of this process."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
