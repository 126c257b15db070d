"""A JAX program of a user's own, small enough for tests."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hyperlax.hyperparams import padded, static, traced
from hyperlax.space import Categorical, LogUniform
from hyperlax.tasks import Lanes, Measure


@dataclass(frozen=True)
class Hypers:
    lr: float = traced(0.1, above=0)
    depth: int = traced(2, 0, 4)
    width: int = padded(4, 1)
    power: int = static(2, 1)


def init(key, hypers):
    return {"w": jax.random.normal(key, (hypers.width.size,)) * hypers.width.mask, "t": 0}


def step(state, hypers, key):
    g = hypers.power * state["w"] ** (hypers.power - 1)
    return {"w": state["w"] - hypers.lr * (g + 0.1 * jax.random.normal(key)) * hypers.width.mask, "t": state["t"] + 1}


def evaluate(state, hypers, key):
    return {"loss": jnp.sum(state["w"] ** 2) / hypers.width.live}


def get_task():
    measure = Measure("loss", "minimize", low=0, high=4)
    return Lanes(Hypers(), init=init, step=step, evaluate=evaluate, measure=measure, budget=20, evaluations=4)


def get_base_hyperparam_distributions():
    return {"lr": LogUniform(domain=(0.01, 0.3)), "width": Categorical(values=[2, 4, 8])}
