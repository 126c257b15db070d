"""The two ways to start jax in which it would hang: without a flag, and forked.

The flag is the one without which vmapped training stops for ever on CPUs under jax 0.10.

With jax below 0.11, XLA's concurrency-optimized CPU scheduler deadlocks on vmapped training: all threads wait in a futex and
no CPU time passes. The flag turns that scheduler off. It counts only if it is set before jax starts its backend, so
`import hyperlax` sets it; where jax started first, `require_safe_scheduler` refuses instead of hanging.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hyperlax.errors import UsageError

FLAG_NAME = "xla_cpu_enable_concurrency_optimized_scheduler"
FLAG = f"--{FLAG_NAME}=false"

_started_without_flag = False
_started_before_fork = _is_forked = False


def jax_needs_flag() -> bool:
    """Return whether the installed version of jax deadlocks."""
    try:
        major, minor = version("jax").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) < (0, 11)


def backend_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def flags() -> str:
    """Return the flags in `XLA_FLAGS`; where that is the name of a file, as XLA allows, those in it.

    It stays a name if the file cannot be read. XLA then ends the process, and says why.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    if given and not given.startswith("-"):
        with suppress(OSError, ValueError):
            return Path(given).read_text(encoding="utf-8").strip()
    return given


def set_safe_scheduler() -> None:
    """Add the flag to `XLA_FLAGS` where jax needs it, has not started yet, and the user has not decided otherwise."""
    global _started_without_flag
    given = flags()
    if FLAG_NAME in given or given[:1] not in ("", "-") or not jax_needs_flag():
        return
    if backend_started():
        _started_without_flag = True
        return
    os.environ["XLA_FLAGS"] = f"{given} {FLAG}".strip()


def watch_forks() -> None:
    """Note from now on when this process is forked after jax has started. Call it once."""

    def before() -> None:
        global _started_before_fork
        _started_before_fork = _is_forked or backend_started()

    def in_child() -> None:
        global _is_forked
        _is_forked = _started_before_fork

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_child=in_child)


def refuse_fork() -> None:
    """Refuse to use jax in a process that was forked after jax had started: its threads are not there, so it would hang.

    Raises:
      UsageError: With what to use instead.
    """
    if _is_forked:
        raise UsageError(
            "this process was forked after JAX started, and JAX would hang in it. Use spawn: "
            'multiprocessing.get_context("spawn"), or mp_context= of a ProcessPoolExecutor.'
        )


def require_safe_scheduler(backend: str) -> None:
    """Refuse to train where it would hang: on a CPU backend that started before the flag could be set.

    Raises:
      UsageError: With the line to add.
    """
    if backend == "cpu" and _started_without_flag:
        raise UsageError(
            "jax was started before hyperlax was imported, without the flag that keeps it from hanging on CPUs. Import "
            f'hyperlax first, or start Python with XLA_FLAGS="{FLAG}".'
        )
