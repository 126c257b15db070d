"""A function of a user's own, small enough for tests."""

from hyperlax.space import UniformContinuous, UniformDiscrete
from hyperlax.tasks import Function, Measure


def train(params, report, seed):
    for step in range(1, 5):
        loss = (params["x"] - 0.3) ** 2 + params["n"] / step + 0.01 * (seed % 7)
        report(step, loss=loss, size=params["n"])


def get_task():
    return Function(
        train, Measure("loss", "minimize", low=0, high=4), [Measure("size", "minimize")], budget=4, evaluations=4
    )


def get_base_params():
    return {"x": 0.9, "n": 4, "mode": "slow", "layers": [8, 8]}


def get_base_hyperparam_distributions():
    return {"x": UniformContinuous(domain=(0.0, 1.0)), "n": UniformDiscrete(domain=(1, 4))}
