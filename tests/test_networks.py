"""Padding is unobservable: a masked network, or a branch for each size, equals the exact-size one in weights and gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlax.algorithms.optimizer import Adam
from hyperlax.hyperparams import ACTIVATIONS, Torso
from hyperlax.networks import architecture as architectures
from hyperlax.networks.architecture import Architecture, TorsoShape, architecture, count_parameters, torso_shape
from hyperlax.networks.branches import by_size, switch
from hyperlax.networks.initializers import lecun_normal, orthogonal, orthonormal_columns, samples
from hyperlax.networks.masked import MaskedMLP
from tests.exact import ExactMLP, crop, dead_weights

INPUTS, OUTPUTS = 3, 2
WIDEST = Torso((7, 9, 8), "tanh", False)
SHAPE = torso_shape([WIDEST, *[Torso((5,), name, norm) for name in ACTIVATIONS for norm in (False, True)]])
NETWORK = MaskedMLP(SHAPE, OUTPUTS, orthogonal(2**0.5), lecun_normal())
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, INPUTS)), jnp.float32)
torsos = st.builds(
    Torso,
    st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)


@jax.jit
def masked_init(key, lane):
    return NETWORK.init(key, INPUTS, lane)


@jax.jit
def masked_output_and_gradient(params, lane):
    return NETWORK.output(params, X, lane), jax.grad(lambda p: loss(NETWORK.output(p, X, lane)))(params)


def loss(out: Any) -> Any:
    return jnp.sum(jnp.sin(out))


def close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), actual, expected)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(torso=torsos, seed=st.integers(0, 2**31 - 1))
def test_outputs_and_gradients_equal_those_of_the_exact_size_network(torso: Torso, seed: int) -> None:
    lane = architecture(torso, SHAPE)
    params = masked_init(jax.random.key(seed), lane)
    exact = ExactMLP(torso, OUTPUTS)
    cropped = crop(params, torso, INPUTS, OUTPUTS)
    actual, gradient = masked_output_and_gradient(params, lane)
    expected = jax.jit(lambda p: (exact.apply(p, X), jax.grad(lambda q: loss(exact.apply(q, X)))(p)))(cropped)
    np.testing.assert_allclose(actual, expected[0], rtol=1e-4, atol=1e-5)
    close(crop(gradient, torso, INPUTS, OUTPUTS), expected[1])
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
        params = jax.jit(network.init, static_argnums=1)(jax.random.key(1), INPUTS, lane)
        out, gradient = slope(network.output, params, lane)
        expected, expected_gradient = slope(ExactMLP(torso, OUTPUTS).apply, crop(params, torso, INPUTS, OUTPUTS))
        np.testing.assert_allclose(out, expected, rtol=1e-5)
        compared = (crop(gradient, torso, INPUTS, OUTPUTS), expected_gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *compared)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(torso=torsos, seed=st.integers(0, 2**31 - 1))
def test_initial_weights_equal_those_of_a_program_of_exactly_that_size(torso: Torso, seed: int) -> None:
    alone = torso_shape([torso])
    network = MaskedMLP(alone, OUTPUTS, orthogonal(2**0.5), lecun_normal())
    exact = jax.jit(network.init, static_argnums=1)(jax.random.key(seed), INPUTS, architecture(torso, alone))
    padded = masked_init(jax.random.key(seed), architecture(torso, SHAPE))
    close(crop(padded, torso, INPUTS, OUTPUTS), crop(exact, torso, INPUTS, OUTPUTS))


@settings(max_examples=8, deadline=None, derandomize=True)
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


def test_columns_that_are_nearly_alike_become_orthonormal_to_rounding() -> None:
    draw = np.random.default_rng(2).normal(size=(8, 1)), np.random.default_rng(3).normal(size=(8, 5))
    q = np.asarray(orthonormal_columns(jnp.asarray(draw[0] + 1e-3 * draw[1], jnp.float32)))
    np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-5)


def test_no_two_rows_of_a_networks_first_weights_are_alike() -> None:
    alike = MaskedMLP(torso_shape([Torso((4,) * 70, "tanh", False)]), 4, lecun_normal(), lecun_normal())
    lane = architecture(Torso((4,) * 70, "tanh", False), alike.shape)
    params = alike.init(jax.random.key(0), 4, lane)
    rows = np.concatenate([x for x in map(np.asarray, jax.tree.leaves(params)) if x.ndim == 2])
    assert len(np.unique(rows, axis=0)) == len(rows) == 4 * 71
    with pytest.raises(ValueError, match="a network of 3 layers; at most 2"):
        samples(lecun_normal().sample, jax.random.key(0), [(4, 4)] * 3, most=2)


def test_lecun_weights_have_the_variance_of_the_lanes_own_fan_in() -> None:
    weights = np.asarray(lecun_normal()(jax.random.key(0), 200, 300, jnp.asarray(50), jnp.asarray(300)))
    assert weights[:50].var() == pytest.approx(1 / 50, rel=0.05)
    assert not weights[50:].any()


def test_layers_that_some_lane_skips_are_as_wide_as_the_one_they_follow() -> None:
    assert torso_shape([Torso((64, 32)), Torso((16, 128))]).widths == (64, 128)
    assert torso_shape([Torso((64,)), Torso((16, 128, 8))]).widths == (128, 128, 128)
    assert torso_shape([Torso((64, 16)), Torso((16, 8, 32))]).widths == (64, 32, 32)


FEW = [Torso((5,), "tanh", False), Torso((4, 7), "relu", True), Torso((6, 3, 2), "silu", False)]
MANY = [Torso((3 + n // 2, 12 - n)[: 1 + n % 2], ("tanh", "elu")[n % 3 % 2], n % 3 == 0) for n in range(12)]
ADAM = Adam(1e-8)


def test_a_shape_lists_each_size_once_from_the_smallest() -> None:
    shape = torso_shape([Torso((8, 8)), Torso((4,)), Torso((4,), "relu"), Torso((8, 2))], exact_sizes=True)
    assert shape.widths == (8, 8)
    assert [size.widths for size in shape.sizes] == [(4,), (8, 2), (8, 8)]
    assert all(size.exact and not size.sizes for size in shape.sizes)
    assert [shape.size(Torso(sizes)) for sizes in ((4,), (8, 2), (8, 8))] == [0, 1, 2]
    assert shape.holds(Torso((8, 2), "relu")) and not shape.holds(Torso((7, 2)))


def test_a_single_size_needs_no_list_and_no_masks() -> None:
    shape = torso_shape([Torso((8, 4)), Torso((8, 4), "relu", True)], exact_sizes=True)
    assert shape == TorsoShape((8, 4), ("relu", "tanh"), (False, True), exact=True)
    assert not shape.holds(Torso((8,)))


def test_more_sizes_than_are_listed_share_the_nearest() -> None:
    shape = torso_shape(MANY, exact_sizes=True)
    assert len({torso.layer_sizes for torso in MANY}) > len(shape.sizes) == architectures.MOST_SIZES
    assert 0 < sum(size.exact for size in shape.sizes) < len(shape.sizes)
    for torso in MANY:
        size = shape.sizes[shape.size(torso)]
        assert size.holds(torso)
        assert not any(smaller.holds(torso) for smaller in shape.sizes[: shape.size(torso)])
        assert all(own <= padded for own, padded in zip(size.widths, shape.widths, strict=False))


def network_of(torsos: list[Torso]) -> MaskedMLP:
    return MaskedMLP(torso_shape(torsos, exact_sizes=True), OUTPUTS, lecun_normal(), lecun_normal())


@pytest.mark.parametrize(
    ("torsos", "most"),
    [(FEW, 2), *(pytest.param(torsos, architectures.MOST_SIZES, marks=pytest.mark.slow) for torsos in (FEW, MANY))],
    ids=["few, two of them at one size", "few", "many"],
)
def test_outputs_gradients_and_adam_steps_equal_those_of_the_exact_size_network(
    torsos: list[Torso], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the gradient of the switch, and by a switch around the gradient and the step of an optimizer."""
    monkeypatch.setattr(architectures, "MOST_SIZES", most)
    network = network_of(torsos)
    assert len(network.shape.sizes) == min(most, len({torso.layer_sizes for torso in torsos}))

    @jax.jit
    def padded(params: Any, optimizer: Any, x: Any, lane: Architecture) -> Any:
        def step(lane: Architecture, params: Any, optimizer: Any) -> tuple[Any, Any, Any]:
            value, gradient = jax.value_and_grad(lambda p: loss(network.output(p, x, lane)))(params)
            return *ADAM.descend(params, gradient, optimizer, 0.1, 1.0), value

        gradients = jax.grad(lambda p, x: loss(network.output(p, x, lane)), (0, 1))(params, x)
        return network.output(params, x, lane), gradients, by_size(network.shape, lane, step, params, optimizer)

    def exact(torso: Torso) -> Any:
        @jax.jit
        def computed(own: Any, x: Any) -> Any:
            gradients = jax.grad(lambda p, x: loss(ExactMLP(torso, OUTPUTS).apply(p, x)), (0, 1))(own, x)
            step, optimizer = ADAM.descend(own, gradients[0], ADAM.init(own), 0.1, 1.0)
            return ExactMLP(torso, OUTPUTS).apply(own, x), gradients, step, optimizer

        return computed

    init = jax.jit(network.init, static_argnums=1)
    for torso in torsos:
        lane = architecture(torso, network.shape)
        params = init(jax.random.key(3), INPUTS, lane)
        own = crop(params, torso, INPUTS, OUTPUTS)
        out, gradients, (stepped, optimizer, value) = padded(params, ADAM.init(params), X, lane)
        expected_out, expected, expected_step, expected_optimizer = exact(torso)(own, X)
        close(out, expected_out)
        close(value, loss(expected_out))
        close((crop(gradients[0], torso, INPUTS, OUTPUTS), gradients[1]), expected)
        close(crop(stepped, torso, INPUTS, OUTPUTS), expected_step)
        close(crop(optimizer.nu, torso, INPUTS, OUTPUTS), expected_optimizer.nu)
        assert jax.tree.map(jnp.shape, (stepped, optimizer)) == jax.tree.map(jnp.shape, (params, ADAM.init(params)))
        assert dead_weights(gradients[0], torso, INPUTS) == dead_weights(stepped, torso, INPUTS) == 0.0


