"""The metrics against curves worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.errors import UsageError
from hyperlax.hyperparams import PPO
from hyperlax.metrics import METRICS, Metric, ReferenceReturns, aggregated, check_objectives, compute, of_curve
from hyperlax.study.batch_files import read_trial_results
from hyperlax.trial import Curve, Outcome, Trial
from tests.desk import ROOT, rows
from tests.study_cases import Case

ZERO_TO_HUNDRED = ReferenceReturns(lo=0.0, hi=100.0, source="by hand")


def outcome(returns, steps=None, state="COMPLETE", reason="", budget=None):
    """An outcome from returns, [points] for one seed or [points, seeds]; row 0 is before training."""
    mean = np.asarray(returns, dtype=np.float64)
    mean = mean[:, None] if mean.ndim == 1 else mean
    steps = np.arange(len(mean)) * 100 if steps is None else np.asarray(steps)
    curve = Curve(
        steps=steps,
        mean=mean,
        std=np.zeros_like(mean),
        min=mean,
        max=mean,
        length=np.full_like(mean, 7.0),
        episodes=4,
        budget=int(steps[-1]) if budget is None else budget,
    )
    return Outcome(
        trial=Trial(3, PPO()), state=state, reason=reason, curve=curve, num_parameters=4610, train_seconds=1.25
    )


def metrics(returns, steps=None, reference=ZERO_TO_HUNDRED, **more):
    return compute(outcome(returns, steps, **more), reference)


def test_every_metric_is_there_in_the_order_of_the_table():
    assert list(metrics([0, 10, 20])) == list(METRICS)


def test_every_metric_is_a_plain_float():
    assert {type(value) for value in metrics([[0, 1], [10, 12], [20, 22]]).values()} == {float}


def test_the_point_before_training_enters_no_metric():
    assert metrics([1e6, 10, 20]) == metrics([-1e6, 10, 20])


def swapped():
    """Returns of two seeds whose last two points are each other's."""
    curve = np.zeros((21, 2))
    curve[-2], curve[-1] = (10, 20), (20, 10)
    return curve


