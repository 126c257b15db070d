"""Which member copies which, and with which hyperparameters copies continue: laws of pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlax.schedulers.base import Continue, CopyFrom, Shown, Stop
from hyperlax.schedulers.pbt import (
    EXPLORE,
    Params,
    PopulationBasedTraining,
    exploit,
    neighbour,
    perturb,
    resample,
    stream,
)
from hyperlax.schedulers.registry import EXPLORERS
from hyperlax.space import (
    Categorical,
    Distribution,
    LogUniform,
    LogUniformDiscrete,
    QUniform,
    UniformContinuous,
    UniformDiscrete,
)

SPACE: dict[str, Distribution] = {
    "lr": LogUniform(domain=(1e-5, 1e-2)),
    "gamma": UniformContinuous(domain=(0.9, 0.999)),
    "epochs": UniformDiscrete(domain=(3, 8)),
    "steps": UniformDiscrete(domain=(2, 8), step=2),
    "batch": LogUniformDiscrete(domain=(1, 512)),
    "scale": QUniform(domain=(0.1, 1.3), q=0.1),
    "flag": Categorical(values=[False, True]),
    "one": Categorical(values=["only"]),
}
SCORES = st.lists(
    st.one_of(st.integers(-5, 5).map(float), st.sampled_from([np.nan, np.inf, -np.inf])), min_size=2, max_size=20
).filter(lambda scores: bool(np.isfinite(scores).any()))
QUANTILES = st.floats(0.01, 0.5)
SEEDS = st.integers(0, 2**31 - 1)


@given(SCORES, QUANTILES, SEEDS)
def test_the_worst_quantile_copies_from_the_best_and_the_rest_keep_themselves(scores, quantile, seed):
    values = np.array(scores)
    source = exploit(values, quantile, stream(seed))
    order = sorted(range(len(values)), key=lambda m: (not np.isfinite(values[m]), -np.nan_to_num(values[m]), m))
    finite = int(np.isfinite(values).sum())
    width = min(math.ceil(quantile * len(values) - 1e-9), len(values) // 2)
    best, worst = order[: min(width, finite)], order[len(values) - max(width, len(values) - finite) :]
    assert {m for m in range(len(values)) if source[m] != m} == set(worst)
    assert set(source[worst]) <= set(best)


def test_every_one_of_the_best_is_copied_in_time():
    scores = np.arange(16.0)
    copied = {int(m) for seed in range(50) for m in exploit(scores, 0.25, stream(seed))[:4]}
    assert copied == {12, 13, 14, 15}


@pytest.mark.parametrize(("members", "quantile", "size"), [(16, 0.25, 4), (5, 0.25, 2), (2, 0.25, 1), (3, 0.5, 1)])
def test_a_quantile_is_rounded_up_to_half_of_the_members_at_most(members, quantile, size):
    source = exploit(np.arange(float(members)), quantile, stream(0))
    assert (source != np.arange(members)).sum() == size


@given(SEEDS, st.integers(1, 30))
def test_every_value_stays_in_its_domain_however_often_it_is_perturbed(seed, times):
    draw = stream(seed)
    params = resample(SPACE, draw)
    for _ in range(times):
        assert set(params) == set(SPACE)
        for name, value in params.items():
            assert SPACE[name].contains(value), (name, value)
        params = perturb(SPACE, params, draw)


@pytest.mark.parametrize(
    ("name", "value", "down", "up"),
    [
        ("lr", 1e-3, 0.8e-3, 1.2e-3),
        ("lr", 1e-2, 0.8e-2, 1e-2),
        ("gamma", 0.95, 0.95 - 0.0099, 0.95 + 0.0099),
        ("gamma", 0.995, 0.995 - 0.0099, 0.999),
        ("epochs", 5, 4, 6),
        ("epochs", 8, 7, 8),
        ("steps", 4, 2, 6),
        ("steps", 8, 6, 8),
        ("batch", 1, 1, 2),
        ("batch", 100, 80, 120),
        ("scale", 0.3, 0.2, 0.4),
        ("flag", True, False, True),
        ("one", "only", "only", "only"),
    ],
)
def test_a_move_is_a_fifth_of_a_logarithmic_value_a_tenth_of_a_linear_range_or_one_step(name, value, down, up):
    found = [neighbour(SPACE[name], value, direction) for direction in (False, True)]
    assert found == [pytest.approx(down), pytest.approx(up)] if isinstance(value, float) else found == [down, up]


def population(explore: str = "perturb", seed: int = 1, recorded=None, quantile: float = 0.25, members: int = 8):
    return PopulationBasedTraining(SPACE, members, 10, quantile, seed, EXPLORERS[explore](), recorded=recorded or {})


def scored(*intervals: Sequence[float]) -> dict[int, Shown]:
    """Trials that scored these returns, interval after interval."""
    scores = [score for interval in intervals for score in interval]
    return {number: Shown(np.array([[score]]), False) for number, score in enumerate(scores)}


def copies(decisions: Mapping[int, Any]) -> tuple[list[int], list[Params]]:
    """Sources and params of the members of the next interval."""
    return [decision.source for decision in decisions.values()], [
        dict(decision.params) for decision in decisions.values()
    ]


RISING = [float(member) for member in range(8)]


@pytest.mark.parametrize("explore", ["perturb", "resample"])
def test_only_copies_change_and_the_same_seed_and_scores_change_them_alike(explore):
    scheduler = population(explore)
    source, params = copies(scheduler.decide(scored(RISING)))
    assert (source, params) == copies(population(explore).decide(scored(RISING)))
    assert params[2:] == scheduler.first()[2:]
    assert all(params[copy] != scheduler.first()[source[copy]] for copy in (0, 1))
    assert params[0] != params[1]
    assert params[:2] != copies(population(explore, seed=2).decide(scored(RISING)))[1][:2]


def test_a_copy_continues_from_the_values_of_whom_it_copied():
    scheduler = population()
    source, params = copies(scheduler.decide(scored(RISING)))
    for copy in (0, 1):
        assert source[copy] in (6, 7)
        copied = scheduler.first()[source[copy]]
        assert params[copy] == perturb(SPACE, copied, stream(1, EXPLORE, 1, copy))
        assert params[copy] != perturb(SPACE, scheduler.first()[copy], stream(1, EXPLORE, 1, copy))


def test_two_intervals_explore_differently_from_the_same_scores():
    one, two = (population("resample").decide(scored(*[RISING] * count)) for count in (1, 2))
    assert list(one) == list(range(8)) and list(two) == list(range(8, 16))
    assert copies(one)[1][:2] != copies(two)[1][:2]


def test_members_wait_until_all_of_their_interval_have_ended_it():
    scheduler, whole = population(), scored(RISING, RISING)
    assert scheduler.decide({}) == {}
    assert all(scheduler.decide({n: whole[n] for n in range(count)}) == {} for count in (1, 7, 9, 15))
    assert scheduler.decide({**whole, 9: Shown(np.empty((0, 1)), False)}) == {}


INTERVALS = st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=4, max_size=4), min_size=1, max_size=4)


@given(INTERVALS, st.sampled_from(["perturb", "resample"]))
def test_decisions_do_not_depend_on_what_was_decided_before(intervals, explore):
    """Asked after every interval, in one call at the end, or with what is recorded: the same."""
    asked_often, recorded = population(explore, members=4), {}
    for count in range(1, len(intervals) + 1):
        shown = scored(*intervals[:count])
        found = asked_often.decide(shown)
        assert found == population(explore, members=4).decide(shown)
        assert found == population(explore, recorded=recorded, members=4).decide(shown)
        if not all(isinstance(decision, CopyFrom) for decision in found.values()):
            return
        recorded |= {number + 4: decision for number, decision in found.items()}


def test_how_trials_began_is_taken_as_recorded():
    mine = {"lr": 1e-3, "gamma": 0.95, "epochs": 5, "batch": 7, "steps": 4, "scale": 0.3, "flag": True, "one": "only"}
    recorded = {member: CopyFrom(member, mine) for member in range(8)}
    _, params = copies(population(recorded=recorded).decide(scored(RISING)))
    assert params[2:] == [mine] * 6


def test_a_failed_member_is_replaced_and_a_population_of_failed_ones_stops():
    shown = scored([np.nan] * 7 + [1.0])
    shown[3] = Shown(np.empty((0, 1)), True)
    assert copies(population().decide(shown))[0] == [7] * 8
    decisions = population().decide(scored([np.nan] * 8))
    assert decisions == {member: Stop(1, "every member failed in interval 0") for member in range(8)}


def test_nobody_copies_after_the_last_interval():
    assert population().decide(scored(*[RISING] * 10)) == {number: Continue(1) for number in range(72, 80)}


def test_pb2_goes_where_the_return_rose_and_keeps_to_the_domains():
    pytest.importorskip("sklearn")
    random, recorded, scores, shown = stream(7), {}, np.zeros(8), []
    for interval in range(6):
        params = [resample(SPACE, random) for _ in range(8)]
        if interval:
            scores = scores + [10.0 * (own["gamma"] > 0.98) for own in params]
        before = 8 * max(interval - 1, 0)
        recorded |= {8 * interval + member: CopyFrom(before + member, own) for member, own in enumerate(params)}
        shown.append(scores)
    source, params = copies(population("pb2", recorded=recorded, quantile=0.5).decide(scored(*shown)))
    replaced = [member for member in range(8) if source[member] != 40 + member]
    assert len(replaced) == 4
    assert all(SPACE[name].contains(value) for own in params for name, value in own.items())
    assert np.mean([params[member]["gamma"] > 0.97 for member in replaced]) > 0.5  # by chance 0.3
    assert len({params[member]["gamma"] for member in replaced}) == 4
    assert params == copies(population("pb2", recorded=recorded, quantile=0.5).decide(scored(*shown)))[1]


def test_pb2_without_two_intervals_samples():
    pytest.importorskip("sklearn")
    _, params = copies(population("pb2").decide(scored(RISING)))
    assert all(SPACE[name].contains(value) for own in params for name, value in own.items())
