"""Devices, slots, lanes and the cache of compiled programs."""

from __future__ import annotations

import logging
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.engine.costs import FILE, Costs, fingerprint, tell_not_kept
from hyperlax.engine.executables import FOLDER, Executables, open_executables
from hyperlax.engine.keys import pin_generator
from hyperlax.engine.lanes import QUICK_COMPILE
from hyperlax.xla import refuse_fork, require_safe_scheduler

log = logging.getLogger(__name__)

VERSION = version("hyperlax")

_CACHE_VARIABLE = "HYPERLAX_CACHE_DIR"
_UNMEASURED_LANES = 4
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "std::bad_alloc")
CANDIDATES: tuple[int, ...] = (1, 2, 4, 8)
_ROUNDS = 12
_SLACK, _WIDENING = 1.05, 1.25
"""Fewer lanes win if they are at most this much slower: small batches spread better over cores and end together. The second is
for lanes that also widen the super-batch: a sampler learns less from a study the more of its trials train at once."""
_LONGEST_SECONDS = 15.0
_NOISE = 1.5
"""A candidate was disturbed if its median turn takes this many times its best one."""

_SIZE, _WIDTH, _ROWS, _STEPS, _UPDATES, _ITERATIONS = 4, 64, 8, 32, 4, 12


def cache_directory() -> Path:
    """Return `$HYPERLAX_CACHE_DIR`, else `hyperlax/` in the user's cache directory."""
    chosen = os.environ.get(_CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "hyperlax" / "programs"


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
        _tell_cache_errors_once()
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


def _tell_cache_errors_once() -> None:
    """Log one sentence where jax would warn for every program that it cannot write or read."""
    if getattr(warnings.showwarning, "tells_cache_errors_once", False):
        return
    show: Any = warnings.showwarning

    def show_others(message: Warning | str, *rest: Any, **more: Any) -> None:
        verb, found, reason = str(message).partition(" persistent compilation cache entry for ")
        if found:
            tell_not_kept(cache_directory(), reason.partition(": ")[2], is_read="reading" in verb)
        else:
            show(message, *rest, **more)

    show_others.tells_cache_errors_once = True  # pyright: ignore[reportFunctionMemberAccess]
    warnings.showwarning = show_others


def program_name(algorithm: Any, lanes: int, seeds: int) -> str:
    """Return the fingerprint of a program: its computation, lanes and seeds, the jax version and the flags."""
    versions = (VERSION, jax.__version__)
    return fingerprint(algorithm, lanes, seeds, *versions, os.environ.get("XLA_FLAGS", ""))


def identity() -> dict[str, Any]:
    """Return the properties of this machine that decide the bits of a program's results, by name."""
    first = jax.local_devices()[0]
    return {
        "hyperlax": VERSION,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "device": f"{first.device_kind}, {_processor()}" if first.platform == "cpu" else first.device_kind,
        "cores": cores(),  # XLA's thread pool, by whose size it cuts large products
    }


def _processor() -> str:
    """Return the CPU's model, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


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


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slot_devices() -> list[Any]:
    """Return the device of every slot: on CPU, the single device once per core; otherwise every local device once."""
    devices = jax.local_devices()
    return devices * cores() if devices[0].platform == "cpu" else devices


def automatic_lanes(super_batch: int, seeds: int, slots: list[Any], costs: Costs, widens: bool = False) -> int:
    """Return the lanes for `--runner-hparam-batch-size auto`: a super-batch spread over all slots, before memory is considered.

    On a CPU, a slot gets at most as many lanes of `seeds` runs as a core can use. That is measured once and stored with the costs.
    widens: whether every lane widens the super-batch, which then has at most `super_batch` trials, or one per slot.
    """
    spread = -(-super_batch // len(slots))
    if slots[0].platform != "cpu" or spread == 1:
        return spread

    def measure() -> dict[int, float] | None:
        log.info("Measuring how many trials a core trains best at once, once on this machine (about 5 s, up to 20 s).")
        return measured_turns(slots)

    turns = costs.turns(len(slots), measure)
    if turns is None:
        runs = 1 if widens else _UNMEASURED_LANES
        log.info("The machine is too busy to measure how many lanes a core can use; using %d for now.", runs)
    else:
        runs = fewest(turns, _WIDENING if widens else _SLACK)
    return min(spread, -(-runs // seeds))


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


def measured_turns(slots: list[Any]) -> dict[int, float] | None:
    """Return the seconds of equal training, by the lanes of a program, with all slots busy.

    Theory and machines disagree, so this is measured on a small stand-in for training, which takes about 5 s. Like training, it
    alternates between many small sequential steps and gradients over the data that they collected. It is compiled for each number
    of lanes with quick settings, in a third of a second instead of an algorithm's ten seconds. The candidates take turns of equal
    work, and the best turn of each counts. Return None if other work on the machine disturbed too many turns, or if it takes longer
    than `_LONGEST_SECONDS`.
    """
    until = time.perf_counter() + _LONGEST_SECONDS
    programs = {lanes: _compiled(lanes, slots[0]) for lanes in CANDIDATES}
    seconds: dict[int, list[float]] = {lanes: [] for lanes in CANDIDATES}
    with ThreadPoolExecutor(len(slots)) as threads:
        for _ in range(_ROUNDS):
            for lanes, (train, seeds) in programs.items():

                def turn(lanes: int = lanes, train: Any = train, seeds: Array = seeds) -> None:
                    for _ in range(max(CANDIDATES) // lanes):
                        jax.block_until_ready(train(seeds))

                began = time.perf_counter()
                for done in [threads.submit(turn) for _ in slots]:
                    done.result()
                seconds[lanes].append(time.perf_counter() - began)
                if time.perf_counter() > until:
                    return None
    return best_turns(seconds)


def best_turns(seconds: Mapping[int, Sequence[float]]) -> dict[int, float] | None:
    """Return the shortest turn of each number of lanes; None if turns were disturbed."""
    if any(statistics.median(turns) > _NOISE * min(turns) for turns in seconds.values()):
        return None
    return {lanes: min(turns) for lanes, turns in seconds.items()}


def fewest(turns: Mapping[int, float], slack: float) -> int:
    """Return the fewest lanes whose turn takes at most `slack` times the shortest."""
    return min(lanes for lanes, seconds in turns.items() if seconds <= slack * min(turns.values()))


def _compiled(lanes: int, device: Any) -> tuple[Any, Array]:
    with jax.default_device(device):
        seeds = jnp.arange(lanes, dtype=jnp.float32)
        return jax.jit(jax.vmap(_train)).lower(seeds).compile(compiler_options=QUICK_COMPILE), seeds


def _train(seed: Array) -> Any:
    weights = [_spread(seed, _SIZE, _WIDTH), _spread(seed, _WIDTH, _WIDTH), _spread(seed, _WIDTH, _SIZE)]

    def act(x: Array, _: None) -> tuple[Array, Array]:
        moved = jnp.sin(x + _network(weights, x))
        return moved, moved

    def iteration(carry: tuple[list[Array], Array], _: None) -> tuple[tuple[list[Array], Array], None]:
        weights, x = carry
        x, seen = jax.lax.scan(act, x, None, _STEPS)
        rows = seen.reshape(-1, _SIZE)

        def descend(weights: list[Array], _: None) -> tuple[list[Array], None]:
            gradient = jax.grad(lambda w: jnp.mean((_network(w, rows) - rows) ** 2))(weights)
            return [w - 1e-3 * g for w, g in zip(weights, gradient, strict=True)], None

        return (jax.lax.scan(descend, weights, None, _UPDATES)[0], x), None

    return jax.lax.scan(iteration, (weights, _spread(seed, _ROWS, _SIZE)), None, _ITERATIONS)[0]


def _network(weights: list[Array], x: Array) -> Array:
    return jnp.tanh(jnp.tanh(x @ weights[0]) @ weights[1]) @ weights[2]


def _spread(seed: Array, rows: int, columns: int) -> Array:
    return jnp.sin(seed + jnp.arange(rows * columns, dtype=jnp.float32)).reshape(rows, columns) / 8
