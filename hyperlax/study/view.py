"""A study as plain data, read from its directory, running or not, or taken from the process that runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import optuna
from optuna.trial import FrozenTrial

from hyperlax.backends.base import Backend
from hyperlax.backends.work import agents_in_words
from hyperlax.config.options import RUN_LENGTH, PbtOptions, SearchOptions
from hyperlax.config.stored import MANIFEST, read_stored
from hyperlax.config.trusted import recipe_file
from hyperlax.envs import is_known, unaliased
from hyperlax.errors import counted
from hyperlax.recipe import RUN_LENGTHS, ExperimentConfig, Recipe, RunLength, load
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.study import manifest
from hyperlax.study.confirmation import confirmation_of
from hyperlax.study.database_rows import given_params, read_trials
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.importances import Importances
from hyperlax.study.lineage import finished_intervals, lineage_of
from hyperlax.study.lock import holder_of
from hyperlax.study.manifest import Manifest
from hyperlax.study.projection import batch_of
from hyperlax.study.record import Lineage, Run, StudyRecord, TrialRecord
from hyperlax.study.scoring import Scoring
from hyperlax.study.state import StudyState

_Options = TypeVar("_Options", SearchOptions, PbtOptions)


@dataclass(frozen=True)
class StudyView:
    """A study as it is now. is_running: whether a process runs it. agents: its agents, a line each."""

    record: StudyRecord
    is_running: bool
    agents: Sequence[str] = ()

    @property
    def state(self) -> str:
        """State: running or confirming, and with how many agents if it has any, finished or stopped."""
        if self.is_running:
            does = "confirming" if self.record.is_finished and self.record.arguments.get("confirm_top") else "running"
            return f"{does} with {counted(len(self.agents), 'agent')}" if self.agents else does
        return "finished" if self.record.is_finished else "stopped"


def load_study(root: Path, asked_by: str) -> StudyView:
    """Return the study in a directory, without its confirmation, which `with_confirmation` adds.

    Raises:
      UsageError: It does not exist, or its study.json or database cannot be read. `asked_by` begins the message.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directory, options = StudyDirectory(root), read_stored(root, asked_by)
    stored = manifest.content_of(directory.manifest)
    space = SearchSpace(manifest.space_of(stored, directory.manifest))
    directory.check_database(options.study_name)
    trials, foreign = read_trials(directory.database, options, space, stored.scale.table.rows)
    record = snapshot(root, options, stored, trials, foreign)
    is_running = holder_of(root) is not None
    return StudyView(record, is_running, agents_in_words(root, is_running))


def snapshot(
    root: Path,
    options: SearchOptions | PbtOptions,
    stored: manifest.Manifest,
    trials: Sequence[FrozenTrial],
    foreign: Sequence[FrozenTrial] = (),
    known: dict[int, tuple[FrozenTrial, TrialRecord]] | None = None,
) -> StudyRecord:
    """Return the study in a directory with these first trials, without its confirmation.

    Args:
      stored: The content of study.json.
      foreign: The trials that other programs added.
      known: The records of an earlier snapshot by number, which are made again only for trials that have changed. It is updated.
    """
    space, lineage = SearchSpace(manifest.space_of(stored, root / MANIFEST)), None
    base, metrics = stored.recipe.get("config", {}), stored.scale.table.rows
    if isinstance(options, PbtOptions):
        trials = finished_intervals(trials, options.population_size)
        lineage = lineage_of(trials, options, root)
    known = {} if known is None else known
    for number, trial in enumerate(trials):
        if number not in known or known[number][0] is not trial:
            known[number] = trial, _record(trial, space, options.objectives, metrics, root, base)
    return StudyRecord(
        directory=root,
        study_name=options.study_name,
        recipe=str(stored.recipe.get("name", options.algo_and_network_config)),
        environment=unaliased(options.env_config),
        objectives=options.objectives,
        arguments=stored.arguments,
        command=stored.command,
        versions=stored.versions,
        device=stored.device,
        space=stored.space,
        scale=stored.scale,
        trials=[known[number][1] for number in range(len(trials))],
        total=_total(options, space),
        importances=Importances(trials, options.objectives),
        lineage=lineage,
        base=base,
        runs=stored.runs,
        foreign=[_foreign_record(trial, space) for trial in foreign],
        program=(stored.recipe.get("source") or {}).get("command", ()),
    )


