"""Law 3: what goes wrong in one trial is that trial's FAIL, said once, with lane, step and hyperparameters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax import envs
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine.programs import Programs
from hyperlax.envs import Continuous, Environment, Step
from hyperlax.fields import apply
from hyperlax.files import cell, read_csv
from hyperlax.hyperparams import of_algorithm
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import ExperimentConfig, Recipe, RunLength
from hyperlax.space import Categorical, Distribution, UniformContinuous
from hyperlax.study.failures import failure_reason
from hyperlax.trial import Trial
from tests import toy
from tests.fake_backend import FakeBackend
from tests.small import BASES, RUN_LENGTH, SEED, SEEDS
from tests.study_cases import Case
from tests.toy import run

NOT_FINITE = "parameters or returns are not finite"
LR, GAMMA = "algorithm.hyperparam.actor_lr", "algorithm.hyperparam.gamma"


def values_of(case: Case, number: int) -> str:
    """A trial's searched hyperparameters as its reason has them, read from hyperparams.csv."""
    (row,) = [
        row for path in case.batches() for row in read_csv(path / "hyperparams.csv") if row["trial"] == str(number)
    ]
    return ", ".join(f"{name}={row[name]}" for name in case.recipe.space)


def assert_said_once_everywhere(case: Case, number: int, reason: str, log: Any) -> None:
    """The same string in the database, in summary.csv and in the one line about the trial."""
    trial = case.study().trials[number]
    assert (trial.state.name, trial.user_attrs["reason"], trial.values) == ("FAIL", reason, None)
    rows = {row["trial"]: row for path in case.batches() for row in read_csv(path / "summary.csv")}
    assert (rows[str(number)]["state"], rows[str(number)]["reason"]) == ("FAIL", reason)
    lines = [record.getMessage() for record in log.records if record.getMessage().startswith(f"trial {number}:")]
    assert len(lines) == 1 and "\n" not in lines[0]
    assert lines[0].startswith(f"trial {number}: {reason}. Marked FAIL; ")
    assert all(record.exc_info is None for record in log.records if record.name.startswith("hyperlax"))


def test_the_reason_names_lane_step_and_hyperparameters_in_the_database_the_files_and_one_line(tmp_path, caplog):
    case = Case(tmp_path)
    runner = FakeBackend(fail={1: "loss is nan"}, infinite={5}, raises={9: ValueError("the tank is\n empty")}, lanes=3)
    assert case.start(runner) == 0
    assert [number for number, state in enumerate(case.states()) if state == "FAIL"] == [1, 5, 9]
    wanted = {
        1: f"loss is nan (lane 1, step 500; {values_of(case, 1)})",
        5: "the curve holds nan or inf; a trial without finite returns is a FAIL "
        f"(lane 2, step 400; {values_of(case, 5)})",
        9: f"ValueError: the tank is empty (lane 0; {values_of(case, 9)})",
    }
    for number, reason in wanted.items():
        assert_said_once_everywhere(case, number, reason, caplog)
    assert "algorithm.network.actor_network.pre_torso.layer_sizes=[" in wanted[1]
    assert "algorithm.hyperparam.tau" not in wanted[1], "it is not searched"


@pytest.mark.parametrize(
    ("cause", "lane", "step", "searched", "reason"),
    [
        ("loss is nan", 2, 300, {LR: 0.9, "x": [64, 64]}, f"loss is nan (lane 2, step 300; {LR}=0.9, x=[64, 64])"),
        ("loss is nan.", None, None, {LR: 1e-5}, f"loss is nan ({LR}=1e-05)"),
        (" loss\nis nan", 0, 0, {}, "loss is nan (lane 0, step 0)"),
        ("loss is nan", None, None, {}, "loss is nan"),
    ],
)
def test_a_reason_is_one_line_with_the_cause_and_where_it_was(cause, lane, step, searched, reason):
    assert failure_reason(cause, lane=lane, step=step, searched=searched) == reason


def test_a_message_of_many_pages_becomes_a_reason_that_still_ends_with_the_hyperparameters():
    reason = failure_reason("x" * 10_000, lane=0, step=None, searched={LR: 0.9})
    assert len(reason) < 600 and reason.endswith(f"x (lane 0; {LR}=0.9)")


