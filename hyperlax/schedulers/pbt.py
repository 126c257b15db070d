"""Population-based training: after each interval the worst members continue from copies of the best, with other hyperparameters.

Jaderberg et al., "Population Based Training of Neural Networks", 2017 (arXiv:1711.09846): exploit by truncation selection,
explore by perturbing or resampling. A member keeps its hyperparameters until it is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hyperlax.errors import UsageError
from hyperlax.fields import HYPERPARAM, check_together, fields_of
from hyperlax.recipe import Recipe
from hyperlax.schedulers.base import Continue, CopyFrom, Decision, Shown, Stop
from hyperlax.space import Categorical, Distribution, Numeric

_UNCHANGEABLE = ("init_alpha", "warmup_rollout_length", "normalize_observations")
"""Traced hyperparameters that are useless while weights are kept: two act at the start only, the third belongs to the weights."""

_INITIAL, _EXPLOIT, EXPLORE = 0, 1, 2
"""Uses of random numbers: the second number of their `stream`, after the seed."""
_FACTORS = (0.8, 1.2)
"""Factors down and up, for values that span orders of magnitude (Jaderberg et al., appendix A)."""
_STEP = 0.1
"""Step down or up, as a share of a linear range: a fifth of its middle, as the factors are of a value. The factors would carry a
discount factor past both ends of any range worth searching."""
_RESAMPLED = 0.25
"""Probability that a perturbation samples a hyperparameter instead of moving it."""

Params = dict[str, Any]
"""Dotted name of a hyperparameter -> its value."""


class Generation(NamedTuple):
    """A population over one interval.

    params: of each member. source: int[members], the member of the interval before that each continues from; in the first
    interval the member itself. scores: float64[members], the return at the interval's end; nan for a member that failed.
    """

    params: list[Params]
    source: np.ndarray
    scores: np.ndarray


Explore = Callable[
    [Mapping[str, Distribution], Sequence[Generation], Mapping[int, Params], Mapping[int, np.random.Generator]],
    dict[int, Params],
]
"""space, past intervals, params that were copied by member, random numbers by member -> the new params of those members."""


def perturb_copies(
    space: Mapping[str, Distribution],
    history: Sequence[Generation],
    copied: Mapping[int, Params],
    streams: Mapping[int, np.random.Generator],
) -> dict[int, Params]:
    """Move the hyperparameters of copies a little."""
    return {member: perturb(space, params, streams[member]) for member, params in copied.items()}


def resample_copies(
    space: Mapping[str, Distribution],
    history: Sequence[Generation],
    copied: Mapping[int, Params],
    streams: Mapping[int, np.random.Generator],
) -> dict[int, Params]:
    """Sample the hyperparameters of copies."""
    return {member: resample(space, streams[member]) for member in copied}


@dataclass
class PopulationBasedTraining:
    """A scheduler of generations. Trial interval x members + member is a member over one interval.

    The decision about a trial determines how its successor, the trial `members` numbers later, begins.

    Args:
      quantile: The share of members that is replaced, and the share that they copy from.
      sign: -1.0 if smaller scores are better.
      explore: Changes the hyperparameters of copies.
      recorded: Trial number -> how the trial began, if decided in an earlier process; all others follow from the seed.
    """

    space: Mapping[str, Distribution]
    members: int
    intervals: int
    quantile: float
    seed: int
    explore: Explore
    sign: float = 1.0
    recorded: Mapping[int, CopyFrom] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = dict(self.recorded)

    def first(self) -> list[Params]:
        """Return the hyperparameters of the first interval, by member."""
        return [resample(self.space, stream(self.seed, _INITIAL, member)) for member in range(self.members)]

    def decide(self, shown: Mapping[int, Shown]) -> dict[int, Decision]:
        """Return a decision for every member of the latest interval, once all members have finished it.

        A trial's last value in the first column is its score. The decision is CopyFrom, or Continue after the final interval, or
        Stop if no member has a finite score.
        """
        members, interval = self.members, (len(shown) - 1) // self.members
        trials = range(interval * members, (interval + 1) * members)
        if not shown or not all(_is_over(shown.get(number)) for number in trials):
            return {}
        if not np.isfinite([self._score(shown[number]) for number in trials]).any():
            reason = f"every member failed in interval {interval}"
            return {number: Stop(len(shown[number].values), reason) for number in trials}
        if interval + 1 == self.intervals:
            return {number: Continue(len(shown[number].values)) for number in trials}
        self._begin_until(interval + 1, shown)
        return {number: self._began[number + members] for number in trials}

    def _begin_until(self, last: int, shown: Mapping[int, Shown]) -> None:
        """Decide how the trials of every interval up to `last` begin."""
        members = self.members
        for member, params in enumerate(self.first()):
            self._began.setdefault(member, CopyFrom(member, params))
        for interval in range(1, last + 1):
            if (interval + 1) * members - 1 in self._began:
                continue
            history = [self._generation(past, shown) for past in range(interval)]
            for member, (source, params) in enumerate(zip(*self._next(history), strict=True)):
                origin = (interval - 1) * members + int(source)
                self._began[interval * members + member] = CopyFrom(origin, params)

    def _generation(self, interval: int, shown: Mapping[int, Shown]) -> Generation:
        members = self.members
        numbers = range(interval * members, (interval + 1) * members)
        began = [self._began[number] for number in numbers]
        scores = np.array([self._score(shown[number]) for number in numbers])
        return Generation(
            [dict(own.params) for own in began], np.array([own.source % members for own in began]), scores
        )

    def _score(self, trial: Shown) -> float:
        """Return a trial's score, the return at the end of its interval, so that more is better; nan if it failed."""
        return self.sign * float(trial.values[-1, 0]) if len(trial.values) else math.nan

    def _next(self, history: Sequence[Generation]) -> tuple[np.ndarray, list[Params]]:
        """Return the source and the hyperparameters of each member for the interval after `history`."""
        last, interval = history[-1], len(history)
        source = exploit(last.scores, self.quantile, stream(self.seed, _EXPLOIT, interval))
        params = [dict(last.params[origin]) for origin in source]
        copies = [member for member, origin in enumerate(source) if member != origin]
        streams = {member: stream(self.seed, EXPLORE, interval, member) for member in copies}
        changed = self.explore(self.space, history, {m: params[m] for m in copies}, streams) if copies else {}
        return source, [changed.get(member, own) for member, own in enumerate(params)]


