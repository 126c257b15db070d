"""How trials end: their files, then the database, then the user."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperlax.arguments import StudyArguments
from hyperlax.metrics import ReferenceReturns
from hyperlax.recipe import Recipe
from hyperlax.study.agents import about_recipe, write_agents
from hyperlax.study.batch_files import TrialEnd, judge_all, write_batch
from hyperlax.study.conversation import Conversation
from hyperlax.study.failures import Failures
from hyperlax.study.observer import Observer, tell
from hyperlax.trial import BatchResult, HparamBatch

log = logging.getLogger(__name__)


class Endings:
    """Of the trials of one study, while it runs."""

    def __init__(
        self,
        arguments: StudyArguments,
        recipe: Recipe,
        root: Path,
        reference: ReferenceReturns,
        conversation: Conversation,
        failures: Failures,
        observers: Sequence[Observer],
    ):
        self._searched = recipe.space.keys()
        self._judged = list(arguments.judged)
        self._reference, self._aggregate, self._conversation = reference, arguments.aggregate, conversation
        self._save_agents = arguments.save_agents
        self._root, self._about = root, {"study": arguments.study_name, **about_recipe(recipe)}
        self._failures, self._observers = failures, observers

    def finish(
        self,
        batch: HparamBatch,
        result: BatchResult,
        super_batch: int,
        intermediate: Mapping[int, Sequence[Sequence[float]]] | None = None,
    ) -> None:
        """Write a batch's files into its super-batch, then tell Optuna and the user.

        intermediate: of a study that prunes, trial -> by what it was judged at the end of every segment.
        """
        path = self._conversation.new_batch(super_batch)
        if self._save_agents != "none":
            judged = judge_all(batch, result, self._reference, self._searched, self._aggregate)
            complete = [end.number for end in judged if end.state == "COMPLETE"]
            write_agents(self._root, self._about, batch, result, complete)
        ends = write_batch(
            path, batch, result, self._reference, self._searched, self._aggregate, self._judged, intermediate
        )
        self._conversation.tell(ends, path)
        _log_failures(ends)
        for end in ends:
            self._failures.count(end.state, end.reason)
        tell(self._observers, lambda observer: observer.trials_ended(ends))


def _log_failures(ends: Sequence[TrialEnd]) -> None:
    mates = sum(end.state != "FAIL" for end in ends)
    for end in ends:
        if end.state == "FAIL":
            rest = f"the other {mates} of its batch went on" if mates else "the study goes on"
            log.warning("trial %d: %s. Marked FAIL; %s.", end.number, end.reason, rest)
