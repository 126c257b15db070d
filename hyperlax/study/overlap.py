"""Super-batches that are asked while earlier ones still train, as studies do that prune."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from hyperlax.config.options import SearchOptions
from hyperlax.errors import UsageError
from hyperlax.files import write_json
from hyperlax.reading import DAMAGED, fits, read_json
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.manifest import Manifest
from hyperlax.study.rehearsal import Life, views


class Overlap:
    """Who has ended when each super-batch is asked; see `hyperlax.study.rehearsal`. What was asked once is on disk, and holds.

    lanes: of the rehearsal. total: trials of the study. survived: how many segments a trial that has not ended has survived by now.
    """

    def __init__(
        self, directory: StudyDirectory, lanes: int, super_batch: int, total: int, survived: Callable[[int], int]
    ):
        self._directory = directory
        self._lanes, self._super_batch, self._total = lanes, super_batch, total
        self._survived = survived

    def ended(self, start: int, trials: Sequence[FrozenTrial]) -> frozenset[int] | None:
        """The trials that have ended when the one that begins with trial `start` is asked; None while that is not known.

        trials: of the study by now.
        """

        def life(number: int) -> Life:
            trial = trials[number]
            if not trial.state.is_finished():
                return Life(self._survived(number), False)
            shown = len(trial.intermediate_values)
            return Life(shown + 1 if trial.state == TrialState.FAIL else shown, True)

        number = start // self._super_batch
        noted = self._directory.asked_from(number)
        if noted.exists():
            return _read(noted)
        return next(itertools.islice(views(life, self._lanes, self._super_batch, self._total), number, None), None)

    def note(self, start: int, ended: frozenset[int]) -> None:
        """Write down what the super-batch that begins with trial `start` is asked from, before it is."""
        write_json(self._directory.asked_from(start // self._super_batch), {"ended": sorted(ended)})


def _read(path: Path) -> frozenset[int]:
    """UsageError for what Hyperlax does not write there."""
    stored = read_json(path)
    if not isinstance(stored, dict) or not fits(stored.get("ended"), list[int]):
        raise UsageError(f"{path}: is not what Hyperlax writes there. {DAMAGED}")
    return frozenset(stored["ended"])


def as_running(trial: FrozenTrial) -> FrozenTrial:
    """The trial while it still trained. What it had shown by then no sampler looks at."""
    running = copy.copy(trial)
    running.state, running.values, running.intermediate_values = TrialState.RUNNING, None, {}
    running.datetime_start, running.datetime_complete = datetime.now(), None
    return running


def is_pooled(arguments: SearchOptions) -> bool:
    """Whether trials end at different times in a study, so that their lanes are refilled."""
    return arguments.pruner != "none" or arguments.seed_schedule == "racing"


def lanes_of(manifest: Manifest, super_batch: int) -> int:
    """How many trials of a study are in lanes at once, at most."""
    return min(super_batch, manifest.lanes * manifest.packing.get("slots", 1))


def overlap_of(
    arguments: SearchOptions,
    manifest: Manifest,
    directory: StudyDirectory,
    survived: Callable[[int], int] | None = None,
) -> Overlap | None:
    """That of a study; None for one whose super-batches follow one another.

    survived: see `Overlap`; by default trials that have not ended were training whenever a super-batch was asked.
    """
    if not is_pooled(arguments):
        return None
    width, longest = arguments.optuna_study_batch_size, arguments.num_evaluations * arguments.num_seeds
    return Overlap(directory, lanes_of(manifest, width), width, arguments.n_trials, survived or (lambda trial: longest))
