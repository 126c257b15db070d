"""A trial's curve is the same bits whether its lane was fresh or refilled, and whatever its pool was interrupted by."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.open import OpenLanes
from hyperlax.engine import device
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.programs import Programs
from hyperlax.engine.session import LaneSession
from hyperlax.recipe import RunLength
from hyperlax.trial import SegmentResult, Trial
from tests import small, toy

UNEVEN = RunLength(total_timesteps=35, num_evaluations=4, num_eval_episodes=4)
LASTS = {0: 4, 1: 1, 2: 3, 3: 4, 4: 2, 5: 4, 6: 1, 7: 4}


def pooled(
    task: Any,
    lanes: int,
    slots: int = 1,
    seeds: int = 2,
    saves: CheckpointManager | None = None,
) -> OpenLanes:
    registry, devices = Programs(lanes, seeds, refills=True), jax.local_devices()[:1] * slots
    return OpenLanes(task, registry, seed=toy.SEED, slot_devices=devices, checkpoints=saves)


def finish(pools: OpenLanes, trials: Sequence[Trial]) -> dict[int, SegmentResult]:
    """Refill free lanes in order of number until every trial has done as many segments as LASTS says; how it stood then."""
    waiting, ended = list(trials), {}
    for _ in range(40):
        while waiting and pools.enter(waiting[:1]):
            waiting.pop(0)
        if not pools.occupied:
            break
        for shown in pools.advance()[0]:
            if shown.segments == LASTS[shown.number]:
                ended[shown.number] = shown
                pools.leave(shown.number)
    assert not waiting and pools.occupied == 0
    return ended


def trials(count: int = 8) -> list[Trial]:
    return [toy.trial(number, rate=0.1 + 0.05 * number) for number in range(count)]


def prefix(curve: Any, points: int) -> Any:
    return type(curve)(*(x[:points] for x in list(vars(curve).values())[:6]), curve.episodes, curve.budget)


def test_the_peak_of_memory_is_that_of_the_device_with_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Mock(platform="gpu", device_kind="a GPU") for _ in range(2))
    monkeypatch.setattr(device, "peak_memory_bytes", {first: 3, second: 5}.get)
    pools = OpenLanes(toy.Descents(), Programs(1, 1), seed=0, slot_devices=[first, second])
    assert pools.timing([])["peak_memory_bytes"] == 5


@pytest.mark.parametrize("lanes", [3, 1])
def test_a_curve_is_the_same_bits_in_a_refilled_lane(lanes: int) -> None:
    workload = toy.Descents(UNEVEN)
    closed = toy.batches(workload, Programs(lanes, 2))
    ended = finish(pooled(workload, lanes), trials())
    for trial in trials():
        (outcome,) = toy.run(closed, toy.batch(trial)).outcomes
        assert toy.same_curves(ended[trial.number].curve, prefix(outcome.curve, LASTS[trial.number] + 1))
        assert ended[trial.number].num_parameters == outcome.num_parameters
        ours, theirs = ended[trial.number].policy, outcome.policy
        if LASTS[trial.number] == UNEVEN.num_evaluations:
            assert ours and theirs and np.array_equal(ours.arrays["x"], theirs.arrays["x"])
        else:
            assert ours is None


def test_pools_of_several_programs_and_slots_train_as_one_does() -> None:
    mixed = [toy.trial(n, rate=0.1 * (n + 1), dimensions=2 + n % 2) for n in range(8)]
    one, several = (finish(pooled(toy.Descents(UNEVEN), 2, slots), mixed) for slots in (1, 2))
    assert all(toy.same_curves(one[n].curve, several[n].curve) for n in range(8))


def test_lanes_that_were_saved_go_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = finish(pooled(toy.Descents(UNEVEN), 3, 2), trials())
    checkpoints = CheckpointManager(tmp_path, 0)
    pools = pooled(toy.Descents(UNEVEN), 3, 2, saves=checkpoints)
    by_number = {trial.number: trial for trial in trials()}
    waiting, done = list(trials()), set()

    def take(advances: Sequence[SegmentResult]) -> None:
        """Compare, and let those go that are done, also where a segment has ended that nobody was told of."""
        for advance in advances:
            points = min(advance.segments, LASTS[advance.number]) + 1
            assert toy.same_curves(prefix(advance.curve, points), prefix(whole[advance.number].curve, points))
            if advance.segments >= LASTS[advance.number]:
                done.add(advance.number)
                pools.leave(advance.number)

    for _ in range(80):
        while waiting and pools.enter(waiting[:1]):
            waiting.pop(0)
        if not pools.occupied:
            break
        take(pools.advance()[0])
        pools.save()
        pools = pooled(toy.Descents(UNEVEN), 3, 2, saves=checkpoints)
        unfinished = by_number.keys() - done - {trial.number for trial in waiting}
        restored = pools.restore(by_number, unfinished)
        assert {advance.number for advance in restored} == unfinished
        take(restored)
    assert done == by_number.keys()


def test_pools_do_not_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves a pool that trains shows nothing more, and the lane is free after its segment."""
    pools, may_go_on, advance = pooled(toy.Descents(UNEVEN), 1, 2), threading.Event(), LaneSession.advance

    def slow(session: LaneSession) -> list[SegmentResult]:
        if [trial.number for trial in session.trials] == [0]:
            assert may_go_on.wait(240)
        return advance(session)

    monkeypatch.setattr(LaneSession, "advance", slow)
    first, second, third = trials(3)
    assert pools.enter([first, second, third]) == [0, 1]
    for segment in (1, 2):
        assert [(told.number, told.segments) for told in pools.advance()[0]] == [(1, segment)]
    pools.leave(0)
    pools.leave(1)
    assert pools.occupied == 1
    assert pools.enter([third])
    may_go_on.set()
    told = [found.number for _ in range(3) for found in pools.advance()[0]]
    assert 0 not in told and 2 in told
    assert pools.occupied == 1


