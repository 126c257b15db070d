"""Initial weights of a padded layer: those of the exact-size layer in the live corner, zeros elsewhere.

Legend: a layer is `[rows, columns]` = `[inputs, outputs]` padded, of which `[live_rows, live_columns]` are the lane's own.
Each row is sampled from its own key, so that a wider layer begins with the samples of a narrower one; this needs
`jax_threefry_partitionable`, which the engine pins.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array


class Initializer(Protocol):
    """A function that samples float32[rows, columns], zero outside the live corner."""

    def __call__(
        self, key: Array, rows: int, columns: int, live_rows: Array | int, live_columns: Array | int
    ) -> Array: ...


def _rows_of(draw, key: Array, rows: int) -> Array:
    return jax.vmap(lambda row: draw(jax.random.fold_in(key, row)))(jnp.arange(rows))


def _live(rows: int, columns: int, live_rows: Array | int, live_columns: Array | int) -> Array:
    return (jnp.arange(rows)[:, None] < live_rows) & (jnp.arange(columns)[None, :] < live_columns)


def lecun_normal() -> Initializer:
    """Return an initializer: normal of variance 1/live_rows, cut at two standard deviations (LeCun et al., 1998; as in flax)."""
    cut_std = 0.87962566103423978

    def init(key: Array, rows: int, columns: int, live_rows: Array | int, live_columns: Array | int) -> Array:
        draws = _rows_of(lambda k: jax.random.truncated_normal(k, -2.0, 2.0, (columns,)), key, rows)
        scale = jax.lax.rsqrt(jnp.maximum(live_rows, 1).astype(jnp.float32)) / cut_std
        return jnp.where(_live(rows, columns, live_rows, live_columns), draws * scale, 0.0)

    return init


def orthogonal(gain: float) -> Initializer:
    """Return an initializer: a random matrix of orthonormal columns if tall, else rows, times `gain` (Saxe et al., 2014)."""

    def init(key: Array, rows: int, columns: int, live_rows: Array | int, live_columns: Array | int) -> Array:
        draws = _rows_of(lambda k: jax.random.normal(k, (columns,)), key, rows)
        draws = jnp.where(_live(rows, columns, live_rows, live_columns), draws, 0.0)
        tall = _as_tall(draws, live_rows >= live_columns)
        q = orthonormal_columns(tall)
        return gain * _from_tall(q, rows, columns, live_rows >= live_columns)

    return init


def _as_tall(matrix: Array, is_tall: Array | bool) -> Array:
    """Return the live block or its transpose, whichever has at most as many columns as rows: `[max(shape), min(shape)]`."""
    rows, columns = matrix.shape
    long, short = max(rows, columns), min(rows, columns)
    embed = jnp.zeros((long, short), matrix.dtype)
    straight = embed.at[:rows, :].set(matrix[:, :short])
    crossed = embed.at[:columns, :].set(matrix.T[:, :short])
    return jnp.where(is_tall, straight, crossed)


def _from_tall(q: Array, rows: int, columns: int, is_tall: Array | bool) -> Array:
    padded = jnp.zeros((max(rows, columns),) * 2, q.dtype).at[:, : q.shape[1]].set(q)
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
        norm = jnp.linalg.norm(v)
        v = jnp.where(norm > 0, v / jnp.where(norm > 0, norm, 1.0), 0.0)
        return jax.lax.dynamic_update_slice_in_dim(q, v[:, None], column, axis=1)

    return jax.lax.fori_loop(0, matrix.shape[1], turn, jnp.zeros_like(matrix))
