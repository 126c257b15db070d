"""Results of a sensitivity study: how much each hyperparameter, varied alone, moves an objective, and how much of that is chance.

A level's seeds have the objective of their own curves, and the level the seeds' aggregate. If a hyperparameter has no effect, its
seeds could as well have been trained at any of its levels: shuffling them between the levels shows the ranges that chance alone
gives (a permutation test, Fisher, 1935). It needs no assumption on how returns are distributed, and counts the number of levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperlax.analysis.certainty import EXACT
from hyperlax.analysis.labels import format_value, short_names
from hyperlax.config.options import SENSITIVITY
from hyperlax.errors import counted, format_number, in_sentence
from hyperlax.metrics import aggregated
from hyperlax.space import Categorical, from_json
from hyperlax.study.batch_files import LearningCurve
from hyperlax.study.confirmation import per_seed
from hyperlax.study.record import StudyRecord, TrialRecord

_SHUFFLES = 999
_CHANCE = 0.05
"""Share of shuffles that may have a larger range than the one found."""
_YES, _NO, _FEW_SEEDS, _UNKNOWN = "yes", "no", "too few seeds", "not known"
COLUMNS = (
    "objective",
    "hyperparameter",
    "levels",
    "without_result",
    "best",
    "best_value",
    "worst",
    "worst_value",
    "range",
    "spread_over_seeds",
    "range_by_chance",
    "beyond_chance",
)


@dataclass(frozen=True)
class Level:
    """A value of a hyperparameter, and the trial that had it, which has a result.

    seeds: the objective on each seed's own curve; the trial's, if a seed has none. result: the seeds' aggregate.
    """

    value: Any
    trial: int
    is_default: bool
    seeds: tuple[float, ...]
    result: float


@dataclass(frozen=True)
class Effect:
    """The effect of a hyperparameter on an objective.

    Args:
      name: Dotted name.
      levels: Those with a result, in the order of its axis.
      without_result: Number of levels whose trial has failed, or has no result yet.
      best, worst: Two of the levels; None if fewer than two have a result.
      spread: Standard deviation over the seeds of a level, pooled over the levels; None if that is not known.
      chance: Range that 95 % of shuffles of the seeds stay within; None if that is not known.
      is_beyond: `_YES` if the range is larger than by chance, else `_NO`; `_FEW_SEEDS` if no range could be, `_UNKNOWN` without a
        spread.
    """

    name: str
    levels: tuple[Level, ...]
    without_result: int
    best: Level | None = None
    worst: Level | None = None
    spread: float | None = None
    chance: float | None = None
    is_beyond: str = _UNKNOWN

    @property
    def range(self) -> float | None:
        """Difference between the best and the worst level; None if fewer than two have a result."""
        return None if self.best is None or self.worst is None else abs(self.best.result - self.worst.result)


def is_sensitivity(record: StudyRecord) -> bool:
    """Return whether the trials of a study vary one hyperparameter each."""
    return record.arguments.get("sampling_method") == SENSITIVITY


def sensitivity(record: StudyRecord, curves: Mapping[int, LearningCurve]) -> dict[str, list[Effect]]:
    """Return objective -> the effects on it: those beyond chance first, each part by range; empty without a default trial.

    curves: of the COMPLETE trials. One without a curve has no result where seeds count.
    """
    default = next((trial for trial in record.trials if record.is_the_recipes_own(trial)), None)
    if default is None:
        return {}
    found = {}
    for objective in record.objectives:
        effects = [_effect(record, objective, name, default, curves) for name in record.space]
        found[objective] = sorted(effects, key=lambda effect: (effect.is_beyond != _YES, -(effect.range or 0.0)))
    return found


def effect_rows(effects: Mapping[str, Sequence[Effect]]) -> list[list[Any]]:
    """Return a row of `COLUMNS` for each effect."""
    return [[objective, *_row(effect)] for objective, own in effects.items() for effect in own]


def cells(record: StudyRecord, effects: Sequence[Effect]) -> tuple[list[str], list[list[Any]]]:
    """Return the header and rows of a table for people."""
    short = short_names(record.space)
    header = [
        "hyperparameter",
        "best",
        "worst",
        "range",
        "range by chance",
        "spread over seeds",
        "levels",
        "beyond chance",
    ]
    return header, [
        [
            short[effect.name],
            _of_level(effect.best),
            _of_level(effect.worst),
            effect.range,
            effect.chance,
            effect.spread,
            _levels(effect),
            effect.is_beyond,
        ]
        for effect in effects
    ]


def in_words(record: StudyRecord, objective: str, effects: Sequence[Effect]) -> list[str]:
    """Return sentences: which hyperparameter moves an objective most, and where that cannot be told."""
    short, words = short_names(record.space), objective.replace("_", " ")
    shown = [effect for effect in effects if effect.range is not None]
    if not shown:
        return []
    first = shown[0]
    ends = f"{_of_level(first.best)} against {_of_level(first.worst)}"
    if first.is_beyond == _UNKNOWN:
        seeds = record.arguments["num_seeds"]
        why = "each level has one seed" if seeds == 1 else "one seed alone has no such value"
        return [
            f"{in_sentence(words)} differs most along {short[first.name]}: {ends}. How much of that is chance is not known: {why}."
        ]
    few = [effect for effect in shown if effect.is_beyond == _FEW_SEEDS]
    hidden = [effect for effect in shown if effect.is_beyond == _NO and objective not in EXACT]
    told = [f"{short[first.name]} moves {words} most: {ends}."] if first.is_beyond == _YES else []
    if hidden:
        told.append(f"The spread over seeds hides any effect of {_names(hidden, short)}.")
    if few:
        seeds = max(_fewest_seeds(len(effect.levels)) for effect in few)
        told.append(f"Telling an effect of {_names(few, short)} from chance takes at least {counted(seeds, 'seed')}.")
    return told


def _names(effects: Sequence[Effect], short: Mapping[str, str]) -> str:
    return ", ".join(short[effect.name] for effect in effects)


def _effect(
    record: StudyRecord,
    objective: str,
    name: str,
    default: TrialRecord,
    curves: Mapping[int, LearningCurve],
) -> Effect:
    others = [
        trial
        for trial in record.trials
        if trial.params[name] != default.params[name]
        and all(trial.params[other] == default.params[other] for other in record.space if other != name)
    ]
    every = [_level(record, objective, name, trial, trial is default, curves) for trial in (default, *others)]
    searched = from_json(record.space[name])
    levels = sorted(
        filter(None, every),
        key=lambda level: searched.place(level.value) if isinstance(searched, Categorical) else level.value,
    )
    effect = Effect(name, tuple(levels), len(every) - len(levels))
    if len(levels) < 2:
        return effect
    low, *_, high = sorted(levels, key=lambda level: level.result)
    best, worst = (high, low) if record.objectives[objective] == "maximize" else (low, high)
    effect = replace(effect, best=best, worst=worst)
    if objective in EXACT:
        return replace(effect, is_beyond=_YES if effect.range else _NO)
    return _compared(record, objective, effect)


def _compared(record: StudyRecord, objective: str, effect: Effect) -> Effect:
    """Return the effect, compared with the spread over seeds."""
    seeds = np.array([level.seeds for level in effect.levels])
    if seeds.shape[1] < 2:
        return effect
    spread = float(np.sqrt(seeds.var(axis=1, ddof=1).mean()))
    chance = _range_by_chance(record, objective, seeds)
    is_beyond = _YES if (effect.range or 0.0) > chance * (1 + 1e-9) else _NO
    if not _can_tell(*seeds.shape):
        is_beyond = _FEW_SEEDS
    return replace(effect, spread=spread, chance=chance, is_beyond=is_beyond)


def _level(
    record: StudyRecord,
    objective: str,
    name: str,
    trial: TrialRecord,
    is_default: bool,
    curves: Mapping[int, LearningCurve],
) -> Level | None:
    seeds = tuple(_seeds(record, objective, trial, curves)) if trial.state == "COMPLETE" else ()
    if not seeds:
        return None
    result = float(_together(record, objective, np.array([seeds]))[0])
    return Level(trial.params[name], trial.number, is_default, seeds, result)


def _together(record: StudyRecord, objective: str, seeds: np.ndarray) -> np.ndarray:
    """Return the aggregate of each row, float64[rows] of float64[rows, seeds]. The worst of a minimized metric is its highest."""
    sign = 1.0 if record.scale.table.rows[objective].direction == "maximize" else -1.0
    return aggregated(seeds, record.arguments["aggregate"], sign)


def _seeds(
    record: StudyRecord, objective: str, trial: TrialRecord, curves: Mapping[int, LearningCurve]
) -> Sequence[float]:
    if not record.scale.table.rows[objective].per_seed:
        return [trial.values[objective]]
    try:
        return per_seed(curves.get(trial.number), record.arguments["num_seeds"], record)[objective]
    except ValueError:
        return []


def _range_by_chance(record: StudyRecord, objective: str, seeds: np.ndarray) -> float:
    """Return the range of levels that 95 % of shuffles stay within. seeds: float64[levels, seeds]."""
    shuffled = np.random.default_rng(0).permuted(np.tile(seeds.ravel(), (_SHUFFLES, 1)), axis=1)
    results = _together(record, objective, shuffled.reshape(-1, seeds.shape[1])).reshape(_SHUFFLES, len(seeds))
    return float(np.quantile(np.ptp(results, axis=1), 1 - _CHANCE, method="higher"))


def _can_tell(levels: int, seeds: int) -> bool:
    """Return whether the largest range that seeds can have is rare enough among all their groupings into levels.

    Groupings that differ in the levels between the best and the worst only have the same range. Four seeds always suffice.
    """
    return seeds >= 4 or _groupings(levels - 2, seeds) <= _CHANCE * _groupings(levels, seeds)


def _groupings(levels: int, seeds: int) -> int:
    """Return the number of ways to divide all seeds into levels, in any order."""
    return math.factorial(levels * seeds) // (math.factorial(seeds) ** levels * math.factorial(levels))


def _fewest_seeds(levels: int) -> int:
    """Return how many seeds of each level suffice to tell an effect from chance.

    >>> [_fewest_seeds(levels) for levels in (2, 3, 4, 5)]
    [4, 3, 2, 2]
    """
    return next(seeds for seeds in itertools.count(2) if _can_tell(levels, seeds))


def _row(effect: Effect) -> list[Any]:
    best, worst = effect.best, effect.worst
    return [
        effect.name,
        len(effect.levels),
        effect.without_result,
        *((best.value, best.result) if best else (None, None)),
        *((worst.value, worst.result) if worst else (None, None)),
        effect.range,
        effect.spread,
        effect.chance,
        effect.is_beyond,
    ]


def _of_level(level: Level | None) -> str:
    """Write a level as its value with its result."""
    return "" if level is None else f"{format_value(level.value)} ({format_number(level.result)})"


def _levels(effect: Effect) -> str:
    with_result = len(effect.levels)
    return f"{with_result} of {with_result + effect.without_result}" if effect.without_result else str(with_result)
