"""Padding is unobservable: a masked network equals the exact-size one in weights, outputs and gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.hyperparams import ACTIVATIONS, Torso
from hyperlax.networks.architecture import architecture, count_parameters, torso_shape
from hyperlax.networks.initializers import lecun_normal, orthogonal, orthonormal_columns
from hyperlax.networks.masked import MaskedMLP, output
from tests.exact import ExactMLP, crop, dead_weights

INPUTS, OUTPUTS = 3, 2
WIDEST = Torso((7, 9, 8), "tanh", False)
SHAPE = torso_shape([WIDEST, *[Torso((5,), name, norm) for name in ACTIVATIONS for norm in (False, True)]])
NETWORK = MaskedMLP(SHAPE, OUTPUTS, orthogonal(2**0.5), lecun_normal())
X = np.random.default_rng(0).normal(size=(4, INPUTS)).astype(np.float32)
torsos = st.builds(
    Torso,
    st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)


@jax.jit
def masked_init(key, lane):
    return NETWORK.init(key, X, lane)


@jax.jit
def masked_output_and_gradient(params, lane):
    loss = lambda p: jnp.sum(jnp.sin(output(NETWORK, p, jnp.asarray(X), lane)))  # noqa: E731
    return NETWORK.apply(params, X, lane), jax.grad(loss)(params)


@settings(max_examples=8, deadline=None)
@given(torso=torsos, seed=st.integers(0, 2**31 - 1))
def test_outputs_and_gradients_equal_those_of_the_exact_size_network(torso: Torso, seed: int) -> None:
    lane = architecture(torso, SHAPE)
    params = masked_init(jax.random.key(seed), lane)
    exact = ExactMLP(torso, OUTPUTS)
    cropped = crop(params, torso, INPUTS, OUTPUTS)
    actual, gradient = masked_output_and_gradient(params, lane)
    expected, expected_gradient = jax.jit(
        lambda p: (exact.apply(p, X), jax.grad(lambda q: jnp.sum(jnp.sin(jnp.asarray(exact.apply(q, X)))))(p))
    )(cropped)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        crop(gradient, torso, INPUTS, OUTPUTS),
        expected_gradient,
    )
    assert dead_weights(params, torso, INPUTS) == 0.0
    assert dead_weights(gradient, torso, INPUTS) == 0.0


@pytest.mark.parametrize(("names", "norms"), [(["tanh", "relu"], [True]), (["elu"], [False, True])])
def test_a_program_of_one_activation_or_of_layer_norm_alone_equals_the_exact_size_network(
    names: list[str], norms: list[bool]
) -> None:
    own = [Torso((5,), name, norm) for name in names for norm in norms]
    network = MaskedMLP(torso_shape([Torso((6,), names[0], norms[0]), *own]), OUTPUTS, lecun_normal(), lecun_normal())

    def slope(apply: Any, params: Any, *lane: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(apply(p, X, *lane)))))(params)

    for torso in own:
        lane = architecture(torso, network.shape)
        params = jax.jit(network.init)(jax.random.key(1), X, lane)
        out, gradient = slope(network.apply, params, lane)
        expected, expected_gradient = slope(ExactMLP(torso, OUTPUTS).apply, crop(params, torso, INPUTS, OUTPUTS))
        np.testing.assert_allclose(out, expected, rtol=1e-5)
        compared = (crop(gradient, torso, INPUTS, OUTPUTS), expected_gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *compared)


@settings(max_examples=8, deadline=None)
@given(torso=torsos, seed=st.integers(0, 2**31 - 1))
def test_initial_weights_equal_those_of_a_program_of_exactly_that_size(torso: Torso, seed: int) -> None:
    alone = torso_shape([torso])
    network = MaskedMLP(alone, OUTPUTS, orthogonal(2**0.5), lecun_normal())
    exact = jax.jit(network.init)(jax.random.key(seed), X, architecture(torso, alone))
    padded = masked_init(jax.random.key(seed), architecture(torso, SHAPE))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        crop(padded, torso, INPUTS, OUTPUTS),
        crop(exact, torso, INPUTS, OUTPUTS),
    )


@settings(max_examples=8, deadline=None)
@given(torso=torsos, inputs=st.integers(1, 5), outputs=st.integers(1, 5))
def test_num_parameters_counts_the_exact_size_network(torso: Torso, inputs: int, outputs: int) -> None:
    network = ExactMLP(torso, outputs)
    params = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, inputs), np.float32))
    assert count_parameters(torso, inputs, outputs) == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5), (4, 4), (1, 4)])
def test_orthogonal_weights_are_orthonormal_on_the_short_side_at_the_lanes_own_size(rows: int, columns: int) -> None:
    weights = np.array(orthogonal(1.0)(jax.random.key(3), 6, 7, jnp.asarray(rows), jnp.asarray(columns)))
    live = weights[:rows, :columns]
    gram = live.T @ live if rows >= columns else live @ live.T
    np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-6)
    weights[:rows, :columns] = 0.0
    assert not weights.any()


def test_orthonormal_columns_are_the_q_of_numpys_qr_up_to_signs_of_columns() -> None:
    matrix = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    q, r = np.linalg.qr(matrix)
    np.testing.assert_allclose(orthonormal_columns(jnp.asarray(matrix)), q * np.sign(np.diag(r)), atol=1e-5)


def test_lecun_weights_have_the_variance_of_the_lanes_own_fan_in() -> None:
    weights = np.asarray(lecun_normal()(jax.random.key(0), 200, 300, jnp.asarray(50), jnp.asarray(300)))
    assert weights[:50].var() == pytest.approx(1 / 50, rel=0.05)
    assert not weights[50:].any()


def test_draws_of_a_narrow_layer_begin_those_of_a_wide_one() -> None:
    narrow = jax.random.normal(jax.random.key(5), (4,))
    wide = jax.random.normal(jax.random.key(5), (9,))
    assert np.array_equal(narrow, wide[:4])


def test_layers_that_some_lane_skips_are_as_wide_as_the_one_they_follow() -> None:
    assert torso_shape([Torso((64, 32)), Torso((16, 128))]).widths == (64, 128)
    assert torso_shape([Torso((64,)), Torso((16, 128, 8))]).widths == (128, 128, 128)
    assert torso_shape([Torso((64, 16)), Torso((16, 8, 32))]).widths == (64, 32, 32)