class Mute(Exception):
    """An exception whose message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_message_that_is_not_utf8_is_kept_escaped_and_one_that_raises_is_left_out(tmp_path, caplog):
    case = Case(tmp_path)
    raises: dict[int, BaseException] = {1: ValueError("file \udcff"), 5: Mute()}
    assert case.start(FakeBackend(raises=raises, fail={9: "file \udcff"})) == 0
    assert [number for number, state in enumerate(case.states()) if state == "FAIL"] == [1, 5, 9]
    wanted = {
        1: f"ValueError: file \\udcff (lane 0; {values_of(case, 1)})",
        5: f"Mute (lane 0; {values_of(case, 5)})",
        9: f"file \\udcff (lane 1, step 500; {values_of(case, 9)})",
    }
    for number, reason in wanted.items():
        assert_said_once_everywhere(case, number, reason, caplog)
    timing = json.loads((case.directory / case.study().trials[1].user_attrs["batch"] / "timing.json").read_text())
    assert timing["traceback"][-1] == "ValueError: file \\udcff" and timing["error"] == "ValueError: file \\udcff"


class Walk(NamedTuple):
    time: jax.Array
    position: jax.Array


def walk() -> Environment:
    """Eight steps along a line, each paid by the position. One who walks straight on, as none does by chance, gets inf."""

    def reset(key: jax.Array) -> tuple[Walk, jax.Array]:
        return Walk(jnp.int32(0), jnp.float32(0)), jnp.ones(1)

    def step(key: jax.Array, state: Walk, action: jax.Array) -> tuple[Walk, Step]:
        moved = Walk(state.time + 1, state.position + jnp.clip(action[0], -1.0, 1.0))
        ends = moved.time == 8
        start, _ = reset(key)
        after = jax.tree.map(lambda fresh, old: jnp.where(ends, fresh, old), start, moved)
        reward = jnp.where(moved.position > 7.5, jnp.inf, moved.position)
        return after, Step(jnp.ones(1), jnp.ones(1), reward, jnp.asarray(False), ends)

    reference = ReferenceReturns(0, 36, "1 + ... + 8")
    return Environment("lab.walk", 1, Continuous((-1.0,), (1.0,)), 8, reset, step, reference)


SLOW, STRAIGHT_ON, EXPLODING = [1e-4, 2e-4], 1.0, 1e37


@pytest.mark.usefixtures("empty_registry")
def test_exploding_parameters_and_infinite_rewards_fail_alone_and_their_mates_are_the_same_to_the_bit(tmp_path, caplog):
    envs.register("lab.walk", walk)
    base = BASES["ppo_continuous"]
    space: dict[str, Distribution] = {
        LR: Categorical(values=[*SLOW, STRAIGHT_ON, EXPLODING]),
        GAMMA: Categorical(values=[0.9, 0.99]),
    }
    config = ExperimentConfig(base, dict.fromkeys(("quick", "default", "long"), RUN_LENGTH))
    lengths: dict[str, Any] = vars(RUN_LENGTH)
    recipe = Recipe("ppo_test", Path("ppo_test.py"), config, space)
    case = Case(tmp_path, recipe=recipe, env_config="lab.walk", n_trials=8, **lengths)
    engines = [
        toy.batches(AlgorithmTask(base, {}, "lab.walk", RUN_LENGTH), Programs(3, SEEDS), seed=SEED) for _ in range(2)
    ]
    assert case.start(engines[0]) == 0
    asked = {trial.number: case.pages[-1][0].trials[trial.number].params for trial in case.study().trials}
    assert sorted(params[LR] for n, params in asked.items() if case.states()[n] == "FAIL") == [
        *[STRAIGHT_ON] * 2,
        *[EXPLODING] * 2,
    ]
    for path in case.batches():
        numbers = [int(row["trial"]) for row in read_csv(path / "summary.csv")]
        sane = {n: {LR: min(asked[n][LR], SLOW[-1]), GAMMA: asked[n][GAMMA]} for n in numbers}
        undisturbed = run(engines[1], tuple(Trial(n, apply(base, sane[n], "")) for n in numbers))
        for lane, (number, outcome) in enumerate(zip(numbers, undisturbed.outcomes, strict=True)):
            written = [row["mean"] for row in read_csv(path / "curves.csv") if row["trial"] == str(number)]
            if asked[number][LR] in SLOW:
                assert written == [cell(value) for value in outcome.curve.mean.T.ravel()]
            else:
                step = 32 * len(written) // SEEDS
                where = f"lane {lane}, step {step}; {LR}={asked[number][LR]!r}, {GAMMA}={asked[number][GAMMA]}"
                assert_said_once_everywhere(case, number, f"{NOT_FINITE} ({where})", caplog)


@dataclass(frozen=True)
class Faulty(toy.Descent):
    """A program of 3 dimensions cannot be traced; any raises from Python when x leaves the world, beyond 1000."""

    def step(self, state: toy.State, lane: Any, iteration: jax.Array) -> toy.State:
        if self.dimensions == 3:
            raise TypeError("three is no dimension")
        state = super().step(state, lane, iteration)
        shape = jax.ShapeDtypeStruct(state.x.shape, state.x.dtype)
        return state._replace(x=jax.pure_callback(_refuse_the_outside, shape, state.x, vmap_method="expand_dims"))


def _refuse_the_outside(x: Any) -> np.ndarray:
    if not (np.abs(x) < 1000).all():
        raise ValueError("nothing is out there")
    return np.asarray(x)


class FaultyDescents(toy.Descents):
    """The toy's workload for trials of a study: its rate is `actor_lr`, its dimensions `epochs`."""

    def program(self, trial: Trial) -> Faulty:
        return Faulty(of_algorithm(trial.config).hyperparam.epochs)

    def lane(self, trial: Trial) -> Any:
        hyperparam: Any = of_algorithm(trial.config).hyperparam
        return {"rate": np.float32(hyperparam.actor_lr), "spread": np.float32(1.0)}


