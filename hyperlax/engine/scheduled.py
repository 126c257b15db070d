"""One agent whose hyperparameters change at segments' ends, while its weights go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyperlax.checkpoints import Checkpoint, Head
from hyperlax.engine.batch import Scores
from hyperlax.engine.members import Members
from hyperlax.hyperparams import AlgorithmConfig
from hyperlax.pooling import COSTS
from hyperlax.trial import NOT_FINITE, BatchResult, HparamBatch, Interrupted, Outcome, Plan, Trial


class ScheduleRunner:
    """A `hyperlax.trial.Runner` of one trial, in a program of one lane.

    configs: one for each segment, whatever the trial's own says. A schedule that never changes trains to the bit as a batch does.
    """

    slots = lanes = 1

    def __init__(self, members: Members, configs: Sequence[AlgorithmConfig]):
        self._members, self._configs = members, tuple(configs)
        self.device, self.packing = members.device, dict[str, Any]()

    def plan(self, trials: Sequence[Trial], saved: Sequence[Head] = ()) -> Plan:
        """One batch."""
        return Plan((HparamBatch(tuple(trials)),), 1, 0, None)

    def run(
        self,
        batch: HparamBatch,
        *,
        should_stop: Callable[[], bool],
        report: Callable[[int], None],
        checkpoint: Checkpoint | None = None,
    ) -> BatchResult:
        """Train to the end of the schedule, or until something is not finite. Nothing is saved in between."""
        (trial,), steps = batch.trials, self._members.schedule.steps()
        begun = self._members.begin()
        scores, timings = Scores([begun.point]), [begun.timing]
        for segment, config in enumerate(self._configs):
            if scores.first_fault(0) is not None:
                break
            if should_stop():
                raise Interrupted
            point, timing = self._members.advance(segment, [Trial(trial.number, config)], [0])
            scores.points.append(point)
            timings.append(timing)
            report(timing["steps"])
        fault = scores.first_fault(0)
        points = len(scores.points) if fault is None else fault
        timing = _total(timings)
        outcome = Outcome(
            number=trial.number,
            state="COMPLETE" if fault is None else "FAIL",
            reason="" if fault is None else NOT_FINITE,
            curve=scores.curve(0, self._members.schedule, points, self._members.episodes),
            num_parameters=self._members.num_parameters(),
            train_seconds=timing["train_seconds"],
            lane=0,
            fault_step=None if fault is None else steps[fault],
            policy=self._members.policy(0) if fault is None else None,
        )
        return BatchResult((outcome,), timing)


def _total(timings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    total = {**timings[-1], **{name: sum(timing[name] for timing in timings) for name in COSTS}}
    total["useful_lane_segments"] = len(timings) - 1
    total["steps_per_second"] = total["steps"] / (total["train_seconds"] + total["evaluate_seconds"])
    return total
