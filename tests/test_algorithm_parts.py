"""Distributions, statistics, replay and Adam against slow references that are plainly right."""

# pyright: reportCallIssue=false
# (pyright cannot count what a star unpacks)

from __future__ import annotations

import math
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax import envs
from hyperlax.algorithms import dqn, normalizer, policies, ppo, replay
from hyperlax.algorithms.evaluation import evaluate
from hyperlax.algorithms.lane import remaining
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.algorithms.replay import Transition
from hyperlax.envs import Continuous, Discrete, Environment, Step
from hyperlax.metrics import ReferenceReturns
from hyperlax.trial import Trial
from tests.references import close, dqn_lane, f32, normals
from tests.small import BASES, CASES, changed, same_bits, to_numpy, workload

B, ACTIONS = 7, 4


def normal_density(x: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("mean", "log_std", "low", "high"), [(0.0, 0.0, -1.0, 1.0), (1.2, -1.5, -1.0, 3.0), (-0.4, 0.4, -2.0, 2.0)]
)
def test_the_squashed_density_integrates_to_one_over_the_box_and_its_mass_agrees_with_samples(
    mean: float, log_std: float, low: float, high: float
) -> None:
    bounds = policies.Bounds.of(Continuous((low,), (high,)))
    edges = np.linspace(low, high, 200_001)
    actions = (edges[1:] + edges[:-1]) / 2
    raw = np.arctanh((actions - (low + high) / 2) / ((high - low) / 2))[:, None].astype(np.float32)
    log_density = policies.squashed_log_prob(
        jnp.full((1,), mean), jnp.full((1,), log_std), jnp.asarray(raw), bounds.half
    )
    mass = np.exp(np.asarray(log_density, np.float64)) * (edges[1] - edges[0])
    assert mass.sum() == pytest.approx(1.0, abs=2e-3)
    drawn = mean + math.exp(log_std) * np.random.default_rng(0).normal(size=100_000)
    drawn = np.asarray(bounds.scale(jnp.tanh(jnp.asarray(drawn))))
    assert low <= drawn.min() and drawn.max() <= high
    for quarter in np.linspace(low, high, 5)[1:-1]:
        assert mass[actions < quarter].sum() == pytest.approx(np.mean(drawn < quarter), abs=8e-3)


