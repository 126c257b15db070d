"""`run-single-hp` and `pbt-replay`: one configuration, or a schedule of them, trained without a study."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperlax.agent import save_agent
from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.config.kinds import environment_of, kind_of, place_of
from hyperlax.config.options import SingleOptions
from hyperlax.config.trusted import recipe_file
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import HyperlaxError, OptionFailure, UsageError, counted, format_number
from hyperlax.fields import dotted
from hyperlax.files import write_json
from hyperlax.hyperparams import Config
from hyperlax.outputs import OWN_FILES
from hyperlax.recipe import Recipe
from hyperlax.study.agents import about_recipe, about_training
from hyperlax.study.batch_files import mark_complete, write_tables
from hyperlax.study.directory import CHECKPOINTS, SCHEDULE, make_directory
from hyperlax.study.io_errors import ending_on_io_error, run_again
from hyperlax.study.lineage import HyperparameterSchedule, changing, configurations
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import installed_versions
from hyperlax.study.record import StudyRecord, TrialRecord, titled
from hyperlax.study.reporters import reporter
from hyperlax.study.scoring import Scoring
from hyperlax.study.stopping import Limits, StopRequest, stopping_on_signals
from hyperlax.study.study_run import MakeBackend, engine_config, local_backend
from hyperlax.study.trials import FixedTrials, Settings
from hyperlax.trial import BatchResult, Trial, TrialResult

log = logging.getLogger(__name__)

_WriteCurve = Callable[[StudyRecord, Path], None]
"""Function that writes the page of a learning curve."""


def _single_config(options: SingleOptions, recipe: Recipe, algorithm: Config) -> EngineConfig:
    """Return the backend's configuration for a single run."""
    alone = {"num_seeds": options.num_seeds, "num_trials": 1, "super_batch": 1}
    return engine_config(options, recipe, algorithm, space={}, packing="pad", **alone)


def run_single(
    options: SingleOptions,
    recipe: Recipe,
    algorithm: Config,
    write_curve: _WriteCurve,
    make_backend: MakeBackend = local_backend,
    source: str = "the recipe's default configuration",
) -> int:
    """Train one configuration, write its files, print its metrics. Returns the exit status. source: where it is from, in words.

    0: done. 1: the training failed, the reason is printed. 130 or 143: interrupted, nothing is written. Raises UsageError, before
    anything runs, if the training cannot run.
    """
    config = _single_config(options, recipe, algorithm)
    if kind_of(recipe).has_programs:
        return _SingleRun(options, recipe, write_curve, "single", source).run(algorithm, make_backend(config, None))
    root = place_of(options, recipe) / f".single_{os.getpid()}"
    try:
        backend = make_backend(config, CheckpointManager(root / CHECKPOINTS, 0.0))
        own = root / OWN_FILES
        return _SingleRun(options, recipe, write_curve, "single", source, own_files=own).run(algorithm, backend)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def replay(options: SingleOptions, recipe: Recipe, schedule: HyperparameterSchedule, write_curve: _WriteCurve) -> int:
    """Train `num_seeds` agents from scratch along a schedule, write their files, print their metrics. Returns the exit status.

    options: `params` names the schedule's file. Raises UsageError, before anything runs, if the schedule cannot be followed.
    """
    from hyperlax.backends.local import make_backend as make_local_backend

    where = str(options.params)
    configs = configurations(schedule, recipe.config.algorithm, where)
    config = replace(_single_config(options, recipe, configs[0]), space=changing(configs), lanes=1, configs=configs)
    backend = make_local_backend(config)
    _check_steps(schedule, backend.steps(Trial(0, config.base)), where)
    beside = {SCHEDULE: vars(schedule)}
    source = f"the schedule of {where}, from its first interval on"
    return _SingleRun(options, recipe, write_curve, "replay", source, beside).run(config.base, backend)


def path_of_recipe(schedule: HyperparameterSchedule, file: Path) -> str:
    """Return the recipe that a run began with, by its name if its file is gone. file: of the schedule.

    Raises UsageError if it may not be loaded.
    """
    kept = {"path": schedule.recipe, "seal": schedule.seal}
    return recipe_file(kept, schedule.algo_and_network_config, file.parent, str(file))


