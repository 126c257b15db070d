"""Hparam batches from trials to outcomes: slots, idle lanes, faults, interrupts, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.training import train_batches
from hyperlax.algorithms.evaluation import evaluate
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.lanes import Compilation, NoRoom, Preparation, Program, of_lane
from hyperlax.engine.session import LaneSession
from hyperlax.envs import Discrete, Environment, Step
from hyperlax.metrics import ReferenceReturns
from hyperlax.trial import Outcome
from tests.toy import RUN_LENGTH, Descent, backend, batch, batch_result, hypers, run, same_curves, trial

RATES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
STEPS = [0, 6, 12, 20]


def outcomes_of(lanes: int, slots: int, order: int = 1) -> dict[int, Outcome]:
    """Seven trials of one program and two of another, on as many slots; in the first lane the first or, of order -1, the last."""
    trials = [*[trial(n, rate) for n, rate in enumerate(RATES)], trial(7, dimensions=2), trial(8, dimensions=2)]
    closed = backend(lanes, slots)
    batches = [planned[::order] for planned in closed.plan(trials).batches]
    ended = train_batches(closed, batches)
    results = [batch_result(closed, own, ended) for own in batches]
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
    result = run(backend(), batch(trial(4, 0.3), trial(6, 0.9)))
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
    closed = backend()
    full = run(closed, batch(trial(0, 0.1), trial(1, 0.2), trial(2, 0.3)))
    short = run(closed, batch(trial(1, 0.2)))
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
    closed = backend()
    sound = run(closed, batch(trial(0, 0.1), trial(1, 0.2), trial(2, 0.3)))
    mixed = run(closed, batch(trial(0, 0.1), trial(1, rate, spread=spread), trial(2, 0.3)))
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
    failed = run(backend(), batch(trial(0, 0.1, spread=1e25))).outcomes[0]
    assert failed.state == "FAIL"
    assert failed.fault_step == 0


def test_a_batch_without_a_sound_lane_ends_early() -> None:
    told: list[Any] = []
    faulty = batch(trial(0, 1e5, spread=1e10), trial(1, 1e5, spread=1e10))
    result = run(backend(), faulty, on_segment=told.append)
    assert [outcome.state for outcome in result.outcomes] == ["FAIL", "FAIL"]
    assert [[shown.segments for shown in shown_together] for shown_together in told] == [[1, 1]]
    assert result.timing["steps"] == 6 * 2 * 2


def test_after_every_segment_each_trial_is_told_and_it_is_done_with_its_batch() -> None:
    told: list[Any] = []
    run(backend(), batch(trial(0), trial(1, 1e5)), on_segment=told.extend)
    told.sort(key=lambda shown: (shown.segments, shown.number))  # one call may report several segments
    assert [(shown.number, shown.segments, shown.is_done) for shown in told] == [
        (number, segment, segment == 3) for segment in (1, 2, 3) for number in (0, 1)
    ]
    assert [shown.curve.steps.tolist() for shown in told[::2]] == [STEPS[:2], STEPS[:3], STEPS]
    assert [shown.fault_step for shown in told[1::2]] == [None, STEPS[2], STEPS[2]]


def test_batches_that_are_saved_stop_after_their_segment_and_no_more_start(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path, 1e9)
    closed = backend(lanes=1, checkpoints=saved)
    for number in (0, 1):
        closed.enter([trial(number)], group=number + 1)
    closed.begin()
    closed.save()
    told, _ = closed.advance()
    assert [shown.number for shown in told] == [0] * len(told) and (told[-1].is_done or len(saved.batches()) == 1)
    assert closed.advance() == ([], []) and closed.occupied == 0


def test_a_batch_that_breaks_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = backend()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(LaneSession, "advance", lambda session: 1 // 0)
        run(closed, batch(trial(0)))
    assert closed.occupied == 0
    assert run(closed, batch(trial(0))).outcomes[0].state == "COMPLETE"


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
    start = LaneSession.start

    def limited(session: LaneSession) -> None:
        if session.watch.segments == 0:
            tried.append(session.program.lanes)
        if session.program.lanes > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")
        start(session)

    monkeypatch.setattr(LaneSession, "start", limited)
    return tried


def test_without_the_memory_a_program_gets_half_the_lanes_and_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {outcome.number: outcome for outcome in run(backend(lanes=1), batch(trial(4, 0.3))).outcomes}
    tried, closed = out_of_memory_above(monkeypatch, 1), backend(lanes=4)
    result = run(closed, batch(trial(4, 0.3)))
    assert tried == [4, 2, 1] and result.timing["lanes"] == 1
    assert same_curves(result.outcomes[0].curve, expected[4].curve)
    run(closed, batch(trial(5, 0.3)))
    assert tried[3:] == [1]
    assert [len(b) for b in closed.plan([trial(n) for n in range(3)]).batches] == [1, 1, 1]


def test_a_batch_that_no_longer_fits_its_program_is_left_to_be_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, closed = out_of_memory_above(monkeypatch, 2), backend(lanes=4)
    for first in (0, 4):
        with pytest.raises(MemoryError, match="not enough memory for more than 2 trials at once"):
            run(closed, batch(*(trial(first + n) for n in range(4))))
    halves = [run(closed, batch(trial(n), trial(n + 1))) for n in (0, 2)]
    assert tried == [4, 2, 2] and [len(half.outcomes) for half in halves] == [2, 2]


def test_a_program_gets_as_many_lanes_as_the_compiled_one_says_fit() -> None:
    large = batch(trial(4, 0.3, dimensions=1000))
    whole = run(backend(lanes=8), large)
    needed = program_bytes(8)
    closed = backend(lanes=8, room=lambda device: needed * 7 // 16, sequential=False)
    result = run(closed, large)
    assert whole.timing["lanes"] == 8 and result.timing["lanes"] == 3
    np.testing.assert_allclose(result.outcomes[0].curve.mean, whole.outcomes[0].curve.mean, rtol=1e-5)


def test_a_batchs_times_count_the_programs_that_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Preparation(3.0, [Compilation("train", 2.0, cached)]) for cached in (False, True)]
    prepare = LaneSession.prepare

    def limited(session: LaneSession) -> Preparation:
        if made:
            raise NoRoom(2, 1, session.program.lanes, made.pop())
        prepare(session)
        session.watch.preparation = Preparation(0.0, [])
        return session.watch.preparation

    monkeypatch.setattr(LaneSession, "prepare", limited)
    timing = run(backend(lanes=4), batch(trial(0))).timing
    assert (timing["programs_compiled"], timing["compile_seconds"], timing["lanes"]) == (1, 6.0, 1)
    assert timing["wall_seconds"] > 6.0


def test_a_study_that_goes_on_gives_its_programs_the_lanes_they_had_whatever_is_free_now() -> None:
    large = batch(trial(4, 0.3, dimensions=1000))
    needed = program_bytes(8)
    for room, lanes in ((lambda device: needed // 3, 2), (lambda device: None, 8)):
        closed = backend(lanes=8, room=room, sequential=False)
        run(closed, large)
        stored = json.loads(json.dumps(closed.packing))["lanes"]
        assert list(stored.values()) == [lanes]
        for other_room in (None, lambda device: 1):
            resumed = backend(lanes=8, room=other_room, lanes_before=stored, sequential=False)
            assert run(resumed, large).timing["lanes"] == lanes
            assert resumed.packing == closed.packing


def program_bytes(lanes: int) -> int:
    """The need of the toy's program of 1,000 dimensions, its lanes side by side."""
    program = Program(Descent(1000), lanes, 2, jax.local_devices()[0], sequential=False)
    program.prepare(of_lane(hypers([0.1]), 0))
    return program.memory_bytes()


def test_without_the_memory_for_one_lane_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(monkeypatch, 0)
    closed = backend(lanes=2)
    with pytest.raises(
        MemoryError, match="not enough memory for one trial: RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes"
    ):
        run(closed, batch(trial(0)))


def test_a_plan_counts_programs_and_predicts_what_the_slots_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperlax.backends.lanes.training_seconds", lambda *_: 1.0)
    monkeypatch.setattr("hyperlax.backends.lanes.making_seconds", lambda *_: 10.0)
    closed = backend(lanes=2, slots=2)
    trials = [*[trial(n) for n in range(5)], trial(5, dimensions=2)]
    plan = closed.plan(trials)
    assert (len(plan.batches), plan.programs, plan.known) == (4, 2, 0)
    assert plan.sentence() == (
        "6 trials -> 2 programs (0 known), 4 batches; predicted 13 s (a guess: no such training was timed on this machine yet)"
    )
    run(closed, plan.batches[0])
    later = closed.plan(trials)
    assert (later.programs, later.known, later.is_rough) == (2, 1, False)
    assert (plan.seconds, later.seconds) == (13.0, 12.0)
