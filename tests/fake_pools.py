"""Lanes without jax: trials of `tests.fake_runner` that enter, advance and leave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperlax.backends.base import SHARED, Evicted
from hyperlax.backends.former import SUMMED
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.trial import MEASURED, Curve, LaneInterval, SegmentResult, Trial


@dataclass
class _Lane:
    trial: Trial
    repetition: int
    cohort: int
    index: int
    began: int
    segments: int = 0


class FakePools:
    """curve_of: the whole curve of a trial with all its seeds. seeds: that train at once. raises: trial -> what its cohort raises.

    fail: trials that are not finite after their second segment. after_segment: called with how many segments there were.
    """

    def __init__(
        self,
        lanes: int,
        seeds: int,
        curve_of: Callable[[Trial], Curve],
        raises: Mapping[int, BaseException],
        fail: Collection[int],
        after_segment: Callable[[int], None],
    ):
        self._count, self._seeds, self._curve_of = lanes, seeds, curve_of
        self._raises, self._fail, self._after_segment = raises, fail, after_segment
        self._lanes: dict[int, _Lane] = {}
        self._spent = dict.fromkeys(SUMMED, 0)
        self._segments = 0

    @property
    def occupied(self) -> int:
        return len(self._lanes)

    @property
    def preparing(self) -> int:
        return 0

    def enter(self, trial: Trial, repetition: int = 0, cohort: int = SHARED) -> bool:
        assert trial.number not in self._lanes
        if len(self._lanes) == self._count:
            return False
        self._lanes[trial.number] = _Lane(trial, repetition, cohort, self._free(), self._segments)
        return True

    def leave(self, number: int) -> None:
        del self._lanes[number]

    def begin(self) -> None:
        pass

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        dropped, advances = [], []
        for cohort in sorted({lane.cohort for lane in self._lanes.values()}):
            mates = sorted(number for number, lane in self._lanes.items() if lane.cohort == cohort)
            errors = [self._raises[number] for number in mates if number in self._raises]
            if errors:
                assert isinstance(errors[0], Exception)
                dropped.append(Evicted(tuple(mates), errors[0]))
                for number in mates:
                    self.leave(number)
        for lane in self._lanes.values():
            lane.segments += 1
            advances.append(self._advance_of(lane))
        self._segments += 1
        self._spent["lane_segments"] += self._count
        self._spent["steps"] += 100 * len(advances)
        self._after_segment(self._segments)
        return sorted(advances, key=lambda advance: advance.number), dropped

    def save(self, checkpoints: CheckpointManager) -> None:
        begun = [lane for lane in self._lanes.values() if lane.segments]
        rows = np.array([[lane.repetition, lane.segments] for lane in begun])
        heads = [Metadata(tuple(lane.trial.number for lane in begun), {}, self._segments, {})] if begun else []
        checkpoints.save_pools([(head, {"lanes": rows}) for head in heads])

    def restore(
        self, checkpoints: CheckpointManager, trials: Mapping[int, Trial], unfinished: Collection[int]
    ) -> Sequence[SegmentResult]:
        for head, arrays in checkpoints.pools():
            for number, (repetition, segments) in zip(head.trials, arrays["lanes"], strict=True):
                if number in unfinished:
                    self._lanes[number] = _Lane(
                        trials[number], int(repetition), SHARED, self._free(), self._segments, int(segments)
                    )
        return [self._advance_of(self._lanes[number]) for number in sorted(self._lanes)]

    def timing(self) -> dict[str, Any]:
        return {**self._spent, "peak_memory_bytes": None, "lanes": self._count}

    def close(self) -> None:
        pass

    def _free(self) -> int:
        used = {lane.index for lane in self._lanes.values()}
        return next(index for index in range(self._count) if index not in used)

    def _advance_of(self, lane: _Lane) -> SegmentResult:
        curve, first = self._curve_of(lane.trial), lane.repetition * self._seeds
        is_fault = lane.trial.number in self._fail and lane.segments >= 2
        points = 2 if is_fault else lane.segments + 1
        columns: dict[str, Any] = {
            name: getattr(curve, name)[:points, first : first + self._seeds] for name in MEASURED
        }
        return SegmentResult(
            number=lane.trial.number,
            repetition=lane.repetition,
            segments=lane.segments,
            curve=replace(curve, steps=curve.steps[:points], **columns),
            fault_step=int(curve.steps[2]) if is_fault else None,
            is_done=False,
            lane=0,
            num_parameters=100 + lane.trial.number % 7,
            train_seconds=0.25 * lane.segments,
            intervals=(LaneInterval(0, 0, lane.index, 1000.0, float(lane.began), self._segments + 1.0),),
        )