def test_twins_share_a_switch() -> None:
    """Leading axes are kept, as a vmap over two networks of one lane has them."""
    network = network_of(FEW)
    lane = architecture(FEW[1], network.shape)
    twins = jax.vmap(lambda key: network.init(key, INPUTS, lane))(jax.random.split(jax.random.key(0)))

    def both(lane: Architecture, twins: Any) -> tuple[Any, Any]:
        return twins, jax.vmap(lambda params: network.output(params, X, lane))(twins)

    kept, out = jax.jit(lambda twins, lane: by_size(network.shape, lane, both, twins))(twins, lane)
    close(kept, twins)
    own = crop(twins, FEW[1], INPUTS, OUTPUTS)
    close(out, jax.vmap(lambda params: ExactMLP(FEW[1], OUTPUTS).apply(params, X))(own))
    text = jax.jit(lambda twins, lane: by_size(network.shape, lane, both, twins)).lower(twins, lane).as_text()
    assert "stablehlo.case" in text, "a branch under vmap over the twins stays a branch"


def test_the_gradient_of_a_switch_keeps_its_arguments_only() -> None:
    functions = [lambda scale, x: jnp.sin(scale * x), lambda scale, x: jnp.exp(jnp.tanh(x)), lambda scale, x: x]
    for index, function in enumerate(functions):
        value, pull = jax.vjp(lambda x, i=index: switch(jnp.int32(i), functions, 2.0, x), X)
        expected, expected_pull = jax.vjp(lambda x, f=function: f(2.0, x), X)
        close((value, pull(value)), (expected, expected_pull(expected)))
        assert sum(leaf.size for leaf in jax.tree.leaves(pull) if jnp.ndim(leaf)) == X.size
