"""Who copies whom and what the copies go on with: laws of pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlax.engine.population import (
    EXPLORE,
    Generation,
    Selection,
    exploit,
    neighbour,
    perturb,
    quantile_size,
    resample,
    stream,
)
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
    width = quantile_size(len(values), quantile)
    best, worst = order[: min(width, finite)], order[len(values) - max(width, len(values) - finite) :]
    assert {m for m in range(len(values)) if source[m] != m} == set(worst)
    assert set(source[worst]) <= set(best)


@given(SCORES, QUANTILES, SEEDS)
def test_nobody_goes_on_from_what_is_not_finite(scores, quantile, seed):
    values = np.array(scores)
    assert np.isfinite(values[exploit(values, quantile, stream(seed))]).all()


def test_ties_are_broken_by_the_member_number():
    assert exploit(np.zeros(8), 0.125, stream(0)).tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def test_every_one_of_the_best_is_copied_in_time():
    scores = np.arange(16.0)
    copied = {int(m) for seed in range(50) for m in exploit(scores, 0.25, stream(seed))[:4]}
    assert copied == {12, 13, 14, 15}


def test_a_population_without_a_finite_score_has_nobody_to_go_on_from():
    with pytest.raises(ValueError, match="no member has a finite score"):
        exploit(np.array([np.nan, np.inf]), 0.5, stream(0))


@pytest.mark.parametrize(("members", "quantile", "size"), [(16, 0.25, 4), (5, 0.25, 2), (2, 0.25, 1), (3, 0.5, 1)])
def test_a_quantile_is_rounded_up_to_half_of_the_members_at_most(members, quantile, size):
    assert quantile_size(members, quantile) == size


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


def generation(scores: list[float]) -> Generation:
    params: list[dict[str, Any]] = Selection(SPACE, "perturb", 0.25, 1).begin(len(scores))
    return Generation(params, np.arange(len(scores)), np.array(scores))


@pytest.mark.parametrize("explore", ["perturb", "resample"])
def test_only_copies_change_and_the_same_seed_and_scores_change_them_alike(explore):
    past = [generation([float(member) for member in range(8)])]
    source, params = Selection(SPACE, explore, 0.25, 1).go_on(past)
    again = Selection(SPACE, explore, 0.25, 1).go_on(past)
    other = Selection(SPACE, explore, 0.25, 2).go_on(past)
    assert (source.tolist(), params) == (again[0].tolist(), again[1])
    assert params[2:] == past[0].params[2:]
    assert all(params[copy] != past[0].params[source[copy]] for copy in (0, 1))
    assert params[0] != params[1]
    assert params[:2] != other[1][:2]


def test_a_copy_goes_on_from_the_values_of_whom_it_copied():
    past = [generation([float(member) for member in range(8)])]
    source, params = Selection(SPACE, "perturb", 0.25, 1).go_on(past)
    for copy in (0, 1):
        assert source[copy] in (6, 7)
        of_the_copied = past[0].params[source[copy]]
        assert params[copy] == perturb(SPACE, of_the_copied, stream(1, EXPLORE, 1, copy))
        assert params[copy] != perturb(SPACE, past[0].params[copy], stream(1, EXPLORE, 1, copy))


def test_two_intervals_explore_differently_from_the_same_scores():
    past = [generation([float(member) for member in range(8)])]
    one, two = (Selection(SPACE, "resample", 0.25, 1).go_on(past * count) for count in (1, 2))
    assert one[1][:2] != two[1][:2]


def test_pb2_goes_where_the_return_rose_and_keeps_to_the_domains():
    pytest.importorskip("sklearn")
    draw, past = stream(7), []
    scores = np.zeros(8)
    for interval in range(6):
        params = [resample(SPACE, draw) for _ in range(8)]
        if interval:
            scores = scores + [10.0 * (own["gamma"] > 0.98) for own in params]
        past.append(Generation(params, np.arange(8), scores))
    selection = Selection(SPACE, "pb2", 0.5, 1)
    source, params = selection.go_on(past)
    copies = [member for member in range(8) if source[member] != member]
    assert len(copies) == 4
    assert all(SPACE[name].contains(value) for own in params for name, value in own.items())
    assert np.mean([params[member]["gamma"] > 0.97 for member in copies]) > 0.5  # by chance 0.3
    assert len({params[member]["gamma"] for member in copies}) == 4
    assert params == selection.go_on(past)[1]


def test_pb2_without_two_intervals_draws_anew():
    pytest.importorskip("sklearn")
    _, params = Selection(SPACE, "pb2", 0.25, 1).go_on([generation([float(m) for m in range(8)])])
    assert all(SPACE[name].contains(value) for own in params for name, value in own.items())
