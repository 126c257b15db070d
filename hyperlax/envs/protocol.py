"""The environment protocol: two pure functions over one episode's state, and the facts an algorithm needs to act in it.

Nothing here has a batch axis; callers `vmap`. An environment resets itself: when an episode ends, the state and the
`observation` that `step` returns are already the next episode's, and `final_observation` is where the last one ended. Bootstrap
from `final_observation`: its value counts after a truncation, and is zero after a termination.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperlax.errors import UsageError
from hyperlax.metrics import ReferenceReturns

if TYPE_CHECKING:
    import jax

State = Any
"""A pytree whose shapes and types are the same before and after a step, so that `lax.scan` can carry it."""


class Step(NamedTuple):
    """One transition. `terminated` and `truncated` are never both true; where both would be, the episode terminated."""

    observation: jax.Array  # float32[observation_size], of the next episode when this one ended
    final_observation: jax.Array  # float32[observation_size], of this transition
    reward: jax.Array  # float32[]
    terminated: jax.Array  # bool[], the task ended: no value follows
    truncated: jax.Array  # bool[], the clock ended the episode: value follows


@dataclass(frozen=True)
class Discrete:
    """Actions 0 ... n - 1, as int32[]."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"Discrete needs at least 1 action, got n={self.n}.")


@dataclass(frozen=True)
class Continuous:
    """Actions float32[len(low)], each in [low, high]; the environment clips others."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if (
            not self.low
            or len(self.low) != len(self.high)
            or any(a >= b for a, b in zip(self.low, self.high, strict=True))
        ):
            raise UsageError(
                f"Continuous needs low < high for each of one or more entries, got low={self.low}, high={self.high}."
            )

    @property
    def size(self) -> int:
        """Entries of one action."""
        return len(self.low)


@dataclass(frozen=True, eq=False)
class Environment:
    """An environment; equal only to itself, so it can be a static argument of a compiled program.

    Args:
      name: "<suite>.<name>".
      observation_size: Length of the flat float32 observation.
      max_episode_steps: Steps of the longest episode.
      reset: key -> (state, observation).
      step: (key, state, action) -> (state, Step).
      reference: Returns of a random policy and of a solved task.
    """

    name: str
    observation_size: int
    action: Discrete | Continuous
    max_episode_steps: int
    reset: Callable[[jax.Array], tuple[State, jax.Array]] = field(repr=False)
    step: Callable[[jax.Array, State, jax.Array], tuple[State, Step]] = field(repr=False)
    reference: ReferenceReturns