@pytest.mark.parametrize("far", [1.0, 8.0])
def test_the_squashed_log_probability_is_the_change_of_variables_in_double_precision(far: float) -> None:
    mean, log_std, raw = normals(13, 3, B, 2).astype(np.float64) * [[[1.0]], [[0.5]], [[far]]]
    half = np.array([1.0, 2.5])
    std = np.exp(log_std)
    log_normal = -0.5 * ((raw - mean) / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    expected = np.sum(log_normal - np.log(half) + 2 * np.log(np.cosh(raw)), axis=-1)
    actual = policies.squashed_log_prob(*(jnp.asarray(x, jnp.float32) for x in (mean, log_std, raw, half)))
    close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_squashed_log_probability_stays_finite_where_tanh_saturates() -> None:
    def log_prob(raw: Any) -> Any:
        return policies.squashed_log_prob(jnp.zeros(1), jnp.zeros(1), raw, jnp.ones(1))

    for raw in (-60.0, 60.0):
        value, gradient = jax.value_and_grad(log_prob)(jnp.full(1, raw))
        close(value, -0.5 * raw**2 - 0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(raw))
        close(gradient, [-raw + 2 * np.sign(raw)])


def test_bounds_map_the_unit_box_onto_the_environments() -> None:
    bounds = policies.Bounds.of(Continuous((-1.0, 0.0), (3.0, 10.0)))
    unit = jnp.asarray([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    close(bounds.scale(unit), [[-1, 0], [1, 5], [3, 10]])


def test_gaussian_log_probability_and_entropy_are_those_of_the_density() -> None:
    mean, log_std, x = normals(14, 3, B, 2)
    expected = [
        sum(
            math.log(normal_density(np.asarray(x[i, d], np.float64), float(mean[i, d]), math.exp(log_std[i, d])))
            for d in range(2)
        )
        for i in range(B)
    ]
    close(policies.gaussian_log_prob(*map(jnp.asarray, (mean, log_std, x))), expected, rtol=1e-4)
    grid = np.linspace(-60, 60, 400_001)
    density = normal_density(grid, 0.5, math.exp(0.7))
    numeric = -np.sum(density * np.log(density + 1e-300)) * (grid[1] - grid[0])
    close(policies.gaussian_entropy(jnp.full((1,), 0.7)), numeric, rtol=1e-4)
    close(policies.gaussian_entropy(jnp.full((2,), 0.7)), 2 * numeric, rtol=1e-4)


def test_categorical_log_probability_and_entropy_are_those_of_the_softmax() -> None:
    logits, action = normals(15, B, ACTIONS) * 3, np.arange(B) % ACTIONS
    weights = np.exp(logits.astype(np.float64))
    p = weights / weights.sum(axis=1, keepdims=True)
    close(
        policies.categorical_log_prob(jnp.asarray(logits), jnp.asarray(action)), np.log(p[np.arange(B), action]), 1e-4
    )
    close(policies.categorical_entropy(jnp.asarray(logits)), [-sum(q * math.log(q) for q in row) for row in p], 1e-4)


def test_the_value_chosen_by_an_action_and_its_gradient_are_those_of_indexing() -> None:
    values, action = jnp.asarray(normals(0, B, ACTIONS)), jnp.arange(B) % ACTIONS
    close(policies.chosen(values, action), values[jnp.arange(B), action])
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(policies.chosen(x, action))))(values)
    close(gradient, jax.grad(lambda x: jnp.sum(jnp.sin(x[jnp.arange(B), action])))(values))
    assert policies.chosen(jnp.asarray([[-jnp.inf, 2.0]]), jnp.asarray([1]))[0] == 2.0


@pytest.mark.parametrize("n", [1, 2, 6, 1000, 2**16 + 1])
def test_shuffling_gives_every_number_once(n: int) -> None:
    order = np.asarray(ppo.shuffled(jax.random.key(0), n))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_all_orders_are_equally_likely() -> None:
    orders = jax.vmap(lambda key: ppo.shuffled(key, 4))(jax.random.split(jax.random.key(1), 24_000))
    counts = np.unique(np.asarray(orders), axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    assert np.sum((counts - 1000.0) ** 2 / 1000.0) < 49.7  # chi square with 23 degrees of freedom, p = 0.001


def test_each_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Any] = []

    def noting(key: Any, n: int) -> Any:
        order = shuffled(key, n)
        jax.debug.callback(lambda order: orders.append(order.tolist()), order)
        return order

    shuffled = ppo.shuffled
    monkeypatch.setattr(ppo, "shuffled", noting)
    task, trial = workload("ppo_discrete", 8), Trial(0, BASES["ppo_discrete"])
    algorithm, lane = task.program(trial), task.lane(trial)
    state = algorithm.init(jax.random.key(0), lane)
    for iteration in range(2):
        state = jax.block_until_ready(algorithm.step(state, lane, jnp.int32(iteration)))
    jax.effects_barrier()
    assert len(orders) == len(set(map(tuple, orders))) == 2 * BASES["ppo_discrete"].hyperparam.epochs


@pytest.mark.parametrize("case", CASES)
def test_training_and_evaluation_use_no_key_twice(case: str) -> None:
    """Nor do two iterations, nor two turns of a loop."""
    task, trial = workload(case, 8), Trial(0, BASES[case])
    algorithm, lane = task.program(trial), task.lane(trial)

    def run(key: Any, episode_key: Any) -> Any:
        state = algorithm.init(key, lane)
        for iteration in range(2):
            state = algorithm.step(state, lane, jnp.int32(iteration))
        return algorithm.evaluate(state, lane, episode_key)

    with jax.debug_key_reuse(True):
        jax.jit(run).trace(jax.random.key(0), jax.random.key(1))


@pytest.mark.parametrize("case", ["ppo_discrete", "dqn"])
def test_every_step_of_a_rollout_draws_its_own_action_and_every_observation_counts(case: str) -> None:
    task, trial = workload(case, 8), Trial(0, BASES[case])
    shape, lane = task.program(trial), task.lane(trial)
    before = shape.init(jax.random.key(0), lane)
    after = jax.jit(shape.step)(before, lane, jnp.int32(0))
    if case == "dqn":
        rows = after.replay.rows[: shape.steps_per_iteration]
        observation, action, *_ = replay.unpack(rows, shape.environment.observation_size, 1)
    else:
        _, noise_key, step_key, _ = jax.random.split(before.key, 4)
        _, (observation, action, *_) = ppo.collect(shape, before, lane, noise_key, step_key)
    assert len(np.unique(action.reshape(shape.rollout_length, -1), axis=0)) > 1
    close(after.statistics.mean, observation.reshape(-1, shape.environment.observation_size).mean(axis=0))
    assert after.statistics.count == after.steps == shape.steps_per_iteration


def test_exploration_falls_at_every_step_and_learning_begins_where_the_warm_up_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two environments, rollouts of 4 steps, and a warm-up of 8."""
    seen: list[int] = []

    def noting(steps: Any, lane: Any) -> Any:
        jax.debug.callback(lambda steps: seen.append(int(steps)), steps)
        return exploration(steps, lane)

    exploration = dqn.exploration
    monkeypatch.setattr(dqn, "exploration", noting)
    task, trial = workload("dqn", 8), Trial(0, changed("dqn", warmup_rollout_length=8))
    algorithm, lane = task.program(trial), task.lane(trial)
    states = [algorithm.init(jax.random.key(0), lane)]
    for iteration in range(2):
        states.append(jax.jit(algorithm.step)(states[-1], lane, jnp.int32(iteration)))
    jax.effects_barrier()
    assert sorted(seen) == list(range(0, 16, 2))
    first, warming, learning = (to_numpy(state.learner.q) for state in states)
    assert same_bits(first, warming) and not same_bits(warming, learning)


def test_the_first_weights_of_ppo_have_the_papers_gains() -> None:
    """The largest singular value of an orthogonal matrix is its gain (Huang et al., 2022)."""
    task, trial = workload("ppo_discrete", 8), Trial(0, BASES["ppo_discrete"])
    state = task.program(trial).init(jax.random.key(0), task.lane(trial))
    for params, gain in ((state.policy.network, 0.01), (state.value, 1.0)):
        torso, head = params["torso"], params["head"]
        close(np.linalg.norm(head["kernel"], 2), gain)
        close([np.linalg.norm(torso[f"dense_{layer}"]["kernel"], 2) for layer in range(2)], math.sqrt(2))


def test_an_evaluation_scores_every_episode_up_to_its_first_end() -> None:
    """Episodes of 1 to 4 steps: even ones terminate, odd ones are truncated. What follows pays 100 a step."""
    seen: list[tuple[Any, Any]] = []

    def reset(key: Any) -> tuple[Any, Any]:
        length = jax.random.randint(key, (), 1, 5)
        return (length, length), jnp.float32(length)[None]

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        length, left = state[0], state[1] - 1
        ends, is_even = left == 0, length % 2 == 0
        observation, reward = jnp.float32(length)[None], jnp.where(left < 0, 100.0, 1.0)
        return (length, left), Step(observation, observation, reward, ends & is_even, ends & ~is_even)

    def act(observation: Any, key: Any) -> Any:
        jax.debug.callback(lambda *now: seen.append(now), observation, jax.random.key_data(key))
        return jnp.zeros(16, jnp.int32)

    environment = Environment("test.ends", 1, Discrete(2), 9, reset, step, ReferenceReturns(0.0, 3.0, "test"))
    found = evaluate(environment, act, jax.random.key(0), 16, jnp.zeros(1))
    jax.effects_barrier()
    lengths = np.asarray(seen[0][0])
    assert {1, 4} <= set(lengths.ravel().tolist())
    close(found[:5], [lengths.mean(), lengths.std(), 1.0, 4.0, lengths.mean()])
    assert len(seen) == len({key.tobytes() for _, key in seen}) == 4


def test_what_is_not_finite_in_the_trained_parameters_is_found_behind_finite_returns() -> None:
    def found(trained: float) -> Any:
        environment = envs.make("probe.constant_reward_discrete")
        return evaluate(environment, lambda *_: jnp.zeros(2, jnp.int32), jax.random.key(0), 2, {"w": f32(trained)})

    assert np.isfinite(found(np.nan).mean)
    assert [bool(found(trained).finite) for trained in (1.0, np.nan, np.inf)] == [True, False, False]


def test_an_evaluation_uses_no_key_twice() -> None:
    """Reward: a number drawn from the step's key, or 1000 if that is the key of the step or reset before."""

    def reset(key: Any) -> tuple[Any, Any]:
        return jax.random.key_data(key), jnp.zeros(1)

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Step]:
        bits = jax.random.key_data(key)
        reward = jnp.where(jnp.all(bits == state), 1000.0, jax.random.uniform(key))
        return bits, Step(jnp.zeros(1), jnp.zeros(1), reward, jnp.bool_(False), jnp.bool_(False))

    keys = Environment("test.keys", 1, Discrete(2), 3, reset, step, ReferenceReturns(0.0, 3.0, "test"))
    found = evaluate(keys, lambda observation, key: jnp.zeros(8, jnp.int32), jax.random.key(0), 8, jnp.zeros(1))
    assert found.min > 0 and found.max < 3
    assert found.std > 0.1


