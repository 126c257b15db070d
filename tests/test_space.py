"""Distributions refuse what they cannot mean, and say what would work."""

import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from optuna.distributions import IntDistribution

from hyperlax.errors import UsageError
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.space import (
    Categorical,
    LogUniform,
    LogUniformDiscrete,
    QUniform,
    UniformContinuous,
    UniformDiscrete,
    from_json,
)

RANGES = [LogUniform, UniformContinuous, UniformDiscrete, LogUniformDiscrete]
EVERY_KIND = [
    LogUniform(domain=(1e-6, 1e-2)),
    UniformContinuous(domain=(-1, 1)),
    UniformDiscrete(domain=(0, 3)),
    LogUniformDiscrete(domain=(1, 64)),
    QUniform(domain=(0.1, 0.7), q=0.2),
    Categorical(values=[[64, 64], (128,), "tanh", True, 2.5]),
]


REFUSED: list[tuple[Any, str, list[Any], str]] = [
    (LogUniform, "domain", [(0, 0.1)], "got low=0, high=0.1. For a range that touches zero, use UniformContinuous."),
    (LogUniform, "domain", [(-1, 8)], "LogUniform needs 0 < low < high, got low=-1, high=8"),
    (LogUniform, "domain", [(1,), (1, 2, 3), 5, "12", None, {1, 2}], "LogUniform needs a domain of two numbers"),
    (LogUniformDiscrete, "domain", [(0, 8)], "use UniformDiscrete"),
    (LogUniformDiscrete, "domain", [(1, 3.5)], "needs whole numbers as bounds, got high=3.5"),
    (UniformDiscrete, "domain", [(1.5, 3)], "needs whole numbers as bounds, got low=1.5"),
    *((kind, "domain", [(4, 2)], "low < high, got low=4, high=2. Swap the two.") for kind in RANGES),
    *((kind, "domain", [(4, 4)], "low < high, got low=4, high=4. To fix the value instead") for kind in RANGES),
    (partial(UniformDiscrete, domain=(2, 8)), "step", [0.5], "a whole number of at least 1 as its step, got step=0.5"),
    (partial(UniformDiscrete, domain=(2, 9)), "step", [2], "multiple of step, got low=2, high=9, step=2. The nearest"),
    (partial(QUniform, domain=(0, 1)), "q", [0, -0.1, math.nan, math.inf, "0.1", True], "QUniform needs a step q > 0"),
    (partial(QUniform, domain=(0, 1)), "q", [0.3], "The nearest high that works: 1.2 or 0.9."),
    (partial(QUniform, domain=(0, 1)), "q", [2], "The nearest high that works: 2.0."),
    (Categorical, "values", [[]], "Categorical needs at least one value"),
    (Categorical, "values", ["tanh", 3, None, {"tanh": 1}], "Categorical needs a list of values"),
    (Categorical, "values", [[[64, 64], (64, 64)], [1, 1.0], ["a", "a"], [True, False, True], [[1.0], [1]]], "the same choice"),
    (Categorical, "values", [[1, it] for it in (None, math.nan, math.inf, {"a": 1}, [None], object())],
        "Categorical needs numbers, strings, bools or lists"),
    (from_json, "text", [{"type": "Normal"}], "No distribution named 'Normal'"),
    (from_json, "text", [{"type": "LogUniform", "low": 1}], "LogUniform cannot be made of"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "value", "message"),
    [(make, name, it, said) for make, name, every, said in REFUSED for it in every],
)
def test_what_a_distribution_cannot_mean_is_refused_with_what_would_work(make, name, value, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        make(**{name: value})


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf, "1e-3", None, True, [1], 10**400])
@pytest.mark.parametrize("kind", [LogUniform, UniformContinuous, UniformDiscrete])
def test_a_bound_that_is_no_finite_number_is_refused(kind, bound):
    for domain, end in (((1, bound), "high"), ((bound, 1), "low")):
        with pytest.raises(UsageError, match=f"{kind.__name__} needs finite numbers as bounds, got {end}="):
            kind(domain=domain)


def test_whole_numbers_in_steps():
    steps = UniformDiscrete(domain=(2, 8), step=2)
    assert (steps.size(), [steps.at(place) for place in range(4)], steps.place(6)) == (4, [2, 4, 6, 8], 2)
    assert [steps.contains(value) for value in (2, 8, 3, 10, 4.0)] == [True, True, False, False, False]
    assert SearchSpace({"x": steps}).optuna == {"x": IntDistribution(2, 8, step=2)}
    assert from_json(steps.to_json()) == steps == QUniform(domain=(2, 8), q=2).in_whole_numbers()
    assert UniformDiscrete(domain=(2, 8)).to_json() == {"type": "UniformDiscrete", "domain": [2, 8]}
    of_numpy: Any = (1.0, np.int64(3))
    assert LogUniformDiscrete(domain=of_numpy).domain == (1, 3)


def test_steps_are_counted_in_decimals():
    steps = QUniform(domain=(0.1, 0.7), q=0.1)
    assert steps.size() == 7
    assert steps.contains(0.1 + 2 * 0.1)
    assert not steps.contains(0.15)


@pytest.mark.parametrize("values", [[1, True], [0, False], ["1", 1], [[1], 1], [[1], [True]]])
def test_choices_that_only_compare_equal_are_different(values):
    assert Categorical(values=values).size() == 2
    assert Categorical(values=values[:1]).size() == 1


def test_both_bounds_can_be_produced():
    for distribution in EVERY_KIND[:5]:
        low, high = distribution.domain
        assert distribution.contains(low) and distribution.contains(high)
        assert not distribution.contains(high + 1) and not distribution.contains(low - 1)


def test_what_is_no_number_is_not_contained():
    for distribution in EVERY_KIND[:5]:
        assert not any(distribution.contains(value) for value in (True, "1", None, math.nan, [1]))
    assert not UniformDiscrete(domain=(0, 3)).contains(1.0)


def test_a_choice_is_contained_as_list_or_tuple():
    choices = Categorical(values=[[64, 64], (128,), 1])
    assert choices.contains((64, 64)) and choices.contains([128])
    assert not choices.contains(True) and not choices.contains([64]) and not choices.contains(None)


def test_sizes_count_the_values():
    assert [d.size() for d in EVERY_KIND] == [None, None, 4, 64, 4, 5]
    assert [d.size() is None for d in EVERY_KIND] == [True, True, False, False, False, False]


@pytest.mark.parametrize("distribution", EVERY_KIND, ids=lambda d: type(d).__name__)
def test_json_reads_back_as_the_same_distribution(distribution):
    assert from_json(distribution.to_json()) == distribution


def test_a_changed_json_does_not_change_the_distribution():
    choices = Categorical(values=[[64, 64]])
    choices.to_json()["values"][0].append(1)
    assert choices.values == ([64, 64],)


@pytest.mark.parametrize(
    ("values", "plain"),
    [
        (np.linspace(0.25, 0.75, 3), [0.25, 0.5, 0.75]),
        ([np.float64(0.5), np.int64(3), np.str_("tanh"), np.bool_(True)], [0.5, 3, "tanh", True]),
        ([np.array([64, 32]), [np.int32(8)]], [[64, 32], [8]]),
    ],
)
def test_values_from_numpy_become_plain_python_values(values, plain):
    found = list(Categorical(values=values).values)
    assert found == plain and repr(found) == repr(plain)
