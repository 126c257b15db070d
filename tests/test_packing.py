"""Which programs a study gets: groups merged by predicted time, sizes that hold every trial, costs that are learnt."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from hyperlax.algorithms.padding import Padding, padding_of, sample_of_space, structure_of, structure_of_space
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.backends.base import EngineConfig
from hyperlax.backends.local import Budget, choose_paddings, expected_batches, make_backend
from hyperlax.engine import device
from hyperlax.engine.costs import Costs, Load, Run
from hyperlax.engine.packing import Group, pack
from hyperlax.engine.programs import Programs
from hyperlax.hyperparams import PPO, SAC
from hyperlax.recipe import RunLength
from hyperlax.space import Categorical, LogUniformDiscrete, UniformDiscrete
from hyperlax.trial import Trial

PREFIX = "algorithm.network.actor_network.pre_torso."
SIZES = [[16], [32, 32], [64, 64], [256, 256], [512, 512, 512]]
SPACE: dict[str, Any] = {
    PREFIX + "layer_sizes": Categorical(values=SIZES),
    PREFIX + "activation": Categorical(values=["tanh", "relu"]),
    "algorithm.hyperparam.num_minibatches": Categorical(values=[4, 8, 16]),
    "algorithm.hyperparam.epochs": UniformDiscrete(domain=(1, 8)),
}


def groups(sizes: list[int]) -> list[Group]:
    return [Group(frozenset([size]), (size,)) for size in sizes]


def sizes_of(packed: list[Group]) -> list[list[int]]:
    return sorted(sorted(group.structure) for group in packed)


@pytest.mark.parametrize(
    ("compiling", "expected"),
    [
        (0.0, [[1], [2], [10], [11]]),
        (1.5, [[1, 2], [10, 11]]),
        (100.0, [[1, 2, 10, 11]]),
    ],
)
def test_groups_merge_while_a_program_saved_is_worth_the_padding(compiling: float, expected: list[list[int]]) -> None:
    """A member of a group takes as long as the group's largest."""

    def cost(group: Group) -> float:
        return compiling + max(group.structure) * len(group.members)

    assert sizes_of(pack(groups([1, 2, 10, 11]), cost)) == expected


def test_a_program_that_is_known_is_used_rather_than_a_smaller_one_compiled() -> None:
    known = frozenset([3, 4])

    def cost(group: Group) -> float:
        return (0.0 if group.structure == known else 5.0) + max(group.structure) * len(group.members)

    assert sizes_of(pack(groups([3, 4, 50]), cost)) == [[3, 4], [50]]


def test_packing_is_never_dearer_than_one_program_for_all_nor_than_one_for_each() -> None:
    def cost(group: Group) -> float:
        """Only all together is cheap: no single merge saves anything on the way there."""
        return 1.0 if len(group.members) in (1, 6) else 50.0

    assert len(pack(groups([1, 2, 3, 4, 5, 6]), cost)) == 1


@given(st.sets(st.integers(1, 60), min_size=1, max_size=7), st.floats(0, 200))
@settings(deadline=None, derandomize=True)
def test_packing_loses_nobody(sizes: set[int], compiling: float) -> None:
    packed = pack(groups(sorted(sizes)), lambda group: compiling + max(group.structure) * len(group.members))
    assert sorted(size for group in packed for size in group.members) == sorted(sizes)


@pytest.mark.parametrize("exact_sizes", [False, True])
def test_a_padding_survives_json_and_holds_what_it_was_made_of(exact_sizes: bool) -> None:
    base = PPO()
    whole = structure_of_space(base, SPACE)
    padding = padding_of(whole, exact_sizes)
    assert Padding.from_json(json.loads(json.dumps(padding.to_json()))) == padding
    for config in sample_of_space(base, SPACE, 40):
        own = structure_of(config)
        assert padding.holds(own) and padding_of(own).holds(own)
        assert padding_of(own) == padding or not padding_of(own).holds(whole)


def test_the_sample_is_the_same_every_time_and_covers_the_space() -> None:
    base = SAC()
    space: dict[str, Any] = {"algorithm.hyperparam.total_batch_size": LogUniformDiscrete(domain=(8, 512))}
    sizes = [config.hyperparam.total_batch_size for config in sample_of_space(base, space, 200)]  # type: ignore[union-attr]
    assert sizes == [config.hyperparam.total_batch_size for config in sample_of_space(base, space, 200)]  # type: ignore[union-attr]
    assert 8 <= min(sizes) < 12 and 400 < max(sizes) <= 512
    assert sum(size < 64 for size in sizes) == pytest.approx(100, abs=25), "uniform in the logarithm"


