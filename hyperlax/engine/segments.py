"""The segments between a session's evaluations, and the cost of its parts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from hyperlax.engine.checkpoint import Metadata
from hyperlax.engine.lanes import Preparation
from hyperlax.errors import OptionError, counted
from hyperlax.recipe import RunLength


@dataclass(frozen=True)
class Segments:
    """The parts of a training between two evaluations, equal to within one iteration."""

    total_timesteps: int
    count: int
    steps_per_iteration: int

    @classmethod
    def of(cls, run_length: RunLength, steps_per_iteration: int) -> Segments:
        """Return the segments of a program's training.

        Raises:
          UsageError: the budget has fewer iterations than evaluations.
        """
        segments = cls(run_length.total_timesteps, run_length.num_evaluations, steps_per_iteration)
        if not all(segments.iterations()):
            raise OptionError(
                "total_timesteps",
                "a budget of {0} holds {1} of {2} (total_num_envs x rollout_length), too few for {3}. "
                "Raise {total_timesteps} to at least {4}, lower {num_evaluations}, or make rollouts shorter.",
                counted(run_length.total_timesteps, "step"),
                counted(sum(segments.iterations()), "rollout"),
                counted(steps_per_iteration, "step"),
                counted(run_length.num_evaluations, "evaluation"),
                run_length.num_evaluations * steps_per_iteration,
            )
        return segments

    def end(self, segment: int) -> int:
        """Return the iterations until the end of a segment, counted from 1. The last one ends as soon as the budget is reached."""
        total = -(-self.total_timesteps // self.steps_per_iteration)
        return total * segment // self.count

    def iterations(self) -> list[int]:
        """Return the iterations of each segment."""
        return [after - before for before, after in itertools.pairwise(map(self.end, range(self.count + 1)))]

    def steps(self) -> list[int]:
        """Return the environment steps of one seed at each evaluation, the one before training included."""
        return (np.cumsum([0, *self.iterations()]) * self.steps_per_iteration).tolist()


@dataclass
class Stopwatch:
    """Seconds spent in each part of a session, and how many of its segments are done.

    preparation: of this process. earlier: the cost of a saved session until it was saved, see `Metadata.timing`.
    """

    preparation: Preparation = field(default_factory=lambda: Preparation(0.0, []))
    train: float = 0.0
    evaluate: float = 0.0
    segments: int = 0
    earlier: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def timing(self) -> dict[str, float]:
        """Return the cost of the session so far, by the names of `timing.json`."""
        before = self.earlier
        return {
            "programs_compiled": before.get("programs_compiled", 0) + int(not self.preparation.cached),
            "compile_seconds": before.get("compile_seconds", 0.0) + self.preparation.seconds,
            "train_seconds": self.train,
            "evaluate_seconds": self.evaluate,
            "wall_seconds": before.get("wall_seconds", 0.0) + time.perf_counter() - self.began,
        }

    def resume(self, metadata: Metadata) -> None:
        """Add the cost of a saved session."""
        self.earlier, self.segments = metadata.timing, metadata.segments
        self.train, self.evaluate = metadata.timing["train_seconds"], metadata.timing["evaluate_seconds"]

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Run `work`, wait for its result, and add its seconds to the part."""
        began = time.perf_counter()
        result = jax.block_until_ready(work())
        setattr(self, part, getattr(self, part) + time.perf_counter() - began)
        return result
