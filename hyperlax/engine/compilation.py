"""What making a program executable took, or that there is no room for it."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import jax


class Compilation(NamedTuple):
    """One verb made executable. seconds: after tracing; cached: it was loaded from the persistent cache, not compiled."""

    verb: str
    seconds: float
    cached: bool


class Preparation(NamedTuple):
    """What it took to make a program executable. seconds: from start to end, of verbs made side by side."""

    seconds: float
    compilations: list[Compilation]

    @property
    def cached(self) -> bool:
        """Whether nothing had to be compiled."""
        return all(compilation.cached for compilation in self.compilations)


class _CacheHits(threading.local):
    """How often the calling thread has found a program in the persistent cache: JAX tells in the thread that compiles."""

    count = 0

    def listen(self, event: str, **_: Any) -> None:
        self.count += event == "/jax/compilation_cache/cache_hits"


cache_hits = _CacheHits()
jax.monitoring.register_event_listener(cache_hits.listen)


class NoRoom(MemoryError):
    """A program needs more memory than there is.

    lanes: how many of its lanes would fit, about. preparation: what compiling it took.
    """

    def __init__(self, needed: int, room: int, lanes: int, preparation: Preparation):
        super().__init__(f"{lanes} lanes need {needed / 2**20:,.0f} MiB, {room / 2**20:,.0f} MiB are free")
        self.lanes, self.preparation = lanes * room // needed, preparation