@pytest.mark.parametrize(("steps", "left"), [(0, 1.0), (250, 0.75), (1000, 0.0), (1400, 0.0)])
def test_the_decay_of_learning_rates_is_linear_over_the_whole_budget(steps: int, left: float) -> None:
    close(remaining(jnp.int32(steps), dqn_lane()), left)


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1], [8, 3, 20, 1]])
def test_running_moments_are_those_of_all_batches_together(sizes: list[int]) -> None:
    batches = [normals(19 + i, n, 3) * np.float32(i + 1) + np.float32(2 * i) for i, n in enumerate(sizes)]
    statistics = normalizer.fresh(3)
    for batch in batches:
        statistics = normalizer.observe(statistics, jnp.asarray(batch))
    everything = np.concatenate(batches).astype(np.float64)
    close(statistics.mean, everything.mean(axis=0), rtol=1e-4)
    close(statistics.variance, everything.var(axis=0), rtol=1e-4)
    assert statistics.count == len(everything)


def test_normalization_standardizes_cuts_at_ten_deviations_and_can_be_off() -> None:
    statistics = normalizer.ObservationStatistics(jnp.asarray([1.0, -2.0]), jnp.asarray([4.0, 0.25]), f32(9))
    seen = jnp.asarray([[3.0, -2.5], [1000.0, -1000.0]])
    close(normalizer.normalize(statistics, seen, jnp.asarray(True)), [[1.0, -1.0], [10.0, -10.0]])
    close(normalizer.normalize(statistics, seen, jnp.asarray(False)), seen)
    constant = normalizer.observe(normalizer.fresh(1), jnp.full((4, 1), 3.0))
    close(normalizer.normalize(constant, jnp.full((1,), 3.0), jnp.asarray(True)), [0.0], atol=1e-3)


