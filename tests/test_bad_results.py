"""A custom backend that returns an invalid result: its trial is marked FAIL, with the reason, and the study continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hyperlax.errors import HyperlaxError
from hyperlax.files import read_csv
from hyperlax.hyperparams import SAC
from hyperlax.study.failures import problem_of, problem_of_timing
from hyperlax.trial import Curve, SegmentResult, Trial
from tests.fake_backend import FakeBackend, curve_of
from tests.study_cases import Case

WHOLE = "an integer of at most 64 bits"
UNSPEAKABLE = "an object of type Unspeakable whose repr raises RuntimeError: no words \\udcff"
SOUND = SegmentResult(4, 0, 5, curve_of(Trial(4, SAC()), 2), None, True, 1, 100, 0.25)


class Unspeakable:
    """Whatever is asked of it raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no words \udcff")

    __eq__ = __hash__ = __repr__  # type: ignore[assignment]


def change(**changes: Any) -> Callable[[SegmentResult], SegmentResult]:
    return lambda result: replace(result, **changes)


def curve(change: Callable[[Curve], dict[str, Any]]) -> Callable[[SegmentResult], SegmentResult]:
    return lambda result: replace(result, curve=replace(result.curve, **change(result.curve)))


BAD: dict[str, tuple[Callable[[SegmentResult], SegmentResult], str]] = {
    "parameters beyond any float": (
        change(num_parameters=10**400),
        f"the num_parameters 1{'0' * 59}...; {WHOLE} is needed",
    ),
    "seconds beyond any float": (
        change(train_seconds=10**400),
        f"the train_seconds 1{'0' * 59}...; a number of at most 64 bits is needed",
    ),
    "a lane with too many digits to print": (
        change(lane=10**5000),
        "the lane an object of type int whose repr raises ValueError: Exceeds the limit (4300 digits) for integer "
        f"string conversion; use sys.set_int_max_str_digits() to increase the limit; {WHOLE} or None is needed",
    ),
    "a budget that is a truth": (curve(lambda curve: {"budget": True}), f"curve.budget True; {WHOLE} is needed"),
    "an end that has no repr": (change(is_done=Unspeakable()), f"the is_done {UNSPEAKABLE}; True or False is needed"),
    "a fault without a reason": (change(fault=" "), "the fault ' '; a text is needed"),
    "no seconds": (change(train_seconds=None), "the train_seconds None; a number of at most 64 bits is needed"),
    "parameters in words": (change(num_parameters="ten"), f"the num_parameters 'ten'; {WHOLE} is needed"),
    "a policy in words": (change(policy="greedy"), "the policy 'greedy'; a Policy or None is needed"),
    "lanes in words": (change(intervals=("first",)), "the intervals ('first',); a tuple of LaneIntervals is needed"),
    "no curve": (change(curve=None), "the curve None; a Curve is needed"),
    "steps in words": (curve(lambda curve: {"steps": "0, 100"}), "curve.steps '0, 100'; int64[points] is needed"),
    "a list of returns": (
        curve(lambda curve: {"mean": [1.0, 2.0]}),
        "curve.mean [1.0, 2.0]; float64[6, 2] is needed, points and seeds",
    ),
    "returns of one seed": (
        curve(lambda curve: {"mean": curve.mean[:, :1]}),
        "curve.mean float64[6, 1]; float64[6, 2] is needed, points and seeds",
    ),
    "fewer points": (
        curve(lambda curve: {"length": curve.length[1:]}),
        "curve.length float64[5, 2]; float64[6, 2] is needed, points and seeds",
    ),
    "returns in words": (
        curve(lambda curve: {"min": np.full(curve.min.shape, "low")}),
        "curve.min <U3[6, 2]; float64[6, 2] is needed, points and seeds",
    ),
    "no episodes": (curve(lambda curve: {"episodes": None}), f"curve.episodes None; {WHOLE} is needed"),
    "what raises when it is read": (
        lambda result: object.__new__(SegmentResult),
        "a result that cannot be read: AttributeError: 'SegmentResult' object has no attribute 'repetition'",
    ),
}


@pytest.mark.parametrize(("changed", "cause"), BAD.values(), ids=BAD)
def test_an_invalid_result_is_refused_with_what_is_needed(changed, cause):
    assert problem_of(changed(SOUND), seeds=2) == cause
    assert problem_of(SOUND, seeds=2) is None


@pytest.mark.parametrize("pruner", ["none", "asha"])
@pytest.mark.parametrize("what", ["returns of one seed", "no curve", "an end that has no repr"])
def test_a_trial_with_an_invalid_result_fails_and_its_mates_continue(tmp_path, caplog, pruner, what):
    changed, cause = BAD[what]
    sound, case = (Case(tmp_path / name, pruner=pruner, pruner_min_segments=4) for name in ("sound", "bad"))
    assert sound.start() == 0
    assert case.start(FakeBackend(gives={4: changed})) == 0
    assert [number for number, state in enumerate(case.states()) if state == "FAIL"] == [4]
    assert case.told()[:4] == sound.told()[:4]
    trial = case.study().trials[4]
    (row,) = read_csv(case.directory / trial.user_attrs["batch"] / "summary.csv")
    assert row["reason"] == trial.user_attrs["reason"] and " (lane 0; algorithm." in row["reason"]
    points = 6 if pruner == "none" else 2  # which refilled lanes have after their first segment
    assert row["reason"].startswith(f"the backend returned {cause.replace('[6,', f'[{points},')} (lane 0; ")
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(":")[0] for line in lines] == ["trial 4"]


@pytest.mark.parametrize("given", [None, "all is well", replace(SOUND, number=7), replace(SOUND, number="four")])
def test_what_is_about_no_trial_in_a_lane_ends_the_study_in_a_sentence(tmp_path, given):
    case = Case(tmp_path)
    with pytest.raises(HyperlaxError, match="a SegmentResult of a trial in a lane is needed"):
        case.start(FakeBackend(gives={4: lambda result: given}))
    assert case.resume() == 0


@pytest.mark.parametrize(
    ("timing", "problem"),
    [
        (None, "the timing None; a dictionary is needed"),
        ({"train_seconds": float("nan")}, "the timing 'train_seconds': nan, which JSON has no form for"),
        ({"device": "\udcff"}, "the timing 'device': '\\udcff', which JSON has no form for"),
    ],
)
def test_a_timing_has_to_fit_into_json(timing, problem):
    assert problem_of_timing(timing) == problem
    assert problem_of_timing({"train_seconds": 1.0}) is None
