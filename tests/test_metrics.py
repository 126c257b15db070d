"""The metrics against curves worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.errors import UsageError
from hyperlax.metrics import METRICS, Metric, ReferenceReturns, aggregated, check_objectives, compute, of_curve
from hyperlax.study.batch_files import read_ends
from hyperlax.trial import Curve, Outcome
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
    return Outcome(number=3, state=state, reason=reason, curve=curve, num_parameters=4610, train_seconds=1.25)


def metrics(returns, steps=None, reference=ZERO_TO_HUNDRED):
    return compute(outcome(returns, steps), reference)


def test_every_metric_is_there_in_the_order_of_the_table():
    assert list(metrics([0, 10, 20])) == list(METRICS)


def test_every_metric_is_a_plain_float():
    assert {type(value) for value in metrics([[0, 1], [10, 12], [20, 22]]).values()} == {float}


def test_the_point_before_training_enters_no_metric():
    assert metrics([1e6, 10, 20]) == metrics([-1e6, 10, 20])


def test_peak_is_the_highest_point_after_training_began():
    assert metrics([90, 10, 50, 20])["peak_performance"] == 50.0


@pytest.mark.parametrize(
    ("points", "expected"),
    [(1, 1.0), (9, 9.0), (10, 10.0), (11, 10.5), (20, 19.5), (21, 20.0)],
)
def test_final_is_the_mean_of_the_last_tenth_rounded_up(points, expected):
    assert metrics(np.arange(points + 1))["final_performance"] == expected


def test_auc_is_the_trapezoid_area_over_the_trained_interval():
    assert metrics([0, 0, 50, 100])["normalized_auc"] == 0.5


def test_auc_weighs_each_point_by_the_steps_around_it():
    assert metrics([0, 0, 100, 100], steps=[0, 100, 200, 500])["normalized_auc"] == pytest.approx(350 / 400)


def test_auc_is_normalized_by_the_environment():
    pendulum = ReferenceReturns(lo=-1200.0, hi=-200.0, source="by hand")
    assert metrics([-1200, -700, -700], reference=pendulum)["normalized_auc"] == 0.5


@pytest.mark.parametrize(("returns", "expected"), [([0, -500, -1], 0.0), ([0, 101, 900], 1.0), ([0, -100, 200], 0.5)])
def test_auc_clips_below_lo_and_above_hi(returns, expected):
    assert metrics(returns)["normalized_auc"] == expected


@pytest.mark.parametrize(("single", "expected"), [(25.0, 0.25), (-5.0, 0.0), (130.0, 1.0)])
def test_auc_of_a_single_point_is_its_clipped_height(single, expected):
    assert metrics([0, single])["normalized_auc"] == expected


def test_a_curve_that_keeps_its_peak_is_stable():
    assert metrics([0, 20, 80, 80])["stability_score"] == 1.0


def test_a_curve_that_loses_half_of_its_peak_is_half_stable():
    assert metrics([0, 80, 40])["stability_score"] == 0.5


def test_stability_counts_from_lo():
    assert metrics([0, 60, 40], reference=ReferenceReturns(20.0, 100.0, ""))["stability_score"] == 0.5


def test_a_curve_that_falls_below_lo_has_no_stability_left():
    assert metrics([0, 80, -40])["stability_score"] == 0.0


def test_a_decreasing_curve_that_never_rose_above_lo_is_not_stable():
    assert metrics([0, -10, -20])["stability_score"] == 0.0


def test_a_constant_curve_below_lo_is_stable():
    assert metrics([0, -10, -10])["stability_score"] == 1.0


def test_seed_spread_is_the_population_deviation_of_each_seeds_final():
    assert metrics([[0, 0], [5, 5], [10, 14]])["seed_spread"] == 2.0


def test_seed_spread_averages_each_seeds_last_tenth_first():
    swapped = np.zeros((21, 2))
    swapped[-2], swapped[-1] = (10, 20), (20, 10)
    assert metrics(swapped)["seed_spread"] == 0.0


def test_one_seed_has_no_spread():
    assert metrics([0, 10, 30])["seed_spread"] == 0.0


def test_returns_are_averaged_over_seeds_before_the_peak_is_taken():
    result = metrics([[0, 0], [100, 0], [0, 100], [60, 60]])
    assert result["peak_performance"] == 60.0
    assert result["final_performance"] == 60.0


def test_the_threshold_is_crossed_between_two_points():
    assert metrics([0, 0, 80, 100])["steps_to_threshold"] == 250.0


def test_a_point_exactly_on_the_threshold_has_crossed_it():
    assert metrics([0, 0, 90, 100])["steps_to_threshold"] == 200.0


def test_a_first_point_above_the_threshold_counts_from_there():
    assert metrics([0, 95, 10])["steps_to_threshold"] == 100.0


def test_the_first_crossing_counts_even_if_the_curve_falls_again():
    assert metrics([0, 80, 100, 0, 100])["steps_to_threshold"] == 150.0


@pytest.mark.parametrize("returns", [[0, 10, 89.9], [200, 80, 40], [0, 10]])
def test_a_curve_that_never_crosses_takes_the_whole_budget(returns):
    assert metrics(returns)["steps_to_threshold"] == 100.0 * (len(returns) - 1)


def test_a_decreasing_curve_peaks_at_its_first_point():
    result = metrics([0, 80, 60, 20])
    assert result["peak_performance"] == 80.0
    assert result["final_performance"] == 20.0
    assert result["normalized_auc"] == pytest.approx((0.7 + 0.4) / 2)
    assert result["stability_score"] == 0.25


def test_parameters_and_seconds_are_the_outcomes():
    result = metrics([0, 1])
    assert (result["num_parameters"], result["train_seconds"]) == (4610.0, 1.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_curve_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match=r"trial 3: the curve holds nan or inf"):
        metrics([0, 1, bad])


def test_returns_whose_mean_overflows_are_refused():
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=r"trial 3: peak_performance is inf"):
        metrics([[0, 0], [1.7e308, 1.7e308]])


def test_a_failed_trial_has_no_metrics():
    with pytest.raises(ValueError, match=r"trial 3 is FAIL \(loss is nan\); only COMPLETE trials"):
        compute(outcome([0, 1], state="FAIL", reason="loss is nan"), ZERO_TO_HUNDRED)


def test_a_curve_without_a_trained_point_is_refused():
    with pytest.raises(ValueError, match="1 point;"):
        metrics([0.0])


def test_steps_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="steps must increase"):
        metrics([0, 1, 2], steps=[0, 100, 100])


@pytest.mark.parametrize(("lo", "hi"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_reference_returns_need_lo_below_hi(lo, hi):
    with pytest.raises(UsageError, match="finite lo < hi"):
        ReferenceReturns(lo, hi, "nowhere")


def test_known_objectives_with_one_direction_each_pass():
    check_objectives(["peak_performance", "num_parameters"], ["maximize", "minimize"])


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


@pytest.mark.parametrize(("last", "expected"), [(20, 500.0), (90.5, 500.0), (170, 378.0)])
def test_the_threshold_is_reached_within_the_budget_or_not_at_all(last, expected):
    """Between (252, 10) and (504, last), at 90: training went on past the budget to the end of its rollout."""
    late = compute(outcome([0, 10, last], steps=[0, 252, 504], budget=500), ZERO_TO_HUNDRED)
    assert late["steps_to_threshold"] == expected


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
    assert not any("evaluations" in end.metrics for end in read_ends(first))
    assert all(end.metrics["evaluations"] == 5.0 for end in read_ends(second))
    assert "evaluations (points)" in (case.directory / "report.html").read_text()
