"""Verbs over lanes. A lane is the place of one trial in a compiled program; this module does not know the algorithm.

Every array of the training state has leading axes `[lanes, seeds]`. The hyperparameters have a leading axis `[lanes]`: the seeds
of a lane share them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from hyperlax.engine.algorithm import Algorithm
from hyperlax.engine.executables import Executable, Executables, compiled
from hyperlax.errors import counted

_ON_CPUS: Any = {"xla_backend_optimization_level": 1}
"""Compiler options for CPUs. At its default level, LLVM unrolls the many small loops of random draws: programs then take longer to
compile, up to several times, and run no faster."""


class Compilation(NamedTuple):
    """One verb made executable. seconds: after tracing; cached: it was loaded from disk, not compiled."""

    verb: str
    seconds: float
    cached: bool


class Preparation(NamedTuple):
    """The cost of making a program executable. seconds: wall time; verbs are compiled side by side."""

    seconds: float
    compilations: list[Compilation]

    @property
    def cached(self) -> bool:
        """True if nothing had to be compiled."""
        return all(compilation.cached for compilation in self.compilations)


class NoRoom(MemoryError):
    """Too little memory for a program.

    lanes: how many of its lanes would fit, about. preparation: the cost of compiling it.
    """

    def __init__(self, needed: int, room: int, lanes: int, preparation: Preparation):
        need = f"{counted(lanes, 'lane')} need{'s' if lanes == 1 else ''}"
        super().__init__(f"{need} {needed / 2**20:,.0f} MiB, {room / 2**20:,.0f} MiB are free")
        self.lanes, self.preparation = lanes * room // needed, preparation


@dataclass
class Program:
    """An algorithm over a fixed number of lanes and seeds on one device. Safe to use from several threads at once.

    room: returns the free bytes of the device; the program refuses to start if it needs more. None does not check. refills:
    whether `prepare` makes that verb executable too. executables: where verbs are kept on disk; only for programs whose whole code
    belongs to this package. sequential: lanes and seeds are computed one after another, so that their branches and loop bounds stay
    real; else side by side, by `vmap`, under which every lane runs all branches. None: sequential on a CPU. Every verb is compiled
    at its first use, under a lock. The states passed in are donated: do not use them again.
    """

    algorithm: Algorithm
    lanes: int
    seeds: int
    device: Any
    room: Callable[[Any], int | None] | None = None
    refills: bool = False
    sequential: bool | None = None
    executables: Executables | None = None
    compilations: list[Compilation] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _compiled: dict[str, Executable] = field(default_factory=dict)
    _begun: Preparation | None = None  # by `load` or `compile`, until `prepare` returns it
    _refused: tuple[int, int, int] | None = None
    _like: Any = None  # the structure of the training state
    _key: str = ""  # names it on disk, with the structure of its hyperparameters

    def __post_init__(self) -> None:
        if self.sequential is None:
            self.sequential = self.device.platform == "cpu"

    @property
    def is_ready(self) -> bool:
        """True if training and evaluation are compiled already."""
        return {"start", "train", "evaluate"} <= self._compiled.keys()

    def load(self, lane: Any) -> None:
        """Load what `prepare` would make executable, if all of it is on disk. lane: hyperparameters of one lane, any values."""
        with self._lock:
            self._load(lane)

    def compile(self, lane: Any) -> None:
        """Make executable what `prepare` would, but do not check its memory."""
        with self._lock:
            self._load(lane)
            if not self.is_ready:
                self._begun = self._make(lane)

    def prepare(self, lane: Any) -> Preparation:
        """Make `start`, `train` and `evaluate` executable if they are not yet: load or compile them.

        Return the cost. The first call after `load` or `compile` returns theirs. lane: hyperparameters of one lane, any values.

        Raises:
          NoRoom: several lanes need more memory than `room`, by the compiler's estimate. A single lane is always tried.
        """
        with self._lock:
            if self._refused:
                raise NoRoom(*self._refused, Preparation(0.0, []))
            if not self.is_ready:
                self._load(lane)
            made, self._begun = self._begun, None
            if not self.is_ready:
                made = self._make(lane)
            if made is None:
                return Preparation(0.0, [])
            room = self.room(self.device) if self.room else None
            if room is not None and self.lanes > 1 and self.memory_bytes() > room:
                self._refused = (self.memory_bytes(), room, self.lanes)
                raise NoRoom(*self._refused, made)
            return made

    def start(self, keys: Array, hypers: Any) -> Any:
        """Initialise all lanes. keys [lanes, seeds]; hypers [lanes]."""
        return self._call("start", keys, hypers)

    def train(self, state: Any, hypers: Any, iteration: int, iterations: int, which: Array | None = None) -> Any:
        """Train all lanes for some iterations; the first is the program's `iteration`th.

        which: bool[lanes], the lanes whose results matter; the program may save the work of the others.
        """
        which = self.place(np.ones(self.lanes, np.bool_)) if which is None else which
        return self._call("train", state, hypers, which, *self.place((np.int32(iteration), np.int32(iterations))))

    def evaluate(self, state: Any, hypers: Any, keys: Array) -> Any:
        """Return the scores of all lanes, [lanes, seeds] each. keys [seeds]: all lanes meet the same episodes."""
        return self._call("evaluate", state, hypers, keys)

    def policy_params(self, state: Any) -> Any:
        """Return the policies' parameters, as numpy [lanes, seeds, ...]. This compiles nothing."""
        return jax.tree.map(np.asarray, self.algorithm.policy_params(state))

    def code(self) -> str:
        """Return a digest of the code of `start`, `train` and `evaluate`, environment included. Call `prepare` first."""
        texts = [self._compiled[verb].text for verb in ("start", "train", "evaluate")]
        return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]

    def save(self, state: Any) -> list[np.ndarray]:
        """Return the training state as plain arrays, which `restore` takes."""
        return [np.asarray(jax.random.key_data(x) if _is_key(x) else x) for x in jax.tree.leaves(state)]

    def restore(self, arrays: Sequence[np.ndarray]) -> Any:
        """Return the training state that an equal program saved, on this one's device. Call `prepare` first."""
        like, structure = jax.tree.flatten(self._like)
        leaves = [
            jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(x) else array
            for x, array in zip(like, arrays, strict=True)
        ]
        return self.place(jax.tree.unflatten(structure, leaves))

    def branch(self, state: Any, source: Array, keys: Array) -> Any:
        """Let lane i continue from the state of lane source[i], a copy with its own of keys [lanes, seeds]. source int32[lanes].

        A lane that continues from itself keeps its random numbers.
        """
        return self._call("branch", state, source, keys)

    def refill(self, state: Any, which: Array, fresh: Any) -> Any:
        """Replace the lanes where `which` bool[lanes] is true by those that `start` made; leave the others untouched."""
        return self._call("refill", state, which, fresh)

    def memory_bytes(self) -> int:
        """Return the bytes of arguments, results and temporaries of the largest verb compiled so far."""
        return max((executable.needed for executable in self._compiled.values()), default=0)

    def place(self, tree: Any) -> Any:
        """Return the same arrays on the program's device."""
        return jax.device_put(tree, self.device)

    def _init(self, keys: Array, hypers: Any) -> Any:
        return self._over_lanes(self.algorithm.init, (0, None), (0, 0))(keys, hypers)

    def _train(self, state: Any, hypers: Any, which: Array, iteration: Array, iterations: Array) -> Any:
        def run(state: Any, hypers: Any, ends: Array) -> Any:
            return jax.lax.fori_loop(iteration, ends, lambda i, state: self.algorithm.step(state, hypers, i), state)

        end = iteration + iterations
        if self.sequential:
            ends = jnp.where(which, end, iteration)
            return self._over_lanes(run, (0, None, None), (0, 0, 0))(state, hypers, ends)
        return self._over_lanes(run, (0, None, None), (0, 0, None))(state, hypers, end)

    def _evaluate(self, state: Any, hypers: Any, keys: Array) -> Any:
        return self._over_lanes(self.algorithm.evaluate, (0, None, 0), (0, 0, None))(state, hypers, keys)

    def _branch(self, state: Any, source: Array, keys: Array) -> Any:
        taken = jax.tree.map(lambda x: x[source], state)
        own = self._over_lanes(self.algorithm.with_key, (0, 0), (0, 0))(taken, keys)
        copied = source != jnp.arange(self.lanes)
        return jax.tree.map(lambda new, old: _where(copied, new, old), own, taken)

    def _refill(self, state: Any, which: Array, fresh: Any) -> Any:
        entered = self.algorithm.reset(state, fresh)
        return jax.tree.map(lambda new, old: _where(which, new, old), entered, state)

    def _over_lanes(self, function: Callable, seed_axes: tuple, lane_axes: tuple) -> Callable:
        over_seeds = _over_axis(function, seed_axes, bool(self.sequential))
        return _over_axis(over_seeds, lane_axes, bool(self.sequential))

    def _call(self, verb: str, *arguments: Any) -> Any:
        if verb not in self._compiled:
            with self._lock:
                if verb not in self._compiled and not self._find([verb]):
                    self._compile(verb, self._trace(verb, *arguments))
        return self._compiled[verb].call(*arguments)

    def _load(self, lane: Any) -> None:
        """Give the program its name on disk, and load the verbs of `prepare` if all of them are there."""
        if not self.executables or self._key:
            return
        began, before = time.perf_counter(), len(self.compilations)
        leaves, structure = jax.tree.flatten(lane)
        own = (type(self.algorithm), self.algorithm, self.lanes, self.seeds, self.sequential)
        self._key = self.executables.key(self.device, *own, structure, [(x.dtype, x.shape) for x in leaves])
        if self._find(["start", "train", "evaluate", *(["refill"] if self.refills else [])]):
            self._like = self._compiled["train"].call.args_info[0][0]
            self._begun = Preparation(time.perf_counter() - began, self.compilations[before:])

    def _find(self, verbs: Sequence[str]) -> bool:
        """Load verbs from disk, side by side. Return whether all of them were there."""
        if not self.executables or not self._key:
            return False
        load = self.executables.load

        def find(verb: str) -> tuple[Executable | None, float]:
            began = time.perf_counter()
            return load(self._name(verb), self.device), time.perf_counter() - began

        with ThreadPoolExecutor(2, thread_name_prefix="load") as threads:
            found = dict(zip(verbs, threads.map(find, verbs), strict=True))
        whole = {verb: executable for verb, (executable, _) in found.items() if executable}
        if len(whole) < len(verbs):
            return False
        self._compiled |= whole
        self.compilations += [Compilation(verb, seconds, True) for verb, (_, seconds) in found.items()]
        return True

    def _make(self, lane: Any) -> Preparation:
        """Compile the verbs of `prepare`, two at a time."""
        began, before = time.perf_counter(), len(self.compilations)
        here, key = SingleDeviceSharding(self.device), jax.eval_shape(lambda: jax.random.key(0)).dtype
        hypers = jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.lanes, *x.shape), x.dtype, sharding=here), lane)
        keys, episode_keys = (
            jax.ShapeDtypeStruct(shape, key, sharding=here) for shape in ((self.lanes, self.seeds), (self.seeds,))
        )
        start, iteration = self._trace("start", keys, hypers), jax.ShapeDtypeStruct((), jnp.int32)
        state = self._like = start.out_info
        which = jax.ShapeDtypeStruct((self.lanes,), jnp.bool_)

        def train() -> None:
            self._compile("train", self._trace("train", state, hypers, which, iteration, iteration))

        def start_and_evaluate() -> None:
            self._compile("start", start)
            self._compile("evaluate", self._trace("evaluate", state, hypers, episode_keys))
            if self.refills:
                self._compile("refill", self._trace("refill", state, which, state))

        with ThreadPoolExecutor(2, thread_name_prefix="compile") as threads:
            for done in [threads.submit(train), threads.submit(start_and_evaluate)]:
                done.result()
        return Preparation(time.perf_counter() - began, self.compilations[before:])

    def _name(self, verb: str) -> str:
        """Return the name under which compiler logs and files show a verb."""
        return f"lanes_{verb}_{self._key}" if self._key else f"lanes_{verb}"

    def _trace(self, verb: str, *arguments: Any) -> Any:
        function, donated = self._verbs[verb]
        with jax.default_device(self.device):
            return jax.jit(_named(function, self._name(verb)), donate_argnums=donated).trace(*arguments)

    def _compile(self, verb: str, traced: Any) -> None:
        if verb in self._compiled:
            return
        began = time.perf_counter()
        options = _ON_CPUS if self.device.platform == "cpu" else None
        with jax.default_device(self.device):
            lowered = traced.lower()
            if self.executables and self._key:
                made = self.executables.make(self._name(verb), f"lanes_{verb}", lowered, options, self.device)
            else:
                made = compiled(lowered, options)
        self.compilations.append(Compilation(verb, time.perf_counter() - began, made.cached))
        self._compiled[verb] = made

    @property
    def _verbs(self) -> dict[str, tuple[Callable, tuple[int, ...]]]:
        """Verb -> its function, and the arguments whose memory it may take over."""
        return {
            "start": (self._init, ()),
            "train": (self._train, (0,)),
            "evaluate": (self._evaluate, ()),
            "branch": (self._branch, (0,)),
            "refill": (self._refill, (0,)),
        }


