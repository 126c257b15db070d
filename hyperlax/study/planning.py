"""`--plan-only`: how the next super-batch would be run."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hyperlax.arguments import StudyArguments
from hyperlax.recipe import Recipe, apply
from hyperlax.study import manifest as manifests
from hyperlax.study.conversation import next_span
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.launcher import refuse_existing, study_directory
from hyperlax.study.loop import questioner_of
from hyperlax.study.storage import url_of
from hyperlax.study.training import StudyRunner, runner_of_study
from hyperlax.trial import Trial


def print_plan(
    arguments: StudyArguments, recipe: Recipe, resume_from: Path | None, runner: StudyRunner | None = None
) -> int:
    """Print the plan of the next super-batch in one line, and write nothing. Returns 0; UsageError for what cannot run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored = None
    if resume_from is None:
        refuse_existing(study_directory(arguments, recipe))
    else:
        path = StudyDirectory(resume_from).manifest
        stored = manifests.read(path)
        manifests.check_unchanged(path, stored, recipe)
    runner = runner or runner_of_study(arguments, recipe, stored)
    past = _recorded(arguments, StudyDirectory(resume_from).database) if resume_from else []
    questioner = questioner_of(arguments, recipe)
    start, stop = next_span(past, arguments.n_trials, questioner.super_batch)
    own = past[start:stop]
    suggested = questioner.suggest(start, past[:start], stop - start)[len(own) :] if stop > start + len(own) else []
    params = {trial.number: trial.params for trial in own if not trial.state.is_finished()}
    params |= {start + len(own) + i: suggestion.params for i, suggestion in enumerate(suggested)}
    trials = [
        Trial(number, apply(recipe.config.algorithm, questioner.space.decode(values), f"trial {number}"))
        for number, values in params.items()
    ]
    print(runner.plan(trials).sentence() if trials else "Nothing is left to run.")
    return 0


def _recorded(arguments: StudyArguments, database: Path) -> list[FrozenTrial]:
    if not database.exists():
        return []
    return optuna.load_study(study_name=arguments.study_name, storage=url_of(database)).trials