def _record(
    frozen: FrozenTrial,
    space: SearchSpace,
    objectives: Iterable[str],
    metrics: Iterable[str],
    root: Path,
    base: Mapping[str, Any],
) -> TrialRecord:
    """Return a trial as plain data for the analysis. metrics: all that it can have. root: the study's directory."""
    attributes = frozen.user_attrs
    state = frozen.state.name if frozen.state.is_finished() and batch_of(frozen) else "RUNNING"
    return TrialRecord(
        number=frozen.number,
        state=state,
        reason=attributes.get("reason", ""),
        params=space.decode(frozen.params),
        values=dict(zip(objectives, frozen.values, strict=True)) if state == "COMPLETE" else {},
        metrics={name: attributes[name] for name in metrics if name in attributes},
        batch_directory=_directory(root, attributes["batch"]) if "batch" in attributes else None,
        exec_batch=attributes.get("exec_batch"),
        feasible=all(value <= 0 for value in frozen.constraints.values()),  # as far as any is known of it
        base=base,
    )


@lru_cache(1 << 16)
def _directory(root: Path, batch: str) -> Path:
    """Return the directory of a batch, the same object for all of its trials: to make and to compare paths takes time."""
    return root / batch


def _foreign_record(frozen: FrozenTrial, space: SearchSpace) -> TrialRecord:
    """Return a trial that another program added as plain data. It is never ranked, so it has no values."""
    reason = f"{frozen.state.name}, added by another program"
    params = space.fitting(given_params(frozen))
    return TrialRecord(frozen.number, "FOREIGN", reason, params, {}, {}, batch_directory=None, exec_batch=None)


def with_confirmation(record: StudyRecord) -> StudyRecord:
    """Return a study with the results of its confirmation.

    Raises:
      UsageError: The base configuration in study.json cannot be read.
    """
    if not record.arguments.get("confirm_top"):
        return record
    path = StudyDirectory(record.directory).manifest
    base = manifest.base_of(manifest.content_of(path), path)
    return replace(record, confirmation=confirmation_of(record, base))


def recipe_as_it_was(record: StudyRecord, environment: str, named: str | None) -> Recipe:
    """Return the recipe with which a study began, from its study.json alone: the recipe's file may be gone or changed.

    Its run lengths are all the study's own. A task's function is in the recipe's file, which is loaded for it.

    Args:
      environment: The environment to train in, which the recipe's file may have to register.
      named: The recipe that the user names, in place of one that no run of the user's recorded.

    Raises:
      UsageError: The base configuration in study.json cannot be read, or the recipe's file has no such task any more, or may not
        be loaded.
    """
    path = StudyDirectory(record.directory).manifest
    stored = manifest.content_of(path)
    length = RunLength(**{name: record.arguments[name] for name in RUN_LENGTH})
    config = ExperimentConfig(manifest.base_of(stored, path), dict.fromkeys(RUN_LENGTHS, length))
    space = manifest.space_of(stored, path)
    file = Path(load(named).path if named else str(stored.recipe.get("path")))
    is_of_a_file = not stored.recipe.get("source") and file.is_file()
    if not named and is_of_a_file and (stored.task or not is_known(environment)):
        recipe_file(stored.recipe, "", record.directory, str(path))
    task = manifest.task_of(stored, path, file) if stored.task else None
    return Recipe(record.recipe, file, config, space, task=task, source=stored.recipe.get("source"))


def _total(options: SearchOptions | PbtOptions, space: SearchSpace) -> int:
    """Return the number of finished trials at the end of a study.

    A search suggests no configuration twice, so a finite space ends it. The samples of a sweep may repeat.
    """
    size = None if isinstance(options, PbtOptions) or options.is_sweep else space.size()
    return options.n_trials if size is None else min(options.n_trials, size)


