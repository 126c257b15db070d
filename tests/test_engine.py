"""The four verbs over lanes, the schedule and the plan, on an algorithm that is not reinforcement learning at all."""

from __future__ import annotations

import itertools
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import NoRoom, Preparation, Program, of_lane
from hyperlax.engine.packing import batches_of, makespan
from hyperlax.engine.segments import Segments
from hyperlax.errors import UsageError
from hyperlax.recipe import RunLength
from hyperlax.trial import Trial
from tests.small import same_bits, to_numpy
from tests.toy import SEED, Descent, hypers, trial

LANES, SEEDS = 3, 2
RATES = [0.1, 0.3, 0.5]


@cache
def program() -> Program:
    return Program(Descent(), LANES, SEEDS, jax.local_devices()[0])


def keys(*numbers: int) -> Any:
    return training_keys(SEED, numbers, SEEDS)


def started(*numbers: int, rates: list[float] = RATES) -> Any:
    return program().start(keys(*numbers), hypers(rates))


def score(lanes: Any, rates: list[float] = RATES) -> Any:
    return to_numpy(program().evaluate(lanes, hypers(rates), evaluation_keys(SEED, SEEDS)))


def lane(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def test_state_and_scores_have_leading_axes_of_lanes_and_seeds() -> None:
    lanes = started(0, 1, 2)
    assert all(leaf.shape[:2] == (LANES, SEEDS) for leaf in jax.tree.leaves(lanes))
    assert lanes.x.shape == (LANES, SEEDS, 3)
    assert all(leaf.shape == (LANES, SEEDS) for leaf in jax.tree.leaves(score(lanes)))


def test_every_lane_and_seed_equals_the_algorithm_alone_in_a_plain_loop() -> None:
    lanes = program().train(started(4, 0, 9), hypers(RATES), 7, 3)
    for index, number in enumerate((4, 0, 9)):
        for seed in range(SEEDS):
            own = {"rate": RATES[index], "spread": 1.0}
            state: Any = Descent().init(keys(number)[0, seed], own)
            for iteration in (7, 8, 9):
                state = Descent().step(state, own, jnp.int32(iteration))
            np.testing.assert_allclose(lanes.x[index, seed], state.x, rtol=1e-5, atol=1e-6)
            assert lanes.scrap[index, seed] == state.scrap == 10


def test_trials_and_seeds_draw_differently_and_one_trial_always_the_same() -> None:
    first, again = to_numpy(started(0, 1, 2)), to_numpy(started(1, 0, 2))
    assert len({first.x[i, s].tobytes() for i in range(LANES) for s in range(SEEDS)}) == LANES * SEEDS
    assert same_bits(lane(first, 0), lane(again, 1))
    assert same_bits(lane(first, 1), lane(again, 0))


def test_all_lanes_meet_the_same_episodes_at_every_evaluation_and_each_seed_its_own() -> None:
    lanes = started(0, 1, 2)
    before = score(lanes).length
    after = score(program().train(lanes, hypers(RATES), 0, 2)).length
    assert np.array_equal(before, after)
    assert (before == before[0]).all()
    assert before[0, 0] != before[0, 1]
    assert not np.array_equal(before, score(started(0, 1, 2)).mean)


def test_segments_of_unequal_length_add_up_and_share_one_compiled_call() -> None:
    split = program().train(program().train(started(0, 1, 2), hypers(RATES), 0, 1), hypers(RATES), 1, 4)
    whole = program().train(started(0, 1, 2), hypers(RATES), 0, 5)
    assert same_bits(to_numpy(split), to_numpy(whole))
    assert [c.verb for c in program().compilations].count("train") == 1


def test_no_iterations_change_nothing() -> None:
    before = to_numpy(started(0, 1, 2))
    assert same_bits(to_numpy(program().train(started(0, 1, 2), hypers(RATES), 3, 0)), before)


def test_lanes_whose_results_do_not_matter_are_not_trained_one_after_another() -> None:
    before = to_numpy(started(0, 1, 2))
    after = to_numpy(program().train(started(0, 1, 2), hypers(RATES), 0, 3, jnp.asarray([True, False, True])))
    whole = to_numpy(program().train(started(0, 1, 2), hypers(RATES), 0, 3))
    assert same_bits(lane(after, 1), lane(before, 1))
    assert all(same_bits(lane(after, index), lane(whole, index)) for index in (0, 2))


def test_refill_touches_only_the_named_lanes() -> None:
    trained = program().train(started(0, 1, 2), hypers(RATES), 0, 3)
    before = to_numpy(trained)
    after = to_numpy(program().refill(trained, jnp.asarray([False, True, False]), started(7, 8, 9, rates=[0.7] * 3)))
    assert same_bits(lane(after, 0), lane(before, 0))
    assert same_bits(lane(after, 2), lane(before, 2))
    assert not same_bits(lane(after, 1), lane(before, 1))


def test_a_refilled_lane_scores_as_a_fresh_start_does_and_keeps_only_what_renew_keeps() -> None:
    trained = program().train(started(0, 1, 2), hypers(RATES), 0, 3)
    rates = [0.7, 0.2, 0.4]
    fresh = started(7, 8, 9, rates=rates)
    refilled = program().refill(trained, jnp.asarray([True, True, False]), fresh)
    assert refilled.scrap[:, 0].tolist() == [3, 3, 3]
    assert fresh.scrap[:, 0].tolist() == [0, 0, 0]
    refilled = program().train(refilled, hypers(rates), 3, 2)
    fresh = program().train(fresh, hypers(rates), 0, 2)
    for index in (0, 1):
        assert same_bits(lane(score(refilled, rates), index), lane(score(fresh, rates), index))


def test_the_state_that_goes_into_a_verb_is_donated_and_what_is_shared_is_not() -> None:
    shared, fresh = hypers(RATES), keys(0, 1, 2)
    lanes, other = program().start(fresh, shared), program().start(fresh, shared)
    for verb in (
        lambda state: program().train(state, shared, 0, 1),
        lambda state: program().branch(state, jnp.asarray([0, 1, 2]), fresh),
        lambda state: program().refill(state, jnp.asarray([True, False, False]), other),
    ):
        spent, lanes = lanes, verb(lanes)
        assert spent.x.is_deleted()
        assert not lanes.x.is_deleted()
    episodes = evaluation_keys(SEED, SEEDS)
    program().evaluate(lanes, shared, episodes)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((lanes, other, shared, fresh, episodes)))


