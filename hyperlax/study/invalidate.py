"""`hyperlax invalidate`: trials out of the ranking, with their record kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import optuna
from optuna.trial import TrialState

from hyperlax.config.options import SearchOptions
from hyperlax.errors import UsageError
from hyperlax.recipe import Recipe
from hyperlax.study import findings
from hyperlax.study import manifest as manifests
from hyperlax.study.amendments import INVALIDATED
from hyperlax.study.directory import StudyDirectory, check_writable, only_one_process
from hyperlax.study.findings import Analyse
from hyperlax.study.launcher import write_pages
from hyperlax.study.opening import converse
from hyperlax.study.overlap import overlap_of
from hyperlax.study.refusals import ending_on_refusal, run_again
from hyperlax.study.storage import StudyStorage
from hyperlax.study.summary import print_best


def invalidate(
    arguments: SearchOptions,
    recipe: Recipe,
    root: Path,
    trials: Sequence[int],
    reason: str | None,
    analyse: Analyse = write_pages,
) -> int:
    """Make COMPLETE trials FAIL, say which, write the analysis anew. Returns 0.

    Metrics stay with the trials, their batches on disk. Samplers take the trials for failed from the next super-batch on.
    UsageError before anything is changed, for what is no study or no such trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not trials:
        raise UsageError("invalidate needs the numbers of trials: hyperlax invalidate DIR TRIAL [TRIAL ...].")
    directory, objectives = StudyDirectory(root), arguments.objectives
    manifest = manifests.read(directory.manifest, recipe)
    overlap = overlap_of(arguments, manifest, directory)
    with ending_on_refusal(directory.database, run_again), only_one_process(root):
        check_writable(directory)
        directory.check_database(arguments.study_name)
        with closing(StudyStorage(directory.database, arguments.study_name, objectives)) as storage:
            conversation = converse(storage, directory, arguments, recipe, manifest.first_trials, overlap)
            conversation.recover()
            text = INVALIDATED + (f": {' '.join(reason.split())}" if reason else "")
            for number in sorted(set(filter(conversation.is_invalidated, trials))):
                print(f"Trial {number} was out of the ranking before.")
            for trial in conversation.invalidate(trials, text):
                values = ", ".join(f"{name} {value:.6g}" for name, value in zip(objectives, trial.values, strict=True))
                print(f"Trial {trial.number} ({values}) is out of the ranking; its record is kept.")
            for work in findings.prepare(analyse, arguments, recipe, manifest, directory, conversation):
                work()
            if any(trial.state == TrialState.COMPLETE for trial in storage.trials()):
                print_best(storage, objectives)
            else:
                print("No trial is left in the ranking.")
    return 0
