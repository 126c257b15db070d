"""Targets, losses and exploration against slow references that are plainly right."""

# pyright: reportCallIssue=false
# (pyright cannot count what a star unpacks)

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax.algorithms import dqn, policies, ppo, sac
from hyperlax.trial import Trial
from tests.references import close, dqn_lane, f32, normals
from tests.small import changed, workload

T, E, B, ACTIONS = 12, 5, 7, 4


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


@pytest.mark.parametrize("case", ["ppo_discrete", "ppo_continuous"])
def test_the_policy_loss_is_the_surrogate_less_the_entropy_bonus(case: str) -> None:
    task, trial = workload(case, 8), Trial(0, changed(case, ent_coef=0.25))
    shape, lane = task.program(trial), task.lane(trial)
    state = shape.init(jax.random.key(0), lane)
    action = jnp.zeros(2, jnp.int32) if shape.is_discrete else jnp.zeros((2, 1))
    old, advantage = jnp.asarray([-0.3, -1.2]), jnp.asarray([1.0, -2.0])
    out = ppo.policy_output(shape, state.policy, state.statistics, lane, state.observation)
    if shape.is_discrete:
        log_prob, entropy = policies.categorical_log_prob(out, action), policies.categorical_entropy(out)
    else:
        log_std = state.policy.log_std
        log_prob, entropy = policies.gaussian_log_prob(out, log_std, action), policies.gaussian_entropy(log_std)
    sample = ppo.Sample(state.observation, action, old, advantage, jnp.zeros(2))
    expected = ppo.surrogate_loss(log_prob, old, advantage, lane.hyperparam.clip_eps) - 0.25 * jnp.mean(entropy)
    close(ppo.policy_loss(shape, state.policy, state, lane, sample), expected)


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
