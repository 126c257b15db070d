"""The last part of a search with --confirm-top: trains the configurations that are not confirmed, and prints which is best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from hyperlax.backends.base import EngineConfig
from hyperlax.config.options import SearchOptions
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import NOT_A_TRIAL, counted, numbered
from hyperlax.recipe import Recipe
from hyperlax.study.batch_files import write_batch
from hyperlax.study.confirmation import configurations
from hyperlax.study.directory import CHECKPOINTS, next_batch
from hyperlax.study.loop import Loop
from hyperlax.study.manifest import resume_command, train_command
from hyperlax.study.record import Confirmed
from hyperlax.study.statistics import in_short, instead_of_winner
from hyperlax.study.study_run import StudyRun, engine_config, lanes_asked
from hyperlax.study.trials import FixedTrials, Settings
from hyperlax.trial import BatchResult, Trial, TrialResult

log = logging.getLogger(__name__)


def confirmation_config(
    options: SearchOptions, recipe: Recipe, packing: Mapping[str, Any], trials: Sequence[Trial]
) -> EngineConfig:
    """Return the backend's configuration for a confirmation: the study's programs and budget, other seeds."""
    return engine_config(
        options,
        recipe,
        recipe.config.algorithm,
        space=recipe.space,
        num_seeds=options.confirm_seeds,
        num_trials=len(trials),
        super_batch=len(trials),
        lanes=lanes_asked(options),
        packing=options.packing,
        chosen=packing,
        trials=trials,
        is_confirmation=True,
    )


def confirm(run: StudyRun[SearchOptions], write_pages: Callable[[], None]) -> int:
    """Train the best of a search on new seeds, have the pages written, print which is best. Returns the exit status.

    A confirmation has no database: configurations whose results are on disk are not trained again.
    0: done, or out of time. 1: every configuration failed. 130 or 143: interrupted.
    """
    live, stop = run.live, run.limits.stop
    wanted = configurations(live.snapshot(), live.recipe.config.algorithm)
    lacking = ("WAITING", "FAIL") if run.retry_failed else ("WAITING",)
    missing = [(trial, one) for trial, one in wanted if one.state in lacking]
    if missing and not _is_trained(run, [trial for trial, _ in wanted], missing, write_pages):
        why = "interrupted" if stop.is_set() else "out of time"
        print(f"The confirmation is {why}. To resume:\n  {resume_command(live.directory.root)}")
        return stop.exit_status if stop.is_set() else 0
    confirmation = live.snapshot().confirmation
    if confirmation is None:
        return 0
    print("\n".join(in_short(confirmation)))
    if (number := instead_of_winner(confirmation)) is not None:
        print(f"Train trial {number} again:\n  {train_command(live.directory.root, number)}")
    return int(all(configuration.state == "FAIL" for configuration in confirmation.configurations))


def _is_trained(
    run: StudyRun[SearchOptions],
    wanted: Sequence[Trial],
    missing: Sequence[tuple[Trial, Confirmed]],
    write_pages: Callable[[], None],
) -> bool:
    """Train the missing configurations. Return whether all of them ended."""
    if not run.limits.may_start():
        return False
    live, options, root = run.live, run.options, run.directory.confirmation
    live.note_run()
    named = numbered([NOT_A_TRIAL if one.trial is None else one.trial for _, one in missing])
    log.info("Confirming %s on %s.", named, counted(options.confirm_seeds, "new seed"))
    ended: list[TrialResult] = []

    def write(batch: BatchResult) -> list[TrialResult]:
        results = live.scoring.results(batch)
        with_seeds = replace(batch, timing={**batch.timing, "seeds": options.confirm_seeds})
        write_batch(next_batch(root), root, with_seeds, results, live.scoring.scale)
        ended.extend(results)
        return results

    config = confirmation_config(options, live.recipe, live.manifest.packing, wanted)
    settings = Settings(
        task="confirmation",
        total=len(missing),
        steps=len(missing) * options.confirm_seeds * options.total_timesteps,
        scoring=live.scoring,
        seeds=options.confirm_seeds,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    checkpoints = CheckpointManager(root / CHECKPOINTS, options.checkpoint_seconds)
    fixed, limits = FixedTrials([trial for trial, _ in missing], write), run.limits.without_failures()
    with closing(run.make_backend(config, checkpoints)) as backend:
        Loop(fixed, backend, None, settings, limits, run.observers).run()
    write_pages()
    checkpoints.tidy()
    return len(ended) == len(missing)
