"""Population-based training as a study: its trials, and its differences from a search.

A trial is a member over one interval, and continues as the next one.

Trial interval x members + member is a member over an interval. The start of a trial follows from the seed and the trials recorded
before. So it is read from the database if it is recorded, and decided again if not. The backend saves the members before an
interval is recorded. Training that is lost after that is repeated, to the bit.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.options import OBJECTIVE, PbtOptions
from hyperlax.errors import OptionError, OptionFailure, counted, format_number
from hyperlax.files import write_json
from hyperlax.recipe import Recipe
from hyperlax.samplers.base import AskedTrial
from hyperlax.samplers.distributions import SearchSpace
from hyperlax.schedulers.base import CopyFrom, Shown
from hyperlax.schedulers.pb2 import is_continuous
from hyperlax.schedulers.pbt import PopulationBasedTraining, explored
from hyperlax.schedulers.registry import EXPLORERS
from hyperlax.study.directory import SCHEDULE, StudyDirectory, study_directory
from hyperlax.study.lineage import INTERVAL, MEMBER, PARENT, describe_schedule, replay_command, score_of, sign_of
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import Manifest, resume_command
from hyperlax.study.observer import Observer, tell
from hyperlax.study.reporters import IntervalReporter
from hyperlax.study.stopping import Limits, StopRequest
from hyperlax.study.study_run import MakeBackend, StudyRun, engine_config, local_backend
from hyperlax.study.trials import Resumed, Settings, StudyTrials
from hyperlax.study.view import LiveStudy
from hyperlax.trial import BatchResult, Trial, TrialResult

log = logging.getLogger(__name__)

_SAVE_ALWAYS = 0.0
"""Seconds between two saves: members are saved after every interval, before it is recorded."""
_PAGES_SECONDS = 60.0
"""Minimum seconds between two updates of the pages while members train."""


class _PopulationTrials(StudyTrials[PbtOptions]):
    """The trials of a population. first: the first interval's hyperparameters, by member. changed: called after an interval."""

    def __init__(self, live: LiveStudy[PbtOptions], first: list[dict[str, Any]], changed: Callable[[], None]):
        super().__init__(live, changed)
        self._first, self._space = first, SearchSpace(live.recipe.space)
        self._members, self._intervals = self._options.population_size, self._options.num_intervals

    def resume(self, backend: Backend) -> Resumed:
        """Return where training continues: after the interval that was saved last, or from the beginning."""
        frozen = self._live.trials()
        trials = {trial.number: self._live.trial(trial.number) for trial in frozen}
        restored = [(trials[result.number], result) for result in backend.restore(trials, trials.keys())]
        begin = min((result.number for _, result in restored), default=0)
        shown = {trial.number: Shown(np.array([[score_of(trial)]]), True) for trial in frozen[:begin]}
        if restored:
            log.info("The members continue from step %d.", max(result.curve.steps[-1] for _, result in restored))
        elif any(trial.state.is_finished() for trial in frozen):
            log.warning("The members train again from the beginning; the results have to equal those recorded.")
        self._asked = bool(restored)
        return Resumed(shown, restored, [], self._members * self._intervals - begin)

    def ask(self) -> list[Trial]:
        """Return the trials of the first interval, once."""
        if self._asked:
            return []
        self._asked = True
        if not self._live.trials():
            self._insert(0, {member: CopyFrom(member, params) for member, params in enumerate(self._first)})
        return [self._live.trial(number) for number in range(self._members)]

    def succeed(self, copies: Mapping[int, CopyFrom]) -> list[tuple[int, Trial]]:
        """Return the successors of an interval's trials, which are recorded by now."""
        first = min(copies) + self._members
        if len(self._live.trials()) <= first:
            self._insert(first, {number + self._members: copy for number, copy in sorted(copies.items())})
        return [(copy.source, self._live.trial(number + self._members)) for number, copy in sorted(copies.items())]

    def record(self, batch: BatchResult) -> list[TrialResult]:
        """Write an interval's files, then the database. Raises HyperlaxError if an interval recorded before differs."""
        # its only value is the objective
        results = [replace(result, intermediate={}) for result in self._live.scoring.results(batch)]
        interval, recorded = self.super_batch(results[0].number), self._live.trials()
        before = [recorded[result.number] for result in results]
        if before[0].state.is_finished():
            self._compare(interval, results, before)
            return results
        is_last, sign = interval + 1 == self._intervals, sign_of(self._options)
        complete = [result for result in results if is_last and result.state == "COMPLETE"]
        best = max(complete, key=lambda result: (sign * _score(result), -result.number), default=None)
        self._write(batch, results, [best.number] if best else [])
        for result in results:
            if result.state == "FAIL":
                log.warning("member %d: %s. It is replaced.", result.number % self._members, result.reason)
        self._changed()
        return results

    def _insert(self, first: int, began: Mapping[int, CopyFrom]) -> None:
        """Add the trials of an interval to the study."""
        interval, trials = first // self._members, []
        for number, copy in began.items():
            parent = copy.source if interval else None
            member = number % self._members
            attributes = {MEMBER: member, INTERVAL: interval, PARENT: parent, "exec_batch": interval}
            trials.append(AskedTrial(self._space.encode(copy.params), attributes, {}))
        self._live.append(trials)

    def _compare(self, interval: int, results: Sequence[TrialResult], before: Sequence[FrozenTrial]) -> None:
        now = np.array([_score(result) for result in results])
        if not np.array_equal(now, [score_of(trial) for trial in before], equal_nan=True):
            raise OptionFailure(
                "output_root",
                "{0}: interval {1} differs from what was recorded: the saved state is lost, and this machine or its packages are "
                "not those that the run began on. Start again with another {study_name}.",
                self._live.directory.root,
                interval,
            )


