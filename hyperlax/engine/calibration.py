"""How many lanes a CPU core should take: measured on a small stand-in for training, since theory and machines disagree.

Like training, the stand-in alternates between many small sequential steps and gradients over the data that they collected. It is
compiled for each number of lanes with quick settings, in a third of a second instead of an algorithm's ten seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hyperlax.engine.lanes import QUICK_COMPILE

CANDIDATES: tuple[int, ...] = (1, 2, 4, 8)
_ROUNDS = 12
_SLACK = 1.05
"""Fewer lanes win if they are at most this much slower: small batches spread better over cores and end together."""
_NOISE = 1.5
"""A candidate was disturbed if its median turn takes this many times its best one."""

_SIZE, _WIDTH, _ROWS, _STEPS, _UPDATES, _ITERATIONS = 4, 64, 8, 32, 4, 12


def lanes_per_slot(slots: list[Any]) -> int | None:
    """Return the fewest lanes of a program that come within `_SLACK` of the most training per second, with all slots busy.

    This takes about 5 s. The candidates take turns of equal work, and the best turn of each counts. Return None if other work on
    the machine disturbed too many turns.
    """
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
    return choose(seconds)


def choose(seconds: Mapping[int, Sequence[float]]) -> int | None:
    """Return the fewest lanes within `_SLACK` of the fastest; None if turns were disturbed. seconds: lanes -> those of a turn."""
    if any(statistics.median(turns) > _NOISE * min(turns) for turns in seconds.values()):
        return None
    quickest = min(map(min, seconds.values()))
    return min(lanes for lanes, turns in seconds.items() if min(turns) <= _SLACK * quickest)


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