def test_what_raises_at_one_value_fails_the_trials_of_that_value_only(tmp_path, caplog):
    epochs = "algorithm.hyperparam.epochs"
    case = Case(tmp_path, {LR: Categorical(values=[0.1, 0.2, 1e6]), epochs: Categorical(values=[2, 3])}, n_trials=6)
    engine = toy.batches(FaultyDescents(RunLength(20, 3, 4)), Programs(3, 2), seed=3)
    assert case.start(engine, max_failure_rate=1.0) == 0
    for trial in case.study().trials:
        rate, dimensions = (case.pages[-1][0].trials[trial.number].params[name] for name in (LR, epochs))
        if dimensions == 3:
            cause = "TypeError: three is no dimension"
        elif rate == 1e6:
            cause = "ValueError: nothing is out there"
        else:
            assert trial.state.name == "COMPLETE"
            continue
        where = f"lane 0; {LR}={rate}, {epochs}={dimensions}"
        assert_said_once_everywhere(case, trial.number, f"{cause} ({where})", caplog)
        timing = json.loads((case.directory / trial.user_attrs["batch"] / "timing.json").read_text())
        assert timing["error"] == cause and any(__file__ in line for line in timing["traceback"])


def test_a_value_that_its_own_field_refuses_is_that_trials_fail_and_the_study_goes_on(tmp_path, caplog):
    scale = "algorithm.hyperparam.target_entropy_scale"
    case = Case(tmp_path, {scale: UniformContinuous(domain=(0.0, 2e-38))}, n_trials=8)
    runner = FakeBackend()
    assert case.start(runner, max_failure_rate=1.0) == 0
    values = [trial.params[scale] for trial in case.study().trials]
    refused = [number for number, value in enumerate(values) if value < 2.0**-126]
    assert 0 < len(refused) < 8
    assert sorted(runner.trained) == [number for number in range(8) if number not in refused]
    for number in refused:
        needed = "needs 0 or at least 1.1754944e-38 in size, the smallest normal number of float32"
        reason = f"refused: {scale} {needed}, got {values[number]!r} (lane 0; {scale}={values[number]!r})"
        assert_said_once_everywhere(case, number, reason, caplog)
    told = case.told()
    assert case.resume(runner, n_trials=9, max_failure_rate=1.0) == 0
    assert case.told()[:8] == told
