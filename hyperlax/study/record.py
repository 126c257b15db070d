"""A study as plain data, for the analysis, and its winners. Imports neither optuna nor jax."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from hyperlax.errors import OptionError
from hyperlax.pareto import non_dominated
from hyperlax.scale import Scale

FEWEST_FOR_IMPORTANCES = 50
"""Complete trials below which importances are not computed. PED-ANOVA compares the best tenth with all: of eight hyperparameters,
it ranked the one that mattered most first in 37 % of noisy studies of 16 trials, 72 % of 32, 82 % of 50, 93 % of 100."""


class Run(TypedDict):
    """A run of a study by one process. began: ISO 8601 with the offset from UTC. commit: of git, "" if there is none."""

    began: str
    commit: str


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    state: "COMPLETE", "PRUNED", "FAIL", or "RUNNING"; reason: why it is not COMPLETE, else "".
    params: searched dotted name -> value, lists as lists.
    values, metrics: objective -> value and metric -> value; both empty unless the trial is COMPLETE.
    batch_directory: the `samples/batch_NNNNN` with its files, None before the trial's batch is on disk.
    exec_batch: number of the super-batch, None before it is known.
    feasible: whether it satisfies the study's constraints, as far as that is known; one that does not never wins.
    base: the recipe's own value of every field by dotted name; empty where that is not known.
    csv_rows: its line of `trials.csv` by the header there: a study writes every trial again after each super-batch.
    """

    number: int
    state: str
    reason: str
    params: dict[str, Any]
    values: dict[str, float]
    metrics: dict[str, float]
    batch_directory: Path | None
    exec_batch: int | None
    feasible: bool = True
    base: Mapping[str, Any] = field(default_factory=dict, repr=False)
    csv_rows: dict[tuple[str, ...], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def config(self) -> dict[str, Any]:
        """Whole configuration by dotted name: the searched values, and the recipe's for every other field."""
        return {**self.base, **self.params}

    @cached_property
    def text(self) -> str:
        """All of it as text."""
        return repr(self)


@dataclass(frozen=True)
class Confirmed:
    """One configuration on seeds that the search never saw.

    trial: its number, None for the recipe's default configuration if that is not among the best of the search. claimed: its value
    in the search, None if it was not a COMPLETE trial. state: "COMPLETE", "FAIL", or "WAITING"; reason: why it failed, else "".
    per_seed: metric -> a value per seed; empty unless COMPLETE.
    """

    trial: int | None
    is_default: bool
    claimed: float | None
    state: str
    reason: str
    per_seed: dict[str, list[float]]

    @property
    def label(self) -> str:
        """Name in `confirmation.csv`."""
        return "default" if self.trial is None else str(self.trial)

    @property
    def words(self) -> str:
        """Name in a sentence."""
        return "the default configuration" if self.trial is None else f"trial {self.trial}"


@dataclass(frozen=True)
class Confirmation:
    """The best of a study, best first, and the recipe's default configuration, trained again on `seeds` new seeds each.

    metric: the first objective, or final_performance if a single seed does not have the first objective. leading: the first
    objective. direction: "minimize" or "maximize". winner: the search's best trial, None for a Pareto front.
    """

    metric: str
    direction: str
    leading: str
    seeds: int
    configurations: list[Confirmed]
    winner: int | None = None

    @property
    def sign(self) -> float:
        """1.0 if higher values of the metric are better, else -1.0."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def complete(self) -> list[Confirmed]:
        """COMPLETE configurations."""
        return [configuration for configuration in self.configurations if configuration.state == "COMPLETE"]

    @property
    def searched(self) -> list[Confirmed]:
        """COMPLETE configurations that are among the best of the search."""
        return [configuration for configuration in self.complete if configuration.trial is not None]

    @property
    def best(self) -> Confirmed | None:
        """The one of the search's best with the best mean on the new seeds, the first of equal ones."""
        return max(self.searched, key=lambda one: self.sign * np.mean(one.per_seed[self.metric]), default=None)

    @property
    def default(self) -> Confirmed | None:
        """The recipe's default configuration, None unless it is COMPLETE."""
        return next((configuration for configuration in self.complete if configuration.is_default), None)


@dataclass(frozen=True)
class Lineage:
    """The lineage of the trials of a population. Trial interval * members + member is one member over one interval.

    parents: trial -> the trial that it continues from; without those of interval 0. final: the best trial of the last interval,
    None if not known yet. replay: the shell command that trains along its path.
    """

    members: int
    parents: dict[int, int]
    final: int | None
    replay: str

    def path(self, trial: int) -> list[int]:
        """Return the trials that lead to this one, from interval 0 on, this one included."""
        path = [trial]
        while path[-1] in self.parents:
            path.append(self.parents[path[-1]])
        return path[::-1]


@dataclass(frozen=True)
class StudyRecord:
    """A study and all of its trials at one time. The lists that it returns are its own: do not modify them.

    objectives: name -> "minimize" or "maximize", the first one leads.
    arguments: the command's arguments by name with underscores, e.g. `total_timesteps`.
    space: dotted name -> distribution in the form of `Distribution.to_json`.
    importances: objective -> dotted name -> share; no entry for an objective where they cannot be computed.
    confirmation: results of the best on new seeds, None if there are none. lineage: None except for a population.
    base: the recipe's own value of every field by dotted name; empty where that is not known.
    scale: what its trials are measured by. environment: "" for a task.
    foreign: trials that other programs added to the database, with the state "FOREIGN". They count nowhere.
    total: number of finished trials at its end: `n_trials`, or the number of configurations of a smaller, finite space.
    runs: the start and each resume, in order; empty where that is not known.
    program: the words of the command that trials run; empty for anything else.
    """

    directory: Path
    study_name: str
    recipe: str
    environment: str
    objectives: dict[str, str]
    arguments: dict[str, Any]
    versions: dict[str, str]
    device: str
    scale: Scale
    trials: list[TrialRecord]
    total: int = 0
    command: str = ""
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    importances: Mapping[str, dict[str, float]] = field(default_factory=dict)
    confirmation: Confirmation | None = None
    lineage: Lineage | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    foreign: Sequence[TrialRecord] = ()
    program: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Recipe and environment, in words."""
        return titled(self.recipe, self.environment)

    @property
    def full_name(self) -> str:
        """Name of the study, and what it trains unless the name says it."""
        return self.study_name if self.title == self.study_name else f"{self.study_name}: {self.title}"

    @property
    def finished(self) -> int:
        """Number of trials that have ended."""
        return sum(trial.state != "RUNNING" for trial in self.trials)

    @property
    def is_finished(self) -> bool:
        """True if all of its trials have ended."""
        return self.finished >= self.total

    @property
    def rows(self) -> list[TrialRecord]:
        """Every row of the database by number, the foreign ones too."""
        return sorted([*self.trials, *self.foreign], key=lambda trial: trial.number)

    def is_the_recipes_own(self, trial: TrialRecord) -> bool:
        """Return whether a trial is the recipe's default configuration. False if that is not known."""
        return bool(self._own) and all(self._own.get(name) == trial.params.get(name) for name in self.space)

    @cached_property
    def _own(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.base.items()}

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """The COMPLETE trials by number. Failed and pruned ones never win and are never plotted."""
        return sorted((trial for trial in self.trials if trial.state == "COMPLETE"), key=lambda trial: trial.number)

    @cached_property
    def feasible(self) -> list[TrialRecord]:
        """The COMPLETE trials that satisfy the study's constraints, by number: those that can win."""
        return [trial for trial in self.complete if trial.feasible]

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The trials that can win, best first by the first objective; the lower number first where they tie."""
        leading = self.scores(self.feasible)[:, 0]
        return [self.feasible[index] for index in np.argsort(-leading, kind="stable")]

    @cached_property
    def front(self) -> list[TrialRecord]:
        """The Pareto front: the trials that can win and that no other one dominates, by number."""
        return list(itertools.compress(self.feasible, non_dominated(self.scores(self.feasible))))

    @property
    def winners(self) -> list[TrialRecord]:
        """The best trial for one objective, the Pareto front for several; empty where no trial can win."""
        return self.ranked[:1] if len(self.objectives) == 1 else self.front

    def top(self, count: int) -> list[TrialRecord]:
        """Return the `count` best trials, best first; of several objectives the first of the Pareto front, by number."""
        return (self.ranked if len(self.objectives) == 1 else self.front)[:count]

    def best_first(self) -> list[TrialRecord]:
        """Return the trials that can win, best first by the first objective; of several objectives those of the front first."""
        front = {trial.number for trial in self.winners}
        return sorted(self.ranked, key=lambda trial: trial.number not in front)

    def the_best(self, asked_by: str) -> TrialRecord:
        """Return the one best trial. Raises OptionError, beginning with `asked_by`, if there is none, or a front has several."""
        best = self.winners
        if not best:
            problem = f"{asked_by} {{0}}: has no best trial yet. Choose one with {{trial}}."
            raise OptionError("trial", problem, self.directory)
        if len(best) > 1:
            numbers = ", ".join(str(trial.number) for trial in best)
            problem = f"{asked_by} {{0}}: the Pareto front has the trials {{1}}. Choose one with {{trial}}."
            raise OptionError("trial", problem, self.directory, numbers)
        return best[0]

    def scores(self, trials: Sequence[TrialRecord]) -> np.ndarray:
        """Return float64[trials, objectives], larger is better. Raises ValueError if the value of a trial is not finite."""
        signs = np.array([-1.0 if direction == "minimize" else 1.0 for direction in self.objectives.values()])
        rows = [[trial.values[name] for name in self.objectives] for trial in trials]
        found = signs * np.array(rows, dtype=np.float64).reshape(len(trials), len(signs))
        odd = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(odd):
            trial = trials[odd[0]]
            raise ValueError(f"trial {trial.number} is COMPLETE with values {trial.values}; it should be a FAIL.")
        return found

    def without_importances(self) -> str:
        """Explain why the study has no importances."""
        return (
            f"Importances need at least {FEWEST_FOR_IMPORTANCES} COMPLETE trials with values that differ; with fewer, chance ranks "
            f"the hyperparameters. The study has {len(self.complete)} COMPLETE."
        )

    def trial(self, number: int) -> TrialRecord:
        """Return the trial of that number. Raises OptionError if it does not exist."""
        found = next((trial for trial in self.rows if trial.number == number), None)
        if found is None:
            there = f"0 to {max(trial.number for trial in self.trials)}" if self.trials else "none yet"
            problem = "{trial} {0}: {1} has no such trial. Its trials are {2}."
            raise OptionError("trial", problem, number, self.directory, there)
        return found


def titled(recipe: str, environment: str) -> str:
    """Return a recipe and its environment in words; a task has no environment."""
    return f"{recipe} on {environment}" if environment else recipe
