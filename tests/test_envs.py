"""The laws every shipped environment keeps, and where names lead."""

from __future__ import annotations

import dataclasses
import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax import envs
from hyperlax.envs import Continuous, Discrete, Environment, conformance
from hyperlax.envs.catalog import CATALOG, PROBES
from hyperlax.errors import UsageError
from tests.desk import python

COPIES = 3
STEPS = 12

LONG_TO_COMPILE = {"gymnax.asterix", "gymnax.breakout", "gymnax.freeway", "gymnax.seaquest"}


def random_action(key: jax.Array, space: Discrete | Continuous) -> jax.Array:
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n)
    return jax.random.uniform(key, (space.size,), minval=jnp.asarray(space.low), maxval=jnp.asarray(space.high))


def rollout(environment: Environment, length: int, copies: int = COPIES, action=None):
    """(observation before the first step, Steps [length, copies, ...]) under random actions, or always `action`."""

    def one(carry, key):
        keys = jax.random.split(key, (2, copies))
        draw = (lambda k: random_action(k, environment.action)) if action is None else (lambda k: jnp.asarray(action))
        return jax.vmap(environment.step)(keys[0], carry, jax.vmap(draw)(keys[1]))

    def run(key):
        state, observation = jax.vmap(environment.reset)(jax.random.split(key, copies))
        return observation, jax.lax.scan(one, state, jax.random.split(key, length))[1]

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG_TO_COMPILE else []) for name in [*CATALOG, *PROBES]],
)
def test_every_shipped_environment_keeps_its_declared_shapes_types_and_flags_through_a_scan(name):
    environment = envs.make(name)
    conformance.check(environment)
    first, steps = rollout(environment, STEPS)
    assert first.shape == (COPIES, environment.observation_size)
    for observation in (steps.observation, steps.final_observation):
        assert observation.shape == (STEPS, COPIES, environment.observation_size)
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()
    assert steps.reward.shape == (STEPS, COPIES) and steps.reward.dtype == np.float32
    assert steps.terminated.dtype == steps.truncated.dtype == bool
    assert not (steps.terminated & steps.truncated).any()
    assert isinstance(environment.max_episode_steps, int)
    kind = "continuous" if isinstance(environment.action, Continuous) else "discrete"
    assert kind == envs.action_kind(name)


@pytest.mark.parametrize("name", list(CATALOG))
def test_every_catalog_entry_has_ordered_references_and_says_where_they_are_from(name):
    reference = CATALOG[name].reference
    assert reference.lo < reference.hi
    assert "lo: measured" in reference.source
    assert any(word in reference.source for word in ("hi: published", "hi: derived", "hi: scripted", "hi: chosen"))
    assert envs.make(name).reference is reference


def test_the_catalog_holds_every_environment_of_gymnax_but_the_one_that_needs_a_download():
    assert {entry.gymnax_id for entry in CATALOG.values()} == set(gymnax.registered_envs) - {"MNISTBandit-bsuite"}


def test_the_final_observation_of_cartpole_is_where_it_fell_and_the_observation_is_a_fresh_start():
    _, steps = rollout(envs.make("gymnax.cartpole"), 30, action=1)
    ended = steps.terminated
    assert ended.any() and not steps.truncated.any()
    assert (np.abs(steps.observation[ended]) <= 0.05).all()
    assert (np.abs(steps.final_observation[ended][:, 2]) > 12 * 2 * np.pi / 360).all()
    np.testing.assert_array_equal(steps.observation[~ended], steps.final_observation[~ended])


@pytest.mark.parametrize("extent", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("name", ["gymnax.cartpole", "gymnax.catch"])
def test_episodes_end_and_begin_as_in_gymnaxs_own_step(name, extent):
    env, params = gymnax.make(CATALOG[name].gymnax_id)
    environment = envs.make(name)

    def theirs(key, state, action):
        observation, after, reward, terminated, _, info = env.step(key, state, action, params)
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)
        return after, (jnp.ravel(observation), jnp.ravel(info["final_observation"]), reward, terminated)

    def ours(key, state, action):
        after, step = environment.step(key, state, action)
        return after, (step.observation, step.final_observation, step.reward, step.terminated)

    def over(function, extent=extent):
        return functools.reduce(lambda function, _: jax.vmap(function), extent, function)

    @functools.partial(jax.jit, static_argnums=0)
    def run(step):
        key = jax.random.key(0)
        at = jax.random.split(key, (100, *extent)), jax.random.randint(key, (100, *extent), 0, 2)
        state, _ = over(environment.reset)(jax.random.split(key, extent))
        return jax.lax.scan(lambda state, at: over(step)(at[0], state, at[1]), state, at)[1]

    *expected, ended = run(theirs)
    assert ended.any(axis=0).all()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), run(ours), (*expected, ended))