def of_lane(tree: Any, lane: int) -> Any:
    """Return one lane's part of arrays [lanes, ...]."""
    return jax.tree.map(lambda x: x[lane], tree)


def _over_axis(function: Callable, in_axes: tuple, sequential: bool) -> Callable:
    """Return `function` over the leading axis of those arguments whose `in_axes` is 0; others are shared.

    An axis of size 1 is squeezed: under `vmap` every `switch` and `cond` would run all its branches also there.
    """

    def call(*arguments: Any) -> Any:
        own = tuple(tree for tree, axis in zip(arguments, in_axes, strict=True) if axis == 0)

        def of_one(own: tuple) -> Any:
            given = iter(own)
            return function(
                *(next(given) if axis == 0 else tree for tree, axis in zip(arguments, in_axes, strict=True))
            )

        if jax.tree.leaves(own)[0].shape[0] == 1:
            return jax.tree.map(lambda x: x[None], of_one(of_lane(own, 0)))
        return jax.lax.map(of_one, own) if sequential else jax.vmap(of_one)(own)

    return call


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _named(function: Callable, name: str) -> Callable:
    """Return the same function under a name."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__name__ = name
    return call


def _where(which: Array, new: Array, old: Array) -> Array:
    return jnp.where(which.reshape(-1, *[1] * (old.ndim - 1)), new, old)
