"""A JAX program of a user's own: the documentation's example obeys the laws of lanes. See also `test_own_studies.py`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hyperlax
from hyperlax.algorithms.own import LanesTask, Sizes
from hyperlax.engine.keys import evaluation_keys, pin_generator, training_keys
from hyperlax.engine.programs import Programs
from hyperlax.engine.session import LaneSession
from hyperlax.fields import apply, dotted
from hyperlax.recipe import Recipe, RunLength, load
from hyperlax.trial import BatchResult, Curve, Trial
from tests import toy
from tests.desk import ROOT, run
from tests.test_bad_input import TABLES
from tests.test_docs import python_of

SMALL = TABLES / "own_lanes.py"
SEED, SEEDS = 5, 2


@lru_cache
def example(folder: Path) -> Recipe:
    """The recipe of the documentation."""
    (block,) = (block for block in python_of(ROOT / "docs" / "own-code.md") if "Lanes(" in block)
    (folder / "sine.py").write_text(block, encoding="utf-8")
    return load(str(folder / "sine.py"))


@pytest.fixture(scope="module")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    pin_generator()
    return example(tmp_path_factory.mktemp("sine"))


def task_of(recipe: Recipe, largest: int | None = None, steps: int = 40) -> LanesTask:
    """What a backend trains, in one program. largest: its padded size."""
    assert recipe.task is not None
    paddings = None if largest is None else [Sizes((("width", largest),))]
    return LanesTask(recipe.task, recipe.config.algorithm, recipe.space, RunLength(steps, 4, 1), paddings)  # type: ignore[arg-type]


def trial(recipe: Recipe, number: int, **values: Any) -> Trial:
    return Trial(number, apply(recipe.config.algorithm, values, "test"))


def mixed(recipe: Recipe) -> list[Trial]:
    """Trials that differ in all that lanes may differ in."""
    return [trial(recipe, 3, width=6, lr=0.1), trial(recipe, 11, width=32), trial(recipe, 12, width=9, lr=0.01)]


def finished(task: LanesTask, trials: Sequence[Trial], slots: int = 1, **kind: Any) -> Sequence[BatchResult]:
    backend = toy.batches(task, PROGRAMS.setdefault((task.run_length, *kind), Programs(3, SEEDS, **kind)), slots)
    return toy.finish(backend, trials)


def curves(task: LanesTask, trials: Sequence[Trial], slots: int = 1, **kind: Any) -> dict[int, Curve]:
    results = finished(task, trials, slots, **kind)
    return {outcome.number: outcome.curve for result in results for outcome in result.outcomes}


PROGRAMS: dict[Any, Programs] = {}


def same_bits(one: Curve, other: Curve) -> bool:
    return np.array_equal(one.steps, other.steps) and one.mean.tobytes() == other.mean.tobytes()


@pytest.mark.parametrize("kind", [{}, {"sequential": False}])
def test_a_lane_alone_equals_the_lane_among_others_to_the_bit(sine, kind):
    task, trials = task_of(sine), mixed(sine)
    together = curves(task, trials, **kind)
    for one in trials:
        alone = curves(task, [one], **kind)
        assert same_bits(alone[one.number], together[one.number])
    assert len({curve.mean.tobytes() for curve in together.values()}) == 3
    assert all(
        curve.mean.shape == (4, SEEDS) and (curve.mean[:, 0] != curve.mean[:, 1]).all() for curve in together.values()
    )


def test_slots_change_nothing(sine):
    trials = [trial(sine, number, lr=0.01 * (number + 1)) for number in range(6)]
    one, two = curves(task_of(sine), trials), curves(task_of(sine), trials, slots=2)
    assert all(same_bits(one[number], two[number]) for number in range(6))


def test_all_its_segments_are_useful_though_its_curve_does_not_begin_at_step_0(sine):
    (result,) = finished(task_of(sine), mixed(sine))
    assert result.timing["useful_lane_segments"] == 3 * 4


def test_wider_padding_changes_nothing(sine):
    small = trial(sine, 7, width=6, lr=0.1)
    narrow, wide, exact = (curves(task_of(sine, largest), [small])[7] for largest in (16, 64, 6))
    np.testing.assert_allclose(wide.mean, narrow.mean, rtol=2e-5)
    np.testing.assert_allclose(exact.mean, narrow.mean, rtol=2e-5)


def test_wider_padding_changes_nothing_in_the_shipped_digits(sine):
    """Two padded layers, with dropout and weight decay."""
    recipe, curves_of = load("digits"), []
    one = trial(recipe, 7, width_1=12, width_2=9, dropout=0.3, weight_decay=0.1, label_smoothing=0.1, batch_size=16)
    for sizes in ((12, 9), (16, 32)):
        paddings = [Sizes((("width_1", sizes[0]), ("width_2", sizes[1])))]
        task = LanesTask(recipe.task, recipe.config.algorithm, recipe.space, RunLength(20, 4, 1), paddings)  # type: ignore[arg-type]
        curves_of.append(curves(task, [one])[7])
    exact, padded = curves_of
    np.testing.assert_allclose(padded.others["loss"], exact.others["loss"], rtol=1e-4)
    assert exact.others["loss"][-1].max() < exact.others["loss"][0].min()


def test_a_lane_begins_with_the_weights_of_its_own_size_and_zeros(sine):
    small = trial(sine, 7, width=6)
    states = [
        task.program(small).init(jax.random.key(0), task.lane(small)).own
        for task in (task_of(sine, 6), task_of(sine, 32))
    ]
    for name, exact in states[0].items():
        assert np.array_equal(states[1][name][:6], exact) and not np.any(states[1][name][6:])


def test_a_lane_equals_a_plain_loop_over_an_exact_size_program(sine):
    one, task = trial(sine, 4, width=6, lr=0.1), sine.task
    curve = curves(task_of(sine), [one])[4]
    size: Any = SimpleNamespace(size=6, live=6, mask=jnp.ones(6))
    hypers = SimpleNamespace(lr=0.1, width=size, sample=task.hypers.sample)
    for seed in range(SEEDS):
        key, own = jax.random.split(training_keys(SEED, [4], SEEDS)[0, seed])
        state, losses = task.init(own, hypers), []
        for step in range(1, 41):
            key, own = jax.random.split(key)
            state = task.step(state, hypers, own)
            if step % 10 == 0:
                losses.append(float(task.evaluate(state, hypers, evaluation_keys(SEED, SEEDS)[seed])["loss"]))
        np.testing.assert_allclose(curve.mean[:, seed], losses, rtol=2e-5)
    assert curve.steps.tolist() == [10, 20, 30, 40] and not curve.has_start


def test_a_trial_in_a_lane_that_another_left_equals_one_in_a_fresh_lane(sine):
    task = task_of(sine)
    first, second = mixed(sine)[:2]
    program = Programs(2, SEEDS, refills=True).program(task.program(first), jax.local_devices()[0], 2)

    def session(*trials: Trial) -> LaneSession:
        made = LaneSession(task, program, seed=SEED)
        for one in trials:
            made.enter(one)
        made.prepare()
        return made

    reused, fresh = session(first), session(second)
    reused.advance()
    reused.leave(first.number)
    reused.enter(second)
    for _ in range(4):
        (there,), (here,) = reused.advance(), fresh.advance()
        assert same_bits(there.curve, here.curve)
    assert here.is_done and here.segments == 4


def test_a_saved_session_continues_to_the_same_bits(sine):
    task, trials = task_of(sine), mixed(sine)
    program = Programs(3, SEEDS).program(task.program(trials[0]), jax.local_devices()[0], 3)

    def session() -> LaneSession:
        return LaneSession(task, program, seed=SEED)

    whole = session()
    for one in trials:
        whole.enter(one)
    whole.prepare()
    whole.advance()
    metadata, arrays = whole.save()
    restored = session()
    restored.prepare(trials[0])
    restored.restore(metadata, arrays, {one.number: one for one in trials})
    for _ in range(3):
        expected, found = whole.advance(), restored.advance()
    assert all(same_bits(one.curve, other.curve) for one, other in zip(expected, found, strict=True))


@pytest.fixture
def folder(elsewhere: Path) -> None:
    """A working directory with the recipe."""
    shutil.copy(SMALL, "own_lanes.py")


def test_a_measure_that_is_not_finite_fails_its_trial_alone(folder, capsys):
    text = SMALL.read_text().replace("/ hypers.width.live", "+ jnp.where(hypers.width.live == 8, jnp.nan, 0)")
    Path("own_lanes.py").write_text(text)
    run("optuna-hp-search --algo-and-network-config own_lanes.py --n-trials 6 --seed 3 --runner-hparam-batch-size 2")
    trials = hyperlax.open_study("my_optuna_studies/own_lanes").record.trials
    failed = [one for one in trials if one.state == "FAIL"]
    assert failed and {one.params["width"] for one in failed} == {8}
    assert all(re.match(r"loss is nan \(lane \d, step 5; lr=.*, width=8\)", one.reason) for one in failed)
    assert {one.state for one in trials if one.params["width"] != 8} == {"COMPLETE"}


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_lanes_that_do_not_fit_into_memory_are_halved_and_a_trial_that_never_fits_fails_by_name(
    folder, monkeypatch, pruner
):
    """As a program of an algorithm. Two lanes fit, and no trial of width 8."""
    advance, widest = LaneSession.advance, []

    def short_of_memory(session: LaneSession) -> Any:
        widest.append(session.program.lanes)
        if session.program.lanes > 2 or any(dotted(one.config)["width"] == 8 for one in session.trials):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")
        return advance(session)

    monkeypatch.setattr(LaneSession, "advance", short_of_memory)
    words = f"--n-trials 8 --seed 3 --runner-hparam-batch-size 4 --optuna-study-batch-size 8 --pruner {pruner}"
    run(f"optuna-hp-search --algo-and-network-config own_lanes.py --max-failure-rate 1 {words}")
    trials = hyperlax.open_study("my_optuna_studies/own_lanes").record.trials
    assert max(widest) == 4 and min(widest) == 1
    failed = {one.number for one in trials if one.state == "FAIL"}
    assert failed == {one.number for one in trials if one.params["width"] == 8} and 0 < len(failed) < 8
    said = "MemoryError: not enough memory for one trial: RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes ("
    assert all(one.reason.startswith(said) and "width=8" in one.reason for one in trials if one.number in failed)


def test_programs_of_static_values_and_sizes_are_chosen_as_for_an_algorithm(folder):
    text = SMALL.read_text().replace('"width": C', '"power": Categorical(values=[2, 4]), "width": C')
    Path("own_lanes.py").write_text(text)
    recipe = load("own_lanes.py")
    assert recipe.task is not None
    task = LanesTask(recipe.task, recipe.config.algorithm, recipe.space, RunLength(20, 4, 1))  # type: ignore[arg-type]
    programs = {task.program(trial(recipe, 0, power=power, width=width)) for power in (2, 4) for width in (2, 4, 8)}
    assert {dict(one.static)["power"] for one in programs} == {2, 4} and {one.sizes for one in programs} == {
        (("width", 8),)
    }
    split = task.padded([])
    assert len({split.program(one) for one in (trial(recipe, 0, width=width) for width in (2, 4, 8))}) == 3
    assert not task.is_shipped and {str(one).partition(", task")[0] for one in programs} == {
        str(one) for one in programs
    }
