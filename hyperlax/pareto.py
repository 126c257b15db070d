"""Comparisons of points with several objectives. Numpy only."""

from __future__ import annotations

import numpy as np


def non_dominated_ranks(points: np.ndarray) -> np.ndarray:
    """Return the non-dominated rank of each point: 0 if no point dominates it, 1 if only those of rank 0 do, and so on.

    Args:
      points: float64[n, objectives]; larger is better.

    Returns:
      int[n].
    """
    as_good = np.all(points[:, None, :] >= points[None, :, :], axis=2)
    dominates = as_good & ~as_good.T
    ranks = np.full(len(points), -1)
    left, rank = np.ones(len(points), dtype=bool), 0
    while left.any():
        front = left & ~np.any(dominates, axis=0, where=left[:, None])
        ranks[front], left, rank = rank, left & ~front, rank + 1
    return ranks


def crowding_distances(front: np.ndarray) -> np.ndarray:
    """Return how far apart the neighbours of each point are, summed over the objectives; inf at the ends of the front.

    Args:
      front: float64[n, objectives], points of one rank.

    Returns:
      float64[n].
    """
    distances = np.zeros(len(front))
    for column in front.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if span > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distances
