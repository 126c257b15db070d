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
from hyperlax.study.observer import Observer
from hyperlax.study.record import Confirmed
from hyperlax.study.statistics import in_short, instead_of_winner
from hyperlax.study.stopping import Limits
from hyperlax.study.study_run import MakeBackend, engine_config, lanes_asked
from hyperlax.study.trials import FixedTrials, Settings
from hyperlax.study.view import LiveStudy
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


class ConfirmationRun:
    """A confirmation while it runs. It trains on `confirm_seeds` seeds that the search never saw, and has no database."""

    def __init__(
        self, live: LiveStudy[SearchOptions], limits: Limits, make_backend: MakeBackend, observers: Sequence[Observer]
    ):
        self._live, self._options, self._observers = live, live.options, observers
        self._limits, self._make_backend = limits, make_backend
        self._seeds, self._root = self._options.confirm_seeds, live.directory.confirmation
        self._checkpoints = CheckpointManager(self._root / CHECKPOINTS, self._options.checkpoint_seconds)

    def run(self, write_pages: Callable[[], None], retry_failed: bool) -> int:
        """Train the missing configurations, have the pages written, print which is best. Returns the exit status.

        0: done, or out of time. 1: every configuration failed. 130 or 143: interrupted.
        """
        wanted = configurations(self._live.snapshot(), self._live.recipe.config.algorithm)
        lacking = ("WAITING", "FAIL") if retry_failed else ("WAITING",)
        missing = [(trial, one) for trial, one in wanted if one.state in lacking]
        if missing and not self._is_trained([trial for trial, _ in wanted], missing, write_pages):
            why = "interrupted" if self._limits.stop.is_set() else "out of time"
            print(f"The confirmation is {why}. To resume:\n  {resume_command(self._live.directory.root)}")
            return self._limits.stop.exit_status if self._limits.stop.is_set() else 0
        confirmation = self._live.snapshot().confirmation
        if confirmation is None:
            return 0
        print("\n".join(in_short(confirmation)))
        if (number := instead_of_winner(confirmation)) is not None:
            print(f"Train trial {number} again:\n  {train_command(self._live.directory.root, number)}")
        return int(all(configuration.state == "FAIL" for configuration in confirmation.configurations))

    def _is_trained(
        self, wanted: Sequence[Trial], missing: Sequence[tuple[Trial, Confirmed]], write_pages: Callable[[], None]
    ) -> bool:
        """Train the missing configurations. Return whether all of them ended."""
        if not self._limits.may_start():
            return False
        self._live.note_run()
        named = numbered([NOT_A_TRIAL if one.trial is None else one.trial for _, one in missing])
        log.info("Confirming %s on %s.", named, counted(self._seeds, "new seed"))
        ended: list[TrialResult] = []

        def write(batch: BatchResult) -> list[TrialResult]:
            results = self._live.scoring.results(batch)
            counted = replace(batch, timing={**batch.timing, "seeds": self._seeds})
            write_batch(next_batch(self._root), self._root, counted, results, self._live.scoring.scale)
            ended.extend(results)
            return results

        config = confirmation_config(self._options, self._live.recipe, self._live.manifest.packing, wanted)
        settings = Settings(
            task="confirmation",
            total=len(missing),
            steps=len(missing) * self._seeds * self._options.total_timesteps,
            scoring=self._live.scoring,
            seeds=self._seeds,
            checkpoint_seconds=self._options.checkpoint_seconds,
        )
        fixed, limits = FixedTrials([trial for trial, _ in missing], write), self._limits.without_failures()
        with closing(self._make_backend(config, self._checkpoints)) as backend:
            Loop(fixed, backend, None, settings, limits, self._observers).run()
        write_pages()
        self._checkpoints.tidy()
        return len(ended) == len(missing)