class LiveStudy(StudyState, Generic[_Options]):
    """A study that this process holds, and its snapshots. manifest: the current content of study.json."""

    def __init__(
        self,
        options: _Options,
        recipe: Recipe,
        directory: StudyDirectory,
        manifest: Manifest,
        survived: Mapping[int, int] | None = None,
        runs: Sequence[Run] = (),
    ):
        """Open the study; `load` brings its database up to date. survived: as `StudyState`. runs: those so far and this one."""
        super().__init__(options, recipe, directory, manifest, survived=survived)
        self.options, self.recipe, self.manifest, self._runs = options, recipe, manifest, runs
        self._seen, self._analysed = 0, None
        self._records: dict[int, tuple[FrozenTrial, TrialRecord]] = {}

    @property
    def width(self) -> int:
        """Number of trials of a super-batch."""
        return self.manifest.super_batch

    @property
    def scoring(self) -> Scoring:
        """Rules by which outcomes become results."""
        scale = self.manifest.scale
        leading = next(iter(self.options.objectives))
        return Scoring(scale, self.recipe.space.keys(), self.options.aggregate, leading)

    def snapshot(self) -> StudyRecord:
        """Return the study as it is now."""
        return self._as_of(self.trials(), self.database.foreign())

    def lineage(self) -> Lineage:
        """Return the lineage of a population's trials."""
        assert isinstance(self.options, PbtOptions)
        return lineage_of(finished_intervals(self.trials(), self.width), self.options, self.directory.root)

    def note_backend(self, backend: Backend) -> None:
        """Write the current device and programs into study.json."""
        self._write(replace(self.manifest, lanes=backend.lanes, device=backend.device, packing=backend.packing))

    def note_run(self) -> None:
        """Write into study.json that this run trains. One that finds nothing to train does not count."""
        self._write(replace(self.manifest, runs=list(self._runs)))

    def _write(self, manifest: Manifest) -> None:
        if manifest != self.manifest:
            self.manifest = manifest
            manifest.write(self.directory.manifest)

    def trials_in_finished_super_batches(self) -> int:
        """Return how many trials the finished super-batches have. The last one may grow when a study continues."""
        return min(self._finished_super_batches() * self.width, len(self.trials()))

    def analyses(self) -> Iterator[tuple[StudyRecord, Path]]:
        """Yield the snapshots to analyze and their directories: super-batches without an analysis, then the last finished one.

        The analysis of a super-batch contains no later trials. Trials that are run again are shown as running in the last one.
        None but the last is yielded twice: the files are looked at once, by the first call.
        """
        trials = self.trials()
        finished = self._finished_super_batches()
        if self._analysed is None:
            self._analysed = self.directory.analysed()
        last = max(finished, self._analysed) - 1
        for number in range(self._seen, finished):
            self.directory.close_super_batch(number)
        missing = [
            number for number in range(self._seen, min(finished, last)) if not self.directory.has_analysis(number)
        ]
        self._seen = min(finished, len(trials) // self.width)
        for number in [*missing, last] if last >= 0 else []:
            foreign = self.database.foreign() if number == last else ()
            yield self._as_of(trials[: (number + 1) * self.width], foreign), self.directory.analysis(number)

    def _finished_super_batches(self) -> int:
        """Return how many super-batches there are before the first that has an unfinished trial."""
        unfinished = self.unfinished()
        return unfinished[0] // self.width if unfinished else -(-len(self.trials()) // self.width)

    def _as_of(self, trials: Sequence[FrozenTrial], foreign: Sequence[FrozenTrial]) -> StudyRecord:
        """Return the study with its first trials only."""
        record = snapshot(self.directory.root, self.options, self.manifest, trials, foreign, self._records)
        if not self.options.confirm_top:
            return record
        return replace(record, confirmation=confirmation_of(record, self.recipe.config.algorithm))