@dataclass
class _SingleRun:
    """A training without a study.

    kind: the beginning of its directory's name. source: where its configuration is from. beside: name -> content of further JSON
    files. own_files: where a task keeps files while it trains.
    """

    options: SingleOptions
    recipe: Recipe
    write_curve: _WriteCurve
    kind: str
    source: str
    beside: Mapping[str, Any] = field(default_factory=dict)
    own_files: Path | None = None

    def run(self, algorithm: Config, backend: Backend) -> int:
        """Train, write the files, print the metrics. Returns the exit status."""
        own = self.options
        self._scoring = Scoring(kind_of(self.recipe).scale(own.env_config), aggregate=own.aggregate)
        parent = place_of(own, self.recipe)
        with _ending_on_io_error(parent):
            make_directory(parent)
        log.info("%s", self._announced(algorithm, parent))
        found: list[tuple[BatchResult, TrialResult]] = []

        def keep(batch: BatchResult) -> list[TrialResult]:
            (result,) = self._scoring.results(batch)
            found.append((batch, result))
            return [result]

        limits = Limits(StopRequest())
        steps, fatal = own.num_seeds * own.total_timesteps, (MemoryError, HyperlaxError)
        settings = Settings("single", 1, steps, self._scoring, own.num_seeds, fatal=fatal)
        with closing(backend), stopping_on_signals(limits.stop):
            try:
                Loop(FixedTrials([Trial(0, algorithm)], keep), backend, None, settings, limits, [reporter()]).run()
            except MemoryError as short:
                problem = "{0}. Make networks, batches, replay or {num_seeds} smaller."
                raise OptionFailure("num_seeds", problem, short) from short
        if not found:
            print("Interrupted; nothing is written.")
            return limits.stop.exit_status
        ((batch, result),) = found
        with _ending_on_io_error(parent):
            directory = _new_directory(parent, self.kind)
            self._write(directory, batch, result, backend.device)
        return _print_end(result, directory)

    def _announced(self, algorithm: Config, parent: Path) -> str:
        """Return what is trained and where its files go, in sentences."""
        own, default, now = self.options, dotted(self.recipe.config.algorithm), dotted(algorithm)
        changed = [f"{name} = {now[name]} (default {default[name]})" for name in now if now[name] != default[name]]
        differs = "Different from the recipe's default:" if changed else "All is as in the recipe's default."
        told = "\n  ".join([differs, *changed])
        length = f"{counted(own.total_timesteps, 'step')}, {counted(own.num_evaluations, 'evaluation')}"
        what = titled(self.recipe.name, environment_of(own))
        return (
            f"{what}, {length}, {counted(own.num_seeds, 'seed')} from seed {own.seed}.\n"
            f"Configuration: {self.source}. {told}\n"
            f"The files go to {parent / self.kind}_NNNN when training ends."
        )

    def _write(self, directory: Path, batch: BatchResult, result: TrialResult, device: str) -> None:
        """Write the agent, the tables and the learning curve; `success.txt` last."""
        for name, content in self.beside.items():
            write_json(directory / name, content)
        if self.own_files and self.own_files.exists():
            shutil.move(self.own_files, directory / OWN_FILES)
        (outcome,) = batch.outcomes
        if outcome.policy is not None:
            about = {**about_recipe(self.recipe), **about_training(outcome)}
            save_agent(directory / "agent", outcome.policy, about)
        write_tables(directory, batch, [result], self._scoring.scale)
        leading = self._scoring.scale.table.leading
        record = StudyRecord(
            directory=directory,
            study_name=directory.name,
            recipe=self.recipe.name,
            environment=environment_of(self.options),
            objectives={leading: self._scoring.scale.table.rows[leading].direction},
            arguments=self.options.to_json(),
            versions=installed_versions(self._scoring.scale.words.has_programs),
            device=device,
            scale=self._scoring.scale,
            trials=[_record(result, outcome.trial.config, directory, leading)],
        )
        self.write_curve(record, directory / "learning_curve.html")
        mark_complete(directory, [result])


def _check_steps(schedule: HyperparameterSchedule, steps: Sequence[int], where: str) -> None:
    """Raise UsageError unless the steps of a schedule are the ends of the segments of its replay."""
    for entry, start, end in zip(schedule.schedule, steps[:-1], steps[1:], strict=True):
        if (entry.get("from_step"), entry.get("to_step")) != (start, end):
            budget = f"{counted(schedule.total_timesteps, 'step')} and {counted(len(schedule.schedule), 'interval')}"
            raise UsageError(
                f"{where}: interval {entry['interval']} goes from step {entry.get('from_step')} to {entry.get('to_step')}; in a "
                f"budget of {budget} it is {start} to {end}."
            )


def _new_directory(parent: Path, kind: str) -> Path:
    """Make the next free `<kind>_NNNN`. Two processes never get the same one."""
    names = [path.name.removeprefix(f"{kind}_") for path in parent.glob(f"{kind}_*")]
    taken = [int(name) for name in names if name.isascii() and name.isdigit()]
    number = max(taken, default=-1) + 1
    while True:
        path = parent / f"{kind}_{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _ending_on_io_error(parent: Path) -> AbstractContextManager[None]:
    return ending_on_io_error(parent, lambda remedy: f"The training is not kept. {run_again(remedy)}")


def _record(result: TrialResult, algorithm: Config, directory: Path, leading: str) -> TrialRecord:
    return TrialRecord(
        number=result.number,
        state=result.state,
        reason=result.reason,
        params=dotted(algorithm),
        values={leading: result.metrics[leading]} if result.metrics else {},
        metrics=result.metrics,
        batch_directory=directory,
        exec_batch=None,
    )


def _print_end(result: TrialResult, directory: Path) -> int:
    if result.state == "COMPLETE":
        for name, value in result.metrics.items():
            print(f"{name:<20} {format_number(value)}")
        print(f"Learning curve: {directory / 'learning_curve.html'}")
        if (directory / "agent.json").exists():
            print(f"Agent: {directory / 'agent.safetensors'}, to watch: hyperlax play {directory}")
        return 0
    print(f"The training failed: {result.reason}\nIts files: {directory}")
    return 1