@pytest.mark.parametrize(("rollout", "program_capacity"), [(4, 12), (4, 10), (3, 3), (5, 2)])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_lane_samples_exactly_its_newest_rows(rollout: int, program_capacity: int, data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, program_capacity + 9), label="the lane's own capacity")
    writes = data.draw(st.integers(1, 9), label="rollouts written")
    iteration = data.draw(st.integers(0, 20), label="the program's clock at the first")
    ring = replay.ring_length(program_capacity, rollout)
    held: deque[int] = deque(maxlen=min(capacity, ring))
    predecessor = replay.empty(ring, 1, 1).rows - 1.0
    buffer = replay.Replay(predecessor, jnp.int32(0))
    for number in range(writes):
        rows = np.arange(number * rollout, (number + 1) * rollout)
        held.extend(rows.tolist())
        packed = jnp.broadcast_to(jnp.asarray(rows, jnp.float32)[:, None], (rollout, buffer.rows.shape[1]))
        buffer = replay.write(buffer, packed, jnp.int32(iteration + number), jnp.int32(capacity))
    drawn = replay.sample(buffer, jax.random.key(iteration), 400, rollout, jnp.int32(iteration + writes - 1))
    assert set(np.asarray(drawn)[:, 0].astype(int).tolist()) == set(held)
    assert buffer.size == len(held)


