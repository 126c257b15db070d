"""Each probe environment is what its docstring says: the rewards and ends from which its right answer follows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax import envs
from hyperlax.envs.catalog import PROBES
from hyperlax.envs.probes import LIMIT
from tests.test_envs import rollout

KINDS = ("discrete", "continuous")


def play(name: str, action: float, length: int):
    """(first observations [copies, 1], Steps [length, copies, ...]) under one constant action."""
    fixed = jnp.int32(action) if PROBES[name] == "discrete" else jnp.array([action], jnp.float32)
    return rollout(envs.make(name), length, copies=16, action=fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_reward_pays_one_and_terminates(kind):
    first, steps = play(f"probe.constant_reward_{kind}", 0, 3)
    assert (first == 1).all() and (steps.reward == 1).all() and steps.terminated.all()


@pytest.mark.parametrize("kind", KINDS)
def test_observation_reward_pays_what_it_shows(kind):
    first, steps = play(f"probe.observation_reward_{kind}", 0, 3)
    seen = np.concatenate([first[None], steps.observation])[:-1, :, 0]
    assert set(seen.ravel()) == {-1.0, 1.0}
    np.testing.assert_array_equal(steps.reward, seen)
    assert steps.terminated.all()


@pytest.mark.parametrize("kind", KINDS)
def test_delayed_reward_pays_at_the_second_step(kind):
    first, steps = play(f"probe.delayed_reward_{kind}", 0, 4)
    assert (first == 0).all()
    np.testing.assert_array_equal(steps.observation[:, 0, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(steps.reward[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(steps.terminated[:, 0], [False, True, False, True])


@pytest.mark.parametrize(
    ("kind", "action", "reward"),
    [("discrete", 0, 0), ("discrete", 1, 1), ("continuous", 2, 0), ("continuous", -1, -9), ("continuous", 9, -1)],
)
def test_action_reward_pays_for_the_action_inside_its_bounds(kind, action, reward):
    _, steps = play(f"probe.action_reward_{kind}", action, 1)
    assert (steps.reward == reward).all() and steps.terminated.all()


@pytest.mark.parametrize(
    ("kind", "action", "at_minus", "at_plus"),
    [("discrete", 0, 1, -1), ("discrete", 1, -1, 1), ("continuous", 0, 0, -4), ("continuous", 2, -4, 0)],
)
def test_observation_action_reward_pays_for_the_action_that_fits_the_observation(kind, action, at_minus, at_plus):
    first, steps = play(f"probe.observation_action_reward_{kind}", action, 1)
    np.testing.assert_array_equal(steps.reward[0], np.where(first[:, 0] < 0, at_minus, at_plus))


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_looks_the_same_at_every_step_and_is_cut_at_the_limit(kind):
    _, steps = play(f"probe.truncation_{kind}", 0, 2 * LIMIT)
    assert (steps.reward == 1).all() and (steps.observation == 1).all() and (steps.final_observation == 1).all()
    assert not steps.terminated.any()
    assert np.flatnonzero(steps.truncated[:, 0]).tolist() == [LIMIT - 1, 2 * LIMIT - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_final_observation_keeps_the_sign_of_its_episode_while_the_next_draws_its_own(kind):
    first, steps = play(f"probe.final_observation_{kind}", 0, LIMIT)
    assert (steps.final_observation == first).all() and (steps.reward == first[:, 0]).all()
    assert steps.truncated[-1].all() and not steps.terminated.any()
    assert (steps.observation[-1] != first).any() and (steps.observation[-1] == first).any()


@pytest.mark.parametrize("kind", KINDS)
def test_termination_shows_its_clock_and_ends_at_the_limit(kind):
    first, steps = play(f"probe.termination_{kind}", 0, LIMIT)
    assert (first == 0).all() and (steps.reward == 1).all() and not steps.truncated.any()
    np.testing.assert_allclose(steps.final_observation[:, 0, 0], np.arange(1, LIMIT + 1) / LIMIT, rtol=1e-6)
    assert np.flatnonzero(steps.terminated[:, 0]).tolist() == [LIMIT - 1]
