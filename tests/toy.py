"""What the engine trains where learning is none of the test's business: noisy descent of a bowl, and no environment at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperlax.agent import Policy
from hyperlax.engine.costs import Costs
from hyperlax.engine.registry import Registry
from hyperlax.engine.runner import LaneRunner
from hyperlax.recipe import RunLength
from hyperlax.trial import HparamBatch, Trial

RUN_LENGTH = RunLength(total_timesteps=20, num_evaluations=3, num_eval_episodes=4)
SEED = 5


class State(NamedTuple):
    key: Array
    x: Array  # float32[dimensions]
    scrap: Array  # int32[], memory that a lane's next trial inherits


class Scores(NamedTuple):
    mean: Array
    std: Array
    min: Array
    max: Array
    length: Array  # the evaluation's own random draw
    finite: Array


@dataclass(frozen=True)
class Descent:
    """x <- x - rate (x + noise): a positive rate below 1 shrinks x, one of 1e5 blows it up."""

    dimensions: int = 3
    steps_per_iteration: int = 2

    def work(self, effort: float) -> float:
        return effort * self.dimensions

    def init(self, key: Array, lane: Any) -> State:
        draw, key = jax.random.split(key)
        return State(key, lane["spread"] * jax.random.normal(draw, (self.dimensions,)), jnp.int32(0))

    def step(self, state: State, lane: Any, tick: Array) -> State:
        key, draw = jax.random.split(state.key)
        noise = 0.1 * jax.random.normal(draw, (self.dimensions,))
        return State(key, state.x - lane["rate"] * (state.x + noise), tick + 1)

    def evaluate(self, state: State, lane: Any, key: Array) -> Scores:
        score = -jnp.sum(state.x**2)
        return Scores(score, jnp.std(state.x), score, score, jax.random.uniform(key), jnp.isfinite(score))

    def renew(self, old: State, fresh: State) -> State:
        return fresh._replace(scrap=old.scrap)

    def rekey(self, state: State, key: Array) -> State:
        return state._replace(key=key)

    def acting(self, state: State) -> Array:
        return state.x


def hypers(rates: list[float], spread: float = 1.0) -> Any:
    """The lanes' own numbers, [lanes] each."""
    return {"rate": jnp.asarray(rates, jnp.float32), "spread": jnp.full(len(rates), spread, jnp.float32)}


@dataclass
class Descents:
    """A workload whose trials' configurations are dictionaries: rate, spread, dimensions."""

    run_length: RunLength = RUN_LENGTH
    kind: str = "descent"

    def effort(self, trial: Trial) -> float:
        return 1.0

    def program(self, trial: Trial) -> Descent:
        config: Any = trial.algorithm
        return Descent(config.get("dimensions", 3))

    def lane(self, trial: Trial) -> Any:
        config: Any = trial.algorithm
        return {"rate": np.float32(config["rate"]), "spread": np.float32(config.get("spread", 1.0))}

    def num_parameters(self, trial: Trial) -> int:
        return self.program(trial).dimensions

    def policy(self, trial: Trial, acting: Any) -> Policy:
        return Policy({}, {"x": acting})


def trial(number: int, rate: float = 0.1, **config: float) -> Trial:
    values: Any = {"rate": rate, **config}
    return Trial(number, values)


def batch(*trials: Trial) -> HparamBatch:
    return HparamBatch(trials)


def runner(
    lanes: int = 3,
    slots: int = 1,
    seeds: int = 2,
    run_length: RunLength = RUN_LENGTH,
    costs: Costs | None = None,
    **registry: Any,
) -> LaneRunner:
    """Over the descents, and whatever else a Registry takes."""
    devices = jax.local_devices()[:1] * slots
    return LaneRunner(
        Descents(run_length), Registry(lanes, seeds, **registry), seed=SEED, slot_devices=devices, costs=costs
    )


def run(lane_runner: LaneRunner, hparam_batch: HparamBatch) -> Any:
    return lane_runner.run(hparam_batch, should_stop=lambda: False, report=lambda steps: None)


def same_curves(one: Any, other: Any) -> bool:
    """Whether two curves are equal to the bit."""
    names = ("steps", "mean", "std", "min", "max", "length")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