def test_environments_that_are_stepped_with_one_key_begin_alike():
    environment, key = envs.make("gymnax.catch"), jax.random.key(1)
    states, _ = jax.vmap(environment.reset)(jax.random.split(key, 4))
    ended = False
    while not ended:
        states, steps = jax.vmap(environment.step, (None, 0, None))(key, states, jnp.int32(1))
        ended = steps.terminated.any()
    assert steps.terminated.all()
    assert (steps.observation == steps.observation[0]).all()
    assert not (steps.final_observation == steps.final_observation[0]).all()


def test_pendulum_is_truncated_at_its_last_step_and_never_terminated():
    environment = envs.make("gymnax.pendulum")
    _, steps = rollout(environment, environment.max_episode_steps)
    assert not steps.terminated.any()
    assert steps.truncated[-1].all() and not steps.truncated[:-1].any()
    assert (np.abs(steps.observation[-1] - steps.final_observation[-1]).max(axis=1) > 1e-3).all()


def test_an_episode_that_reaches_its_end_and_its_limit_at_once_terminated():
    environment = envs.make("gymnax.deep_sea")
    _, steps = rollout(environment, environment.max_episode_steps)
    assert steps.terminated[-1].all() and not steps.truncated.any()


def test_frozen_lake_shows_its_position_one_hot():
    first, steps = rollout(envs.make("gymnax.frozen_lake"), STEPS)
    np.testing.assert_array_equal(first, np.eye(16)[[0] * COPIES])
    np.testing.assert_array_equal(steps.observation.sum(axis=-1), 1.0)


def test_a_continuous_action_outside_its_bounds_acts_like_the_bound():
    environment = envs.make("gymnax.reacher")
    state, _ = environment.reset(jax.random.key(0))
    _, at_bound = environment.step(jax.random.key(1), state, jnp.array([1.0, -1.0]))
    _, beyond = environment.step(jax.random.key(1), state, jnp.array([7.0, -9.0]))
    np.testing.assert_array_equal(at_bound.observation, beyond.observation)


def test_bounds_that_gymnax_gives_as_one_number_become_one_per_entry():
    assert envs.make("gymnax.pendulum").action == Continuous(low=(-2.0,), high=(2.0,))


def test_every_name_of_an_environment_leads_to_the_same_object():
    assert envs.make("gymnax.Pendulum-v1") is envs.make("gymnax.pendulum")
    assert envs.slug("gymnax.Pendulum-v1") == envs.slug("gymnax.pendulum") == "gymnax_pendulum"
    assert len({envs.slug(name) for name in [*CATALOG, *PROBES]}) == len(CATALOG) + len(PROBES)
    assert envs.names()[: len(CATALOG)] == list(CATALOG)


def own(name: str) -> Environment:
    return dataclasses.replace(envs.make("probe.constant_reward_discrete"), name=name)


@pytest.mark.usefixtures("empty_registry")
def test_a_users_own_environment_is_made_once_listed_and_replaced_by_registering_again():
    calls = []
    envs.register("lab.two_tanks", lambda: calls.append(1) or own("lab.two_tanks"))
    made = envs.make("lab.two_tanks")
    assert envs.make("lab.two_tanks") is made and calls == [1]
    assert envs.names()[-1] == "lab.two_tanks"
    assert envs.slug("lab.two_tanks") == "lab_two_tanks"
    assert envs.action_kind("lab.two_tanks") == "discrete"
    envs.register("lab.two_tanks", lambda: own("lab.two_tanks"))
    assert envs.make("lab.two_tanks") is not made


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tanks", "a name is <suite>.<name>"),
        ("Lab.tanks", "a name is <suite>.<name>"),
        ("gymnax.pong", "Hyperlax ships one"),
    ],
)
def test_a_name_of_another_form_or_of_a_shipped_environment_cannot_be_registered(name, reason):
    with pytest.raises(UsageError, match=f"cannot register environment `{name}`: {reason}"):
        envs.register(name, lambda: own(name))


def test_names_and_references_are_known_without_jax_or_gymnax_and_an_environment_is_made_without_what_draws():
    code = """
import sys, hyperlax.envs as envs, hyperlax.envs.catalog as catalog
envs.slug('gymnax.Pendulum-v1'), envs.names(), envs.action_kind('probe.truncation_discrete')
print([name for name in ('jax', 'gymnax', 'optuna') if name in sys.modules])
envs.make('gymnax.cartpole')
print([name for name in ('seaborn', 'matplotlib') if name in sys.modules])
"""
    assert python("-c", code).stdout == "[]\n[]\n"
