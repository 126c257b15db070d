"""The compiled programs of a backend, and how many lanes each is given."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hyperlax.engine.algorithm import Algorithm
from hyperlax.engine.costs import fingerprint
from hyperlax.engine.executables import Executables
from hyperlax.engine.lanes import Program
from hyperlax.errors import counted

log = logging.getLogger(__name__)


class Programs:
    """The compiled programs of a backend. Safe to use from several threads at once.

    lanes: the most lanes of any program. lanes_of: returns the first number of lanes of a program. lanes_before: fingerprint of a
    program -> the lanes it has run with, which it gets again unchecked. room: returns the bytes that a program may use on a
    device; a program that needs more gets fewer lanes. refills: whether trials enter and leave while others train. sequential,
    executables: as in `Program`.
    """

    def __init__(
        self,
        lanes: int,
        num_seeds: int,
        *,
        lanes_of: Callable[[Any], int] | None = None,
        lanes_before: Mapping[str, int] | None = None,
        room: Callable[[Any], int | None] | None = None,
        refills: bool = False,
        sequential: bool | None = None,
        executables: Executables | None = None,
    ):
        self.lanes, self.num_seeds = lanes, num_seeds
        self._first_lanes, self._room, self._refills = lanes_of or (lambda algorithm: lanes), room, refills
        self._sequential, self._executables = sequential, executables
        self._settled = dict(lanes_before or {})
        self._lanes: dict[Hashable, int] = {}
        self._programs: dict[tuple[Hashable, Any, int], Program] = {}
        self._lock = threading.Lock()

    def lanes_of(self, algorithm: Any) -> int:
        """Return the current number of lanes of a program."""
        with self._lock:
            if algorithm not in self._lanes:
                first = min(self.lanes, self._first_lanes(algorithm))
                self._lanes[algorithm] = self._settled.get(fingerprint(algorithm), first)
            return self._lanes[algorithm]

    def program(self, algorithm: Algorithm, device: Any, lanes: int) -> Program:
        """Return the program on a device; make it first if needed."""
        with self._lock:
            key = (algorithm, device, lanes)
            if key not in self._programs:
                room = None if fingerprint(algorithm) in self._settled else self._room
                self._programs[key] = Program(
                    algorithm, lanes, self.num_seeds, device, room, self._refills, self._sequential, self._executables
                )
            return self._programs[key]

    def load(self, hypers: Mapping[Algorithm, Any], devices: Iterable[Any]) -> None:
        """Begin to load programs from disk, in a thread. hypers: program -> the hyperparameters of one of its lanes."""
        programs = [
            (self.program(algorithm, device, self.lanes_of(algorithm)), lane)
            for algorithm, lane in hypers.items()
            for device in dict.fromkeys(devices)
        ]

        def load() -> None:
            for program, lane in programs:
                program.load(lane)

        _in_a_thread(load)

    def compile(self, algorithm: Algorithm, lane: Any, device: Any) -> None:
        """Begin to compile a program, in a thread, unless it is on disk. What fails fails again, and is reported, in `prepare`."""
        program = self.program(algorithm, device, self.lanes_of(algorithm))
        _in_a_thread(lambda: program.compile(lane))

    def is_ready(self, algorithm: Hashable) -> bool:
        """Return whether the program is compiled in this process."""
        with self._lock:
            return any(known == algorithm and program.is_ready for (known, *_), program in self._programs.items())

    def settle(self, algorithm: Any, lanes: int) -> None:
        """Record that the program has run with this many lanes."""
        with self._lock:
            self._settled[fingerprint(algorithm)] = lanes

    def settled(self) -> dict[str, int]:
        """Return how many lanes each program has run with, by its fingerprint."""
        with self._lock:
            return dict(self._settled)

    def shrink(self, algorithm: Hashable, lanes: int, fewer: int) -> None:
        """Give the program `fewer` than `lanes`, and drop the larger one, unless another slot did so already."""
        with self._lock:
            if self._lanes[algorithm] == lanes:
                self._lanes[algorithm] = fewer
                self._programs = {key: program for key, program in self._programs.items() if key[0] != algorithm}
                log.warning("Not enough memory for %s at once; %d from now on.", counted(lanes, "trial"), fewer)


def _in_a_thread(function: Callable[[], None]) -> None:
    threads = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    threads.submit(function)
    threads.shutdown(wait=False)
