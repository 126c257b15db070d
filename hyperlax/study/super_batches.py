"""Training super-batch by super-batch: all trials of one, in batches that train to their end, before the next is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from optuna.trial import FrozenTrial

from hyperlax.arguments import StudyArguments
from hyperlax.checkpoints import Checkpoints
from hyperlax.errors import UsageError
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.study.batch_files import failed_batch
from hyperlax.study.conversation import Conversation
from hyperlax.study.course import legal
from hyperlax.study.endings import Endings
from hyperlax.study.pool import BusyLanes, run_batches
from hyperlax.study.reasons import cause_of_error
from hyperlax.study.results import problem_of
from hyperlax.study.stopping import Stop
from hyperlax.study.storage import StudyStorage
from hyperlax.trial import BatchResult, HparamBatch, Interrupted, Runner, Trial

log = logging.getLogger(__name__)


class SuperBatches:
    """Trains the trials of super-batches. ended: called whenever a batch has ended."""

    def __init__(
        self,
        arguments: StudyArguments,
        base: AlgorithmConfig,
        runner: Runner,
        *,
        storage: StudyStorage,
        conversation: Conversation,
        endings: Endings,
        checkpoints: Checkpoints,
        lanes: BusyLanes,
        stop: Stop,
        ended: Callable[[], None],
    ):
        self._width, self._seeds, self._base = arguments.optuna_study_batch_size, arguments.num_seeds, base
        self._runner, self._storage, self._conversation = runner, storage, conversation
        self._endings, self._checkpoints, self._lanes = endings, checkpoints, lanes
        self._stop, self._ended = stop, ended
        self._began: dict[HparamBatch, float] = {}

    def run(self, asked: Sequence[FrozenTrial], may_start: Callable[[], bool]) -> None:
        """Train trials of one super-batch, as far as batches may start."""
        number = asked[0].number // self._width
        trials = self._legal(asked, number)
        plan = self._runner.plan(trials, self._checkpoints.heads())
        log.info("%s", plan.sentence())
        run_batches(
            self._train,
            plan.batches,
            self._runner.slots,
            stop=self._stop,
            may_start=may_start,
            on_start=self._starts,
            on_end=lambda batch, future: self._ends(batch, future, number),
        )

    def _train(self, batch: HparamBatch) -> BatchResult:
        with self._lanes.batch(len(batch.trials)) as report:
            return self._runner.run(
                batch,
                should_stop=self._stop.is_set,
                report=report,
                checkpoint=self._checkpoints.of(batch.numbers),
            )

    def _starts(self, batch: HparamBatch) -> None:
        self._began[batch] = time.monotonic()
        self._checkpoints.keep_only(batch.numbers)
        self._storage.start(batch.numbers)

    def _ends(self, batch: HparamBatch, future: Future[BatchResult], number: int) -> Sequence[HparamBatch]:
        """Write a batch's files, then tell Optuna. What was interrupted waits.

        Of what raised, the two halves are to be run instead, so that in the end only the trial at fault is FAIL. A runner that
        returns what is no result has failed all of its trials.
        """
        self._ended()
        error, began = future.exception(), self._began.pop(batch)
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            self._stop.set()
            self._storage.wait(batch.numbers)
            return ()
        if error is not None and not isinstance(error, Exception):
            raise error
        if error is not None and len(batch.trials) > 1:
            return self._halves(batch, error)
        seconds = time.monotonic() - began
        cause = cause_of_error(error) if error else problem_of(batch, future.result(), self._seeds)
        result = failed_batch(batch, cause, self._seeds, seconds, error) if cause else future.result()
        self._endings.finish(batch, result, number)
        self._checkpoints.forget(batch.numbers)
        return ()

    def _halves(self, batch: HparamBatch, error: Exception) -> Sequence[HparamBatch]:
        log.warning("The batch of %s broke (%s). Its halves are run instead.", _numbers(batch), cause_of_error(error))
        self._storage.wait(batch.numbers)
        self._checkpoints.forget(batch.numbers)
        return batch.halves()

    def _legal(self, asked: Sequence[FrozenTrial], number: int) -> list[Trial]:
        """What to train of a super-batch. A trial whose values its recipe's fields refuse is FAIL."""
        sound = []
        for frozen in asked:
            trial = self._conversation.trial(frozen, self._base)
            try:
                sound.append(legal(trial))
            except UsageError as error:
                alone = HparamBatch((trial,))
                self._endings.finish(alone, failed_batch(alone, str(error), self._seeds, 0.0), number)
        return sound


def _numbers(batch: HparamBatch) -> str:
    plural = "s" if len(batch.trials) > 1 else ""
    return f"trial{plural} {', '.join(map(str, batch.numbers))}"
