"""What trials are measured by: a scale, the words for it, and the form of its metrics. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hyperlax.tasks import Direction


@dataclass(frozen=True)
class Words:
    """The words in which pages and progress speak of the training of a kind of task.

    Args:
      steps: What a curve's steps count, in the plural.
      curve: What a curve shows.
      low, high: Names of the ends of the scale.
      lane: What holds a trial that trains.
      preparing: What trials wait for at first.
      row: What a row of the timeline is.
      waits: What such a row waits for where it is empty.
      has_programs: Whether trials train in compiled programs, of which steps a second say something.
    """

    steps: str
    curve: str
    low: str
    high: str
    lane: str
    preparing: str
    row: str
    waits: str
    has_programs: bool


class Scale(Protocol):
    """The metrics and ends by which a study rates its trials: `ReferenceReturns` for RL, `Measures` for a task. Stored with it."""

    @property
    def words(self) -> Words:
        """Words of its studies."""
        ...

    @property
    def name(self) -> str:
        """Name of what the curve shows, in a word."""
        ...

    def facts(self) -> list[list[str]]:
        """Return rows of a name and a text about the scale, for the report."""
        ...

    @property
    def has_start(self) -> bool:
        """True if a curve begins with a point before any training."""
        ...

    @property
    def sign(self) -> float:
        """1.0 if larger values of the curve are better, -1.0 if smaller ones are."""
        ...

    @property
    def bounds(self) -> tuple[float, float]:
        """Ends of the scale of the curve times `sign`, the worse one first; nan where they are not known."""
        ...

    @property
    def table(self) -> MetricTable:
        """Metrics of its trials."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `curves.csv` after trial, seed and step. The first one is the curve."""
        ...


@dataclass(frozen=True)
class Inputs:
    """Inputs of a metric.

    Args:
      steps: float64[K], steps of one seed at each evaluation, without the point before training.
      curve: float64[K], r_1 ... r_K, mirrored if smaller is better.
      returns: float64[K, seeds], of each seed.
      budget: Steps that each seed may take.
      scale: What it is measured by.
      num_parameters: Trainable scalars of the policy network that acts.
      train_seconds: The trial's share of its batch's training time.
      others: name -> float64[K, seeds] of a task's further measures.
      aggregate: How to combine seeds.
    """

    steps: np.ndarray
    curve: np.ndarray
    returns: np.ndarray
    budget: int
    scale: Scale
    num_parameters: int = 0
    train_seconds: float = 0.0
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    aggregate: str = "mean"


@dataclass(frozen=True)
class Conditions:
    """The parts of a study that decide whether a metric can vary. is_sized: whether the policy network's sizes are searched."""

    num_seeds: int
    num_evaluations: int
    is_sized: bool


def _varies(conditions: Conditions) -> str:
    return ""


@dataclass(frozen=True)
class Metric:
    """A number that rates a training.

    Args:
      direction: "maximize" or "minimize".
      unit: In words; empty where the name says it.
      definition: One line for the user, of returns; "" for a measure.
      compute: Computes it.
      per_seed: Whether a single seed has it too. Then `compute` does not read `returns`.
      constant: Returns why it says nothing about trials under these conditions, and what to change; "" if it can vary.
      is_optional: Whether a trial that still trains may not have it yet; then `compute` returns nan.
    """

    direction: Direction
    unit: str
    definition: str
    compute: Callable[[Inputs], float]
    per_seed: bool = False
    constant: Callable[[Conditions], str] = _varies
    is_optional: bool = False


@dataclass(frozen=True)
class MetricTable:
    """The metrics of the trials of a task.

    leading: the default objective. refused: metrics that they do not have, and why. evaluations: what decides the number of
    evaluations, as the message of an OptionError.
    """

    rows: Mapping[str, Metric]
    leading: str
    refused: Mapping[str, str] = field(default_factory=dict)
    evaluations: str = "{num_evaluations}"