BY_HAND = {
    "the highest point after training began": ("peak_performance", [90, 10, 50, 20], 50.0),
    "the peak of a decreasing curve is its first point": ("peak_performance", [0, 80, 60, 20], 80.0),
    "averaged over seeds before the peak is taken": ("peak_performance", [[0, 0], [100, 0], [0, 100], [60, 60]], 60.0),
    "averaged over seeds": ("final_performance", [[0, 0], [100, 0], [0, 100], [60, 60]], 60.0),
    "the end of a decreasing curve": ("final_performance", [0, 80, 60, 20], 20.0),
    "the trapezoid area over the trained interval": ("normalized_auc", [0, 0, 50, 100], 0.5),
    "the area of a decreasing curve": ("normalized_auc", [0, 80, 60, 20], pytest.approx((0.7 + 0.4) / 2)),
    "an area clipped below lo": ("normalized_auc", [0, -500, -1], 0.0),
    "an area clipped above hi": ("normalized_auc", [0, 101, 900], 1.0),
    "an area clipped on both sides": ("normalized_auc", [0, -100, 200], 0.5),
    "the area of a single point is its height": ("normalized_auc", [0, 25.0], 0.25),
    "a single height below lo": ("normalized_auc", [0, -5.0], 0.0),
    "a single height above hi": ("normalized_auc", [0, 130.0], 1.0),
    "a curve that keeps its peak": ("stability_score", [0, 20, 80, 80], 1.0),
    "a curve that loses half of its peak": ("stability_score", [0, 80, 40], 0.5),
    "a curve that loses three quarters": ("stability_score", [0, 80, 60, 20], 0.25),
    "a curve that falls below lo": ("stability_score", [0, 80, -40], 0.0),
    "a decreasing curve that never rose above lo": ("stability_score", [0, -10, -20], 0.0),
    "a constant curve below lo": ("stability_score", [0, -10, -10], 1.0),
    "the population deviation of each seed's final": ("seed_spread", [[0, 0], [5, 5], [10, 14]], 2.0),
    "one seed has no spread": ("seed_spread", [0, 10, 30], 0.0),
    "crossed between two points": ("steps_to_threshold", [0, 0, 80, 100], 250.0),
    "crossed by a point exactly on the threshold": ("steps_to_threshold", [0, 0, 90, 100], 200.0),
    "a first point above the threshold": ("steps_to_threshold", [0, 95, 10], 100.0),
    "the first crossing counts": ("steps_to_threshold", [0, 80, 100, 0, 100], 150.0),
    "never crossed": ("steps_to_threshold", [0, 10, 89.9], 200.0),
    "never crossed after training began": ("steps_to_threshold", [200, 80, 40], 200.0),
    "never crossed by one point": ("steps_to_threshold", [0, 10], 100.0),
    "the outcome's parameters": ("num_parameters", [0, 1], 4610.0),
    "the outcome's seconds": ("train_seconds", [0, 1], 1.25),
    **{
        f"the mean of the last tenth of {points} points, rounded up": ("final_performance", range(points + 1), expected)
        for points, expected in [(1, 1.0), (9, 9.0), (10, 10.0), (11, 10.5), (20, 19.5), (21, 20.0)]
    },
    "the spread of each seed's last tenth": ("seed_spread", swapped(), 0.0),
    "each point weighs by the steps around it": (
        "normalized_auc", [0, 0, 100, 100], pytest.approx(350 / 400), {"steps": [0, 100, 200, 500]}
    ),
    "normalized by the environment": (
        "normalized_auc", [-1200, -700, -700], 0.5, {"reference": ReferenceReturns(-1200.0, -200.0, "by hand")}
    ),
    "stability counts from lo": (
        "stability_score", [0, 60, 40], 0.5, {"reference": ReferenceReturns(20.0, 100.0, "by hand")}
    ),
    **{  # between (252, 10) and (504, last): training went on past the budget to the end of its rollout
        f"the threshold is reached within the budget or not at all, {last}": (
            "steps_to_threshold", [0, 10, last], expected, {"steps": [0, 252, 504], "budget": 500}
        )
        for last, expected in [(20, 500.0), (90.5, 500.0), (170, 378.0)]
    },
}  # fmt: skip


@pytest.mark.parametrize("row", BY_HAND.values(), ids=BY_HAND)
def test_a_metric_is_what_its_curve_gives_by_hand(row):
    name, returns, expected, *more = row
    assert metrics(returns, **(more[0] if more else {}))[name] == expected


@pytest.mark.parametrize(
    ("returns", "more", "words"),
    [
        *(([0, 1, bad], {}, "the curve holds nan or inf") for bad in (math.nan, math.inf, -math.inf)),
        ([[0, 0], [1.7e308, 1.7e308]], {}, "peak_performance is inf"),
        (
            [0, 1],
            {"state": "FAIL", "reason": "loss is nan"},
            r"FAIL \(loss is nan\); only COMPLETE",
        ),
        ([0.0], {}, "1 point;"),
        ([0, 1, 2], {"steps": [0, 100, 100]}, "steps must increase"),
    ],
)
def test_what_has_no_metrics_is_refused(returns, more, words):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=words):
        metrics(returns, **more)


