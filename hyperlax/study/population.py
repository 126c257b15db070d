"""The loop of population-based training: decide, record, train an interval, save, write, tell; until the budget is spent.

A run is a study in which a trial is a member over one interval. What is decided follows from the seed and from what was told, so
it is read from the database where it is recorded and decided again where it is not. The members' state is saved before an interval
is told: whatever is lost after that is made again from it, to the bit.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperlax.agent import save_agent
from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.engine.population import Measured, Point, Population
from hyperlax.envs import canonical
from hyperlax.errors import HyperlaxError
from hyperlax.files import write_json
from hyperlax.metrics import ReferenceReturns
from hyperlax.output import heard, printing_to_whoever_listens
from hyperlax.pbt_arguments import OBJECTIVE, PopulationArguments
from hyperlax.recipe import Recipe
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.samplers.fixed import FixedSampler
from hyperlax.schedulers.base import CopyFrom
from hyperlax.schedulers.pbt import PopulationBasedTraining, PopulationOptions, ranking
from hyperlax.schedulers.registry import EXPLORERS
from hyperlax.study import findings
from hyperlax.study.agents import about_recipe, about_training, agent_path
from hyperlax.study.batch_files import TrialEnd, judge_all, write_batch
from hyperlax.study.database import StudyDatabase
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.generation_files import outcome_of
from hyperlax.study.manifest import Manifest
from hyperlax.study.pbt_schedule import SCHEDULE_FILE, describe_schedule, replay_command
from hyperlax.study.pedigree import Pedigree
from hyperlax.study.progress import clock
from hyperlax.study.record import StudyRecord
from hyperlax.study.state import StudyState
from hyperlax.study.stopping import Stop, stopping_on_signals
from hyperlax.trial import BatchResult, HparamBatch, Outcome, Trial

log = logging.getLogger(__name__)

CHECKPOINT = "population.npz"
PAGES_SECONDS = 60.0
"""Between two writings of the pages while members train."""


class PopulationLoop:
    """A run while it lasts. make: the members, called only if anything is left to train."""

    def __init__(
        self,
        arguments: PopulationArguments,
        recipe: Recipe,
        directory: StudyDirectory,
        manifest: Manifest,
        make: Callable[[], Population],
        analyse: Callable[[StudyRecord], None],
    ):
        self._arguments, self._recipe = arguments, recipe
        self._directory, self._manifest = directory, manifest
        self._make, self._analyse = make, analyse
        self._reference = ReferenceReturns(**manifest.reference)
        self._checkpoint = Checkpoint(directory.checkpoints / CHECKPOINT, 0.0)
        self._schedule_file = directory.root / SCHEDULE_FILE
        self._stop = Stop()
        self._watched = heard(sys.stderr)
        self._best = -np.inf
        self._began = self._drawn = time.monotonic()

    def run(self) -> int:
        """Train what is missing and say how it ended, with the exit status."""
        arguments = self._arguments
        self._directory.check_database(arguments.study_name, is_population=True)
        self._manifest.write(self._directory.manifest)
        database = StudyDatabase(self._directory.database, arguments.study_name, arguments.objectives)
        space = SearchSpace(self._recipe.space)
        sampler = FixedSampler(space, (), arguments.population_size)
        self._state = StudyState(database, self._directory, space, sampler, self._recipe.config.algorithm, (OBJECTIVE,))
        with closing(self._state), stopping_on_signals(self._stop), printing_to_whoever_listens():
            self._state.describe(
                {
                    "recipe": self._recipe.name,
                    "environment": canonical(arguments.env_config),
                    "versions": self._manifest.versions,
                    "search_space": self._manifest.space,
                }
            )
            self._state.discard_incomplete()
            self._state.load()
            self._pedigree = Pedigree(self._state, space, arguments.population_size)
            if not self._is_over():
                self._train()
            return self._end()

    def _train(self) -> None:
        """Interval after interval, from the last that was saved."""
        members = self._make()
        interval, before, cost = self._restored(members)
        self._best = max((_highest(past.scores) for past in self._pedigree.history()), default=-np.inf)
        self._began, began_at = time.monotonic(), interval
        while interval < self._arguments.num_intervals and not self._stop.is_set() and not self._has_failed():
            trials = self._decide(interval)
            source = self._pedigree.source(interval)
            point, timing = members.advance(interval, trials, source.tolist())
            measured = Measured(point, _summed(cost, timing))
            inherited = {name: values[source] for name, values in before.items()}
            self._save(members, interval, inherited, measured)
            self._finish(members, interval, inherited, measured)
            self._say(interval, source, measured, interval + 1 - began_at)
            interval, before, cost = interval + 1, point, {}

    def _is_over(self) -> bool:
        return self._pedigree.finished() >= self._arguments.num_intervals or self._has_failed()

    def _has_failed(self) -> bool:
        """Whether nobody is left to go on from."""
        finished = self._pedigree.finished()
        return finished > 0 and not np.isfinite(self._pedigree.scores(finished - 1)).any()

    def _decide(self, interval: int) -> list[Trial]:
        """The trials of an interval, which are recorded by now and RUNNING."""
        if not self._pedigree.trials(interval):
            size = self._arguments.population_size
            if interval == 0:
                source, params = list(range(size)), scheduler_of(self._arguments, self._recipe).first()
            else:
                scheduler = scheduler_of(self._arguments, self._recipe, self._pedigree.began())
                decisions = scheduler.decide(self._pedigree.shown()).values()
                copies = [decision for decision in decisions if isinstance(decision, CopyFrom)]
                source, params = [copy.source % size for copy in copies], [dict(copy.params) for copy in copies]
            self._pedigree.record(interval, source, params)
        frozen = self._pedigree.trials(interval)
        self._state.start(trial.number for trial in frozen)
        return [self._state.trial(trial) for trial in frozen]

    def _restored(self, members: Population) -> tuple[int, Point, dict[str, Any]]:
        """The interval to train next, the evaluation that it begins with, and what that cost if it was made now."""
        found = self._checkpoint.load()
        if found is None or not found[0].goes_on(members.identity()):
            if self._pedigree.finished():
                log.warning(
                    "The members train again from the beginning; what is told of them has to come out the same."
                )
            begun = members.begin()
            return 0, begun.point, begun.timing
        head, arrays = found
        members.restore(arrays)
        done = head.segments - 1
        measured = Measured(_named("after", arrays), {**head.timing, "predicted_seconds": None})
        self._decide(done)
        self._finish(members, done, _named("before", arrays), measured)
        log.info("The members go on from step %d.", members.steps[head.segments])
        return head.segments, measured.point, {}

    def _save(self, members: Population, interval: int, before: Point, measured: Measured) -> None:
        """The members as they are at the end of an interval, and all that is to be told of it."""
        numbers = tuple(trial.number for trial in self._pedigree.trials(interval))
        timing = {name: float(value) for name, value in measured.timing.items() if value is not None}
        points = {f"before_{name}": values for name, values in before.items()}
        points |= {f"after_{name}": values for name, values in measured.point.items()}
        head = Head(numbers, members.identity(), interval + 1, timing)
        self._checkpoint.save(head, {**points, **members.save()})

    def _finish(self, members: Population, interval: int, before: Point, measured: Measured) -> None:
        """Write an interval's files, then tell Optuna. What is told already has to be the same."""
        arguments = self._arguments
        trials = [self._state.trial(frozen) for frozen in self._pedigree.trials(interval)]
        steps = members.steps[interval], members.steps[interval + 1]
        outcomes = tuple(
            outcome_of(trial, member, before, measured, steps, members.num_parameters(), arguments)
            for member, trial in enumerate(trials)
        )
        if interval < self._pedigree.finished():
            self._compare(interval, trials, outcomes)
            return
        if interval + 1 == arguments.num_intervals:
            self._write_agent(members, trials, outcomes)
        path = self._state.new_batch(interval)
        batch = HparamBatch(tuple(trials))
        ends = write_batch(
            path,
            batch,
            BatchResult(outcomes, measured.timing),
            self._reference,
            self._recipe.space,
            arguments.aggregate,
        )
        self._state.record(ends, path)
        for end in ends:
            if end.state == "FAIL":
                log.warning("member %d: %s. It is replaced.", end.number % arguments.population_size, end.reason)

    def _write_agent(self, members: Population, trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> None:
        """The policy of the best member at the end, before its batch is complete: nothing is trained after that."""
        best = int(ranking(self._scores(trials, outcomes))[0])
        if outcomes[best].state == "COMPLETE":
            about = {"study": self._arguments.study_name, **about_recipe(self._recipe)}
            about |= about_training(trials[best], outcomes[best])
            save_agent(agent_path(self._directory.root, trials[best].number), members.policy(best), about)

    def _compare(self, interval: int, trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> None:
        now = self._scores(trials, outcomes)
        if not np.array_equal(now, self._pedigree.scores(interval), equal_nan=True):
            raise HyperlaxError(
                f"{self._directory.root}: interval {interval} comes out otherwise than it did: the saved state is lost, and this "
                "machine or its packages are not those that the run began on. Begin anew with another --output-root."
            )

    def _scores(self, trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> np.ndarray:
        batch, result = HparamBatch(tuple(trials)), BatchResult(tuple(outcomes), {})
        ends = judge_all(batch, result, self._reference, self._recipe.space, self._arguments.aggregate)
        return np.array([_score(end) for end in ends])

    def _say(self, interval: int, source: np.ndarray, measured: Measured, done: int) -> None:
        """One line an interval, and the pages now and then."""
        scores, total = self._pedigree.scores(interval), self._arguments.num_intervals
        self._best = max(self._best, _highest(scores))
        finite, now = scores[np.isfinite(scores)], time.monotonic()
        parts = [
            f"interval {interval + 1}/{total}",
            f"best so far {self._best:.6g}",
            f"median {np.median(finite):.6g}" if len(finite) else "every member failed",
            f"{int((source != np.arange(len(source))).sum())} copies",
            f"{measured.timing['steps_per_second']:,.0f} steps/s",
            f"{clock((now - self._began) / done * (total - interval - 1))} left",
        ]
        print("  ".join(parts), file=self._watched, flush=True)
        if now - self._drawn > PAGES_SECONDS:
            self._write_pages()
            self._drawn = time.monotonic()

    def _end(self) -> int:
        """Pages and schedule of what there is, what to do next, and the exit status."""
        finished, total = self._pedigree.finished(), self._arguments.num_intervals
        best = self._pedigree.best_at_the_end()
        if finished == total and best is not None:
            self._write_schedule(best)
        if finished:
            self._write_pages()
            print(f"Report: {self._directory.report}")
        if self._has_failed():
            print(
                f"Every member failed in interval {finished - 1}; the reasons are in {self._directory.root / 'trials.csv'}."
            )
            return 1
        if finished < total:
            command = resume_command(self._directory.root)
            print(f"Interrupted after {finished} of {total} intervals, the members are saved. To go on:\n  {command}")
            return self._stop.exit_status
        assert best is not None
        size, value = (
            self._arguments.population_size,
            self._pedigree.scores(total - 1)[best % self._arguments.population_size],
        )
        print(f"Best at the end: member {best % size} (trial {best}), return {value:.6g}.")
        print(f"Train fresh agents along its schedule:\n  {replay_command(self._schedule_file)}")
        return 0

    def _write_schedule(self, best: int) -> None:
        """`pbt_schedule.json` of the trials that lead to the best."""
        path = self._pedigree.lineage("").path(best)
        trials = self._state.trials()
        records = [self._state.record_of(trials[number]) for number in path]
        write_json(self._schedule_file, describe_schedule(self._arguments, self._recipe, records))

    def _write_pages(self) -> None:
        told = self._state.trials()[: self._pedigree.finished() * self._arguments.population_size]
        parts = (self._arguments, self._recipe, self._manifest, self._directory, self._state, told)
        lineage = self._pedigree.lineage(replay_command(self._schedule_file))
        self._analyse(replace(findings.record_of(*parts), lineage=lineage))


def scheduler_of(
    arguments: PopulationArguments, recipe: Recipe, recorded: Mapping[int, CopyFrom] | None = None
) -> PopulationBasedTraining:
    """Make the scheduler of a run. recipe: its space is explored. recorded: how trials began."""
    options = PopulationOptions(
        recipe.space, arguments.population_size, arguments.num_intervals, arguments.quantile, arguments.seed
    )
    return PopulationBasedTraining(options, EXPLORERS[arguments.explore].explore, recorded)


def resume_command(root: Path) -> str:
    return shlex.join(["hyperlax", "pbt", "--resume-from", str(root)])


def _named(prefix: str, arrays: dict[str, np.ndarray]) -> Point:
    start = f"{prefix}_"
    return {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}


def _summed(before: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    """What an interval cost, with what the beginning before it did."""
    added = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds")
    return {name: value + before.get(name, 0) if name in added else value for name, value in timing.items()}


def _highest(scores: np.ndarray) -> float:
    return scores[np.isfinite(scores)].max(initial=-np.inf)


def _score(end: TrialEnd) -> float:
    return end.metrics[OBJECTIVE] if end.state == "COMPLETE" else np.nan
