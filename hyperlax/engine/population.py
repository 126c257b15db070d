"""Population-based training as pure functions of scores and a seed: who copies whom, and what the copies go on with.

Jaderberg et al., "Population Based Training of Neural Networks", 2017 (arXiv:1711.09846): exploit by truncation selection,
explore by perturbing or resampling. A member keeps its hyperparameters until it is replaced. No jax here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import numpy as np

from hyperlax.agent import Policy
from hyperlax.space import Categorical, Distribution, Numeric, QUniform
from hyperlax.trial import Trial

FACTORS = (0.8, 1.2)
"""Of what spans orders of magnitude (Jaderberg et al., appendix A)."""
STEP = 0.1
"""Of a linear range, up or down: a fifth of its middle, which the factors are of a value. They would carry a discount factor
past both ends of any range worth searching."""
RESAMPLED = 0.25
"""Share of hyperparameters that a perturbation draws anew."""
INITIAL, EXPLOIT, EXPLORE = 0, 1, 2

Params = dict[str, Any]
Point = dict[str, np.ndarray]
"""One evaluation: the columns of a curve and `finite` bool, [members, seeds] each."""


class Measured(NamedTuple):
    """An evaluation and what it cost, in the words of `timing.json`."""

    point: Point
    timing: dict[str, Any]


class Population(Protocol):
    """Members that train an interval at a time: `hyperlax.engine.members.Members`, or what stands for them in a test."""

    @property
    def device(self) -> str: ...
    @property
    def steps(self) -> list[int]: ...
    def num_parameters(self) -> int: ...
    def begin(self) -> Measured: ...
    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured: ...
    def policy(self, member: int) -> Policy: ...
    def identity(self) -> dict[str, Any]: ...
    def save(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class Generation(NamedTuple):
    """A population over one interval.

    params: per member, dotted name -> value. source: int[members], the member of the interval before that each goes on from.
    scores: float64[members], the return at its end; nan for a member that failed.
    """

    params: list[Params]
    source: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Selection:
    """The rule of a run.

    explore: "perturb", "resample" or "pb2". quantile: the share of members that is replaced, and the share that they copy from.
    """

    space: Mapping[str, Distribution]
    explore: str
    quantile: float
    seed: int

    def begin(self, members: int) -> list[Params]:
        """The hyperparameters of the first interval, drawn from the space."""
        return [resample(self.space, stream(self.seed, INITIAL, member)) for member in range(members)]

    def go_on(self, history: Sequence[Generation]) -> tuple[np.ndarray, list[Params]]:
        """Source and hyperparameters of every member for the interval that follows `history`, which is not empty.

        ValueError if no member of the last interval has a finite score.
        """
        last, interval = history[-1], len(history)
        source = exploit(last.scores, self.quantile, stream(self.seed, EXPLOIT, interval))
        params = [dict(last.params[origin]) for origin in source]
        copies = [member for member, origin in enumerate(source) if member != origin]
        streams = {member: stream(self.seed, EXPLORE, interval, member) for member in copies}
        if self.explore == "pb2" and copies:
            from hyperlax.engine.pb2 import suggest

            params_of_copies = suggest(self.space, history, {m: params[m] for m in copies}, streams)
        elif self.explore == "resample":
            params_of_copies = {member: resample(self.space, streams[member]) for member in copies}
        else:
            params_of_copies = {member: perturb(self.space, params[member], streams[member]) for member in copies}
        return source, [params_of_copies.get(member, own) for member, own in enumerate(params)]


def stream(*place: int) -> np.random.Generator:
    """Random numbers that follow from these whole numbers alone."""
    return np.random.default_rng(place)


def ranking(scores: np.ndarray) -> np.ndarray:
    """int[members], best first: ties by number, what is not finite last."""
    return np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")


def quantile_size(members: int, quantile: float) -> int:
    """How many members a quantile is: rounded up, at most half of them."""
    return min(math.ceil(quantile * members - 1e-9), members // 2)


def exploit(scores: np.ndarray, quantile: float, draw: np.random.Generator) -> np.ndarray:
    """int[members], whom each goes on from: the worst quantile each from a random one of the best, the rest from itself.

    A member whose score is not finite is replaced, however many there are, and never copied. ValueError if none is finite.
    """
    members, finite = len(scores), int(np.isfinite(scores).sum())
    if finite == 0:
        raise ValueError("no member has a finite score, there is nobody to go on from")
    width, order = quantile_size(members, quantile), ranking(scores)
    best, replaced = order[: min(width, finite)], order[members - max(width, members - finite) :]
    source = np.arange(members)
    for member in sorted(replaced):
        source[member] = best[draw.integers(len(best))]
    return source


def resample(space: Mapping[str, Distribution], draw: np.random.Generator) -> Params:
    """Every hyperparameter drawn anew."""
    return {name: drawn(space[name], draw) for name in sorted(space)}


def perturb(space: Mapping[str, Distribution], params: Params, draw: np.random.Generator) -> Params:
    """Every hyperparameter moved a little, up or down, or drawn anew with probability `RESAMPLED`."""
    moved: Params = {}
    for name in sorted(space):
        anew, up = draw.random() < RESAMPLED, bool(draw.random() < 0.5)
        moved[name] = drawn(space[name], draw) if anew else neighbour(space[name], params[name], up)
    return moved


def drawn(distribution: Distribution, draw: np.random.Generator) -> Any:
    """A value by the distribution's own law."""
    size = distribution.size()
    assert isinstance(distribution, (Numeric, Categorical))
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        low, high = distribution.bounds()
        slack = 0.5 if distribution.integral else 0.0
        return _within(distribution, math.exp(draw.uniform(math.log(low - slack), math.log(high + slack))))
    if size is not None:
        return _at(distribution, int(draw.integers(size)))
    assert isinstance(distribution, Numeric)
    return _within(distribution, draw.uniform(*distribution.bounds()))


