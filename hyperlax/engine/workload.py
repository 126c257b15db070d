"""What the runner asks of whoever knows what is trained."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from hyperlax.agent import Policy
from hyperlax.recipe import RunLength
from hyperlax.trial import Trial


class Workload(Protocol):
    """From a trial to a program and a lane of it."""

    run_length: RunLength

    @property
    def kind(self) -> str:
        """What is trained, for the memory of costs: an algorithm and an environment."""
        ...

    def program(self, trial: Trial) -> Hashable:
        """The algorithm to compile; equal for trials that can share a program."""
        ...

    def lane(self, trial: Trial) -> Any:
        """The trial's own numbers, a tree of numpy scalars and arrays of one structure for all trials of a program."""
        ...

    def effort(self, trial: Trial) -> float:
        """Turns of the inner loop that the trial asks for: a batch makes as many as its most laborious trial."""
        ...

    def num_parameters(self, trial: Trial) -> int:
        """Trainable scalars of what acts."""
        ...

    def policy(self, trial: Trial, acting: Any) -> Policy:
        """What acts of the trial's lane, from `Program.acting`: its arrays have the leading axis [seeds]."""
        ...
