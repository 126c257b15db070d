"""Members as lanes of one program, on an algorithm that is no reinforcement learning; and one real schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax.engine.members import Members
from hyperlax.engine.registry import Registry
from hyperlax.engine.runner import LaneRunner
from hyperlax.engine.scheduled import ScheduleRunner
from hyperlax.trial import Trial
from tests import small, toy
from tests.small import same_bits, to_numpy

pytestmark = pytest.mark.timeout(300)
RATES = [0.1, 0.3, 0.5]


def members(rates: list[float] = RATES) -> Members:
    trials = [toy.trial(number, rate) for number, rate in enumerate(rates)]
    return Members(toy.Descents(), trials, seed=toy.SEED, num_seeds=2, slot=jax.local_devices()[0])


def of_interval(interval: int, rates: list[float] = RATES) -> list[Trial]:
    return [toy.trial(interval * len(rates) + member, rate) for member, rate in enumerate(rates)]


def test_members_that_are_never_replaced_train_as_a_batch_does():
    own = members()
    points = [own.begin().point] + [own.advance(i, of_interval(i), [0, 1, 2]).point for i in range(3)]
    batch = toy.run(toy.runner(lanes=3), toy.batch(*of_interval(0)))
    for member, outcome in enumerate(batch.outcomes):
        assert outcome.curve.steps.tolist() == own.steps
        assert np.array_equal(outcome.curve.mean, np.stack([point["mean"][member] for point in points]))


def test_a_copy_takes_the_whole_state_and_draws_differently_from_there_on():
    own = members()
    own.begin()
    trained = own.advance(0, of_interval(0), [0, 1, 2]).point
    before: Any = to_numpy(own._lanes)
    point = own.advance(1, of_interval(1), [0, 0, 2]).point
    alone = members()
    alone.begin()
    alone.advance(0, of_interval(0), [0, 1, 2])
    kept = alone.advance(1, of_interval(1), [0, 1, 2]).point
    after: Any = to_numpy(own._lanes)
    assert np.array_equal(point["mean"][[0, 2]], kept["mean"][[0, 2]])  # the source and a bystander notice nothing
    assert not np.array_equal(point["mean"][1], kept["mean"][1])
    same_rate = members()
    same_rate.begin()
    same_rate.advance(0, of_interval(0), [0, 1, 2])
    twins = same_rate.advance(1, of_interval(1, [0.1, 0.1, 0.5]), [0, 0, 2]).point
    assert not np.array_equal(twins["mean"][0], twins["mean"][1])
    assert (before.key != after.key).any()
    assert trained["finite"].all()


def test_branching_copies_all_but_the_keys_and_leaves_no_key_twice():
    program = members()._program
    keys = toy_keys(range(3))
    lanes = program.start(keys, toy.hypers(RATES))
    before: Any = to_numpy(lanes)
    after: Any = to_numpy(program.branch(lanes, jnp.array([2, 1, 2]), toy_keys(range(3, 6))))
    assert same_bits((after.x, after.scrap), (before.x[[2, 1, 2]], before.scrap[[2, 1, 2]]))
    assert same_bits(after.key[1:], before.key[1:])
    assert len({key.tobytes() for lane in after.key for key in lane}) == 6


def toy_keys(numbers: range) -> Any:
    from hyperlax.engine.keys import continuation_keys

    return continuation_keys(toy.SEED, list(numbers), 2)


@pytest.mark.parametrize("case", small.CASES)
def test_every_algorithm_goes_on_with_other_random_numbers_and_nothing_else_changed(case):
    load, trial = small.workload(case, small.WIDEST), Trial(0, small.BASES[case])
    shape: Any = load.program(trial)
    state = jax.eval_shape(shape.init, jax.random.key(0), load.lane(trial))
    other = shape.rekey(state, "another")
    assert other.key == "another"
    assert all(new is old for name, new, old in zip(state._fields, other, state, strict=True) if name != "key")


def test_members_that_were_saved_go_on_to_the_bit():
    whole = members()
    whole.begin()
    sources = [[0, 1, 2], [0, 0, 2], [1, 1, 2]]
    wanted = [whole.advance(i, of_interval(i), source).point for i, source in enumerate(sources)]
    first = members()
    first.begin()
    for i in range(2):
        first.advance(i, of_interval(i), sources[i])
    second = members()
    assert second.identity() == first.identity()
    second.restore(first.save())
    assert same_bits(second.advance(2, of_interval(2), sources[2]).point, wanted[2])


def test_a_schedule_that_never_changes_is_a_single_training_to_the_bit_and_one_that_does_is_not(monkeypatch):
    case = "ppo_continuous"
    load, program = small.workload(case, small.WIDEST), small.program(case, small.WIDEST)
    base, slot = small.BASES[case], jax.local_devices()[0]
    registry = Registry(small.LANES, small.SEEDS)
    single = LaneRunner(load, registry, seed=small.SEED, slot_devices=[slot])
    monkeypatch.setattr(registry, "program", lambda *_: program)
    (alone,) = toy.run(single, toy.batch(Trial(0, base))).outcomes

    def along(*configs: Any) -> Any:
        own = Members(load, [Trial(0, base)], seed=small.SEED, num_seeds=small.SEEDS, slot=slot)
        monkeypatch.setattr(own, "_program", program)
        runner: Any = ScheduleRunner(own, configs)
        return toy.run(runner, toy.batch(Trial(0, base))).outcomes[0]

    same = along(base, base)
    assert toy.same_curves(same.curve, alone.curve)
    assert same_bits(dict(same.policy.arrays), dict(alone.policy.arrays))
    changed = along(base, small.changed(case, actor_lr=1e-4, epochs=1))
    assert np.array_equal(changed.curve.mean[:2], alone.curve.mean[:2])
    assert not np.array_equal(changed.curve.mean[2], alone.curve.mean[2])
    assert (changed.state, changed.num_parameters) == ("COMPLETE", alone.num_parameters)
