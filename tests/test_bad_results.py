"""A runner of one's own that gives what is no result: its batch has failed, with the reason, and the study goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hyperlax.files import read_csv
from hyperlax.hyperparams import SAC
from hyperlax.study.reasons import cause_of
from hyperlax.study.results import problem_of
from hyperlax.trial import BatchResult, Curve, HparamBatch, Outcome, Trial
from tests.fake_backend import FakeBackend
from tests.study_cases import Case

pytestmark = pytest.mark.timeout(120)
OF_4 = "the runner returned for trial 4 "
WHOLE = "a whole number of at most 64 bits"
OTHERS = "the runner returned outcomes of trials 3, {}, 5; those of trials 3, 4, 5 are needed, in this order"
UNSPEAKABLE = "an object of type Unspeakable whose repr raises RuntimeError: no words \\udcff"


class Unspeakable:
    """Whatever is asked of it raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no words \udcff")

    __eq__ = __hash__ = __repr__  # type: ignore[assignment]


def second(change: Callable[[Outcome], Any]) -> Callable[[BatchResult], BatchResult]:
    """The result with the second of its outcomes, trial 4's, changed."""
    return lambda result: replace(
        result, outcomes=(result.outcomes[0], change(result.outcomes[1]), *result.outcomes[2:])
    )


def outcome(**changes: Any) -> Callable[[BatchResult], BatchResult]:
    return second(lambda outcome: replace(outcome, **changes))


def curve(change: Callable[[Curve], dict[str, Any]]) -> Callable[[BatchResult], BatchResult]:
    return second(lambda outcome: replace(outcome, curve=replace(outcome.curve, **change(outcome.curve))))


def timing(**changes: Any) -> Callable[[BatchResult], BatchResult]:
    return lambda result: replace(result, timing={**result.timing, **changes})


