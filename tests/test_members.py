"""Trials that continue as copies of others, on an algorithm that is not reinforcement learning; and one real replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax.backends.closed import ClosedBatches
from hyperlax.backends.open import OpenLanes
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.keys import continuation_keys
from hyperlax.engine.lanes import Program
from hyperlax.engine.programs import Programs
from hyperlax.trial import SegmentResult, Trial
from tests import small, toy
from tests.small import same_bits, to_numpy

RATES = [0.1, 0.3, 0.5]
SIZE = len(RATES)


def members(saves: CheckpointManager | None = None) -> OpenLanes:
    registry = Programs(SIZE, 2)
    devices = jax.local_devices()[:1]
    return OpenLanes(toy.Descents(), registry, seed=toy.SEED, slot_devices=devices, checkpoints=saves, may_shrink=False)


def of_interval(interval: int, rates: list[float] = RATES) -> list[Trial]:
    return [toy.trial(interval * SIZE + member, rate) for member, rate in enumerate(rates)]


def advance(
    own: OpenLanes, interval: int, source: list[int], rates: list[float] = RATES
) -> tuple[list[SegmentResult], Any]:
    """One interval, each member from where member `source` stands; what they show, and their state to the bit."""
    trials = of_interval(interval, rates)
    if interval == 0:
        assert own.enter(trials) == [trial.number for trial in trials]
    for origin, trial in zip(source, trials, strict=True) if interval else ():
        own.copy((interval - 1) * SIZE + origin, trial)
    results, evicted = own.advance()
    assert not evicted and [result.number for result in results] == [trial.number for trial in trials]
    (pool,) = own._used
    return results, to_numpy(pool.session._state)


def last(results: list[SegmentResult]) -> np.ndarray:
    return np.stack([result.curve.mean[-1] for result in results])


def test_members_that_are_never_replaced_train_as_a_batch_does() -> None:
    own = members()
    shown = [advance(own, interval, [0, 1, 2])[0] for interval in range(3)]
    batch = toy.run(toy.backend(lanes=SIZE), toy.batch(*of_interval(0)))
    for member, outcome in enumerate(batch.outcomes):
        for interval, results in enumerate(shown):
            curve, whole = results[member].curve, slice(interval, interval + 2)
            assert curve.steps.tolist() == outcome.curve.steps[whole].tolist()
            assert np.array_equal(curve.mean, outcome.curve.mean[whole])
        assert [results[member].is_done for results in shown] == [False, False, True]
        assert shown[2][member].lane == member
        ours, theirs = shown[2][member].policy, outcome.policy
        assert ours and theirs and same_bits(dict(ours.arrays), dict(theirs.arrays))


def test_a_copy_takes_the_whole_state_and_draws_differently_from_there_on() -> None:
    own, alone, same_rate = members(), members(), members()
    first, before = advance(own, 0, [0, 1, 2])
    results, after = advance(own, 1, [0, 0, 2])
    advance(alone, 0, [0, 1, 2])
    kept, _ = advance(alone, 1, [0, 1, 2])
    assert np.array_equal(last(results)[[0, 2]], last(kept)[[0, 2]])  # the source and a bystander notice nothing
    assert not np.array_equal(last(results)[1], last(kept)[1])
    assert np.array_equal(results[1].curve.mean[0], first[0].curve.mean[-1])
    advance(same_rate, 0, [0, 1, 2])
    twins, _ = advance(same_rate, 1, [0, 0, 2], [0.1, 0.1, 0.5])
    assert not np.array_equal(last(twins)[0], last(twins)[1])
    assert (before.key != after.key).any()


def test_branching_copies_all_but_the_keys_and_leaves_no_key_twice() -> None:
    program = Program(toy.Descent(), SIZE, 2, jax.local_devices()[0])
    lanes = program.start(toy_keys(range(3)), toy.hypers(RATES))
    before: Any = to_numpy(lanes)
    after: Any = to_numpy(program.branch(lanes, jnp.array([2, 1, 2]), toy_keys(range(3, 6))))
    assert same_bits((after.x, after.scrap), (before.x[[2, 1, 2]], before.scrap[[2, 1, 2]]))
    assert same_bits(after.key[1:], before.key[1:])
    assert len({key.tobytes() for lane in after.key for key in lane}) == 6


def toy_keys(numbers: range) -> Any:
    return continuation_keys(toy.SEED, list(numbers), 2)


@pytest.mark.parametrize("case", small.CASES)
def test_every_algorithm_continues_with_other_random_numbers_and_nothing_else_changed(case: str) -> None:
    load, trial = small.workload(case, small.WIDEST), Trial(0, small.BASES[case])
    shape: Any = load.program(trial)
    state = jax.eval_shape(shape.init, jax.random.key(0), load.lane(trial))
    other = shape.with_key(state, "another")
    assert other.key == "another"
    assert all(new is old for name, new, old in zip(state._fields, other, state, strict=True) if name != "key")


def test_members_that_were_saved_continue_to_the_bit(tmp_path: Path) -> None:
    sources = [[0, 1, 2], [0, 0, 2], [1, 1, 2]]
    whole, saved = members(), CheckpointManager(tmp_path, 0)
    wanted = [advance(whole, interval, source)[0] for interval, source in enumerate(sources)]
    own = members(saved)
    for interval in range(2):
        advance(own, interval, sources[interval])
    own.save()
    own = members(saved)
    trials = {trial.number: trial for interval in range(2) for trial in of_interval(interval)}
    standing = own.restore(trials, range(3, 6))
    assert same_bits(last(list(standing)), last(wanted[1]))
    assert same_bits(last(advance(own, 2, sources[2])[0]), last(wanted[2]))


def test_members_for_which_memory_is_short_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(Program, "train", full)
    own = members()
    own.enter(of_interval(0))
    (eviction,) = own.advance()[1]
    assert eviction.numbers == (0, 1, 2) and isinstance(eviction.error, MemoryError)
    assert str(eviction.error) == "not enough memory for 3 trials at once"


def test_a_schedule_that_never_changes_is_a_single_training_to_the_bit_and_one_that_does_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = "ppo_continuous"
    load, program = small.workload(case, small.WIDEST), small.program(case, small.WIDEST)
    base, slots = small.BASES[case], jax.local_devices()[:1]
    registry = Programs(small.LANES, small.SEEDS)
    monkeypatch.setattr(registry, "program", lambda *_: program)

    def along(*configs: Any) -> Any:
        closed = ClosedBatches(load, registry, seed=small.SEED, slot_devices=slots, configs=configs)
        return toy.run(closed, toy.batch(Trial(0, base))).outcomes[0]

    alone, same = along(), along(base, base)
    assert toy.same_curves(same.curve, alone.curve)
    assert same_bits(dict(same.policy.arrays), dict(alone.policy.arrays))
    changed = along(base, small.changed(case, actor_lr=1e-4, epochs=1))
    assert np.array_equal(changed.curve.mean[:2], alone.curve.mean[:2])
    assert not np.array_equal(changed.curve.mean[2], alone.curve.mean[2])
    assert (changed.state, changed.num_parameters) == ("COMPLETE", alone.num_parameters)