def exploit(scores: np.ndarray, quantile: float, random: np.random.Generator) -> np.ndarray:
    """Return int[members]: the member that each member continues from.

    Members of the worst quantile, rounded up to at most half of them, continue from a random member of the best quantile, the rest
    from themselves. Ties are ordered by number. A member without a finite score is always replaced and never copied. At least one
    score has to be finite.
    """
    members, finite = len(scores), int(np.isfinite(scores).sum())
    width = min(math.ceil(quantile * members - 1e-9), members // 2)
    order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable")
    best, replaced = order[: min(width, finite)], order[members - max(width, members - finite) :]
    source = np.arange(members)
    for member in sorted(replaced):
        source[member] = best[random.integers(len(best))]
    return source


def _is_over(trial: Shown | None) -> bool:
    return trial is not None and (trial.has_ended or len(trial.values) > 0)


def stream(*place: int) -> np.random.Generator:
    """Return a random generator seeded by these whole numbers."""
    return np.random.default_rng(place)


def resample(space: Mapping[str, Distribution], random: np.random.Generator) -> Params:
    """Sample every hyperparameter."""
    return {name: sample(space[name], random) for name in sorted(space)}


def perturb(space: Mapping[str, Distribution], params: Params, random: np.random.Generator) -> Params:
    """Move every hyperparameter a little, up or down; sample it with probability `_RESAMPLED`."""
    moved: Params = {}
    for name in sorted(space):
        is_sampled, up = random.random() < _RESAMPLED, bool(random.random() < 0.5)
        moved[name] = sample(space[name], random) if is_sampled else neighbour(space[name], params[name], up)
    return moved


def sample(distribution: Distribution, random: np.random.Generator) -> Any:
    """Sample a value of a distribution."""
    size = distribution.size()
    assert isinstance(distribution, (Numeric, Categorical))
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        low, high = distribution.domain
        slack = 0.5 if distribution.integral else 0.0
        return _within(distribution, math.exp(random.uniform(math.log(low - slack), math.log(high + slack))))
    if size is not None:
        return distribution.at(int(random.integers(size)))
    assert isinstance(distribution, Numeric)
    return _within(distribution, random.uniform(*distribution.domain))


def neighbour(distribution: Distribution, value: Any, up: bool) -> Any:
    """Return the value one move up or down, kept within the distribution.

    Logarithmic: times 1.2 or 0.8; integers move by at least 1. Linear: a tenth of the range. On a grid: that, rounded to steps, at
    least 1. A category: the choice beside it in the recipe's list.
    """
    sign = 1 if up else -1
    if isinstance(distribution, Numeric) and distribution.logarithmic:
        moved = value * _FACTORS[up]
        if distribution.integral:
            moved = max(moved, value + 1) if up else min(moved, value - 1)
        return _within(distribution, moved)
    size = distribution.size()
    if size is not None:
        steps = 1 if isinstance(distribution, Categorical) else max(1, round(_STEP * (size - 1)))
        return distribution.at(min(max(distribution.place(value) + sign * steps, 0), size - 1))
    assert isinstance(distribution, Numeric)
    low, high = distribution.domain
    return _within(distribution, value + sign * _STEP * (high - low))


def _within(distribution: Numeric, value: float) -> Any:
    low, high = distribution.domain
    return min(max(round(value) if distribution.integral else float(value), low), high)


def explored(recipe: Recipe) -> tuple[dict[str, Distribution], list[str]]:
    """Return the entries of the space that can change while weights are kept, and the names of the others.

    The others keep the recipe's values.

    Raises:
      UsageError: No entry can change, or the changing entries do not go together with the recipe's values of the others.
    """
    known = {name: field.rule for name, field in fields_of(recipe.config.algorithm).items()}

    def changes(name: str) -> bool:
        rule = known.get(name)
        return rule is not None and rule.kind == "traced" and name.removeprefix(HYPERPARAM) not in _UNCHANGEABLE

    space = {name: distribution for name, distribution in recipe.space.items() if changes(name)}
    if not space:
        raise UsageError(
            f"{recipe.path}: no entry of the search space can change during training. Give "
            f"{next(filter(changes, known), 'a traced field')} a distribution, or search with optuna-hp-search."
        )
    check_together(recipe.config.algorithm, space, str(recipe.path))
    return space, [name for name in recipe.space if name not in space]
