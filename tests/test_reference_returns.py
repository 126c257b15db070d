"""`benchmarks/reference_returns.py` measures what it says, and the catalog agrees with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax import envs

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "reference_returns.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reference_returns", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_return_is_the_sum_of_the_rewards_of_one_whole_episode(script):
    environment = envs.make("probe.termination_discrete")
    returns = script.episode_returns(environment, script.random_policy(environment), jax.random.key(0), 8)
    np.testing.assert_array_equal(returns, 5.0)


def test_the_random_policy_is_uniform_over_the_declared_actions(script):
    keys = jax.random.split(jax.random.key(0), 2000)
    box = jax.vmap(lambda key: script.random_policy(envs.make("probe.action_reward_continuous"))(key, None))(keys)
    assert box.shape == (2000, 1) and box.min() >= -1 and box.max() <= 3
    assert abs(float(box.mean()) - 1.0) < 0.1
    coins = jax.vmap(lambda key: script.random_policy(envs.make("gymnax.catch"))(key, None))(keys)
    np.testing.assert_array_equal(jnp.unique(coins), [0, 1, 2])


def test_cheap_environments_agree_with_the_catalog(script, capsys):
    names = ["gymnax.cartpole", "gymnax.pendulum", "gymnax.Catch-bsuite", "gymnax.mountain_car"]
    assert script.main([*(f"--env={name}" for name in names), "--episodes=512", "--seed=7", "--check"]) == 0
    assert "gymnax.catch" in capsys.readouterr().out


def test_a_paddle_left_still_reaches_the_solved_return_of_pong(script):
    assert script.main(["--env=gymnax.pong", "--scripted", "--episodes=2", "--check"]) == 0


def test_check_fails_and_names_the_environment_when_the_catalog_is_off(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "agrees", lambda measured, catalog: False)
    assert script.main(["--env=gymnax.catch", "--episodes=4", "--check"]) == 1
    assert "standard errors: gymnax.catch" in capsys.readouterr().out


def test_agreement_is_four_standard_errors(script):
    measured = script.Measured(mean=10.0, error=1.0, episodes=100, seconds=0.0)
    assert script.agrees(measured, 13.9) and not script.agrees(measured, 14.2)


def test_one_episode_is_refused_for_it_has_no_standard_error(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--env=gymnax.catch", "--episodes=1"])
    assert "--episodes must be 2 or more" in capsys.readouterr().err
