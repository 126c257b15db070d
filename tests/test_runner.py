"""Hparam batches from trials to outcomes: slots, idle lanes, faults, interrupts, and what is reported."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax.algorithms.evaluation import evaluate
from hyperlax.engine import runner as engine_runner
from hyperlax.engine.compilation import Compilation, Preparation
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Program
from hyperlax.envs import Discrete, Environment, Step
from hyperlax.errors import UsageError
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import RunLength
from hyperlax.trial import HparamBatch, Interrupted, Outcome
from tests.toy import RUN_LENGTH, SEED, Descent, batch, hypers, run, runner, same_curves, trial

pytestmark = pytest.mark.timeout(120)

RATES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
STEPS = [0, 6, 12, 20]


def outcomes_of(lanes: int, slots: int, order: int = 1) -> dict[int, Outcome]:
    """Seven trials of one program and two of another, through as many threads as there are slots."""
    lane_runner = runner(lanes, slots)
    trials = [*[trial(n, rate) for n, rate in enumerate(RATES)], trial(7, dimensions=2), trial(8, dimensions=2)]
    with ThreadPoolExecutor(slots) as threads:
        results = list(threads.map(lambda b: run(lane_runner, b), lane_runner.plan(trials[::order]).batches))
    assert sum(result.timing["compile_seconds"] > 0 for result in results) == 2
    return {outcome.number: outcome for result in results for outcome in result.outcomes}


def test_outcomes_do_not_depend_on_the_number_of_slots_nor_on_the_lanes_that_trials_get() -> None:
    expected = outcomes_of(lanes=3, slots=1)
    assert sorted(expected) == list(range(9))
    for other in (outcomes_of(lanes=3, slots=3), outcomes_of(lanes=3, slots=2, order=-1)):
        for number, outcome in other.items():
            assert same_curves(outcome.curve, expected[number].curve)


def test_outcomes_hardly_depend_on_the_number_of_lanes() -> None:
    expected, other = outcomes_of(lanes=3, slots=1), outcomes_of(lanes=2, slots=1)
    for number, outcome in other.items():
        np.testing.assert_allclose(outcome.curve.mean, expected[number].curve.mean, rtol=1e-5)


def test_a_complete_outcome_carries_its_trial_its_whole_curve_and_its_size() -> None:
    result = run(runner(), batch(trial(4, 0.3), trial(6, 0.9)))
    assert [outcome.number for outcome in result.outcomes] == [4, 6]
    for outcome in result.outcomes:
        assert (outcome.state, outcome.reason, outcome.num_parameters) == ("COMPLETE", "", 3)
        assert outcome.curve.steps.tolist() == STEPS
        assert outcome.curve.mean.shape == (len(STEPS), 2)
        assert outcome.curve.mean.dtype == np.float64
        assert outcome.curve.episodes == RUN_LENGTH.num_eval_episodes
        assert (outcome.curve.mean[-1] > outcome.curve.mean[0]).all()
        assert outcome.train_seconds > 0


def test_idle_lanes_cost_nothing_in_results_or_in_the_count_of_steps() -> None:
    lane_runner = runner()
    full = run(lane_runner, batch(trial(0, 0.1), trial(1, 0.2), trial(2, 0.3)))
    short = run(lane_runner, batch(trial(1, 0.2)))
    assert len(short.outcomes) == 1
    assert same_curves(short.outcomes[0].curve, full.outcomes[1].curve)
    assert (short.timing["steps"], full.timing["steps"]) == (20 * 2, 20 * 2 * 3)
    assert (short.timing["useful_lane_segments"], full.timing["useful_lane_segments"]) == (3, 9)
    assert short.timing["compile_seconds"] == 0 < full.timing["compile_seconds"]
    assert 0 < short.timing["predicted_seconds"] < full.timing["predicted_seconds"]


@pytest.mark.parametrize(
    ("rate", "spread", "point"),
    [(1e5, 1.0, 2), (0.1, float("inf"), 0), (1e5, 1e10, 1)],
    ids=["later", "before training", "in the first segment"],
)
def test_a_lane_that_stops_being_finite_fails_at_that_step_and_its_mates_do_not_notice(
    rate: float, spread: float, point: int
) -> None:
    lane_runner = runner()
    sound = run(lane_runner, batch(trial(0, 0.1), trial(1, 0.2), trial(2, 0.3)))
    mixed = run(lane_runner, batch(trial(0, 0.1), trial(1, rate, spread=spread), trial(2, 0.3)))
    failed = mixed.outcomes[1]
    assert failed.state == "FAIL"
    assert failed.reason == "parameters or returns are not finite"
    assert (failed.lane, failed.fault_step) == (1, STEPS[point])
    assert failed.curve.steps.tolist() == STEPS[:point]
    assert failed.curve.mean.shape == failed.curve.length.shape == (point, 2)
    assert np.isfinite(failed.curve.mean).all()
    for mate in (0, 2):
        assert mixed.outcomes[mate].state == "COMPLETE"
        assert same_curves(mixed.outcomes[mate].curve, sound.outcomes[mate].curve)


def test_a_return_that_overflows_is_a_fault_though_every_parameter_is_finite() -> None:
    failed = run(runner(), batch(trial(0, 0.1, spread=1e25))).outcomes[0]
    assert failed.state == "FAIL"
    assert failed.fault_step == 0


def test_a_batch_without_a_sound_lane_ends_early() -> None:
    reports: list[int] = []
    lane_runner = runner()
    result = lane_runner.run(
        batch(trial(0, 1e5, spread=1e10), trial(1, 1e5, spread=1e10)), should_stop=lambda: False, report=reports.append
    )
    assert [outcome.state for outcome in result.outcomes] == ["FAIL", "FAIL"]
    assert reports == [0, 6 * 2 * 2]
    assert result.timing["steps"] == 6 * 2 * 2


def test_that_the_program_is_ready_and_after_every_segment_the_steps_of_all_trials_and_seeds_are_reported() -> None:
    reports: list[int] = []
    runner().run(batch(trial(0), trial(1)), should_stop=lambda: False, report=reports.append)
    assert reports == [0, *(steps * 2 * 2 for steps in np.diff(STEPS))]


def test_a_batch_that_is_told_to_stop_stops_after_its_segment_and_gives_its_slot_back() -> None:
    lane_runner, reports = runner(), []
    with pytest.raises(Interrupted):
        lane_runner.run(batch(trial(0)), should_stop=lambda: len(reports) == 3, report=reports.append)
    assert reports == [0, 12, 12]
    fresh, resumed = run(runner(), batch(trial(0))), run(lane_runner, batch(trial(0)))
    assert same_curves(resumed.outcomes[0].curve, fresh.outcomes[0].curve)


def test_a_batch_that_breaks_gives_its_slot_back() -> None:
    lane_runner = runner()
    with pytest.raises(ZeroDivisionError):
        lane_runner.run(batch(trial(0)), should_stop=lambda: bool(1 // 0), report=lambda steps: None)
    assert run(lane_runner, batch(trial(0))).outcomes[0].state == "COMPLETE"


def test_a_budget_that_is_too_small_is_refused_before_anything_is_compiled() -> None:
    lane_runner = runner(run_length=RunLength(total_timesteps=4, num_evaluations=3, num_eval_episodes=1))
    with pytest.raises(UsageError, match="too few for 3 evaluations"):
        run(lane_runner, HparamBatch((trial(0),)))


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_returns_and_parameters_that_are_not_finite_are_seen_by_the_evaluation_of_a_policy(number: float) -> None:
    def paying(reward: float) -> Environment:
        def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
            ends = jnp.asarray(True)
            return state, Step(jnp.zeros(1), jnp.zeros(1), jnp.float32(reward), ends, ~ends)

        return Environment(
            "test.paying", 1, Discrete(2), 3, lambda key: (jnp.int32(0), jnp.zeros(1)), step, ReferenceReturns(0, 1, "")
        )

    def finite(reward: float, parameter: float) -> bool:
        act = lambda observation, key: jnp.zeros(len(observation), jnp.int32)  # noqa: E731
        trained = {"w": jnp.asarray([0.0, parameter]), "count": jnp.int32(3)}
        return bool(evaluate(paying(reward), act, jax.random.key(0), 2, trained).finite)

    assert finite(1.0, 1.0)
    assert not finite(number, 1.0)
    assert not finite(1.0, number)


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let every program of more than `most` lanes fail as a device without memory does; the lanes that were tried."""
    tried: list[int] = []
    train = engine_runner.train_batch

    def limited(assignment: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(assignment.program.lanes)
        if assignment.program.lanes > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")
        return train(assignment, *args, **kwargs)

    monkeypatch.setattr(engine_runner, "train_batch", limited)
    return tried


def test_without_the_memory_a_program_gets_half_the_lanes_and_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {outcome.number: outcome for outcome in run(runner(lanes=1), batch(trial(4, 0.3))).outcomes}
    tried, lane_runner = out_of_memory_above(monkeypatch, 1), runner(lanes=4)
    result = run(lane_runner, batch(trial(4, 0.3)))
    assert tried == [4, 2, 1] and result.timing["lanes"] == 1
    assert same_curves(result.outcomes[0].curve, expected[4].curve)
    run(lane_runner, batch(trial(5, 0.3)))
    assert tried[3:] == [1]
    assert [len(b.trials) for b in lane_runner.plan([trial(n) for n in range(3)]).batches] == [1, 1, 1]


def test_a_batch_that_no_longer_fits_its_program_is_left_to_be_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, lane_runner = out_of_memory_above(monkeypatch, 2), runner(lanes=4)
    for first in (0, 4):
        with pytest.raises(MemoryError, match="no memory for more than 2 trials at once"):
            run(lane_runner, batch(*(trial(first + n) for n in range(4))))
    halves = [run(lane_runner, batch(trial(n), trial(n + 1))) for n in (0, 2)]
    assert tried == [4, 2, 2] and [len(half.outcomes) for half in halves] == [2, 2]


def test_a_program_gets_as_many_lanes_as_the_compiled_one_says_fit() -> None:
    large = batch(trial(4, 0.3, dimensions=1000))
    whole = run(runner(lanes=8), large)
    needed = program_bytes(8)
    lane_runner = runner(lanes=8, room=lambda device: needed * 7 // 16)
    result = run(lane_runner, large)
    assert whole.timing["lanes"] == 8 and result.timing["lanes"] == 3
    np.testing.assert_allclose(result.outcomes[0].curve.mean, whole.outcomes[0].curve.mean, rtol=1e-5)


def test_a_batchs_times_count_the_programs_that_did_not_fit() -> None:
    result = run(runner(), batch(trial(0)))
    compiled, loaded = (Preparation(3.0, [Compilation("train", 2.0, cached)]) for cached in (False, True))
    timing = engine_runner._with_refused(result, [compiled, loaded]).timing
    assert timing["programs_compiled"] == result.timing["programs_compiled"] + 1
    assert timing["compile_seconds"] == result.timing["compile_seconds"] + 6.0
    assert timing["wall_seconds"] == result.timing["wall_seconds"] + 6.0


def test_a_study_that_goes_on_gives_its_programs_the_lanes_they_had_whatever_is_free_now() -> None:
    large = batch(trial(4, 0.3, dimensions=1000))
    needed = program_bytes(8)
    for room, lanes in ((lambda device: needed // 3, 2), (lambda device: None, 8)):
        lane_runner = runner(lanes=8, room=room)
        run(lane_runner, large)
        stored = json.loads(json.dumps(lane_runner.packing))["lanes"]
        assert list(stored.values()) == [lanes]
        for other_room in (None, lambda device: 1):
            resumed = runner(lanes=8, room=other_room, lanes_before=stored)
            assert run(resumed, large).timing["lanes"] == lanes
            assert resumed.packing == lane_runner.packing


def program_bytes(lanes: int) -> int:
    """What the toy's program of 1,000 dimensions and so many lanes needs."""
    program = Program(Descent(1000), lanes, 2, jax.local_devices()[0])
    numbers = hypers([0.1] * lanes)
    program.prepare(training_keys(SEED, range(lanes), 2), numbers, evaluation_keys(SEED, 2))
    return program.memory_bytes()


def test_without_the_memory_for_one_lane_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(monkeypatch, 0)
    lane_runner = runner(lanes=2)
    with pytest.raises(
        MemoryError, match="no memory for one trial: RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes"
    ):
        run(lane_runner, batch(trial(0)))


def test_a_plan_counts_programs_and_predicts_what_the_slots_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperlax.engine.runner.training_seconds", lambda *_: 1.0)
    monkeypatch.setattr("hyperlax.engine.runner.making_seconds", lambda *_: 10.0)
    lane_runner = runner(lanes=2, slots=2)
    trials = [*[trial(n) for n in range(5)], trial(5, dimensions=2)]
    plan = lane_runner.plan(trials)
    assert (len(plan.batches), plan.programs, plan.known) == (4, 2, 0)
    assert plan.sentence().startswith("6 trials -> 2 programs (0 known), 4 batches; predicted ")
    run(lane_runner, plan.batches[0])
    later = lane_runner.plan(trials)
    assert (later.programs, later.known) == (2, 1)
    assert (plan.seconds, later.seconds) == (13.0, 12.0)
