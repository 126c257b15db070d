"""A study as plain data: what the study hands to the analysis. No optuna, no jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperlax.metrics import ReferenceReturns

FEWEST_FOR_IMPORTANCES = 8
"""Complete trials below which importances are not computed: PED-ANOVA compares the best tenth with all."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    state: "COMPLETE", "PRUNED", "FAIL", or "RUNNING"; reason: why it is not COMPLETE, else "".
    params: searched dotted name -> value, lists as lists.
    values, metrics: objective -> value and metric -> value; both empty unless the trial is COMPLETE.
    batch_directory: the `samples/batch_NNNNN` with its files, None before the trial's batch is on disk.
    exec_batch: number of the super-batch, None before it is known.
    """

    number: int
    state: str
    reason: str
    params: dict[str, Any]
    values: dict[str, float]
    metrics: dict[str, float]
    batch_directory: Path | None
    exec_batch: int | None


@dataclass(frozen=True)
class Lineage:
    """How the trials of population-based training follow one another: trial interval * members + member is one member's interval.

    parents: trial -> the trial that it goes on from; none for those of interval 0. final: the best trial of the last interval,
    None while that is not known. replay: the shell command that trains along its path.
    """

    members: int
    parents: dict[int, int]
    final: int | None
    replay: str

    def path(self, trial: int) -> list[int]:
        """The trials that lead to this one, from interval 0 on, itself the last."""
        path = [trial]
        while path[-1] in self.parents:
            path.append(self.parents[path[-1]])
        return path[::-1]


@dataclass(frozen=True)
class StudyRecord:
    """A study and all of its trials, as of now.

    objectives: name -> "minimize" or "maximize", the first one leads.
    arguments: the command's arguments by name with underscores, e.g. `total_timesteps`.
    space: dotted name -> distribution in the form of `Distribution.to_json`.
    importances: objective -> dotted name -> share; no entry for an objective where they cannot be computed.
    lineage: of population-based training, else None.
    """

    directory: Path
    study_name: str
    recipe: str
    environment: str
    objectives: dict[str, str]
    arguments: dict[str, Any]
    command: str
    versions: dict[str, str]
    device: str
    space: dict[str, dict[str, Any]]
    reference: ReferenceReturns
    trials: list[TrialRecord]
    importances: dict[str, dict[str, float]]
    lineage: Lineage | None = None
