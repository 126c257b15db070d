"""Starting a study, or going on with one: everything is checked here before anything is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import optuna

from hyperlax import samples
from hyperlax.arguments import StudyArguments
from hyperlax.errors import UsageError
from hyperlax.first_trials import first_trials
from hyperlax.recipe import Recipe
from hyperlax.sampler_checks import check_search, note_constraints
from hyperlax.samplers.fixed import Presampled
from hyperlax.study import manifest as manifests
from hyperlax.study.agents import keep_only_the_best
from hyperlax.study.directory import (
    StudyDirectory,
    check_writable,
    only_one_process,
    refuse_running,
    study_directory,
)
from hyperlax.study.findings import Analyse
from hyperlax.study.loop import StudyLoop
from hyperlax.study.progress import Progress
from hyperlax.study.record import StudyRecord
from hyperlax.study.refusals import Refusal, ending_on_refusal, refusing_what_is_forbidden, run_again
from hyperlax.study.tracking import Tracker
from hyperlax.study.training import StudyRunner, reference_returns, runner_of_confirmation, runner_of_study


def run_study(
    arguments: StudyArguments,
    recipe: Recipe,
    resume_from: Path | None,
    runner: StudyRunner | None = None,
    analyse: Analyse | None = None,
    retry_failed: bool = False,
    confirmer: Callable[..., StudyRunner] = runner_of_confirmation,
    show: Callable[..., Progress] = Progress,
    tracker: Tracker | None = None,
) -> int:
    """Run a study, or go on with the one in `resume_from`, until it has `n_trials` finished trials. Returns the exit status.

    0: done, or out of time. 1: too many trials failed. 130, 143: interrupted. UsageError, before anything is written, for what
    cannot run; HyperlaxError, with the command that goes on, when the system refuses to write. retry_failed: of the study in
    `resume_from`, see `StudyLoop`. runner, confirmer: what trains, by default the engine. analyse: by default
    `hyperlax.analysis`, imported when first needed. show: makes what shows how far it is. tracker: follows the study elsewhere.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_search(arguments, recipe.space)
    deadline = time.monotonic() + (arguments.timeout or float("inf"))
    if resume_from is None:
        return _start(arguments, recipe, runner, analyse or write_pages, deadline, confirmer, show, tracker)
    directory = StudyDirectory(resume_from)
    return _resume(
        arguments, recipe, directory, runner, analyse or write_pages, deadline, retry_failed, confirmer, show, tracker
    )


def _start(
    arguments: StudyArguments,
    recipe: Recipe,
    runner: StudyRunner | None,
    analyse: Analyse,
    deadline: float,
    confirmer: Callable[..., StudyRunner],
    show: Callable[..., Progress],
    tracker: Tracker | None,
) -> int:
    directory = study_directory(arguments, recipe)
    refuse_running(directory.root)
    refuse_existing(directory)
    first = [] if isinstance(recipe, Presampled) else first_trials(arguments, recipe)
    ready = runner or runner_of_study(arguments, recipe, None)
    reference = reference_returns(arguments.env_config)
    manifest = manifests.describe(
        arguments,
        recipe,
        reference,
        first_trials=first,
        device=ready.device,
        lanes=ready.lanes,
        packing=ready.packing,
    )
    note_constraints(arguments)
    with _ending_on_refusal(directory), only_one_process(directory.root):
        refuse_existing(directory)
        check_writable(directory)
        if isinstance(recipe, Presampled):
            samples.write(directory.samples, recipe.samples)
        loop = StudyLoop(
            arguments, recipe, directory, manifest, analyse, deadline, confirmer=confirmer, show=show, tracker=tracker
        )
        return loop.run(lambda: ready)


def _resume(
    arguments: StudyArguments,
    recipe: Recipe,
    directory: StudyDirectory,
    runner: StudyRunner | None,
    analyse: Analyse,
    deadline: float,
    retry_failed: bool,
    confirmer: Callable[..., StudyRunner],
    show: Callable[..., Progress],
    tracker: Tracker | None,
) -> int:
    stored = manifests.read(directory.manifest, recipe)
    command = manifests.search_command(arguments, recipe, directory)
    manifest = replace(stored, arguments=arguments.to_json(), command=command)
    with _ending_on_refusal(directory), only_one_process(directory.root):
        check_writable(directory)
        loop = StudyLoop(
            arguments, recipe, directory, manifest, analyse, deadline, retry_failed, confirmer, show, tracker
        )
        return loop.run(lambda: runner or runner_of_study(arguments, recipe, stored))


def _ending_on_refusal(directory: StudyDirectory) -> AbstractContextManager[None]:
    """HyperlaxError where the disk is full, a file is locked or cannot be written, with how to go on once that is over."""

    def what_next(refusal: Refusal) -> str:
        if not os.path.exists(directory.manifest):
            return f"No trial has run. {run_again(refusal)}"
        return (
            "The study ends here; all that is complete is kept. "
            f"{refusal.remedy}, then go on:\n  {manifests.resume_command(directory.root)}"
        )

    return ending_on_refusal(directory.database, what_next)


def write_pages(record: StudyRecord, directory: Path) -> None:
    """Write the pages. `hyperlax.analysis` stands above this package, so it is imported only when a study gets there."""
    from hyperlax.analysis.pages import write_study_pages

    write_study_pages(record, directory)
    keep_only_the_best(record)


def refuse_existing(directory: StudyDirectory) -> None:
    """UsageError, with the command that resumes it, if there is a study already."""
    with refusing_what_is_forbidden(directory.root):
        exists = directory.holds_a_study()
    if exists:
        raise UsageError(
            f"{directory.root} already holds a study. To go on with it:\n"
            f"  {manifests.resume_command(directory.root)}\nFor a new one, choose another --output-root."
        )