def test_samples_are_uniform_over_a_lanes_rows() -> None:
    buffer = replay.empty(8, 1, 1)
    for iteration in range(3):
        rows = jnp.broadcast_to(jnp.arange(4.0 * iteration, 4.0 * iteration + 4)[:, None], (4, buffer.rows.shape[1]))
        buffer = replay.write(buffer, rows, jnp.int32(iteration), jnp.int32(5))
    drawn = np.asarray(replay.sample(buffer, jax.random.key(1), 5000, 4, jnp.int32(2)))[:, 0].astype(int)
    assert np.bincount(drawn, minlength=12)[7:] / 5000 == pytest.approx(np.full(5, 0.2), abs=0.03)


@pytest.mark.parametrize(("observation_size", "action_size"), [(1, 1), (3, 2)])
def test_unpacking_gives_back_what_was_packed(observation_size: int, action_size: int) -> None:
    transition = Transition(
        normals(20, B, observation_size),  # type: ignore[arg-type]
        normals(21, B, action_size),  # type: ignore[arg-type]
        normals(22, B),  # type: ignore[arg-type]
        normals(23, B),  # type: ignore[arg-type]
        normals(24, B, observation_size),  # type: ignore[arg-type]
    )
    rows = replay.pack(transition)
    assert rows.shape[1] == replay.empty(1, observation_size, action_size).rows.shape[1]
    for packed, given_ in zip(replay.unpack(rows, observation_size, action_size), transition, strict=True):
        assert np.array_equal(packed, given_)


@pytest.mark.parametrize("max_grad_norm", [0.5, 2.0, 1e6])
def test_adam_is_the_papers_behind_a_bound_on_the_global_norm(max_grad_norm: float) -> None:
    epsilon, rate, turns = 1e-5, 0.05, 6
    gradients = [{"a": normals(30 + t, 3), "b": normals(60 + t, 2, 2)} for t in range(turns)]
    params: Any = {"a": normals(1, 3), "b": normals(2, 2, 2)}
    expected = {name: p.astype(np.float64) for name, p in params.items()}
    m, v = ({name: np.zeros_like(p) for name, p in expected.items()} for _ in range(2))
    adam = Adam(epsilon)
    state = adam.init(params)
    clipped_ever = False
    for t, gradient in enumerate(gradients, start=1):
        params, state = adam.descend(params, gradient, state, f32(rate), f32(max_grad_norm))
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values()))
        clipped_ever |= norm > max_grad_norm
        for name, g in gradient.items():
            g = g * min(1.0, max_grad_norm / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            step = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + epsilon)
            expected[name] = expected[name] - rate * step
    assert clipped_ever == (max_grad_norm < 1e6)
    for name, value in expected.items():
        close(params[name], value, rtol=1e-4)


def test_adam_stays_where_the_gradient_is_zero() -> None:
    adam, params = Adam(1e-8), jnp.asarray([1.0, -2.0])
    moved, _ = adam.descend(params, jnp.zeros(2), adam.init(params), f32(0.1), f32(0.5))
    assert np.array_equal(moved, params)


@pytest.mark.parametrize("tau", [0.005, 0.5, 1.0])
def test_targets_move_by_tau_of_the_way(tau: float) -> None:
    target, online = normals(40, 2, 5)
    close(track({"w": target}, {"w": online}, f32(tau))["w"], target + tau * (online - target))
