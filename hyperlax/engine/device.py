"""Devices, slots, lanes and the cache of compiled programs."""

from __future__ import annotations

import functools
import os
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from hyperlax.engine.costs import FILE, Costs, fingerprint, tell_not_kept
from hyperlax.engine.executables import FOLDER, Executables, cpu_info, open_executables
from hyperlax.engine.jax_cache import write_whole_entries
from hyperlax.engine.keys import pin_generator
from hyperlax.engine.machine import cores, gpus
from hyperlax.errors import OptionError, UsageError, counted
from hyperlax.files import expanded
from hyperlax.xla import backend_started, flags, refuse_fork, require_safe_scheduler

VERSION = version("hyperlax")

_CACHE_VARIABLE = "HYPERLAX_CACHE_DIR"
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "std::bad_alloc")


def cache_directory() -> Path:
    """Return `$HYPERLAX_CACHE_DIR`, else `hyperlax/` in the user's cache directory. Raises UsageError if that is not known."""
    usual = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/hyperlax/programs"
    return _absolute(os.environ.get(_CACHE_VARIABLE) or usual)


@functools.cache
def _absolute(directory: str) -> Path:
    """Return the full path of a directory, the same after the working directory has changed."""
    try:
        return Path(expanded(directory)).absolute()
    except UsageError as error:
        raise UsageError(f"{error} It is for compiled programs: {_CACHE_VARIABLE} names another.") from error


def prepare_jax(compilation_cache: bool) -> None:
    """Pin the random generator and turn the persistent compilation cache on or off.

    Raises:
      UsageError: jax was started in a way that would hang.
    """
    refuse_fork()
    require_safe_scheduler(jax.default_backend())
    pin_generator()
    keeps = compilation_cache and _can_keep(cache_directory())
    jax.config.update("jax_enable_compilation_cache", keeps)
    if keeps:
        write_whole_entries()
        jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _can_keep(directory: Path) -> bool:
    """Return whether the directory exists or can be made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        tell_not_kept(directory, error.strerror or str(error))
        return False
    return True


def program_name(algorithm: Any, lanes: int, seeds: int) -> str:
    """Return the fingerprint of a program: its computation, lanes and seeds, the jax version and the flags."""
    versions = (VERSION, jax.__version__)
    return fingerprint(algorithm, lanes, seeds, *versions, flags())


def identity() -> dict[str, Any]:
    """Return the properties of this machine that decide the bits of a program's results, by name."""
    first = jax.local_devices()[0]
    return {
        "hyperlax": VERSION,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "XLA_FLAGS": flags(),
        "device": f"{first.device_kind}, {cpu_info('model name')}" if first.platform == "cpu" else first.device_kind,
        "cores": cores(),  # XLA's thread pool, by whose size it cuts large products
    }


def costs_of_device(compilation_cache: bool) -> Costs:
    """Return the cost records stored beside the compiled programs; without a cache they are not kept on disk."""
    first = jax.local_devices()[0]
    return Costs(first.device_kind, first.platform, cache_directory() / FILE if compilation_cache else None)


def executables() -> Executables | None:
    """Return the compiled verbs that are kept on disk; None, after one sentence, if their directory cannot be used."""
    return open_executables(cache_directory() / FOLDER, identity())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that the device, or the machine, has no memory left."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _OUT_OF_MEMORY)


def local_devices(chosen: Sequence[int] = ()) -> dict[int, Any]:
    """Return this machine's devices by number, or the chosen ones.

    A GPU that is not chosen is left alone if JAX has not started yet: when it starts, it reserves memory on all that it sees.

    Raises:
      OptionError: A device does not exist, or is chosen twice.
    """
    asked = ",".join(map(str, chosen))
    if len(set(chosen)) < len(chosen):
        raise OptionError("devices", "{devices} {0}: names a device twice. Name each once.", asked)
    if chosen and not backend_started() and max(chosen) < len(gpus()):
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, sorted(chosen))))
    found, visible = jax.local_devices(), jax.config.values["jax_cuda_visible_devices"]
    is_restricted = found[0].platform != "cpu" and visible != "all"
    known = dict(zip(sorted(map(int, visible.split(","))) if is_restricted else range(len(found)), found, strict=True))
    for number in chosen:
        if number not in known:
            there = ", ".join(f"{number} ({device.device_kind})" for number, device in known.items())
            problem = "{devices} {0}: there is no device {1}. JAX has {2} here: {3}. Name some of these, or leave {devices} out."
            raise OptionError("devices", problem, asked, number, counted(len(known), "device"), there)
    return {number: known[number] for number in chosen} or known


def slot_devices(chosen: Sequence[int] = (), at_most: int | None = None) -> list[Any]:
    """Return the device of every slot: on CPUs one slot per core, spread over the devices; otherwise every device once.

    chosen: see `local_devices`. at_most: the most slots, None for no limit.
    """
    devices = list(local_devices(chosen).values())
    if devices[0].platform == "cpu":
        devices = [devices[slot % len(devices)] for slot in range(max(cores(), len(devices)))]
    return devices[:at_most]


def automatic_lanes(super_batch: int, slots: Sequence[Any]) -> int:
    """Return the lanes for `--runner-hparam-batch-size auto`, before memory is considered.

    On a CPU a slot trains one trial at a time: more lanes add no speed there, and fewer trials at once learn more from each other.
    On an accelerator the super-batch is spread over all slots.
    """
    return 1 if slots[0].platform == "cpu" else -(-super_batch // len(slots))


def room_for_a_program(device: Any) -> int | None:
    """Return the bytes that a program may use on a device now; on a CPU, a core's share of the memory. None if not known."""
    free = free_bytes(device)
    return free // cores() if free is not None and device.platform == "cpu" else free


def free_bytes(device: Any) -> int | None:
    """Return the free bytes of the device, or of this machine for a CPU; None if not known."""
    if device.platform == "cpu":
        known = [free for free in (_available_bytes(), _bytes_below_the_limit()) if free is not None]
        return min(known, default=None)
    statistics = device.memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return None
    return int(statistics["bytes_limit"]) - int(statistics.get("bytes_in_use", 0))


def _available_bytes() -> int | None:
    """Return the bytes that Linux can provide without swapping, file caches included; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _bytes_below_the_limit() -> int | None:
    """Return the bytes left below a container's memory limit; None without a limit."""
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() else None


def peak_memory_bytes(device: Any) -> int:
    """Return the peak number of bytes in use: of the device if it keeps count, else of this process."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "peak_bytes_in_use" in statistics:
        return int(statistics["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
