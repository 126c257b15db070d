"""A classifier of scikit-learn's digits, a multilayer perceptron in JAX, as an example of a program whose trials are lanes.

Each trial trains two hidden layers with Adam for 1,000 steps, and is scored on 360 images that no step sees. The widths are
padded, so that networks of all sizes share one compiled program. Needs scikit-learn: pip install "hyperlax[sklearn]"

    hyperlax optuna-hp-search --algo-and-network-config digits --n-trials 24 --pruner asha

To tune a JAX program of your own, copy this file to recipes/ in your working directory and edit the copy.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperlax.errors import UsageError
from hyperlax.hyperparams import padded, static, traced
from hyperlax.networks.initializers import lecun_normal
from hyperlax.space import Distribution, LogUniform, LogUniformDiscrete, UniformContinuous
from hyperlax.tasks import Lanes, Measure

CLASSES, PIXELS, HELD_OUT = 10, 64, 360
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Hypers:
    """Hyperparameters with their defaults."""

    lr: float = traced(1e-3, above=0)  # Adam step size
    weight_decay: float = traced(1e-3, 0)  # decoupled, per step and unit of lr (Loshchilov and Hutter, 2019)
    dropout: float = traced(0.0, 0, 0.9)  # share of hidden units that a step leaves out
    label_smoothing: float = traced(0.0, 0, 0.9)  # share of the target spread over all classes
    width_1: int = padded(64, 1)  # units of the first hidden layer
    width_2: int = padded(64, 1)  # units of the second
    batch_size: int = static(64, 1)  # images of one step


@cache
def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return images float32[n, 64] from 0 to 1 and classes int[n], to train on and held out."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images, classes = found.data, found.target
    order = np.random.default_rng(0).permutation(len(classes))
    images, classes = images[order].astype(np.float32) / 16, classes[order]
    return (images[HELD_OUT:], classes[HELD_OUT:]), (images[:HELD_OUT], classes[:HELD_OUT])


def init(key: Any, hypers: Any) -> dict[str, Any]:
    """Return weights, Adam's two moments and its number of steps."""
    draw, first, second = lecun_normal(), hypers.width_1, hypers.width_2
    keys = jax.random.split(key, 3)
    weights = {
        "kernel_1": draw(keys[0], PIXELS, first.size, PIXELS, first.live),
        "bias_1": jnp.zeros(first.size),
        "kernel_2": draw(keys[1], first.size, second.size, first.live, second.live),
        "bias_2": jnp.zeros(second.size),
        "kernel_3": draw(keys[2], second.size, CLASSES, second.live, CLASSES),
        "bias_3": jnp.zeros(CLASSES),
    }
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return {"weights": weights, "mean": zeros, "square": zeros, "steps": 0}


def logits(weights: Any, images: Any, drop: Any = lambda hidden, layer: hidden) -> Any:
    """Return float32[batch, 10]. drop: leaves out some of the hidden units."""
    hidden = drop(jax.nn.relu(images @ weights["kernel_1"] + weights["bias_1"]), 0)
    hidden = drop(jax.nn.relu(hidden @ weights["kernel_2"] + weights["bias_2"]), 1)
    return hidden @ weights["kernel_3"] + weights["bias_3"]


def step(state: Any, hypers: Any, key: Any) -> dict[str, Any]:
    """Descend once along the gradient of a batch."""
    (images, classes), _ = data()
    rows_key, *drop_keys = jax.random.split(key, 3)
    rows = jax.random.randint(rows_key, (hypers.batch_size,), 0, len(classes))
    target = jax.nn.one_hot(jnp.asarray(classes)[rows], CLASSES)
    target = (1 - hypers.label_smoothing) * target + hypers.label_smoothing / CLASSES

    def drop(hidden: Any, layer: int) -> Any:
        """Drop units. Drawn with the padded axis first, so that a wider program draws the same for those of a narrow one."""
        keep = jax.random.bernoulli(drop_keys[layer], 1 - hypers.dropout, hidden.shape[::-1]).T
        return hidden * keep / (1 - hypers.dropout)

    def loss(weights: Any) -> Any:
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits(weights, jnp.asarray(images)[rows], drop)), axis=1))

    slope, steps = jax.grad(loss)(state["weights"]), state["steps"] + 1
    mean = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, state["mean"], slope)
    square = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g**2, state["square"], slope)

    def descend(weight: Any, m: Any, v: Any) -> Any:
        direction = m / (1 - BETA_1**steps) / (jnp.sqrt(v / (1 - BETA_2**steps)) + EPSILON)
        return weight - hypers.lr * (direction + hypers.weight_decay * weight)

    weights = jax.tree.map(descend, state["weights"], mean, square)
    return {"weights": weights, "mean": mean, "square": square, "steps": steps}


def evaluate(state: Any, hypers: Any, key: Any) -> dict[str, Any]:
    """Return accuracy and cross-entropy on the images held out."""
    _, (images, classes) = data()
    out = logits(state["weights"], jnp.asarray(images))
    entropy = -jnp.mean(jax.nn.log_softmax(out)[jnp.arange(HELD_OUT), classes])
    return {"accuracy": jnp.mean(jnp.argmax(out, axis=1) == classes), "loss": entropy}


def get_task() -> Lanes:
    """Return what is trained. low: what a guess scores."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError('the digits need scikit-learn: pip install "hyperlax[sklearn]"')
    return Lanes(
        Hypers(),
        init=init,
        step=step,
        evaluate=evaluate,
        measure=Measure("accuracy", "maximize", low=0.1, high=1.0),
        measures=[Measure("loss", "minimize")],
        budget=1000,
        evaluations=10,
    )


def get_base_hyperparam_distributions() -> dict[str, Distribution]:
    """Return the search space."""
    return {
        "lr": LogUniform(domain=(1e-4, 1e-1)),
        "weight_decay": LogUniform(domain=(1e-4, 1.0)),
        "dropout": UniformContinuous(domain=(0.0, 0.5)),
        "label_smoothing": UniformContinuous(domain=(0.0, 0.2)),
        "width_1": LogUniformDiscrete(domain=(8, 256)),
        "width_2": LogUniformDiscrete(domain=(8, 256)),
    }
