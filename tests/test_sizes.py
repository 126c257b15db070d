"""Lanes compute at their own layer sizes: the shapes list them, and a branch for each equals the exact-size network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax.algorithms.optimizer import Adam
from hyperlax.hyperparams import Torso
from hyperlax.networks import architecture as architectures
from hyperlax.networks.architecture import Architecture, TorsoShape, architecture, torso_shape
from hyperlax.networks.branches import by_size, switch
from hyperlax.networks.initializers import lecun_normal
from hyperlax.networks.masked import MaskedMLP, output
from tests.exact import ExactMLP, crop, dead_weights

INPUTS, OUTPUTS = 3, 2
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, INPUTS)), jnp.float32)
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


def loss(out: Any) -> Any:
    return jnp.sum(jnp.sin(out))


@pytest.mark.parametrize("torsos", [FEW, MANY], ids=["few", "many"])
def test_outputs_gradients_and_adam_steps_equal_those_of_the_exact_size_network(torsos: list[Torso]) -> None:
    """By the gradient of the switch, and by a switch around the gradient and the step of an optimizer."""
    network, exact_network = network_of(torsos), lambda torso: ExactMLP(torso, OUTPUTS)

    @jax.jit
    def padded(params: Any, optimizer: Any, x: Any, lane: Architecture) -> Any:
        def step(lane: Architecture, params: Any, optimizer: Any) -> tuple[Any, Any, Any]:
            value, gradient = jax.value_and_grad(lambda p: loss(output(network, p, x, lane)))(params)
            return *ADAM.descend(params, gradient, optimizer, 0.1, 1.0), value

        gradients = jax.grad(lambda p, x: loss(output(network, p, x, lane)), (0, 1))(params, x)
        return output(network, params, x, lane), gradients, by_size(network.shape, lane, step, params, optimizer)

    init = jax.jit(network.init)
    for torso in torsos:
        lane, exact = architecture(torso, network.shape), exact_network(torso)
        params = init(jax.random.key(3), X, lane)
        own = crop(params, torso, INPUTS, OUTPUTS)
        out, gradients, (stepped, optimizer, value) = padded(params, ADAM.init(params), X, lane)
        expected = jax.grad(lambda p, x, n=exact: loss(n.apply(p, x)), (0, 1))(own, X)
        expected_optimizer: Any
        expected_step, expected_optimizer = ADAM.descend(own, expected[0], ADAM.init(own), 0.1, 1.0)
        close(out, exact.apply(own, X))
        close(value, loss(exact.apply(own, X)))
        close((crop(gradients[0], torso, INPUTS, OUTPUTS), gradients[1]), expected)
        close(crop(stepped, torso, INPUTS, OUTPUTS), expected_step)
        close(crop(optimizer.nu, torso, INPUTS, OUTPUTS), expected_optimizer.nu)
        assert jax.tree.map(jnp.shape, (stepped, optimizer)) == jax.tree.map(jnp.shape, (params, ADAM.init(params)))
        assert dead_weights(gradients[0], torso, INPUTS) == dead_weights(stepped, torso, INPUTS) == 0.0


def test_twins_share_a_switch() -> None:
    """Leading axes are kept, as a vmap over two networks of one lane has them."""
    network = network_of(FEW)
    lane = architecture(FEW[1], network.shape)
    twins = jax.vmap(lambda key: network.init(key, X, lane))(jax.random.split(jax.random.key(0)))

    def both(lane: Architecture, twins: Any) -> tuple[Any, Any]:
        return twins, jax.vmap(lambda params: output(network, params, X, lane))(twins)

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


def close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), actual, expected)
