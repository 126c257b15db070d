"""What decides the bits of lanes, by name; see `hyperlax.checkpoints.Head`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from hyperlax.engine import device
from hyperlax.engine.costs import fingerprint
from hyperlax.engine.workload import Workload
from hyperlax.trial import Trial


def identity_of(
    workload: Workload, trials: Sequence[Trial], algorithm: Any, *, lanes: int, seeds: int, seed: int
) -> dict[str, Any]:
    """All but the program's code, of these trials in a program of so many lanes and seeds. seed: the study's."""
    length = workload.run_length
    own = [leaf.tobytes() for trial in trials for leaf in jax.tree.leaves(workload.lane(trial))]
    return {
        **device.identity(),
        "program": fingerprint(algorithm, *map(workload.program, trials)),
        "lanes": lanes,
        "seeds": seeds,
        "seed": seed,
        "budget": length.total_timesteps,
        "evaluations": length.num_evaluations,
        "episodes": length.num_eval_episodes,
        "hyperparameters": fingerprint(*own),
    }
