"""Initial weights of a padded layer: those of the exact-size layer in the live corner, zeros elsewhere.

Legend: a layer is `[rows, columns]` = `[inputs, outputs]` padded, of which `[live_rows, live_columns]` are the lane's own.
Each row is sampled from its own key, so that a wider layer begins with the samples of a narrower one; this needs
`jax_threefry_partitionable`, which the engine pins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Initializer:
    """Initial weights, float32[rows, columns], zero outside the live corner.

    sample: (key, columns) -> a row of random numbers. shape: (rows of them, live rows, live columns) -> weights.
    """

    sample: Callable[[Array, int], Array]
    shape: Callable[[Array, Array | int, Array | int], Array]

    def __call__(self, key: Array, rows: int, columns: int, live_rows: Array | int, live_columns: Array | int) -> Array:
        return self.shape(samples(self.sample, key, [(rows, columns)])[0], live_rows, live_columns)


def samples(
    sample: Callable[[Array, int], Array], key: Array, layers: Sequence[tuple[int, int]], most: int = 1
) -> list[Array]:
    """Return random numbers for layers of these rows and columns, float32[rows, columns] each, from one computation.

    most: More than the number of any layer. Row `i` of layer `j` has the key of number `i * most + j`. Raises ValueError.
    """
    if len(layers) > most:
        raise ValueError(f"a network of {len(layers)} layers; at most {most} have random numbers of their own")
    heights = [rows for rows, _ in layers]
    numbers = np.concatenate([np.arange(rows) * most + layer for layer, rows in enumerate(heights)])
    widest = max(columns for _, columns in layers)
    drawn = jax.vmap(lambda number: sample(jax.random.fold_in(key, number), widest))(numbers)
    drawn = jax.lax.optimization_barrier(drawn)  # else XLA computes them again in everything that uses a part of them
    ends = np.cumsum(heights)
    return [drawn[end - rows : end, :columns] for end, (rows, columns) in zip(ends, layers, strict=True)]


def _only_live(weights: Array, live_rows: Array | int, live_columns: Array | int) -> Array:
    rows, columns = weights.shape
    live = (jnp.arange(rows)[:, None] < live_rows) & (jnp.arange(columns)[None, :] < live_columns)
    return jnp.where(live, weights, 0.0)


def _normal(key: Array, columns: int) -> Array:
    return jax.random.normal(key, (columns,))


def _cut_normal(key: Array, columns: int) -> Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, (columns,))


def lecun_normal() -> Initializer:
    """Return an initializer: normal of variance 1/live_rows, cut at two standard deviations (LeCun et al., 1998; as in flax)."""
    cut_std = 0.87962566103423978

    def shape(drawn: Array, live_rows: Array | int, live_columns: Array | int) -> Array:
        scale = jax.lax.rsqrt(jnp.maximum(live_rows, 1).astype(jnp.float32)) / cut_std
        return _only_live(drawn * scale, live_rows, live_columns)

    return Initializer(_cut_normal, shape)


def orthogonal(gain: float) -> Initializer:
    """Return an initializer: a random matrix of orthonormal columns if tall, else rows, times `gain` (Saxe et al., 2014)."""

    def shape(drawn: Array, live_rows: Array | int, live_columns: Array | int) -> Array:
        rows, columns = drawn.shape
        is_tall = live_rows >= live_columns
        q = orthonormal_columns(_as_tall(_only_live(drawn, live_rows, live_columns), is_tall))
        return gain * _from_tall(q, rows, columns, is_tall)

    return Initializer(_normal, shape)


def _as_tall(matrix: Array, is_tall: Array | bool) -> Array:
    """Return the live block or its transpose, whichever has at most as many columns as rows: `[max(shape), min(shape)]`."""
    long, short = max(matrix.shape), min(matrix.shape)

    def embedded(x: Array) -> Array:
        return jnp.pad(x[:, :short], ((0, long - x.shape[0]), (0, 0)))

    return jnp.where(is_tall, embedded(matrix), embedded(matrix.T))


def _from_tall(q: Array, rows: int, columns: int, is_tall: Array | bool) -> Array:
    padded = jnp.pad(q, ((0, 0), (0, q.shape[0] - q.shape[1])))
    return jnp.where(is_tall, padded, padded.T)[:rows, :columns]


def orthonormal_columns(matrix: Array) -> Array:
    """Orthonormalize by Gram-Schmidt, each column against its predecessors twice (Giraud et al., 2005: twice is enough).

    For a Gaussian matrix `[n, m]`, n >= m, this is the Q of the QR decomposition with positive diagonal, so uniform over
    orthonormal frames (Mezzadri, 2007). Zero rows and columns stay zero, which a padded layer needs and a library QR does
    not give. A loop over columns, each turn one batched matrix-vector product: cheap under vmap on any device.
    """

    def turn(column: Array, q: Array) -> Array:
        v = jax.lax.dynamic_slice_in_dim(matrix, column, 1, axis=1)[:, 0]
        for _ in range(2):
            v = v - q @ (v @ q)
        square = jnp.sum(v**2)
        v = v * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        return jax.lax.dynamic_update_slice_in_dim(q, v[:, None], column, axis=1)

    return jax.lax.fori_loop(0, matrix.shape[1], turn, jnp.zeros_like(matrix))