def neighbour(distribution: Distribution, value: Any, up: bool) -> Any:
    """The value one move up or down, kept in the domain.

    Logarithmic: times 1.2 or 0.8, whole numbers by 1 at least. Linear: a tenth of the range. On a grid: the nearest number of
    steps to that, 1 at least. A category: the choice beside it in the recipe's list.
    """
    sign = 1 if up else -1
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        moved = value * FACTORS[up]
        if distribution.integral:
            moved = max(moved, value + 1) if up else min(moved, value - 1)
        return _within(distribution, moved)
    size = distribution.size()
    if size is not None:
        steps = 1 if isinstance(distribution, Categorical) else max(1, round(STEP * (size - 1)))
        return _at(distribution, min(max(_place(distribution, value) + sign * steps, 0), size - 1))
    assert isinstance(distribution, Numeric)
    low, high = distribution.bounds()
    return _within(distribution, value + sign * STEP * (high - low))


def _within(distribution: Numeric, value: float) -> Any:
    low, high = distribution.bounds()
    return min(max(round(value) if distribution.integral else float(value), low), high)


def _place(distribution: Distribution, value: Any) -> int:
    """Which value of a finite distribution this is."""
    if isinstance(distribution, Categorical):
        return next(i for i in range(len(distribution.values)) if Categorical([distribution.values[i]]).contains(value))
    assert isinstance(distribution, Numeric)
    step = distribution.q if isinstance(distribution, QUniform) else 1
    return round((value - distribution.bounds()[0]) / step)


def _at(distribution: Distribution, place: int) -> Any:
    """Value number `place` of a finite distribution."""
    if isinstance(distribution, Categorical):
        return distribution.values[place]
    assert isinstance(distribution, Numeric)
    low = distribution.bounds()[0]
    if isinstance(distribution, QUniform):
        return float(Decimal(str(low)) + place * Decimal(str(distribution.q)))
    return int(low) + place
