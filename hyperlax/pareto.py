"""Pareto fronts: which points no other one beats, and how much they dominate. In every objective larger is better. Numpy only."""

from __future__ import annotations

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return bool[n] for float64[n, objectives]: whether no other point is at least as good everywhere and better somewhere.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])).tolist()
    [True, True, False]
    """
    found, front, size = np.zeros(len(points), dtype=bool), np.empty_like(points), 0
    # what beats a point comes before it, and if any does, one of the front does
    for place in np.lexsort(points.T[::-1])[::-1]:
        own, others = points[place], front[:size]
        if not np.any(np.all(others >= own, axis=1) & np.any(others > own, axis=1)):
            found[place], front[size] = True, own
            size += 1
    return found


def non_dominated_ranks(points: np.ndarray) -> np.ndarray:
    """Return int[n] for float64[n, objectives]: 0 for the front, 1 for the front of the others, and so on."""
    as_good = np.all(points[:, None, :] >= points[None, :, :], axis=2)
    dominates = as_good & ~as_good.T
    ranks = np.full(len(points), -1)
    left, rank = np.ones(len(points), dtype=bool), 0
    while left.any():
        front = left & ~np.any(dominates, axis=0, where=left[:, None])
        ranks[front], left, rank = rank, left & ~front, rank + 1
    return ranks


def crowding_distances(front: np.ndarray) -> np.ndarray:
    """Return float64[n] for float64[n, objectives]: the distance between a point's neighbours, summed over objectives; inf at ends.

    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002.
    """
    distances = np.zeros(len(front))
    for column in front.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if span > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distances


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume that float64[n, objectives] dominate above the reference float64[objectives].

    By slicing objectives: While et al., "A Faster Algorithm for Calculating Hypervolume", 2006.

    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros(2))
    3.0
    """
    inside = points[(points > reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(inside.max() - reference[0])
    inside = inside[np.argsort(-inside[:, -1], kind="stable")]
    depths = inside[:, -1] - np.append(inside[1:, -1], reference[-1])
    if inside.shape[1] == 2:
        return float(((np.maximum.accumulate(inside[:, 0]) - reference[0]) * depths).sum())
    return sum(
        float(depth) * hypervolume(inside[: place + 1, :-1], reference[:-1])
        for place, depth in enumerate(depths)
        if depth > 0
    )