def test_a_trial_costs_its_own_size_where_the_program_lists_it() -> None:
    space, length = {PREFIX + "layer_sizes": SPACE[PREFIX + "layer_sizes"]}, RunLength(10_000, 5, 4)
    padded, exact = (
        AlgorithmTask(PPO(), space, "gymnax.cartpole", length, exact_sizes=exact_sizes) for exact_sizes in (False, True)
    )
    for number, config in enumerate(sample_of_space(PPO(), space, 20)):
        trial, alone = Trial(number, config), AlgorithmTask(config, {}, "gymnax.cartpole", length)
        assert exact.flops_of(trial) == alone.flops_of(trial)
        assert padded.flops_of(trial) >= exact.flops_of(trial)
    assert padded.flops_of(Trial(0, PPO())) > 10 * exact.flops_of(Trial(0, PPO()))


def chosen(
    packing: str, *, steps: int, compile_seconds: float, exact_sizes: bool = False, space: dict[str, Any] = SPACE
) -> list[Padding]:
    costs = Costs("test", "cpu", None)
    for program in range(3):
        costs.learn_program("PPO gymnax.cartpole", str(program), compile_seconds, cached=False)
    budget = Budget(RunLength(steps, 5, 4), 16, 16, 1, 2, 8, spread=True)
    probe = AlgorithmTask(PPO(), space, "gymnax.cartpole", budget.run_length, exact_sizes=exact_sizes)
    return choose_paddings(probe, budget, packing, costs)


def test_pad_is_one_program_and_split_is_made_on_demand() -> None:
    assert chosen("pad", steps=10_000, compile_seconds=1) == [padding_of(structure_of_space(PPO(), SPACE))]
    assert chosen("split", steps=10_000, compile_seconds=1) == []


def test_short_trials_are_padded_and_long_ones_get_programs_of_their_size() -> None:
    short, long = (chosen("auto", steps=steps, compile_seconds=15) for steps in (5_000, 5_000_000))
    assert len(short) < len(long)
    whole = structure_of_space(PPO(), SPACE)
    for paddings in (short, long):
        assert any(padding.holds(whole) for padding in paddings), "no trial is without a program"


def test_lanes_that_compute_at_their_own_sizes_share_a_program_however_long_they_are() -> None:
    space = {name: distribution for name, distribution in SPACE.items() if not name.endswith("num_minibatches")}
    for steps in (5_000, 5_000_000):
        assert len(chosen("auto", steps=steps, compile_seconds=15, exact_sizes=True, space=space)) == 1
    assert len(chosen("auto", steps=5_000_000, compile_seconds=15, space=space)) > 1


@pytest.mark.parametrize("share", [1.0, 0.5, 1 / 27, 1 / 64])
@pytest.mark.parametrize(("trials", "lanes"), [(1, 1), (2, 4), (16, 1), (16, 4), (17, 8)])
def test_expected_batches_are_the_mean_over_how_many_trials_need_the_program(trials, lanes, share) -> None:
    counts = np.arange(trials + 1)
    mean = (binom.pmf(counts, trials, share) * np.ceil(counts / lanes)).sum()
    assert expected_batches(trials, share, lanes) == pytest.approx(mean)


def test_few_long_trials_of_many_sizes_get_programs_of_their_own() -> None:
    """Each of 27 structures is seldom needed by two trials: their programs are not all counted as if they were."""
    base: Any = PPO()
    budget = Budget(RunLength(2_000_000, 10, 16), 2, 2, 1, slots=2, lanes=2, spread=True)
    probe = AlgorithmTask(base, SPACE, "gymnax.cartpole", budget.run_length, exact_sizes=False)
    paddings = choose_paddings(probe, budget, "auto", Costs("test", "cpu", None))
    assert len(paddings) > 10


def test_a_trial_runs_in_the_cheapest_program_that_holds_it() -> None:
    paddings = chosen("auto", steps=5_000_000, compile_seconds=15)
    workload = AlgorithmTask(PPO(), SPACE, "gymnax.cartpole", RunLength(10_000, 5, 4), paddings, exact_sizes=False)
    for number, config in enumerate(sample_of_space(PPO(), SPACE, 30)):
        shape = workload.program(Trial(number, config))
        fitting = [workload.shape(config, p).flops(1) for p in paddings if p.holds(structure_of(config))]
        assert shape.flops(1) == min(fitting)


@pytest.mark.parametrize(("spread", "expected"), [(True, [8, 4, 1, 1]), (False, [8, 8, 2, 1])])
def test_lanes_follow_a_programs_share_of_the_trials(spread: bool, expected: list[int]) -> None:
    budget = Budget(RunLength(100, 1, 1), 100, 16, 1, 2, 8, spread)
    assert [budget.lanes_for(share) for share in (1.0, 0.5, 0.1, 0.0)] == expected


def run(load: Load, seconds: float) -> Run:
    return Run("kind", load, seconds, 1e-3)