def test_each_verb_is_compiled_once_and_its_memory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = itertools.count()  # a clock that advances whenever it is read
    monkeypatch.setattr("hyperlax.engine.lanes.time", SimpleNamespace(perf_counter=reads.__next__))
    own = Program(Descent(), LANES, SEEDS, jax.local_devices()[0])
    lane = of_lane(hypers(RATES), 0)
    made = own.prepare(lane)
    assert sorted(c.verb for c in made.compilations) == ["evaluate", "start", "train"]
    assert made.seconds > max(c.seconds for c in made.compilations)
    assert own.prepare(lane) == (0.0, [])
    assert own.memory_bytes() >= LANES * SEEDS * 3 * 4
    assert all(c.seconds > 0 for c in own.compilations)


def test_a_program_that_needs_more_memory_than_is_free_refuses_to_start_unless_it_has_one_lane() -> None:
    lane = of_lane(hypers(RATES), 0)
    free = Program(Descent(), LANES, SEEDS, jax.local_devices()[0])
    free.prepare(lane)
    asked = []

    def room(device: Any) -> int:
        asked.append(device)
        return free.memory_bytes() // 2

    tight = Program(Descent(), LANES, SEEDS, jax.local_devices()[0], room)
    for _ in range(2):
        with pytest.raises(NoRoom) as refused:
            tight.prepare(lane)
        assert refused.value.lanes == 1
    assert asked == [jax.local_devices()[0]]
    one = Program(Descent(), 1, SEEDS, jax.local_devices()[0], lambda device: 0)
    one.prepare(lane)
    assert one.is_ready


def test_a_refusal_says_what_is_needed_and_how_many_lanes_fit() -> None:
    refusal = NoRoom(needed=3 * 2**30, room=2**30, lanes=7, preparation=Preparation(1.0, []))
    assert (str(refusal), refusal.lanes) == ("7 lanes need 3,072 MiB, 1,024 MiB are free", 2)


@given(
    total=st.integers(1, 10_000), segments=st.integers(1, 30), per_iteration=st.integers(1, 500)
)  # fmt: skip
def test_a_schedule_is_the_fewest_iterations_that_reach_the_budget_in_nearly_equal_parts(
    total: int, segments: int, per_iteration: int
) -> None:
    schedule = Segments(total, segments, per_iteration)
    iterations, steps = schedule.iterations(), schedule.steps()
    assert len(iterations) == segments
    assert (sum(iterations) - 1) * per_iteration < total <= sum(iterations) * per_iteration
    assert max(iterations) - min(iterations) <= 1
    assert steps[0] == 0
    assert np.diff(steps).tolist() == [n * per_iteration for n in iterations]


def test_a_schedule_by_hand() -> None:
    assert Segments(20, 3, 2).iterations() == [3, 3, 4]
    assert Segments(20, 3, 2).steps() == [0, 6, 12, 20]
    assert Segments(21, 1, 2).steps() == [0, 22]


def test_a_budget_with_fewer_rollouts_than_evaluations_is_refused_with_the_budget_that_would_do() -> None:
    with pytest.raises(UsageError, match=r"100 steps holds 4 rollouts of 32 steps.*at least 160"):
        Segments.of(RunLength(total_timesteps=100, num_evaluations=5, num_eval_episodes=1), 32)
    enough = RunLength(total_timesteps=160, num_evaluations=5, num_eval_episodes=1)
    assert Segments.of(enough, 32).iterations() == [1] * 5


def config_of(trial: Trial) -> dict[str, Any]:
    config: Any = trial.config
    return config


def test_a_plan_puts_trials_of_one_program_together_in_their_order_and_never_more_than_the_lanes() -> None:
    trials = [trial(number, dimensions=size) for number, size in enumerate([3, 2, 3, 3, 2, 3, 3])]
    batches = batches_of(
        trials, lambda t: config_of(t)["dimensions"], lambda size: 2 if size == 3 else 1, lambda t: 1.0
    )
    assert [[t.number for t in b] for b in batches] == [[0, 2], [3, 5], [6], [1], [4]]
    assert batches_of([], lambda t: 0, lambda program: 2, lambda t: 1.0) == []


def test_trials_of_like_effort_share_a_batch_the_most_laborious_first() -> None:
    trials = [trial(number, effort=effort) for number, effort in enumerate([1, 4, 2, 4, 1, 8])]
    batches = batches_of(trials, lambda t: 0, lambda program: 2, lambda t: config_of(t)["effort"])
    assert [[t.number for t in b] for b in batches] == [[1, 5], [2, 3], [0, 4]]


def test_the_makespan_starts_each_job_on_the_slot_that_is_free_first() -> None:
    assert makespan([5, 3, 3, 1], 2) == 6
    assert makespan([5, 3], 1) == 8
    assert makespan([], 2) == 0
