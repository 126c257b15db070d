"""A study that this process runs or changes: its parts together, and the snapshots that others get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import FrozenTrial

from hyperlax.backends.base import Backend
from hyperlax.config.options import PbtOptions, SearchOptions
from hyperlax.recipe import Recipe
from hyperlax.study.batch_files import Scoring
from hyperlax.study.confirmation import confirmation_of
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.lineage import finished_intervals, lineage_of
from hyperlax.study.manifest import Manifest
from hyperlax.study.record import Lineage, StudyRecord
from hyperlax.study.state import StudyState
from hyperlax.study.view import snapshot


@dataclass
class LiveStudy:
    """A study that this process holds. manifest: the current content of study.json."""

    arguments: SearchOptions | PbtOptions
    recipe: Recipe
    directory: StudyDirectory
    manifest: Manifest
    state: StudyState

    @property
    def width(self) -> int:
        """Number of trials of a super-batch."""
        own = self.arguments
        return own.population_size if isinstance(own, PbtOptions) else own.optuna_study_batch_size

    @property
    def scoring(self) -> Scoring:
        """Rules by which outcomes become results."""
        reference = self.manifest.reference
        return Scoring(reference, self.recipe.space.keys(), self.arguments.aggregate)

    def snapshot(self) -> StudyRecord:
        """Return the study as it is now."""
        return self._as_of(self.state.trials())

    def results(self) -> StudyRecord:
        """Return the study as it is now, without importances and confirmation, which take time."""
        trials = self.state.trials()
        return snapshot(self.directory.root, self.arguments, self.manifest, trials, with_importances=False)

    def lineage(self) -> Lineage:
        """Return the lineage of a population's trials."""
        return lineage_of(finished_intervals(self.state.trials(), self.width), self.width, self.directory.root)

    def note_backend(self, backend: Backend) -> None:
        """Write the current device and programs into study.json."""
        manifest = replace(self.manifest, lanes=backend.lanes, device=backend.device, packing=backend.packing)
        if manifest != self.manifest:
            self.manifest = manifest
            manifest.write(self.directory.manifest)

    def settled(self) -> int:
        """Return how many trials the finished super-batches have. The last one may grow when a study continues."""
        return min(self._finished_super_batches() * self.width, len(self.state.trials()))

    def analyses(self) -> Iterator[tuple[StudyRecord, Path]]:
        """Yield the snapshots to analyze and their directories: super-batches without an analysis, then the last finished one.

        The analysis of a super-batch contains no later trials. Trials that are run again are shown as running in the last one.
        """
        finished = self._finished_super_batches()
        for number in range(finished):
            self.directory.close_super_batch(number)
        last = max(finished, self.directory.analysed()) - 1
        for number in range(last + 1):
            if number == last or (number < finished and not self.directory.has_analysis(number)):
                yield self._as_of(self.state.trials()[: (number + 1) * self.width]), self.directory.analysis(number)

    def _finished_super_batches(self) -> int:
        """Return how many super-batches there are before the first that has an unfinished trial."""
        trials = self.state.trials()
        unfinished = [trial.number for trial in trials if not trial.state.is_finished()]
        return unfinished[0] // self.width if unfinished else -(-len(trials) // self.width)

    def _as_of(self, trials: Sequence[FrozenTrial]) -> StudyRecord:
        """Return the study with its first trials only."""
        record = snapshot(self.directory.root, self.arguments, self.manifest, trials)
        if not self.arguments.confirm_top:
            return record
        return replace(record, confirmation=confirmation_of(record, self.recipe.config.algorithm))