@pytest.mark.parametrize(("lo", "hi"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_reference_returns_need_lo_below_hi(lo, hi):
    with pytest.raises(UsageError, match="finite lo < hi"):
        ReferenceReturns(lo, hi, "nowhere")


@pytest.mark.parametrize(
    ("names", "directions", "words"),
    [
        (["peak_performence"], ["maximize"], "Did you mean `peak_performance`"),
        (["reward"], ["maximize"], ", ".join(METRICS)),
        (["peak_performance", "num_parameters"], ["maximize"], "--objective-directions maximize minimize"),
        (["seed_spread", "seed_spread"], ["minimize", "minimize"], "`seed_spread` is given more than once"),
        ([], [], "--objective-names is empty"),
    ],
)
def test_objectives_that_cannot_work_are_refused_with_what_would(names, directions, words):
    with pytest.raises(UsageError) as error:
        check_objectives(names, directions)
    assert words in str(error.value)


FIVE_SEEDS = [[7.0, 1.0, 100.0, 4.0, 3.0]]
EIGHT_SEEDS = [[8.0, 1.0, 100.0, 4.0, 3.0, 5.0, -50.0, 6.0]]


@pytest.mark.parametrize(
    ("aggregate", "of_five", "of_eight"),
    [
        ("mean", 23.0, 9.625),
        ("median", 4.0, 4.5),
        ("iqm", (3.0 + 4.0 + 7.0) / 3, (3.0 + 4.0 + 5.0 + 6.0) / 4),  # one, and two, dropped at each end
        ("worst", 1.0, -50.0),
    ],
)
def test_an_aggregate_over_seeds_is_what_its_name_says(aggregate, of_five, of_eight):
    assert aggregated(np.array(FIVE_SEEDS), aggregate) == pytest.approx([of_five])
    assert aggregated(np.array(EIGHT_SEEDS), aggregate) == pytest.approx([of_eight])


def test_of_fewer_than_four_seeds_the_interquartile_mean_is_the_mean():
    assert aggregated(np.array([[1.0, 2.0, 9.0]]), "iqm") == [4.0]


@pytest.mark.parametrize(("aggregate", "peak", "final"), [("mean", 40, 40), ("median", 30, 20), ("worst", 20, 10)])
def test_metrics_are_those_of_the_aggregated_curve(aggregate, peak, final):
    """The aggregate is taken at each evaluation, before any metric; the spread over seeds stays what it is."""
    curve = [[0, 0, 0], [20, 40, 30], [10, 20, 90]]
    found = compute(outcome(curve), ZERO_TO_HUNDRED, aggregate)
    assert (found["peak_performance"], found["final_performance"]) == (peak, final)
    assert found["seed_spread"] == metrics(curve)["seed_spread"]


@pytest.mark.parametrize("aggregate", ["mean", "median", "iqm", "worst"])
def test_one_seed_is_its_own_aggregate(aggregate):
    assert compute(outcome([0, 10, 30]), ZERO_TO_HUNDRED, aggregate) == metrics([0, 10, 30])


def test_the_readme_lists_the_table():
    better = {"maximize": "high", "minimize": "low"}
    wanted = [f"| `{name}` | {metric.definition} | {better[metric.direction]} |" for name, metric in METRICS.items()]
    assert "\n".join(wanted) in (ROOT / "README.md").read_text()


def test_a_single_seed_has_the_metrics_that_read_the_curve_alone():
    points = [10.0, 50.0, 40.0]
    every = metrics([0.0, *points])
    found = of_curve(np.array([100.0, 200.0, 300.0]), np.array(points), 300, ZERO_TO_HUNDRED)
    assert found == {name: every[name] for name, metric in METRICS.items() if metric.per_seed}
    assert set(every) - set(found) == {"seed_spread", "num_parameters", "train_seconds"}


@pytest.fixture
def toy(monkeypatch):
    """Adds a metric: one row."""

    def add():
        row = Metric(
            "maximize", "points", "how often a curve was evaluated", lambda training: float(len(training.curve))
        )
        monkeypatch.setitem(METRICS, "evaluations", row)

    return add


def test_a_metric_is_added_by_a_row(toy):
    toy()
    assert metrics([0, 10, 20, 30])["evaluations"] == 3.0
    check_objectives(["evaluations"], ["maximize"])


def test_a_study_that_was_begun_before_a_metric_existed_has_it_as_not_known(tmp_path: Path, toy):
    case = Case(tmp_path, n_trials=6, optuna_study_batch_size=3, write_pages=write_pages)
    assert case.start(n_trials=3) == 0
    toy()
    assert case.resume() == 0
    trials = rows(case.directory / "trials.csv")
    assert [row["evaluations"] for row in trials] == ["", "", "", "5.0", "5.0", "5.0"]
    assert all(row["peak_performance"] for row in trials)
    first, second = sorted(case.directory.glob("*/samples/batch_*"))
    assert not any("evaluations" in end.metrics for end in read_trial_results(first))
    assert all(end.metrics["evaluations"] == 5.0 for end in read_trial_results(second))
    assert "evaluations (points)" in (case.directory / "report.html").read_text()
