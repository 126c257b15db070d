"""What a population loop needs of the members that train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hyperlax.agent import Policy
from hyperlax.trial import Trial

Point = dict[str, np.ndarray]
"""One evaluation: the columns of a curve and `finite` bool, [members, seeds] each."""


class Measured(NamedTuple):
    """An evaluation and what it cost, in the words of `timing.json`."""

    point: Point
    timing: dict[str, Any]


class Population(Protocol):
    """Members that train an interval at a time: `hyperlax.engine.members.Members`, or what stands for them in a test."""

    @property
    def device(self) -> str: ...
    @property
    def steps(self) -> list[int]: ...
    def num_parameters(self) -> int: ...
    def begin(self) -> Measured: ...
    def advance(self, interval: int, trials: Sequence[Trial], source: Sequence[int]) -> Measured: ...
    def policy(self, member: int) -> Policy: ...
    def identity(self) -> dict[str, Any]: ...
    def save(self) -> dict[str, np.ndarray]: ...
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...
