"""Population-based bandits: a copy continues where a Gaussian process expects the largest gain.

Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits", 2020
(arXiv:2002.02518). The process maps (interval t, hyperparameters x) to the change of return over the interval, with the kernel
k_SE(x, x') (1 - epsilon)^(|t - t'| / 2): a squared exponential that forgets. A copy takes the x with the greatest upper confidence
bound; copies of the same interval enter the variance of the next one as points whose values are not known yet. The only importer
of scikit-learn.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperlax.schedulers.pbt import Generation, Params, resample
from hyperlax.space import Distribution, LogUniform, Numeric, UniformContinuous

_CANDIDATES = 1000
"""Random points among which the bound is maximized."""
_NEWEST = 1000
"""Changes of return that the process sees, the latest ones: its cost grows with the third power."""
_WIDE = 1e6
"""A length scale beyond which a coordinate does not count."""


def is_continuous(distribution: Distribution) -> bool:
    """Return whether the Gaussian process models a hyperparameter; the others are sampled."""
    return isinstance(distribution, (LogUniform, UniformContinuous))


def suggest(
    space: Mapping[str, Distribution],
    history: Sequence[Generation],
    copied: Mapping[int, Params],
    streams: Mapping[int, np.random.Generator],
) -> dict[int, Params]:
    """Return new hyperparameters for copies. copied: member -> the hyperparameters that it copied.

    Until there is a change of return to learn from, which takes two intervals, every hyperparameter is sampled.
    """
    names = [name for name in sorted(space) if is_continuous(space[name])]
    times, points, changes = _data(space, names, history)
    now, pending = len(history), np.zeros((0, len(names)))
    process = _fitted(_with_time(times, points), changes) if len(changes) else None
    found = {}
    for member in sorted(copied):
        random = streams[member]
        params = resample(space, random)
        if process is not None:
            candidates = random.random((_CANDIDATES, len(names)))
            chosen = candidates[_best(process, now, pending, candidates)]
            pending = np.vstack([pending, chosen])
            params |= {name: _value(space[name], place) for name, place in zip(names, chosen, strict=True)}
        found[member] = params
    return found


def _data(
    space: Mapping[str, Distribution], names: Sequence[str], history: Sequence[Generation]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the intervals, int[n], points in the unit cube, float64[n, d], and changes of return, float64[n].

    They include every interval after the first, without members that failed.
    """
    rows = [
        (interval, [_place(space[name], after.params[member][name]) for name in names], change)
        for interval, (before, after) in enumerate(itertools.pairwise(history), start=1)
        for member, change in enumerate(after.scores - before.scores[after.source])
        if math.isfinite(change)
    ][-_NEWEST:]
    times, points, changes = ([row[column] for row in rows] for column in range(3))
    return np.array(times), np.array(points).reshape(len(rows), len(names)), np.array(changes)


def _best(process: Any, now: int, pending: np.ndarray, candidates: np.ndarray) -> int:
    """Return the index of the candidate with the greatest upper confidence bound, whose width is that of the authors' code."""
    asked, data = _with_time(np.full(len(candidates), now), candidates), process.X_train_
    known = np.vstack([data, _with_time(np.full(len(pending), now), pending)])
    imagined = _process(process.kernel_, None).fit(known, np.zeros(len(known)))  # the variance does not see the values
    deviation = imagined.predict(asked, return_std=True)[1]
    beta = 0.2 + max(0.0, math.log(0.4 * len(data)))
    return int(np.argmax(process.predict(asked) + math.sqrt(beta) * deviation))


def _fitted(points: np.ndarray, changes: np.ndarray) -> Any:
    """Fit a process whose length scales, forgetting and noise maximize the likelihood of the standardized changes."""
    from sklearn.gaussian_process.kernels import RBF, Matern, WhiteKernel  # pyright: ignore[reportMissingImports]

    dimensions = points.shape[1] - 1
    over_space = RBF([1.0] * dimensions + [_WIDE], [(0.1, 10.0)] * dimensions + [(_WIDE, 1.001 * _WIDE)])
    over_time = Matern([_WIDE] * dimensions + [10.0], [(_WIDE, 1.001 * _WIDE)] * dimensions + [(1.0, 1e3)], nu=0.5)
    spread = changes.std()
    standardized = (changes - changes.mean()) / (spread if spread > 0 else 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale may end at its bound
        return _process(over_space * over_time + WhiteKernel(0.1, (1e-3, 1.0)), "fmin_l_bfgs_b").fit(
            points, standardized
        )


def _process(kernel: Any, optimizer: Any) -> Any:
    """Make a process. optimizer: fits the kernel's parameters; None keeps them (scikit-learn's annotations lack None)."""
    from sklearn.gaussian_process import GaussianProcessRegressor  # pyright: ignore[reportMissingImports]

    return GaussianProcessRegressor(kernel, optimizer=optimizer, alpha=1e-8)


def _with_time(times: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.column_stack([points, times])


def _place(distribution: Distribution, value: float) -> float:
    """Return the place of a value in its domain, from 0 to 1; of its logarithm if that is uniform."""
    assert isinstance(distribution, Numeric)
    low, high = distribution.domain
    if distribution.logarithmic:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _value(distribution: Distribution, place: float) -> float:
    """Return the value at a place: the inverse of `_place`."""
    assert isinstance(distribution, Numeric)
    low, high = distribution.domain
    value = low * (high / low) ** place if distribution.logarithmic else low + place * (high - low)
    return min(max(float(value), low), high)
