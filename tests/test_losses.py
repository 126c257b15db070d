"""Targets, losses, distributions, statistics, replay and Adam against slow references that are plainly right."""

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

from hyperlax.algorithms import dqn, normalizer, policies, ppo, replay, sac
from hyperlax.algorithms.lane import Lane, remaining
from hyperlax.algorithms.optimizer import Adam, track
from hyperlax.algorithms.replay import Transition
from hyperlax.envs import Continuous
from hyperlax.hyperparams import DQNHyperparams

pytestmark = pytest.mark.timeout(120)

T, E, B, ACTIONS = 12, 5, 7, 4


def close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def f32(value: float) -> Any:
    return jnp.float32(value)


def advantage_by_definition(
    at: int, reward: Any, value: Any, next_value: Any, terminated: Any, truncated: Any, gamma: float, gae_lambda: float
) -> float:
    """sum_k (gamma lambda)^k delta_t+k up to the end of the episode or of the rollout, for one environment."""
    total, weight = 0.0, 1.0
    for t in range(at, len(reward)):
        future = 0.0 if terminated[t] else gamma * next_value[t]
        total += weight * (reward[t] + future - value[t])
        if terminated[t] or truncated[t]:
            break
        weight *= gamma * gae_lambda
    return total


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.97, 0.9), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_generalized_advantages_are_the_discounted_sums_of_their_definition(
    seed: int, gamma: float, gae_lambda: float
) -> None:
    reward, value, next_value = normals(seed, 3, T, E)
    ends = np.random.default_rng(seed + 9).choice(3, p=[0.7, 0.15, 0.15], size=(T, E))
    terminated, truncated = ends == 1, ends == 2
    assert terminated.any() and truncated.any()
    arrays = (reward, value, next_value, terminated, truncated)
    actual = ppo.generalized_advantages(*map(jnp.asarray, arrays), f32(gamma), f32(gae_lambda))
    expected = [
        [advantage_by_definition(t, *(a[:, e] for a in arrays), gamma, gae_lambda) for e in range(E)] for t in range(T)
    ]
    close(actual, expected, rtol=1e-4)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    one, zero = jnp.ones((1, 3)), jnp.zeros((1, 3))
    ends = jnp.asarray([[False, True, False]]), jnp.asarray([[False, False, True]])
    close(ppo.generalized_advantages(one, zero, 10 * one, *ends, f32(0.5), f32(0.9)), [[6.0, 1.0, 6.0]])


def test_standardized_advantages_have_zero_mean_and_unit_deviation() -> None:
    advantage = normals(3, 64) * 5 + 3
    close(ppo.standardize(jnp.asarray(advantage)[None])[0], (advantage - advantage.mean()) / advantage.std(), atol=1e-5)
    close(ppo.standardize(jnp.full((1, 4), 2.5))[0], np.zeros(4))


@pytest.mark.parametrize("clip_eps", [0.05, 0.3, 2.0])
def test_the_surrogate_is_the_worse_of_the_clipped_and_the_unclipped_gain(clip_eps: float) -> None:
    log_prob, old, advantage = normals(4, 3, 32) * np.float32(0.5)
    gains = []
    for new, before, a in zip(log_prob.tolist(), old.tolist(), advantage.tolist(), strict=True):
        ratio = math.exp(new - before)
        clipped = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
        gains.append(min(ratio * a, clipped * a))
    loss = ppo.surrogate_loss(*map(jnp.asarray, (log_prob, old, advantage)), f32(clip_eps))
    close(loss, -np.mean(gains))


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.5, 1.0, False), (0.5, 1.0, True), (1.5, -1.0, True), (0.5, -1.0, False)]
)
def test_the_surrogate_stops_pushing_past_the_clip_and_always_pulls_back(
    ratio: float, advantage: float, moves: bool
) -> None:
    def loss(log_prob: Any) -> Any:
        return ppo.surrogate_loss(log_prob, jnp.zeros(1), jnp.full(1, advantage), f32(0.2))

    gradient = jax.grad(loss)(jnp.log(jnp.full(1, ratio)))
    close(gradient, [-ratio * advantage if moves else 0.0])


