"""How much of objective space a set of trials dominates."""

from __future__ import annotations

import numpy as np


def hypervolume(losses: np.ndarray, reference: np.ndarray) -> float:
    """What points float64[n, objectives], all minimized, dominate below the reference float64[objectives].

    By slicing objectives: While et al., "A Faster Algorithm for Calculating Hypervolume", 2006.

    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0]))
    3.0
    """
    inside = losses[(losses < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    if inside.shape[1] == 2:
        lowest = np.minimum.accumulate(inside[:, 0])
        depths = np.diff(np.append(inside[:, 1], reference[1]))
        return float(((reference[0] - lowest) * depths).sum())
    ends = np.append(inside[1:, -1], reference[-1])
    depths = ends - inside[:, -1]
    return sum(
        float(depth) * hypervolume(inside[: place + 1, :-1], reference[:-1])
        for place, depth in enumerate(depths)
        if depth > 0
    )