BAD: dict[str, tuple[Callable[[BatchResult], Any], str]] = {
    "nothing": (lambda result: None, "the runner returned None; a BatchResult is needed"),
    "text": (lambda result: "all is well", "the runner returned 'all is well'; a BatchResult is needed"),
    "outcomes alone": (
        lambda result: result.outcomes[:0],
        "the runner returned (); a BatchResult is needed",
    ),
    "no outcomes": (
        lambda result: replace(result, outcomes=None),
        "the runner returned the outcomes None; a tuple of Outcomes is needed",
    ),
    "outcomes of text": (
        lambda result: replace(result, outcomes=("good", "better")),
        "the runner returned the outcomes ('good', 'better'); a tuple of Outcomes is needed",
    ),
    "too few outcomes": (
        lambda result: replace(result, outcomes=result.outcomes[:2]),
        "the runner returned outcomes of trials 3, 4; those of trials 3, 4, 5 are needed, in this order",
    ),
    "too many outcomes": (
        lambda result: replace(result, outcomes=(*result.outcomes, result.outcomes[0])),
        "the runner returned outcomes of trials 3, 4, 5, 3; those of trials 3, 4, 5 are needed, in this order",
    ),
    "outcomes in another order": (
        lambda result: replace(result, outcomes=result.outcomes[::-1]),
        "the runner returned outcomes of trials 5, 4, 3; those of trials 3, 4, 5 are needed, in this order",
    ),
    "another trial's outcome": (
        outcome(number=7),
        "the runner returned outcomes of trials 3, 7, 5; those of trials 3, 4, 5 are needed, in this order",
    ),
    "an empty result": (
        lambda result: replace(result, outcomes=()),
        "the runner returned outcomes of no trial; those of trials 3, 4, 5 are needed, in this order",
    ),
    "a number that is a fraction": (outcome(number=4.0), OTHERS.format("4.0")),
    "a number that is a truth": (outcome(number=True), OTHERS.format("True")),
    "a number that is an array": (outcome(number=np.array([4, 4])), OTHERS.format("int64[2]")),
    "a state that is an array": (
        outcome(state=np.array(["FAIL", "FAIL"])),
        OF_4 + "the state <U4[2]; COMPLETE, PRUNED or FAIL is needed",
    ),
    "parameters beyond any float": (
        outcome(num_parameters=10**400),
        OF_4 + f"the num_parameters 1{'0' * 59}...; {WHOLE} is needed",
    ),
    "seconds beyond any float": (
        outcome(train_seconds=10**400),
        OF_4 + f"the train_seconds 1{'0' * 59}...; a number of at most 64 bits is needed",
    ),
    "a lane with too many digits to print": (
        outcome(lane=10**5000),
        OF_4
        + "the lane an object of type int whose repr raises ValueError: Exceeds the limit (4300 digits) for integer "
        f"string conversion; use sys.set_int_max_str_digits() to increase the limit; {WHOLE} or None is needed",
    ),
    "a budget that is a truth": (curve(lambda curve: {"budget": True}), OF_4 + f"curve.budget True; {WHOLE} is needed"),
    "what has no repr": (
        lambda result: Unspeakable(),
        f"the runner returned {UNSPEAKABLE}; a BatchResult is needed",
    ),
    "a state that has no repr": (
        outcome(state=Unspeakable()),
        OF_4 + f"the state {UNSPEAKABLE}; COMPLETE, PRUNED or FAIL is needed",
    ),
    "what raises when it is read": (
        second(lambda outcome: object.__new__(Outcome)),
        "the runner returned what cannot be read: AttributeError: 'Outcome' object has no attribute 'number'",
    ),
    "a timing that is not UTF-8": (
        timing(device="\udcff"),
        "the runner returned the timing 'device': '\\udcff', which JSON has no form for",
    ),
    "another state": (outcome(state="DONE"), OF_4 + "the state 'DONE'; COMPLETE, PRUNED or FAIL is needed"),
    "a failure without a reason": (outcome(state="FAIL"), OF_4 + "the state FAIL with the reason ''; a text is needed"),
    "a success with a reason": (
        outcome(reason="why not"),
        OF_4 + "the state COMPLETE with the reason 'why not'; none is needed",
    ),
    "no seconds": (
        outcome(train_seconds=None),
        OF_4 + "the train_seconds None; a number of at most 64 bits is needed",
    ),
    "parameters in words": (outcome(num_parameters="ten"), OF_4 + f"the num_parameters 'ten'; {WHOLE} is needed"),
    "a policy in words": (outcome(policy="greedy"), OF_4 + "the policy 'greedy'; a Policy or None is needed"),
    "no curve": (outcome(curve=None), OF_4 + "the curve None; a Curve is needed"),
    "steps in words": (
        curve(lambda curve: {"steps": "0, 100"}),
        OF_4 + "curve.steps '0, 100'; int64[points] is needed",
    ),
    "a list of returns": (
        curve(lambda curve: {"mean": [1.0, 2.0]}),
        OF_4 + "curve.mean [1.0, 2.0]; float64[6, 2] is needed, points and seeds",
    ),
    "returns of one seed": (
        curve(lambda curve: {"mean": curve.mean[:, :1]}),
        OF_4 + "curve.mean float64[6, 1]; float64[6, 2] is needed, points and seeds",
    ),
    "fewer points": (
        curve(lambda curve: {"length": curve.length[1:]}),
        OF_4 + "curve.length float64[5, 2]; float64[6, 2] is needed, points and seeds",
    ),
    "returns without seeds": (
        curve(lambda curve: {"max": curve.max[:, 0]}),
        OF_4 + "curve.max float64[6]; float64[6, 2] is needed, points and seeds",
    ),
    "returns in words": (
        curve(lambda curve: {"min": np.full(curve.min.shape, "low")}),
        OF_4 + "curve.min <U3[6, 2]; float64[6, 2] is needed, points and seeds",
    ),
    "no episodes": (curve(lambda curve: {"episodes": None}), OF_4 + f"curve.episodes None; {WHOLE} is needed"),
    "no timing": (
        lambda result: replace(result, timing=None),
        "the runner returned the timing None; a dictionary is needed",
    ),
    "a timing that is no number": (
        timing(train_seconds=float("nan")),
        "the runner returned the timing 'train_seconds': nan, which JSON has no form for",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    case = Case(tmp_path_factory.mktemp("sound"))
    assert case.start() == 0
    return case.told()


def given(gives: Callable[[BatchResult], Any]) -> str | None:
    """What is wrong with the result of trials 3, 4 and 5."""
    batch = HparamBatch(tuple(Trial(number, SAC()) for number in (3, 4, 5)))
    result = FakeBackend().run(batch, should_stop=lambda: False, report=lambda steps: None)
    return problem_of(batch, gives(result), seeds=2)


@pytest.mark.parametrize(("gives", "cause"), BAD.values(), ids=BAD)
def test_what_is_no_result_is_refused_with_what_is_needed(gives, cause):
    assert given(gives) == cause
    assert given(lambda result: result) is None


@pytest.mark.parametrize("what", ["nothing", "text", "too few outcomes", "returns of one seed", "what has no repr"])
def test_a_batch_without_a_result_fails_and_the_study_goes_on(tmp_path, caplog, sound, what):
    gives, cause = BAD[what]
    case = Case(tmp_path)
    assert case.start(FakeBackend(gives={4: gives})) == 0
    told = case.told()
    assert [number for number, state in enumerate(case.states()) if state == "FAIL"] == [3, 4, 5]
    assert [trial for trial in told[:8] if trial[0] not in (3, 4, 5)] == [*sound[:3], *sound[6:8]]
    path = case.directory / case.study().trials[4].user_attrs["batch"]
    assert {file.name for file in path.iterdir()} == {
        "hyperparams.csv", "curves.csv", "summary.csv", "timing.json", "timeline.csv", "success.txt",
    }  # fmt: skip
    for lane, row in enumerate(read_csv(path / "summary.csv")):
        assert row["reason"] == case.study().trials[3 + lane].user_attrs["reason"]
        assert cause_of(row["reason"]) == cause and f" (lane {lane}; algorithm." in row["reason"]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(":")[0] for line in lines] == ["trial 3", "trial 4", "trial 5"]
    assert not any(record.exc_info for record in caplog.records)


def test_a_pruned_trial_with_part_of_its_curve_is_a_result(tmp_path):
    def pruned(given: Outcome) -> Outcome:
        points = {name: getattr(given.curve, name)[:2] for name in ("steps", "mean", "std", "min", "max", "length")}
        return replace(given, state="PRUNED", reason="too low", curve=replace(given.curve, **points))

    case = Case(tmp_path)
    assert case.start(FakeBackend(gives={4: second(pruned)})) == 0
    assert [number for number, state in enumerate(case.states()) if state != "COMPLETE"] == [4]
    assert case.states()[4] == "PRUNED"
