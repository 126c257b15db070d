"""Which programs a study gets: groups merged by predicted time, sizes that hold every trial, costs that are learnt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.algorithms.padding import Padding, padding_of, structure_of
from hyperlax.algorithms.possible import sample_of_space, structure_of_space
from hyperlax.algorithms.workload import Workload
from hyperlax.engine import device
from hyperlax.engine.calibration import CANDIDATES, choose, lanes_per_slot
from hyperlax.engine.costs import Costs, Load, Run
from hyperlax.engine.packing import Group, pack
from hyperlax.hyperparams import PPO, SAC
from hyperlax.programs import Budget, choose_paddings, shares
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


def test_a_padding_survives_json_and_holds_what_it_was_made_of() -> None:
    base = PPO()
    whole = structure_of_space(base, SPACE)
    padding = padding_of(whole)
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


def chosen(packing: str, *, steps: int, compile_seconds: float, lanes: int = 8) -> list[Padding]:
    costs = Costs("test", "cpu", None)
    for program in range(3):
        costs.learn_program("PPO gymnax.cartpole", str(program), compile_seconds, cached=False)
    budget = Budget(RunLength(steps, 5, 4), 16, 16, 1, 2, lanes, spread=True)
    return choose_paddings(PPO(), SPACE, "gymnax.cartpole", budget, packing, costs)


def test_pad_is_one_program_and_split_is_made_on_demand() -> None:
    assert chosen("pad", steps=10_000, compile_seconds=1) == [padding_of(structure_of_space(PPO(), SPACE))]
    assert chosen("split", steps=10_000, compile_seconds=1) == []


def test_short_trials_are_padded_and_long_ones_get_programs_of_their_size() -> None:
    short, long = (chosen("auto", steps=steps, compile_seconds=15) for steps in (5_000, 5_000_000))
    assert len(short) < len(long)
    whole = structure_of_space(PPO(), SPACE)
    for paddings in (short, long):
        assert any(padding.holds(whole) for padding in paddings), "no trial is without a program"


def test_a_trial_runs_in_the_cheapest_program_that_holds_it() -> None:
    paddings = chosen("auto", steps=5_000_000, compile_seconds=15)
    workload = Workload(PPO(), SPACE, "gymnax.cartpole", RunLength(10_000, 5, 4), paddings)
    for number, config in enumerate(sample_of_space(PPO(), SPACE, 30)):
        shape = workload.program(Trial(number, config))
        fitting = [workload.shape(config, p).work(1) for p in paddings if p.holds(structure_of(config))]
        assert shape.work(1) == min(fitting)
    assert sum(shares(workload, PPO(), SPACE).values()) == pytest.approx(1)


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
            0.002 + load.runs * (1024 * 3e-6 + load.work * 4e-10), rel=0.1
        )
    assert costs.iteration_seconds("other", Load(8, 1024, 1e6)) == guessed


def test_costs_are_kept_beside_the_programs_and_a_damaged_file_costs_nothing(tmp_path, caplog) -> None:
    path = tmp_path / "costs.json"
    first = Costs("test", "cpu", path)
    first.learn_program("kind", "abc", 7.0, cached=False)
    first.learn_run(run(Load(1, 10, 1e6), 0.5))
    assert first.lanes_per_slot(2, lambda: 4) == 4
    again = Costs("test", "cpu", path)
    assert (again.lanes_per_slot(2, lambda: 8), again.lanes_per_slot(3, lambda: 8)) == (4, 8)
    assert again.knows("abc") and not again.knows("abd") and not Costs("elsewhere", "cpu", path).knows("abc")
    assert again.compile_seconds("kind") == 7.0
    assert again.iteration_seconds("kind", Load(1, 10, 1e6)) == first.iteration_seconds("kind", Load(1, 10, 1e6))
    half_a_run = {"devices 1": {"test": {"kinds": {"kind": {"runs": [[1]]}}}}}
    for damaged in ("{half", "[]", '{"test": 3}', '{"devices 1": {"test": 7}}', json.dumps(half_a_run)):
        caplog.clear()
        path.write_text(damaged)
        assert not Costs("test", "cpu", path).knows("abc")
        assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "lanes"),
    [({1: 1.0, 2: 0.8, 4: 0.79, 8: 0.9}, 2), ({1: 1.0, 2: 0.97, 4: 0.98, 8: 0.99}, 1), ({1: 8, 2: 4, 4: 2, 8: 1}, 8)],
)
def test_the_fewest_lanes_that_are_about_as_quick_as_any_are_chosen(seconds: dict[int, float], lanes: int) -> None:
    assert choose(seconds) == lanes


def test_lanes_are_measured_with_every_slot_busy_and_never_exceed_a_slots_share_of_the_trials() -> None:
    slots, costs = device.slot_devices(), Costs("test", "cpu", None)
    measured = costs.lanes_per_slot(len(slots), lambda: lanes_per_slot(slots))
    assert measured in CANDIDATES
    assert device.automatic_lanes(1000, slots, costs) == measured
    assert device.automatic_lanes(len(slots), slots, costs) == 1