def _recorded_starts(live: LiveStudy) -> dict[int, CopyFrom]:
    """Return how the recorded trials began."""
    space = SearchSpace(live.recipe.space)
    return {
        trial.number: CopyFrom(trial.number if parent is None else parent, space.decode(trial.params))
        for trial in live.trials()
        for parent in [trial.user_attrs.get(PARENT)]
    }


def _score(result: TrialResult) -> float:
    return result.metrics[OBJECTIVE] if result.state == "COMPLETE" else np.nan


def run_population(
    options: PbtOptions,
    recipe: Recipe,
    resume_from: Path | None = None,
    *,
    make_backend: MakeBackend = local_backend,
    observers: Sequence[Observer] = (),
) -> int:
    """Train a population, or resume the one in `resume_from`, to the end of its budget. Returns the exit status.

    0: done. 1: every member failed. 130, 143: interrupted, and saved.

    Raises:
      UsageError: Before anything is written, if the population cannot run.
      HyperlaxError: The system refuses to write, or the memory is too small.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, kept = explored(recipe)
    if options.explore == "pb2" and not any(map(is_continuous, space.values())):
        raise OptionError(
            "explore",
            "{0}: {explore} pb2 needs a LogUniform or UniformContinuous entry that can change during training. Use perturb.",
            recipe.path,
        )
    recipe = replace(recipe, space=space)
    directory = StudyDirectory(resume_from) if resume_from else study_directory(options, recipe)
    lines = IntervalReporter(sys.stderr, options.population_size)
    shown, limits = [lines, *observers], Limits(StopRequest())
    run = _PopulationRun(options, recipe, directory, make_backend, shown, limits, _SAVE_ALWAYS, kept=kept)
    try:
        return run.resume() if resume_from else run.start()
    except MemoryError as error:
        raise OptionFailure(
            "population_size",
            "{0}. Start again with another {study_name} and a {population_size} below {1}, or smaller networks, replay or "
            "{num_seeds}.",
            error,
            options.population_size,
        ) from error


@dataclass
class _PopulationRun(StudyRun[PbtOptions]):
    """A population while this process trains it. kept: searched names that are not explored."""

    kept: Sequence[str] = ()

    def config(self, stored: Manifest | None) -> EngineConfig:
        """Return the configuration of the backend, all members in the lanes of one program. Logs which names are not explored."""
        options, recipe = self.options, self.recipe
        if self.kept:
            log.info(
                "Not explored, because they cannot change during training: %s. They keep the recipe's value.",
                ", ".join(self.kept),
            )
        members = dict.fromkeys(("num_trials", "super_batch", "lanes"), options.population_size)
        own = {"num_seeds": options.num_seeds, "packing": "pad", "kind": "population"}
        return engine_config(options, recipe, recipe.config.algorithm, space=recipe.space, **members, **own)

    def is_over(self) -> bool:
        """Return whether the budget is spent, or every member has failed."""
        return self._finished() >= self.options.num_intervals or self._has_failed()

    def loop(self, backend: Backend) -> Loop:
        """Return the loop that trains the missing intervals. Members train side by side and are saved after every one."""
        options = self.options
        settings = Settings(
            task="population",
            total=options.n_trials,
            steps=None,
            scoring=self.live.scoring,
            seeds=options.num_seeds,
            columns=(OBJECTIVE,),
            refills=True,
            overlaps=True,
            lanes=options.population_size,
            checkpoint_seconds=_SAVE_ALWAYS,
            fatal=(Exception,),
        )
        scheduler = PopulationBasedTraining(
            self.recipe.space,
            options.population_size,
            options.num_intervals,
            options.quantile,
            options.seed,
            EXPLORERS[options.explore](),
            sign_of(options),
            _recorded_starts(self.live),
        )
        trials = _PopulationTrials(self.live, scheduler.first(), self._interval_recorded)
        self._published = time.monotonic()
        return Loop(trials, backend, scheduler, settings, self.limits, self.observers)

    def finish(self) -> int:
        """Write pages and schedule, print the next steps, and return the exit status."""
        finished, total, size = self._finished(), self.options.num_intervals, self.options.population_size
        lineage = self.live.lineage()
        schedule = self.directory.root / SCHEDULE
        if finished == total and lineage.final is not None:
            self._write_schedule(schedule, lineage.path(lineage.final))
        if finished:
            self._publish()
            tell(self.observers, lambda observer: observer.training_written())
            print(f"Report: {self.directory.report}")
        if self._has_failed():
            print(
                f"Every member failed in interval {finished - 1}; the reasons are in {self.directory.root / 'trials.csv'}."
            )
            return 1
        if finished < total:
            command = resume_command(self.directory.root)
            print(
                f"Interrupted after {finished} of {counted(total, 'interval')}; the members are saved. To resume:\n  {command}"
            )
            return self.limits.stop.exit_status
        assert lineage.final is not None
        value = self.live.trials()[lineage.final].values[0]
        name, again = self.live.scoring.scale.name, "new agents" if self.options.env_config else "again"
        print(f"Best at the end: member {lineage.final % size} (trial {lineage.final}), {name} {format_number(value)}.")
        print(f"Train {again} along its schedule:\n  {replay_command(schedule)}")
        return 0

    def _interval_recorded(self) -> None:
        if time.monotonic() - self._published > _PAGES_SECONDS:
            self._published = time.monotonic()
            self._publish()

    def _publish(self) -> None:
        """Have the pages written for the intervals that have ended."""
        record = self.live.snapshot()
        tell(self.observers, lambda observer: observer.super_batch_ended(record, None))

    def _finished(self) -> int:
        """Return how many intervals have ended."""
        return self.live.finished() // self.options.population_size

    def _has_failed(self) -> bool:
        """Return whether every member failed in the last interval."""
        size, finished = self.options.population_size, self._finished()
        last = self.live.trials()[(finished - 1) * size : finished * size] if finished else []
        return bool(last) and all(trial.state.name == "FAIL" for trial in last)

    def _write_schedule(self, path: Path, trials: Sequence[int]) -> None:
        """Write `pbt_schedule.json` of the trials that lead to the best."""
        known = self.live.snapshot().trials
        write_json(path, vars(describe_schedule(self.options, self.recipe, [known[number] for number in trials])))