def test_a_pool_that_breaks_loses_only_those_that_did_not_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, may_go_on, advance = pooled(toy.Descents(UNEVEN), 2, 2), threading.Event(), LaneSession.advance

    def breaking(session: LaneSession) -> list[SegmentResult]:
        if 0 in [trial.number for trial in session.trials]:
            assert may_go_on.wait(240)
            raise RuntimeError("broken")
        return advance(session)

    monkeypatch.setattr(LaneSession, "advance", breaking)
    assert pools.enter(trials(4)) == [0, 1, 2, 3]
    broken = next(pool for pool in pools._used if pool.slot == 0)
    mates = set(broken.numbers) - {0}
    pools.advance()
    pools.leave(0)
    assert broken.training is not None
    may_go_on.set()
    wait([broken.training])
    dropped = [drop for _ in range(3) for drop in pools.advance()[1]]
    assert [set(drop.numbers) for drop in dropped] == [mates]


def test_a_trial_that_was_saved_with_other_hyperparameters_restarts(tmp_path: Path, caplog: Any) -> None:
    saves = CheckpointManager(tmp_path, 0)
    pools = pooled(toy.Descents(UNEVEN), 3, saves=saves)
    pools.enter([toy.trial(0, rate=0.1)])
    pools.advance()
    pools.save()
    assert not pooled(toy.Descents(UNEVEN), 3, saves=saves).restore({0: toy.trial(0, rate=0.2)}, {0})
    assert "Trial 0 restarts from the beginning: saved with hyperparameters" in caplog.text


def test_repetitions_one_after_another_train_the_seeds_of_a_trial() -> None:
    together = pooled(toy.Descents(UNEVEN), 1, seeds=3)
    together.enter([toy.trial(5)])
    ((whole, *_),) = (together.advance()[0] for _ in range(1))
    for seed in range(3):
        alone = pooled(toy.Descents(UNEVEN), 1, seeds=1)
        alone.enter([toy.trial(5)], repetition=seed)
        ((advance, *_),) = (alone.advance()[0] for _ in range(1))
        assert advance.repetition == seed
        assert advance.curve.mean[1, 0] == pytest.approx(whole.curve.mean[1, seed], rel=1e-5)


def test_what_it_has_cost_counts_the_lanes_that_nobody_used() -> None:
    pools = pooled(toy.Descents(UNEVEN), 3)
    finish(pools, trials(3))
    timing = pools.timing(range(3))
    assert timing["lane_segments"] == 3 * 4
    assert timing["lanes"] == 3
    assert timing["steps"] == 2 * sum({1: 8, 3: 26, 4: 36}[LASTS[number]] for number in range(3))


@pytest.mark.parametrize(
    "case", ["dqn", *(pytest.param(case, marks=pytest.mark.slow) for case in ("sac", "ppo_discrete"))]
)
def test_real_trials_are_the_same_bits_in_refilled_lanes(case: str) -> None:
    load: AlgorithmTask = small.workload(case, small.WIDEST)
    uneven = AlgorithmTask.__new__(AlgorithmTask)
    uneven.__dict__.update(load.__dict__, run_length=RunLength(56, 3, 2))
    asked = [Trial(n, small.changed(case, gamma=0.9 + 0.01 * n, epochs=1 + n % 3)) for n in range(5)]
    lasts = {0: 3, 1: 1, 2: 2, 3: 3, 4: 3}
    pools = pooled(uneven, small.LANES, seeds=small.SEEDS)
    closed = toy.batches(uneven, Programs(small.LANES, small.SEEDS))
    waiting, seen = list(asked), 0
    while waiting or pools.occupied:
        while waiting and pools.enter(waiting[:1]):
            waiting.pop(0)
        for advance in pools.advance()[0]:
            if advance.segments == lasts[advance.number]:
                pools.leave(advance.number)
                (outcome,) = toy.run(closed, toy.batch(asked[advance.number])).outcomes
                assert toy.same_curves(advance.curve, prefix(outcome.curve, advance.segments + 1))
                seen += 1
    assert seen == 5
