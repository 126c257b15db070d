"""The rules of pruning, each against what its paper says, and the order in which trials are judged."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.pareto import crowding_distances, non_dominated_ranks
from hyperlax.schedulers.base import Continue, Decision, Shown, Stop
from hyperlax.schedulers.pruning import (
    Hyperband,
    Percentile,
    PruningOptions,
    Racing,
    Rule,
    SuccessiveHalving,
    count_better,
)
from hyperlax.schedulers.registry import PRUNERS
from hyperlax.study.simulated_schedule import TrialProgress, simulate_schedule

UP = ["maximize"]
Curves = Sequence[Any]


def shown(curves: Curves) -> dict[int, Shown]:
    """What trials have shown: a row of values a segment. None has ended."""
    return {number: Shown(rows(curve), False) for number, curve in enumerate(curves)}


def rows(curve: Any) -> np.ndarray:
    return np.array([np.atleast_1d(values) for values in curve], np.float64) if len(curve) else np.empty((0, 1))


def stops(name: str, curves: Curves, options: PruningOptions) -> list[int | None]:
    """The segment after which each trial stops, None for those that continue."""
    decisions = PRUNERS[name](options).decide(shown(curves))
    stopped = {number: decision.segment for number, decision in decisions.items() if isinstance(decision, Stop)}
    return [stopped.get(number) for number in range(len(curves))]


def one_by_one(name: str, curves: Curves, options: PruningOptions) -> list[tuple[int, int, int] | None]:
    """Segment, better and rivals where each trial stops, by the definition: trials judged in order, each against all before it."""
    rule = RULES[name](options)
    signs = np.array([1.0 if direction == "maximize" else -1.0 for direction in options.directions])
    lived: list[np.ndarray] = []
    found: list[tuple[int, int, int] | None] = []
    for number, curve in enumerate(curves):
        own = signs * rows(curve)
        rivals = [values for other, values in enumerate(lived) if rule.group(other) == rule.group(number)]
        stop = None
        for segment in range(1, min(len(own), options.segments * options.seeds - 1) + 1):
            if not rule.compares(number, segment):
                continue
            carried = [values[:segment] for values in rivals if len(values) >= segment or rule.carries(segment)]
            there = np.array([values[-1] for values in carried if len(values)]).reshape(-1, len(signs))
            better = count_better(own[segment - 1], there, options.objectives)
            if not rule.keeps(segment, better, len(there)):
                stop = segment, better, len(there)
                break
        lived.append(own[: stop[0]] if stop else own)
        found.append(stop)
    return found


RULES: Mapping[str, Any] = {
    "none": lambda options: raced(Rule(), options),
    "asha": lambda options: raced(SuccessiveHalving(options.min_segments, options.reduction_factor), options),
    "median": lambda options: raced(Percentile(options.min_segments, 0.5), options),
    "percentile": lambda options: raced(Percentile(options.min_segments, options.percentile / 100), options),
    "hyperband": lambda options: raced(
        Hyperband(options.min_segments, options.reduction_factor, options.segments), options
    ),
}


def raced(rule: Rule, options: PruningOptions) -> Rule:
    return Racing(rule, options.segments, options.reduction_factor)


@pytest.mark.parametrize(
    ("rule", "segments"),
    [(Rule(), []), (SuccessiveHalving(2, 3), [2, 6]), (Percentile(2, 0.5), [2, 3, 4, 5, 6, 7, 8, 9])],
)
def test_trials_are_judged_at_the_rungs_of_their_rule(rule: Rule, segments: list[int]) -> None:
    assert [segment for segment in range(1, 10) if rule.compares(0, segment)] == segments


def test_hyperband_gives_every_bracket_its_share_and_its_first_rung() -> None:
    rule = Hyperband(1, 3, 27)
    brackets = [rule.group(trial) for trial in range(17)]
    assert [brackets.count(bracket) for bracket in range(3)] == [9, 5, 3]
    for trial in range(17):
        rungs = [segment for segment in range(1, 27) if rule.compares(trial, segment)]
        assert rungs == [3**power for power in range(rule.group(trial), 3)]


def test_a_race_judges_at_the_end_of_every_seed_but_the_last() -> None:
    options = PruningOptions(UP, 1, segments=2, reduction_factor=2, seeds=3)
    curves = [[5, 5, 1, 1, 1, 1], [6, 6, 0, 0, 6, 6], [4, 4], [7, 7, 0, 2, 0, 0]]
    assert stops("none", curves, options) == [None, 4, 2, None]


def test_asha_keeps_one_in_reduction_factor_and_always_the_best_so_far() -> None:
    options = PruningOptions(UP, 1, segments=3, min_segments=1, reduction_factor=3)
    curves = [[value] * 3 for value in [3.0, 2.0, 4.0, 1.0, 3.5, 3.9]]
    assert stops("asha", curves, options) == [None, 1, None, 1, 1, None]
    decisions = PRUNERS["asha"](options).decide(shown(curves))
    assert decisions[0] == Continue(3)
    assert decisions[4] == Stop(1, "pruned after segment 1 of 3: 1 of 4 earlier trials were better")


def test_the_median_is_that_of_all_earlier_trials_by_the_last_that_they_showed() -> None:
    options = PruningOptions(UP, 1, segments=3, min_segments=1)
    below, above = [0.0] * 3, [10.0] * 3
    curves = [below, above, below, above, below, [5.0, 0.0, 0.0], [-1.0] * 3, [0.5, 0.5, 20.0]]
    assert stops("median", curves, options) == [None] * 6 + [1, None]
    assert one_by_one("median", curves, options)[6] == (1, 6, 6)


def test_percentile_keeps_that_share() -> None:
    options = PruningOptions(UP, 1, segments=2, min_segments=1, percentile=25.0)
    curves = [[float(value)] * 2 for value in (8, 7, 6, 5, 4, 7.5, 7.2)]
    assert stops("percentile", curves, options) == [None] * 6 + [1]


def test_minimized_objectives_are_the_other_way_round() -> None:
    up, down = (PruningOptions([way], 1, 4, min_segments=1, reduction_factor=2) for way in ("maximize", "minimize"))
    curves = [[value] * 4 for value in (3.0, 2.0, 4.0, 1.0)]
    found = stops("asha", curves, up)
    assert found == stops("asha", [[-v for v in curve] for curve in curves], down)
    assert None in found and any(found)


def test_a_trial_that_failed_is_judged_by_what_it_showed_before_and_then_waited_for_no_longer() -> None:
    options = PruningOptions(UP, 1, segments=3, min_segments=1, reduction_factor=2)
    pruner = PRUNERS["asha"](options)
    assert pruner.decide(shown([[5.0, math.nan], [6.0, 6.0, 6.0]])) == {0: Continue(1), 1: Continue(3)}
    assert stops("asha", [[5.0], [4.0, math.nan]], options) == [None, 1]
    assert stops("asha", [[5.0, math.nan], [6.0, 6.0, 6.0], [4.0]], options) == [None, None, 1]


def test_a_trial_that_restarts_is_judged_again_and_the_others_keep_what_was_settled() -> None:
    options = PruningOptions(UP, 1, segments=3, min_segments=1, reduction_factor=2)
    pruner = PRUNERS["asha"](options)
    pruner.decide(shown([[5.0, 5.0], [6.0, 6.0]]))
    assert pruner.decide(shown([[], [6.0, 6.0]])) == {1: Continue(2)}
    assert pruner.decide(shown([[5.0], [6.0, 6.0]])) == {0: Continue(1), 1: Continue(2)}


def made_up_study(draw: random.Random) -> tuple[str, list[np.ndarray], PruningOptions]:
    """A pruner, its options, and the curves of trials had they been trained whole; a nan row ends those that fail."""
    segments, seeds = draw.randint(1, 6), draw.randint(1, 3)
    ways = [draw.choice(["maximize", "minimize"]) for _ in range(2)]
    numbers = draw.randint(1, 2), draw.randint(2, 3), draw.uniform(10, 90)
    curves = []
    for _ in range(draw.randint(1, 14)):
        lasts = draw.choice([segments * seeds, draw.randint(0, segments * seeds)])
        curve = [[float(draw.randrange(6)) for _ in ways] for _ in range(lasts)]
        curves.append(np.array(curve + [[math.nan] * 2] * (lasts < segments * seeds)))
    return draw.choice(list(PRUNERS)), curves, PruningOptions(ways, draw.randint(1, 2), segments, *numbers, seeds)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_decisions_do_not_depend_on_when_values_come(seed: int) -> None:
    """Shown a few segments at a time in any order, trials get the decisions of one call at the end, and of the definition."""
    draw = random.Random(seed)
    name, curves, options = made_up_study(draw)
    wanted = [stop and stop[0] for stop in one_by_one(name, [c[~np.isnan(c[:, 0])] for c in curves], options)]
    pruner, seen = PRUNERS[name](options), dict[int, Shown]()
    found: list[int | None] = [None] * len(curves)
    while len(seen) < len(curves) or not all(trial.has_ended for trial in seen.values()):
        if len(seen) < len(curves):
            seen[len(seen)] = Shown(np.empty((0, 2)), False)
        for number in draw.sample(list(seen), min(2, len(seen))):
            if not seen[number].has_ended:
                seen[number] = Shown(curves[number][: len(seen[number].values) + draw.randint(0, 3)], False)
        decisions = pruner.decide(seen)
        assert decisions == PRUNERS[name](options).decide(seen)
        end_those_that_are_settled(seen, decisions, curves, found)
    assert found == wanted
    assert found == stops(name, curves, options)


def end_those_that_are_settled(
    seen: dict[int, Shown], decisions: dict[int, Decision], curves: Sequence[np.ndarray], found: list[int | None]
) -> None:
    """End trials as a study does: the stopped at once, others when all that they have shown is settled."""
    for number, trial in seen.items():
        decision, whole = decisions.get(number), curves[number]
        settled = decision.segment if isinstance(decision, Continue) else 0
        if isinstance(decision, Stop):
            found[number] = decision.segment
            seen[number] = Shown(whole[: decision.segment], True)
        elif not trial.has_ended and len(trial.values) == len(whole) and settled == sum(~np.isnan(whole[:, 0])):
            seen[number] = Shown(whole[:settled], True)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_ranks_are_those_of_peeling_fronts_one_by_one(seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 5, (9, 3)).astype(float)
    ranks, left, rank = non_dominated_ranks(points), set(range(9)), 0
    while left:
        front = {
            i for i in left
            if not any((points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in left)
        }  # fmt: skip
        assert {i for i in range(9) if ranks[i] == rank} == front
        left, rank = left - front, rank + 1


def test_crowding_is_the_side_length_of_the_box_between_neighbours() -> None:
    front = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 1.0], [4.0, 0.0]])
    assert crowding_distances(front).tolist() == [np.inf, 0.5 + 0.75, 0.75 + 0.75, np.inf]


def test_of_one_rank_the_more_crowded_stands_behind() -> None:
    rivals = np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0], [0.5, 0.5]])
    assert count_better(np.array([2.0, 1.0]), rivals, 2) == 2
    assert count_better(np.array([5.0, 5.0]), rivals, 2) == 0
    assert count_better(np.array([0.0, 0.0]), rivals, 2) == 4


def test_of_equal_objectives_the_one_that_learnt_sooner_ranks_above() -> None:
    """And of those equal in both none does: where nobody has learnt anything, every trial continues."""
    options = PruningOptions(["minimize", "maximize"], 1, segments=3, min_segments=1, reduction_factor=2)
    curves = [[row] for row in ([5.0, 0.2], [5.0, 0.2], [5.0, 0.1], [5.0, 0.3], [6.0, 0.9], [4.0, 0.0])]
    assert stops("asha", curves, options) == [None, None, 1, None, 1, None]


def test_what_is_not_known_decides_nothing() -> None:
    rivals = np.array([[3.0, np.nan], [4.0, np.nan], [2.0, np.nan]])
    assert count_better(np.array([3.0, 0.5]), rivals, 1) == 1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 6)
)
def test_a_rehearsal_goes_on_as_more_becomes_known(lives: list[tuple[int, bool]], lanes: int, super_batch: int) -> None:
    """What is known of a super-batch stays as it is, and in the end every super-batch is asked."""

    def at(tick: int) -> Any:
        return lambda trial: TrialProgress(min(lives[trial][0], tick), lives[trial][0] <= tick)

    before: list[frozenset[int]] = []
    for tick in range(7):
        now = list(simulate_schedule(at(tick), lanes, super_batch, len(lives)))
        assert now[: len(before)] == before
        before = now
    assert len(before) == -(-len(lives) // super_batch)
    assert all(earlier <= later for earlier, later in itertools.pairwise(before))
