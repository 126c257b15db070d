"""A member's interval as the outcome of a trial."""

from __future__ import annotations

import numpy as np

from hyperlax.config.options import PopulationOptions
from hyperlax.engine.population import Measured, Point
from hyperlax.trial import MEASURED, NOT_FINITE, Curve, Outcome, Trial


def outcome_of(
    trial: Trial,
    member: int,
    before: Point,
    measured: Measured,
    steps: tuple[int, int],
    num_parameters: int,
    arguments: PopulationOptions,
) -> Outcome:
    """The trial with a curve of two points: what its member goes on from, and what it showed at the interval's end.

    before: already in the order of the members that go on. steps: of one seed at the beginning and the end.
    """
    points = (before, measured.point)
    sound = [_is_finite(point, member) for point in points]
    kept = len(points) if all(sound) else sound.index(False)
    seeds = before["mean"].shape[1]
    columns = {
        name: np.array([point[name][member] for point in points[:kept]], np.float64).reshape(kept, seeds)
        for name in MEASURED
    }
    return Outcome(
        number=trial.number,
        state="COMPLETE" if kept == len(points) else "FAIL",
        reason="" if kept == len(points) else NOT_FINITE,
        curve=Curve(
            steps=np.array(steps[:kept], np.int64),
            episodes=arguments.num_eval_episodes,
            budget=arguments.total_timesteps,
            **columns,
        ),
        num_parameters=num_parameters,
        train_seconds=measured.timing["train_seconds"] / arguments.population_size,
        lane=member,
        fault_step=None if kept == len(points) else steps[kept],
    )


def _is_finite(point: Point, member: int) -> bool:
    return bool(point["finite"][member].all() and np.isfinite(point["mean"][member]).all())
