"""What the engine trains where learning is none of the test's business: noisy descent of a bowl, and no environment at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.training import train_batches
from hyperlax.agent import Policy
from hyperlax.backends.closed import ClosedBatches
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.engine.costs import Costs
from hyperlax.engine.programs import Programs
from hyperlax.recipe import RunLength
from hyperlax.trial import NOT_FINITE, BatchResult, Outcome, SegmentResult, Trial

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

    def init(self, key: Array, lane: Any) -> State:
        draw, key = jax.random.split(key)
        return State(key, lane["spread"] * jax.random.normal(draw, (self.dimensions,)), jnp.int32(0))

    def step(self, state: State, lane: Any, iteration: Array) -> State:
        key, draw = jax.random.split(state.key)
        noise = 0.1 * jax.random.normal(draw, (self.dimensions,))
        return State(key, state.x - lane["rate"] * (state.x + noise), iteration + 1)

    def evaluate(self, state: State, lane: Any, key: Array) -> Scores:
        score = -jnp.sum(state.x**2)
        return Scores(score, jnp.std(state.x), score, score, jax.random.uniform(key), jnp.isfinite(score))

    def reset(self, old: State, fresh: State) -> State:
        return fresh._replace(scrap=old.scrap)

    def with_key(self, state: State, key: Array) -> State:
        return state._replace(key=key)

    def policy_params(self, state: State) -> Array:
        return state.x


def hypers(rates: list[float], spread: float = 1.0) -> Any:
    """The lanes' own numbers, [lanes] each."""
    return {"rate": jnp.asarray(rates, jnp.float32), "spread": jnp.full(len(rates), spread, jnp.float32)}


@dataclass
class Descents:
    """A workload whose trials' configurations are dictionaries: rate, spread, dimensions."""

    run_length: RunLength = RUN_LENGTH
    kind: str = "descent"
    measures: tuple[str, ...] = ()

    def flops_of(self, trial: Trial) -> float:
        return float(self.program(trial).dimensions)

    def program(self, trial: Trial) -> Descent:
        config: Any = trial.config
        return Descent(config.get("dimensions", 3))

    def lane(self, trial: Trial) -> Any:
        config: Any = trial.config
        return {"rate": np.float32(config["rate"]), "spread": np.float32(config.get("spread", 1.0))}

    def num_parameters(self, trial: Trial) -> int:
        return self.program(trial).dimensions

    def policy(self, trial: Trial, params: Any) -> Policy:
        return Policy({}, {"x": params})


def trial(number: int, rate: float = 0.1, **config: float) -> Trial:
    values: Any = {"rate": rate, **config}
    return Trial(number, values)


def batch(*trials: Trial) -> tuple[Trial, ...]:
    return trials


def numbers(trials: Sequence[Trial]) -> tuple[int, ...]:
    return tuple(trial.number for trial in trials)


class Batches(ClosedBatches):
    """Closed batches that can be told to stop after so many segments of a run."""

    stop_after: int | None = None

    def _should_stop(self, batch: Any) -> bool:
        if self.stop_after is None:
            return super()._should_stop(batch)
        self.stop_after -= 1
        return self.stop_after <= 0


def backend(
    lanes: int = 3,
    slots: int = 1,
    seeds: int = 2,
    run_length: RunLength = RUN_LENGTH,
    costs: Costs | None = None,
    checkpoints: CheckpointManager | None = None,
    **registry: Any,
) -> Batches:
    """Over the descents, and whatever else `Programs` takes."""
    return batches(Descents(run_length), Programs(lanes, seeds, **registry), slots, costs, checkpoints)


def batches(
    task: Any,
    registry: Programs,
    slots: int = 1,
    costs: Costs | None = None,
    checkpoints: CheckpointManager | None = None,
    seed: int | None = None,
) -> Batches:
    """Over any task."""
    devices, seed = jax.local_devices()[:1] * slots, SEED if seed is None else seed
    return Batches(task, registry, seed=seed, slot_devices=devices, costs=costs, checkpoints=checkpoints)


def run(
    closed: ClosedBatches,
    trials: tuple[Trial, ...],
    checkpoints: CheckpointManager | None = None,
    stop_after: int | None = None,
    on_segment: Callable[[list[SegmentResult]], None] = lambda results: None,
) -> BatchResult:
    """Train one batch. What it raises is raised; Interrupted if it stopped after so many segments."""
    closed._checkpoints = checkpoints or closed._checkpoints
    if isinstance(closed, Batches):
        closed.stop_after = stop_after
    return batch_result(closed, trials, train_batches(closed, [trials], on_segment))


def finish(closed: ClosedBatches, trials: Sequence[Trial]) -> list[BatchResult]:
    """Train trials in the batches of their plan, as many at once as there are slots."""
    batches = closed.plan(trials).batches
    ended = train_batches(closed, batches)
    return [batch_result(closed, own, ended) for own in batches]


def batch_result(closed: ClosedBatches, trials: Sequence[Trial], ended: Mapping[int, SegmentResult]) -> BatchResult:
    outcomes = tuple(outcome_of(trial, ended[trial.number]) for trial in trials)
    return BatchResult(outcomes, closed.timing(numbers(trials)))


def outcome_of(trial: Trial, result: SegmentResult) -> Outcome:
    """The end of a trial that nobody stopped."""
    return Outcome(
        trial=trial,
        state="COMPLETE" if result.fault_step is None else "FAIL",
        reason="" if result.fault_step is None else NOT_FINITE,
        curve=result.curve,
        num_parameters=result.num_parameters,
        train_seconds=result.train_seconds,
        lane=result.lane,
        fault_step=result.fault_step,
        intervals=result.intervals,
        policy=result.policy,
    )


def same_curves(one: Any, other: Any) -> bool:
    """Whether two curves are equal to the bit."""
    names = ("steps", "mean", "std", "min", "max", "length")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
