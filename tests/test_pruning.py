"""The rules of pruning, each against what its paper says, and the order in which trials are judged."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.engine.pruning import (
    Rule,
    Standings,
    Verdict,
    count_better,
)
from hyperlax.pareto import crowding_distances, non_dominated_ranks
from hyperlax.study.rehearsal import Life, views


def judged(rule: Rule, curves: list[list[float]], directions: tuple[str, ...] = ("maximize",)) -> list[Verdict | None]:
    """The verdicts of trials that are trained whole, one after another."""
    standings, found = Standings(rule, directions), []
    for trial, curve in enumerate(curves):
        standings.expect(trial)
        for value in curve:
            standings.report(trial, [value] if len(directions) == 1 else value)  # type: ignore[arg-type]
        verdict = standings.settle().get(trial)
        found.append(verdict)
        if verdict is None:
            standings.end(trial)
    return found


@pytest.mark.parametrize(
    ("name", "segments"),
    [("none", []), ("asha", [2, 6]), ("median", [2, 3, 4, 5, 6, 7, 8, 9]), ("percentile", [2, 3, 4, 5, 6, 7, 8, 9])],
)
def test_trials_are_judged_at_the_rungs_of_their_rule(name: str, segments: list[int]) -> None:
    rule = Rule(name, 10, min_segments=2, reduction_factor=3)
    assert [segment for segment in range(1, 11) if rule.judges(0, segment)] == segments


def test_hyperband_gives_every_bracket_its_share_and_its_first_rung() -> None:
    rule = Rule("hyperband", 27, min_segments=1, reduction_factor=3)
    brackets = [rule.bracket(trial) for trial in range(17)]
    assert [brackets.count(bracket) for bracket in range(3)] == [9, 5, 3]
    for trial in range(17):
        rungs = [segment for segment in range(1, 28) if rule.judges(trial, segment)]
        assert rungs == [3**power for power in range(rule.bracket(trial), 3)]


def test_asha_keeps_one_in_reduction_factor_and_always_the_best_so_far() -> None:
    rule = Rule("asha", 3, min_segments=1, reduction_factor=3)
    values = [3.0, 2.0, 4.0, 1.0, 3.5, 3.9]
    verdicts = judged(rule, [[value] * 3 for value in values])
    assert [verdict is None for verdict in verdicts] == [True, False, True, False, False, True]
    assert verdicts[1] == Verdict(1, 1, 1)
    assert verdicts[4] == Verdict(1, 1, 4)
    assert Verdict(1, 1, 4).sentence(3) == "pruned after segment 1 of 3: 1 of 4 earlier trials were better"


def test_the_median_is_that_of_all_earlier_trials_by_the_last_that_they_showed() -> None:
    rule = Rule("median", 3, min_segments=1)
    below, above = [0.0] * 3, [10.0] * 3
    curves = [below, above, below, above, below, [5.0, 0.0, 0.0], [-1.0] * 3, [0.5, 0.5, 20.0]]
    verdicts = judged(rule, curves)
    assert all(verdict is None for verdict in verdicts[:5])
    assert verdicts[5] is None
    assert verdicts[6] == Verdict(1, 6, 6)
    assert verdicts[7] is None


def test_percentile_keeps_that_share() -> None:
    rule = Rule("percentile", 2, min_segments=1, percentile=25.0)
    verdicts = judged(rule, [[float(value)] * 2 for value in (8, 7, 6, 5, 4, 7.5, 7.2)])
    assert [verdict is None for verdict in verdicts] == [True] * 5 + [True, False]


def test_minimized_objectives_are_the_other_way_round() -> None:
    rule = Rule("asha", 4, min_segments=1, reduction_factor=2)
    curves = [[value] * 4 for value in (3.0, 2.0, 4.0, 1.0)]
    up, down = judged(rule, curves), judged(rule, [[-v for v in curve] for curve in curves], ("minimize",))
    assert up == down and None in up and any(up)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["asha", "median", "percentile", "hyperband"]))
def test_who_is_pruned_does_not_depend_on_when_values_come(seed: int, name: str) -> None:
    draw = random.Random(seed)
    curves = [[draw.randrange(6) / 1.0 for _ in range(6)] for _ in range(14)]
    rule = Rule(name, 6, min_segments=1, reduction_factor=2)
    wanted = judged(rule, curves)
    standings, found = Standings(rule, ["maximize"]), dict[int, Verdict]()
    for trial in range(len(curves)):
        standings.expect(trial)
    left = {trial: list(curve) for trial, curve in enumerate(curves)}
    while left:
        trial = draw.choice(list(left))
        standings.report(trial, [left[trial].pop(0)])
        found |= standings.settle()
        for other in list(left):
            if other in found:
                del left[other]
        if trial in left and not left[trial]:
            del left[trial]
    for _ in curves:
        found |= standings.settle()
        for trial in range(len(curves)):
            if trial not in found and standings.lasted(trial) == 6 and not standings.has_ended(trial):
                standings.end(trial)
    assert [found.get(trial) for trial in range(len(curves))] == wanted


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


def test_of_equal_objectives_the_one_that_learnt_sooner_stands_before() -> None:
    """And of those equal in both none does: where nobody has learnt anything, everybody goes on."""
    standings = Standings(Rule("asha", 3, min_segments=1, reduction_factor=2), ["minimize", "maximize"], objectives=1)
    shown = [[5.0, 0.2], [5.0, 0.2], [5.0, 0.1], [5.0, 0.3], [6.0, 0.9], [4.0, 0.0]]
    for trial, row in enumerate(shown):
        standings.expect(trial)
        standings.report(trial, row)
    assert list(standings.settle()) == [2, 4]


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
        return lambda trial: Life(min(lives[trial][0], tick), lives[trial][0] <= tick)

    before: list[frozenset[int]] = []
    for tick in range(7):
        now = list(views(at(tick), lanes, super_batch, len(lives)))
        assert now[: len(before)] == before
        before = now
    assert len(before) == -(-len(lives) // super_batch)
    assert all(earlier <= later for earlier, later in itertools.pairwise(before))