def test_the_value_loss_is_the_mean_squared_error() -> None:
    value, target = normals(5, 2, 16)
    close(ppo.value_loss(jnp.asarray(value), jnp.asarray(target)), np.mean((value - target) ** 2))


def test_the_soft_target_takes_the_smaller_twin_less_the_entropy_cost() -> None:
    reward, next_log_prob = normals(6, 2, B)
    next_q, continues = normals(7, 2, B), np.arange(B) % 2.0
    expected = [
        reward[i] + (0.9 * (min(next_q[0, i], next_q[1, i]) - 0.3 * next_log_prob[i]) if continues[i] else 0.0)
        for i in range(B)
    ]
    arguments = map(jnp.asarray, (reward, continues, next_q, next_log_prob))
    close(sac.soft_target(*arguments, f32(0.9), f32(0.3)), expected)


def test_sacs_critic_loss_adds_half_the_mean_squared_error_of_each_twin() -> None:
    q, target = normals(8, 2, B), normals(9, B)
    expected = sum(0.5 * np.mean([(q[twin, i] - target[i]) ** 2 for i in range(B)]) for twin in range(2))
    close(sac.critic_loss(jnp.asarray(q), jnp.asarray(target), len(target)), expected)


def test_sacs_policy_loss_weighs_log_probability_against_the_smaller_twin() -> None:
    log_prob, q = normals(10, B), normals(11, 2, B)
    expected = np.mean([0.2 * log_prob[i] - min(q[0, i], q[1, i]) for i in range(B)])
    close(sac.policy_loss(jnp.asarray(log_prob), jnp.asarray(q), f32(0.2), len(log_prob)), expected)


@pytest.mark.parametrize("entropy_is_low", [True, False])
def test_the_temperature_loss_raises_alpha_where_entropy_is_below_its_target(entropy_is_low: bool) -> None:
    log_prob, target_entropy, log_alpha = normals(12, B), 5.0 if entropy_is_low else -5.0, -0.7
    alpha = math.exp(log_alpha)
    expected = np.mean([-alpha * (p + target_entropy) for p in log_prob])
    value, gradient = jax.value_and_grad(sac.temperature_loss)(
        f32(log_alpha), jnp.asarray(log_prob), f32(target_entropy), len(log_prob)
    )
    close(value, expected)
    close(gradient, expected)  # d/d(log alpha) of alpha c is alpha c
    assert (gradient < 0) == entropy_is_low


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


@pytest.mark.parametrize("double", [True, False])
def test_the_td_target_follows_the_network_that_chooses_and_the_one_that_rates(double: bool) -> None:
    reward, continues = normals(16, B), np.arange(B) % 2.0
    target_q, online_q = normals(17, 2, B, ACTIONS)
    assert (target_q.argmax(axis=1) != online_q.argmax(axis=1)).any()
    expected = []
    for i in range(B):
        ratings = list(online_q[i] if double else target_q[i])
        best = ratings.index(max(ratings))
        expected.append(reward[i] + (0.9 * target_q[i][best] if continues[i] else 0.0))
    arguments = map(jnp.asarray, (reward, continues, target_q, online_q))
    close(dqn.td_target(*arguments, f32(0.9), jnp.asarray(double)), expected)


