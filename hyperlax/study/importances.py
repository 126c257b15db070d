"""Importances of hyperparameters by PED-ANOVA, which Optuna has too, but imports scikit-learn for other methods beside it.

Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from hyperlax.study.record import FEWEST_FOR_IMPORTANCES

_TOP = 0.1
"""Share of the trials that count as good."""
_CELLS = 50
"""The most cells of a hyperparameter's domain."""


class Importances(Mapping[str, dict[str, float]]):
    """The importances of a study, as `importances` returns them, computed when they are first read: few readers need them."""

    def __init__(self, trials: Sequence[FrozenTrial], objectives: Mapping[str, str]):
        self._of = trials, objectives

    @cached_property
    def _shares(self) -> dict[str, dict[str, float]]:
        return importances(*self._of)

    def __getitem__(self, objective: str) -> dict[str, float]:
        return self._shares[objective]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shares)

    def __len__(self) -> int:
        return len(self._shares)


def importances(trials: Sequence[FrozenTrial], objectives: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return objective -> dotted name -> share, the largest first, computed from these trials.

    An objective has no entry if there are too few trials, all have the same value, or no hyperparameter matters.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < FEWEST_FOR_IMPORTANCES:
        return {}
    shares: dict[str, dict[str, float]] = {}
    for index, (name, direction) in enumerate(objectives.items()):
        values = np.array([trial.values[index] for trial in complete])
        if np.ptp(values) > 0 and (found := _shares(complete, -values if direction == "maximize" else values)):
            shares[name] = found
    return shares


def _shares(trials: Sequence[FrozenTrial], losses: np.ndarray) -> dict[str, float]:
    """Return the shares for float64[trials], the less the better; empty if no hyperparameter matters."""
    is_good = losses <= np.sort(losses)[math.ceil(_TOP * len(losses)) - 1]
    found = {
        name: 0.0
        if distribution.single()
        else _divergence(distribution, [trial.params[name] for trial in trials], is_good)
        for name, distribution in trials[0].distributions.items()
    }
    total = sum(found.values())
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: value / total for name, value in ordered} if total > 0 else {}


def _divergence(distribution: BaseDistribution, values: Sequence[object], is_good: np.ndarray) -> float:
    """Return the Pearson divergence of the density of good values from that of all values."""
    cells, count = _cells(distribution, values)
    density = _categorical_density if isinstance(distribution, CategoricalDistribution) else _numeric_density
    good, every = (density(np.bincount(own, minlength=count)) + 1e-12 for own in (cells[is_good], cells))
    return float(every @ (good / every - 1) ** 2)


def _cells(distribution: BaseDistribution, values: Sequence[Any]) -> tuple[np.ndarray, int]:
    """Return int64[values], the cell of the domain in which each value is, and the number of cells."""
    if isinstance(distribution, CategoricalDistribution):
        return np.array([distribution.to_internal_repr(value) for value in values], int), len(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    inner = np.array(values, float)
    low, high, count = distribution.low, distribution.high, _CELLS
    if distribution.log and isinstance(distribution, IntDistribution):
        count = min(count, math.ceil(math.log2(high - low + 1)) + 1)
    elif distribution.step is not None:
        count = min(count, round((high - low) / distribution.step) + 1)
    if distribution.log:
        inner, low, high = np.log(inner), math.log(low), math.log(high)
    nearest = np.ceil((inner - low) / ((high - low) / (count - 1)) - 0.5).astype(int)
    return np.clip(nearest, 0, count - 1), count


def _categorical_density(counts: np.ndarray) -> np.ndarray:
    """Return float64[choices]: the mean of a kernel per chosen choice, weighted by its count, and a uniform one."""
    seen = np.flatnonzero(counts)
    prior = 1 / (len(seen) + 1)
    kernels = np.full((len(seen) + 1, len(counts)), prior)
    kernels[np.arange(len(seen)), seen] += 1
    return np.append(counts[seen], 1) / (counts.sum() + 1) @ (kernels / kernels.sum(axis=1, keepdims=True))


def _numeric_density(counts: np.ndarray) -> np.ndarray:
    """Return float64[cells]: the mean of normal kernels at the cells, by Scott's rule (1992), and a wide one in the middle."""
    cells = np.flatnonzero(counts)
    weights, total = counts[cells], counts.sum()
    until = np.cumsum(weights)
    mean = cells @ weights / total
    deviation = math.sqrt((cells - mean) ** 2 @ weights / max(1, total - 1))
    quarters = np.searchsorted(until, total // 4), np.searchsorted(until, total * 3 // 4, side="right")
    between = cells[min(len(cells) - 1, quarters[1])] - cells[quarters[0]]
    width = max(1.059 * min(between / 1.34, deviation) * total**-0.2, 0.5 / 1.64)
    middles = np.append(cells, (len(counts) - 1) / 2)
    widths = np.append(np.full(len(cells), width), len(counts))
    edges = (np.arange(len(counts) + 1) - 0.5 - middles[:, None]) / widths[:, None]
    below = np.array([[math.erf(edge / math.sqrt(2)) for edge in row] for row in edges])
    kernels = np.diff(below) / (below[:, -1:] - below[:, :1])
    return np.append(weights, 1) / (total + 1) @ kernels