def test_costs_are_fitted_to_what_was_measured_and_to_guesses_where_nothing_was() -> None:
    costs = Costs("test", "cpu", None)
    guessed = costs.iteration_seconds("kind", Load(8, 1024, 1e6))
    for runs, work in ((1, 1e6), (8, 1e6), (8, 1e8), (4, 3e8)):
        costs.learn_run(run(Load(runs, 1024, work), 0.002 + runs * (1024 * 3e-6 + work * 4e-10)))
    for load in (Load(2, 1024, 5e7), Load(8, 1024, 2e8)):
        assert costs.iteration_seconds("kind", load) == pytest.approx(
            0.002 + load.runs * (1024 * 3e-6 + load.flops * 4e-10), rel=0.1
        )
    assert costs.iteration_seconds("other", Load(8, 1024, 1e6)) == guessed


def test_costs_are_kept_beside_the_programs_and_a_damaged_file_costs_nothing(tmp_path, caplog) -> None:
    path = tmp_path / "costs.json"
    first = Costs("test", "cpu", path)
    first.learn_program("kind", "abc", 7.0, cached=False)
    first.learn_run(run(Load(1, 10, 1e6), 0.5))
    again = Costs("test", "cpu", path)
    assert again.knows("abc") and not again.knows("abd") and not Costs("elsewhere", "cpu", path).knows("abc")
    assert again.compile_seconds("kind") == 7.0
    assert again.iteration_seconds("kind", Load(1, 10, 1e6)) == first.iteration_seconds("kind", Load(1, 10, 1e6))
    runs = [[[1]], [[1, 2, 3]], [[1, 10, float("nan"), 1]], [[1, 10, 1e300, 1]], [[1, 10, -1.0, 1]]]
    kinds = [{"runs": wrong} for wrong in runs] + [{"episodes": [float("nan")]}, {"compiles": [10**400]}]
    content = [{"kinds": {"kind": wrong}} for wrong in kinds]
    texts = [json.dumps({"devices 1": {"test": wrong}}) for wrong in content]
    for damaged in ("{half", "[]", '{"test": 3}', '{"devices 1": {"test": 7}}', "[" * 100_000, *texts):
        caplog.clear()
        path.write_text(damaged)
        assert not Costs("test", "cpu", path).knows("abc")
        assert "cannot be read" in caplog.text


def test_auto_is_one_lane_a_core_and_a_spread_super_batch_elsewhere() -> None:
    cpus = jax.local_devices()[:1] * 2
    assert device.automatic_lanes(16, cpus) == 1
    assert device.automatic_lanes(15, [SimpleNamespace(platform="gpu")] * 2) == 8


def test_free_memory_counts_file_caches_and_the_limit_of_a_container(tmp_path, monkeypatch) -> None:
    cpu = jax.local_devices()[0]
    free = device.free_bytes(cpu)
    assert free is None or free > 2**28
    monkeypatch.setattr(device, "_available_bytes", lambda: 900)
    monkeypatch.setattr(device, "_bytes_below_the_limit", lambda: 600)
    assert device.free_bytes(cpu) == 600 and device.room_for_a_program(cpu) == 600 // device.cores()
    monkeypatch.setattr(device, "_available_bytes", lambda: None)
    monkeypatch.setattr(device, "_bytes_below_the_limit", lambda: None)
    assert device.room_for_a_program(cpu) is None


def test_a_resumed_study_keeps_its_super_batch_and_the_lanes_of_its_programs() -> None:
    length = RunLength(500, 5, 4)
    config = EngineConfig(SAC(), {}, "gymnax.pendulum", length, 1, num_seeds=1, num_trials=8, super_batch=8)

    def packing_of(**changes: Any) -> dict[str, Any]:
        with closing(make_backend(dataclasses.replace(config, **changes))) as backend:
            return {**backend.packing, "most": backend.lanes}

    chosen = {**packing_of(), "super_batch": 5, "automatic_lanes": 6, "lanes": {"a program": 3}}
    resumed = packing_of(chosen=chosen)
    assert (resumed["super_batch"], resumed["most"], resumed["lanes"]) == (5, 6, {"a program": 3})
    asked = packing_of(chosen=chosen, lanes=2)
    assert (asked["super_batch"], asked["most"], asked["lanes"]) == (5, 2, {})


def test_only_a_program_that_every_trial_of_a_new_study_needs_is_compiled_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = EngineConfig(
        SAC(), {}, "gymnax.pendulum", RunLength(500, 5, 4), 1, num_seeds=1, num_trials=8, super_batch=8
    )
    several = {"algorithm.hyperparam.total_num_envs": Categorical(values=[1, 8])}
    compiled: list[Any] = []
    monkeypatch.setattr(Programs, "compile", lambda self, *program: compiled.append(program))

    def early(**changes: Any) -> tuple[int, Any]:
        compiled.clear()
        with closing(make_backend(dataclasses.replace(config, **changes))) as backend:
            assert not compiled, "a plan compiles nothing"
            backend.prepare()
            return len(compiled), {**backend.packing}

    number, packing = early()
    assert number == 1
    assert early(space=several)[0] == 0
    assert early(chosen={**packing, "automatic_lanes": 1})[0] == 0
