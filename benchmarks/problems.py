"""Test functions with known optima or fronts. Every variable lies in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


@dataclass(frozen=True)
class Problem:
    """A minimization problem.

    Args:
        values: float64[dimensions] in [0, 1] -> objectives, all minimized.
        least: optimum, for a single objective.
        reference: reference point of the hypervolume, for several objectives.
    """

    name: str
    dimensions: int
    values: Callable[[np.ndarray], tuple[float, ...]]
    least: float = 0.0
    reference: tuple[float, ...] = ()


def hartmann6(x: np.ndarray) -> tuple[float, ...]:
    """Hartmann-6 (Surjanovic and Bingham, Virtual Library of Simulation Experiments); minimum -3.32237."""
    return (float(-(ALPHA * np.exp(-(A * (x - P) ** 2).sum(axis=1))).sum()),)


def levy6(x: np.ndarray) -> tuple[float, ...]:
    """Levy on [-10, 10]^6 (same library); minimum 0."""
    w = 1 + (20 * x - 10 - 1) / 4
    inner = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)).sum()
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return (float(np.sin(np.pi * w[0]) ** 2 + inner + last),)


def zdt1(x: np.ndarray) -> tuple[float, ...]:
    """ZDT1 (Zitzler, Deb and Thiele, 2000); front f2 = 1 - sqrt(f1)."""
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - np.sqrt(x[0] / g)))


def zdt2(x: np.ndarray) -> tuple[float, ...]:
    """ZDT2 (same paper); front f2 = 1 - f1^2."""
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - (x[0] / g) ** 2))


def zdt3(x: np.ndarray) -> tuple[float, ...]:
    """ZDT3 (same paper); a front in five pieces."""
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - np.sqrt(x[0] / g) - x[0] / g * np.sin(10 * np.pi * x[0])))


def dtlz2(x: np.ndarray) -> tuple[float, ...]:
    """DTLZ2 with two objectives (Deb, Thiele, Laumanns and Zitzler, 2002); front: a quarter of the unit circle."""
    g, angle = ((x[1:] - 0.5) ** 2).sum(), x[0] * np.pi / 2
    return float((1 + g) * np.cos(angle)), float((1 + g) * np.sin(angle))


SINGLE = (Problem("Hartmann-6", 6, hartmann6, -3.32237), Problem("Levy-6", 6, levy6))
SEVERAL = (
    Problem("ZDT1", 10, zdt1, reference=(1.1, 7.0)),
    Problem("ZDT2", 10, zdt2, reference=(1.1, 7.0)),
    Problem("ZDT3", 10, zdt3, reference=(1.1, 7.0)),
    Problem("DTLZ2", 10, dtlz2, reference=(2.5, 2.5)),
)
