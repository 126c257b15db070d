"""The end of a study that asks for confirmation: trains what is not confirmed yet, and says which winner is real."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from hyperlax.arguments import StudyArguments
from hyperlax.checkpoints import Checkpoints
from hyperlax.recipe import Recipe
from hyperlax.study.batch_files import failed_batch, write_batch
from hyperlax.study.confirmation import configurations, names, read_results
from hyperlax.study.directory import BATCH, SUCCESS, StudyDirectory
from hyperlax.study.manifest import resume_command
from hyperlax.study.pool import run_batches
from hyperlax.study.progress import Progress
from hyperlax.study.reasons import cause_of_error
from hyperlax.study.record import StudyRecord
from hyperlax.study.results import problem_of
from hyperlax.study.statistics import in_short
from hyperlax.study.stopping import Stop
from hyperlax.study.training import StudyRunner
from hyperlax.trial import BatchResult, HparamBatch, Interrupted, Trial

log = logging.getLogger(__name__)


class Confirming:
    """A confirmation while it runs. deadline: of `time.monotonic`, after which no batch starts.

    make_runner: gives what trains some configurations on `arguments.confirm_seeds` new seeds, called only if any is missing.
    show: makes what shows how far it is.
    """

    def __init__(
        self,
        arguments: StudyArguments,
        recipe: Recipe,
        directory: StudyDirectory,
        make_runner: Callable[[Sequence[Trial]], StudyRunner],
        stop: Stop,
        deadline: float,
        show: Callable[..., Progress] = Progress,
    ):
        self._arguments, self._recipe, self._directory = arguments, recipe, directory
        self._make_runner, self._stop, self._deadline = make_runner, stop, deadline
        self._show = show
        self._seeds = arguments.confirm_seeds
        self._batches = directory.confirmation
        self._checkpoints = Checkpoints(directory.confirmation / "checkpoints", arguments.checkpoint_seconds)
        self._began: dict[HparamBatch, float] = {}

    def run(self, look: Callable[[], StudyRecord], write_pages: Callable[[], None], retry_failed: bool) -> int:
        """Train what is missing, have the pages written, print the verdict. Returns the exit status.

        0: done, or out of time. 1: every configuration failed. 130 or 143: interrupted. look: the study as of now.
        """
        record = look()
        wanted = configurations(record, self._recipe.config.algorithm)
        known = read_results(self._batches, [c.trial for c in wanted], self._seeds)
        kept = [number for number, result in known.items() if not (retry_failed and result.state == "FAIL")]
        missing = [c for c in wanted if c.trial.number not in kept]
        if missing:
            if self._may_start():
                log.info("Confirming %s on %d new seeds.", names(missing), self._seeds)
                runner = self._make_runner([c.trial for c in wanted])
                is_done = self._train(runner, [c.trial for c in missing], record)
                write_pages()
            else:
                is_done = False
            if not is_done:
                return self._print_interruption()
        confirmation = look().confirmation
        if confirmation is None:
            return 0
        print("\n".join(in_short(confirmation)))
        return int(all(configuration.state == "FAIL" for configuration in confirmation.configurations))

    def _print_interruption(self) -> int:
        why = "interrupted" if self._stop.is_set() else "out of time"
        print(f"The confirmation is {why}. To go on:\n  {resume_command(self._directory.root)}")
        return self._stop.exit_status if self._stop.is_set() else 0

    def _may_start(self) -> bool:
        return not self._stop.is_set() and time.monotonic() < self._deadline

    def _train(self, runner: StudyRunner, trials: Sequence[Trial], record: StudyRecord) -> bool:
        """Whether all of them ended."""
        self._discard_incomplete()
        plan = runner.plan(trials, self._checkpoints.heads())
        log.info("%s", plan.sentence())
        left = {trial.number for trial in trials}
        name, direction = next(iter(record.objectives.items()))
        with self._show(len(trials), name, direction, task="confirmation") as progress:
            progress.expect(len(trials) * self._seeds * self._arguments.total_timesteps)

            def start(batch: HparamBatch) -> None:
                self._began[batch] = time.monotonic()
                self._checkpoints.keep_only(batch.numbers)

            def train(batch: HparamBatch) -> BatchResult:
                with progress.batch(len(batch.trials)) as report:
                    return runner.run(
                        batch,
                        should_stop=self._stop.is_set,
                        report=report,
                        checkpoint=self._checkpoints.of(batch.numbers),
                    )

            def end(batch: HparamBatch, future: Future[BatchResult]) -> Sequence[HparamBatch]:
                instead = self._batch_ends(batch, future, record, progress)
                if not instead and not self._is_interruption(future.exception()):
                    left.difference_update(batch.numbers)
                return instead

            run_batches(
                train,
                plan.batches,
                runner.slots,
                stop=self._stop,
                may_start=self._may_start,
                on_start=start,
                on_end=end,
            )
        self._checkpoints.tidy()
        return not left

    def _batch_ends(
        self, batch: HparamBatch, future: Future[BatchResult], record: StudyRecord, progress: Progress
    ) -> Sequence[HparamBatch]:
        """Write a batch's files. Of one that raised the two halves are run instead, until the one at fault is alone."""
        error, seconds = future.exception(), time.monotonic() - self._began.pop(batch)
        if self._is_interruption(error):
            self._stop.set()
            return ()
        if error is not None and not isinstance(error, Exception):
            raise error
        if error is not None and len(batch.trials) > 1:
            log.warning("A batch of the confirmation broke (%s). Its halves are run instead.", cause_of_error(error))
            self._checkpoints.forget(batch.numbers)
            return batch.halves()
        cause = cause_of_error(error) if error else problem_of(batch, future.result(), self._seeds)
        result = failed_batch(batch, cause, self._seeds, seconds, error) if cause else future.result()
        counted = replace(result, timing={**result.timing, "seeds": self._seeds})
        space, aggregate = self._recipe.space, self._arguments.aggregate
        ends = write_batch(self._next_batch(), batch, counted, record.reference, space, aggregate)
        self._checkpoints.forget(batch.numbers)
        for trial in ends:
            progress.finished(trial.number, trial.state, None)
        progress.batch_ended()
        return ()

    @staticmethod
    def _is_interruption(error: BaseException | None) -> bool:
        return isinstance(error, (Interrupted, KeyboardInterrupt))

    def _discard_incomplete(self) -> None:
        """Remove batches that were being written when a process died."""
        for path in self._batches.glob("batch_*"):
            if BATCH.fullmatch(path.name) and not (path / SUCCESS).exists():
                rmtree(path)

    def _next_batch(self) -> Path:
        numbers = [int(path.name.removeprefix("batch_")) for path in self._batches.glob("batch_" + "[0-9]" * 5)]
        return self._batches / f"batch_{max(numbers, default=-1) + 1:05d}"