@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0, 100.0])
def test_huber_is_quadratic_inside_and_linear_outside_and_has_no_outside_at_zero(delta: float) -> None:
    errors = np.linspace(-3, 3, 25, dtype=np.float32)
    inside = [delta == 0 or abs(e) <= delta for e in errors]
    expected = [
        0.5 * e * e if small else delta * (abs(e) - 0.5 * delta) for e, small in zip(errors, inside, strict=True)
    ]
    close(dqn.huber(jnp.asarray(errors), f32(delta)), expected)
    off_corner = errors[np.abs(np.abs(errors) - delta) > 1e-3]
    slopes = jax.vmap(jax.grad(lambda e: dqn.huber(e, f32(delta))))(jnp.asarray(off_corner))
    close(slopes, off_corner if delta == 0 else np.clip(off_corner, -delta, delta))


def dqn_lane(total: float = 1000.0, **values: Any) -> Any:
    return Lane(DQNHyperparams(**values), {}, f32(total))


@pytest.mark.parametrize(
    ("fraction", "steps", "epsilon"),
    [(0.5, 0, 1.0), (0.5, 250, 0.6), (0.5, 500, 0.2), (0.5, 900, 0.2), (1.0, 500, 0.6), (1.0, 1000, 0.2),
     (1.0, 5000, 0.2), (0.0, 0, 0.2), (0.0, 700, 0.2)],
)  # fmt: skip
def test_exploration_falls_linearly_over_its_part_of_the_budget(fraction: float, steps: int, epsilon: float) -> None:
    lane = dqn_lane(training_epsilon=0.2, exploration_fraction=fraction)
    close(dqn.exploration(jnp.int32(steps), lane), epsilon)


def test_epsilon_greedy_acts_at_random_exactly_where_the_coin_falls_below_epsilon() -> None:
    q, coin = normals(18, B, ACTIONS), np.linspace(0, 0.9, B, dtype=np.float32)
    random_action = (q.argmax(axis=1) + 1) % ACTIONS
    for epsilon in (0.0, 0.4, 1.0):
        actual = dqn.epsilon_greedy(jnp.asarray(q), f32(epsilon), jnp.asarray(coin), jnp.asarray(random_action))
        expected = [random_action[i] if coin[i] < epsilon else q[i].argmax() for i in range(B)]
        assert actual.tolist() == expected


def test_exploration_draws_are_uniform_and_the_coin_does_not_know_the_action() -> None:
    coin, action = map(np.asarray, dqn.exploration_draws(jax.random.key(0), (4000, ACTIONS)))
    assert coin.min() >= 0 and coin.max() < 1
    assert np.bincount(action, minlength=ACTIONS) / 4000 == pytest.approx(np.full(ACTIONS, 0.25), abs=0.04)
    for a in range(ACTIONS):
        assert coin[action == a].mean() == pytest.approx(0.5, abs=0.06)


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
    tick = data.draw(st.integers(0, 20), label="the program's clock at the first")
    ring = replay.ring_length(program_capacity, rollout)
    held: deque[int] = deque(maxlen=min(capacity, ring))
    predecessor = replay.empty(ring, 1, 1).rows - 1.0
    buffer = replay.Replay(predecessor, jnp.int32(0))
    for number in range(writes):
        rows = np.arange(number * rollout, (number + 1) * rollout)
        held.extend(rows.tolist())
        packed = jnp.broadcast_to(jnp.asarray(rows, jnp.float32)[:, None], (rollout, buffer.rows.shape[1]))
        buffer = replay.write(buffer, packed, jnp.int32(tick + number), jnp.int32(capacity))
    drawn = replay.sample(buffer, jax.random.key(tick), 400, rollout, jnp.int32(tick + writes - 1))
    assert set(np.asarray(drawn)[:, 0].astype(int).tolist()) == set(held)
    assert buffer.size == len(held)


def test_samples_are_uniform_over_a_lanes_rows() -> None:
    buffer = replay.empty(8, 1, 1)
    for tick in range(3):
        rows = jnp.broadcast_to(jnp.arange(4.0 * tick, 4.0 * tick + 4)[:, None], (4, buffer.rows.shape[1]))
        buffer = replay.write(buffer, rows, jnp.int32(tick), jnp.int32(5))
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
