"""The engine put to work on reinforcement learning: a runner for a recipe on an environment, on this machine's devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hyperlax.algorithms.workload import Workload
from hyperlax.engine import device
from hyperlax.engine.device import automatic_lanes
from hyperlax.engine.runner import LaneRunner, schedule_of
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.recipe import RunLength
from hyperlax.space import Distribution
from hyperlax.trial import Trial


def make_runner(
    *,
    base: AlgorithmConfig,
    space: Mapping[str, Distribution],
    environment: str,
    run_length: RunLength,
    seed: int,
    num_seeds: int,
    lanes: int | None,
    super_batch: int,
    compilation_cache: bool,
) -> LaneRunner:
    """A runner for one study on this machine's devices.

    lanes: trials a compiled call trains at once; None chooses from the device and `super_batch`.

    Raises:
      UsageError: the algorithm cannot act in the environment; the budget is smaller than the evaluations need, for some
        choice of the search space; jax was started so that it would hang.
    """
    device.prepare_jax(compilation_cache)
    workload = Workload(base, space, environment, run_length)
    schedule_of(run_length, workload.longest_iteration())
    slots = device.slot_devices()
    chosen = lanes or automatic_lanes(super_batch, slots, num_seeds * _bytes_of_state(workload, base))
    return LaneRunner(workload, seed=seed, num_seeds=num_seeds, lanes=chosen, slot_devices=slots)


def _bytes_of_state(workload: Workload, base: AlgorithmConfig) -> int:
    """Bytes of the training state of one seed of one lane: parameters, optimizer, environments, replay."""
    trial = Trial(0, base)
    algorithm: Any = workload.program(trial)
    leaves = jax.tree.leaves(jax.eval_shape(algorithm.init, jax.random.key(0), workload.lane(trial)))
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
