"""The sampler protocol: suggesting trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Known = Callable[[int], "Sequence[FrozenTrial]"]
"""start -> the trials below it, by number, as they were when the super-batch that begins at `start` was first asked."""


class AskedTrial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trial as the sampler suggests it and as the journal and Optuna's database keep it.

    params: as Optuna keeps them. user_attrs: what the study adds. system_attrs: what the sampler noted about it.
    """

    params: dict[str, Any]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]


class Sampler(ABC):
    """A source of a study's trials, super-batch after super-batch: trials b S ... b S + S - 1 are super-batch b.

    Suggestions depend on the seed and on `known` alone, not on interruptions, speed or the number of slots.

    super_batch: number of trials in a super-batch. learns: whether suggestions depend on the results of earlier trials.
    """

    super_batch: int
    learns: bool

    @abstractmethod
    def suggest(self, start: int, count: int, known: Known, saved: Mapping[str, Any] | None = None) -> list[AskedTrial]:
        """Return the first `count` suggestions of the super-batch that begins with trial `start`.

        No suggestion repeats an earlier trial. Fewer than `count` mean that every configuration of a finite space is used.
        saved: a `state`; the trials before it need not be asked for again. Raises msgspec.ValidationError for anything else.
        """

    def enqueue(self, number: int, params: Mapping[str, Any]) -> bool:
        """Suggest a trial that was not asked yet with these parameters, as Optuna keeps them. Return whether that is possible.

        Parameters of the space that are missing are chosen by the sampler.
        """
        return False

    def state(self) -> dict[str, Any] | None:
        """Return the state that a new sampler continues from, as JSON; None if it has to be asked for all trials again."""
        return None


def derive_seed(*parts: int) -> int:
    """Return a 32-bit seed that depends on all of the parts, which are not negative."""
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1)[0])
