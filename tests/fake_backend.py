"""A backend without jax: curves computed from the hyperparameters in microseconds, and faults on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from hyperlax.agent import Policy
from hyperlax.backends import local
from hyperlax.backends.base import SHARED, Backend, EngineConfig, Evicted
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.fields import dotted
from hyperlax.trial import MEASURED, NOT_FINITE, Curve, LaneInterval, Plan, SegmentResult, Trial

POINTS = 5
STEPS_PER_POINT = STEPS_PER_INTERVAL = 100
COSTS = ("programs_compiled", "compile_seconds", "train_seconds", "evaluate_seconds", "wall_seconds", "steps")


@dataclass
class Lane:
    """A trial in a lane. points: of a population, what its member showed at the beginning and the end of the interval."""

    trial: Trial
    repetition: int
    group: int
    index: int
    began: int = 0
    segments: int = 0
    points: list[np.ndarray] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.trial.number


@dataclass
class FakeBackend(Backend):
    """A backend of any kind; `bind` says which.

    fail: trial -> reason, or of a population (interval, member). infinite: trials whose curve has inf. raises: trial -> what its
    program raises. gives: trial -> what is told of it, made of what it should be. saves: every batch saves itself as it starts.
    policy: what every trial becomes that is trained to its end.
    after_batch, after_segment, after_interval: called with how many there were, or with the number of the interval.
    """

    lanes: int = 3
    slots: int = 1
    device: str = "fake"
    packing: dict[str, Any] = field(default_factory=dict)
    fail: Any = field(default_factory=dict)
    infinite: Collection[int] = ()
    raises: Mapping[int, BaseException] = field(default_factory=dict)
    gives: Mapping[int, Callable[[SegmentResult], Any]] = field(default_factory=dict)
    saves: bool = False
    policy: Policy | None = None
    machine: str = "this one"
    after_batch: Callable[[int], None] = lambda count: None
    after_segment: Callable[[int], None] = lambda count: None
    after_interval: Callable[[int], None] = lambda interval: None
    trained: list[int] = field(default_factory=list)
    batches: int = 0

    def bind(self, config: EngineConfig, checkpoints: CheckpointManager | None = None) -> FakeBackend:
        """Start without trials, as a backend of this kind."""
        self.config, self.checkpoints = config, checkpoints
        self.in_lanes: dict[int, Lane] = {}
        self.segments, self.is_stopped = 0, False
        self.copies: list[tuple[int, Trial]] = []
        self.spent = dict.fromkeys((*COSTS, "lane_segments"), 0)
        if config.kind == "population":
            self.lanes = config.num_trials
        return self

    @property
    def occupied(self) -> int:
        return len(self.in_lanes)

    @property
    def points(self) -> int:
        return self.config.run_length.num_evaluations

    @property
    def steps_per_point(self) -> int:
        return self.config.run_length.total_timesteps // self.points

    def plan(self, trials: Sequence[Trial]) -> Plan:
        """As many batches of `lanes` trials as it takes."""
        batches = tuple(tuple(trials[i : i + self.lanes]) for i in range(0, len(trials), self.lanes))
        return Plan(batches, 1, 1, None)

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = SHARED) -> list[int]:
        numbers = tuple(trial.number for trial in trials)
        if self.config.kind == "closed" and self.checkpoints:
            self.checkpoints.prune(numbers)
            if self.saves:
                self.checkpoints.save_batch(Metadata(numbers, {}, 1, {}), {"state": np.zeros(1)})
        entered = []
        for lane, trial in enumerate(trials):
            assert trial.number not in self.in_lanes
            if self.config.kind != "closed" and len(self.in_lanes) == self.lanes * self.slots:
                break
            index = lane if self.config.kind == "closed" else self._free()
            self.in_lanes[trial.number] = Lane(trial, repetition, group, index, self.segments)
            entered.append(trial.number)
        return entered

    def begin(self) -> None:
        if self.copies:
            sources = {lane.number: lane for lane in self.in_lanes.values()}
            self.in_lanes = {
                trial.number: Lane(trial, 0, SHARED, index, self.segments, points=[sources[source].points[-1]])
                for index, (source, trial) in enumerate(sorted(self.copies, key=lambda copy: copy[1].number))
            }
            self.copies = []

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        self.begin()
        if self.is_stopped or not self.in_lanes:
            return [], []
        return {"closed": self._run_batch, "refilled": self._advance, "population": self._run_interval}[
            self.config.kind
        ]()

    def copy(self, source: int, into: Trial) -> None:
        self.copies.append((source, into))

    def leave(self, number: int) -> None:
        if self.config.kind != "closed":
            del self.in_lanes[number]
        elif self.checkpoints:
            self.checkpoints.forget([number])

    def save(self) -> None:
        """Save what is in lanes; a closed batch has saved itself, and stops."""
        if self.config.kind == "closed":
            self.is_stopped = True
            return
        begun = [lane for lane in self.in_lanes.values() if lane.segments]
        if self.checkpoints:
            numbers = tuple(lane.number for lane in begun)
            metadata = Metadata(numbers, {"machine": self.machine}, self.segments, {})
            arrays = {"lanes": np.array([[lane.repetition, lane.segments, lane.index] for lane in begun])}
            arrays |= {f"points_{lane.number}": np.array(lane.points) for lane in begun}
            self.checkpoints.save_pools([(metadata, arrays)] if begun else [])

    def restore(self, trials: Mapping[int, Trial], unfinished: Collection[int]) -> Sequence[SegmentResult]:
        assert self.checkpoints is not None
        for metadata, arrays in self.checkpoints.pools():
            if self.config.kind == "population" and not metadata.is_compatible({"machine": self.machine}):
                continue
            for number, (repetition, segments, index) in zip(metadata.trials, arrays["lanes"].tolist(), strict=True):
                if number in unfinished:
                    points = list(arrays[f"points_{number}"])
                    self.in_lanes[number] = Lane(trials[number], repetition, SHARED, index, 0, segments, points)
        return [self._result(self.in_lanes[number]) for number in sorted(self.in_lanes)]

    def timing(self, numbers: Collection[int]) -> dict[str, Any]:
        spent, self.spent = self.spent, dict.fromkeys(self.spent, 0)
        if self.config.kind != "refilled":
            del spent["lane_segments"]
        rest = dict.fromkeys(("steps_per_second", "useful_lane_segments", "predicted_seconds"), 0)
        return {**spent, **rest, "peak_memory_bytes": None, "lanes": self.lanes}

    def steps(self, trial: Trial) -> list[int]:
        return [self.steps_per_point * point for point in range(self.points + 1)]

    def _run_batch(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Run the batch that ends first."""
        group = self._first_batch()
        batch = [lane for lane in self.in_lanes.values() if lane.group == group]
        numbers = tuple(lane.number for lane in batch)
        errors = [self.raises[number] for number in numbers if number in self.raises]
        if errors and not isinstance(errors[0], Exception):
            raise errors[0]
        if errors:
            assert isinstance(errors[0], Exception)
            self._empty(numbers)
            if self.checkpoints:
                self.checkpoints.forget(numbers)
            return [], [Evicted(numbers, errors[0])]
        results = []
        for lane in batch:
            lane.segments, lane.began = self.points, self.batches
            results.append(self._told(lane))
        self.trained += numbers
        self.batches += 1
        try:
            self.after_batch(self.batches)
        finally:
            self._empty(numbers)
        return results, []

    def _empty(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self.in_lanes[number]

    def _first_batch(self) -> int:
        """Return the group of the batch that ends first: the one that entered first."""
        return next(iter(self.in_lanes.values())).group

    def _advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Advance all lanes by a segment."""
        evicted = []
        for group in sorted({lane.group for lane in self.in_lanes.values()}):
            mates = sorted(lane.number for lane in self.in_lanes.values() if lane.group == group)
            errors = [self.raises[number] for number in mates if number in self.raises]
            if errors:
                assert isinstance(errors[0], Exception)
                evicted.append(Evicted(tuple(mates), errors[0]))
                for number in mates:
                    del self.in_lanes[number]
        for lane in self.in_lanes.values():
            lane.segments += 1
        results = sorted(map(self._told, self.in_lanes.values()), key=lambda result: getattr(result, "number", 0))
        self.segments += 1
        self.spent["lane_segments"] += self.lanes * self.slots
        self.spent["steps"] += self.steps_per_point * len(self.in_lanes)
        self.after_segment(self.segments)
        return results, evicted

    def _run_interval(self) -> tuple[list[SegmentResult], list[Evicted]]:
        """Train every member through an interval: it climbs by what follows from its hyperparameters."""
        seeds = self.config.num_seeds
        interval = min(self.in_lanes) // self.lanes
        start = np.linspace(-1200, -1190, self.lanes * seeds).reshape(self.lanes, seeds)
        for lane in self.in_lanes.values():
            member = lane.number % self.lanes
            lane.points = lane.points or [start[member]]
            lane.points.append(lane.points[-1] + gain(lane.trial, interval))
            if (interval, member) in self.fail:
                lane.points[-1] = np.full(seeds, np.nan)
            lane.segments = 1
        self.trained.append(interval)
        self.after_interval(interval)
        return [self._result(self.in_lanes[number]) for number in sorted(self.in_lanes)], []

    def _told(self, lane: Lane) -> Any:
        result = self._result(lane)
        return self.gives[lane.number](result) if lane.number in self.gives else result

    def _result(self, lane: Lane) -> SegmentResult:
        return self._member_result(lane) if self.config.kind == "population" else self._trial_result(lane)

    def _trial_result(self, lane: Lane) -> SegmentResult:
        """Return what a trial shows: the points of its curve so far, of the seeds that have trained so far."""
        seeds, in_all = self.config.num_seeds, self.config.trial_seeds or self.config.num_seeds
        curve, first = curve_of(lane.trial, in_all, self.points, self.steps_per_point), lane.repetition * seeds
        if lane.number in self.infinite:
            curve = replace(curve, mean=np.where(curve.steps[:, None] > 300, np.inf, curve.mean))
        fails_at = 2 if self.config.kind == "refilled" else self.points
        is_fault = lane.number in self.fail and lane.segments >= fails_at
        points = fails_at if is_fault else lane.segments + 1
        columns: dict[str, Any] = {name: getattr(curve, name)[:points, first : first + seeds] for name in MEASURED}
        return SegmentResult(
            number=lane.number,
            repetition=lane.repetition,
            segments=lane.segments,
            curve=replace(curve, steps=curve.steps[:points], **columns),
            fault_step=self.steps_per_point * fails_at if is_fault else None,
            is_done=lane.segments == self.points,
            lane=lane.index,
            num_parameters=100 + lane.number % 7,
            train_seconds=0.25 * (1 if self.config.kind == "closed" else lane.segments),
            intervals=(LaneInterval(0, 0, lane.index, 1000.0, float(lane.began), self._clock() + 1.0),),
            fault=self.fail[lane.number] if is_fault and self.config.kind == "closed" else NOT_FINITE,
            policy=None if is_fault or lane.segments < self.points else self.policy,
        )

    def _member_result(self, lane: Lane) -> SegmentResult:
        interval = lane.number // self.lanes
        is_fault = not np.isfinite(lane.points[-1]).all()
        values = np.array(lane.points[: 1 if is_fault else 2])
        steps = np.array([interval, interval + 1][: len(values)], np.int64) * self.steps_per_point
        budget = self.config.run_length.total_timesteps
        is_last = interval + 1 == self.config.run_length.num_evaluations
        return SegmentResult(
            number=lane.number,
            repetition=0,
            segments=1,
            curve=Curve(steps, *([values] * len(MEASURED)), episodes=4, budget=budget),
            fault_step=(interval + 1) * self.steps_per_point if is_fault else None,
            is_done=is_last,
            lane=lane.index,
            num_parameters=100,
            train_seconds=0.0,
            policy=Policy({}, {"score": lane.points[-1]}) if is_last else None,
        )

    def _clock(self) -> int:
        return self.batches if self.config.kind == "closed" else self.segments

    def _free(self) -> int:
        used = {lane.index for lane in self.in_lanes.values()}
        return next(index for index in range(self.lanes * self.slots) if index not in used)


def train_with_fakes(monkeypatch: pytest.MonkeyPatch, pages: bool = True, **fake: Any) -> list[FakeBackend]:
    """Have commands train RL with fakes, which are listed as they are made. pages: whether studies write their pages."""
    made: list[FakeBackend] = []
    make_real = local.make_backend

    def make(config: EngineConfig, checkpoints: CheckpointManager | None = None) -> Any:
        if config.task is not None:
            return make_real(config, checkpoints)
        made.append(FakeBackend(**fake).bind(config, checkpoints))
        return made[-1]

    monkeypatch.setattr("hyperlax.backends.local.make_backend", make)
    if not pages:
        monkeypatch.setattr("hyperlax.analysis.pages.write_pages", lambda record, directory, is_latest=True: None)
    return made


def curve_of(trial: Trial, num_seeds: int, points: int = POINTS, steps_per_point: int = STEPS_PER_POINT) -> Curve:
    """Rising returns between pendulum's lo and hi that depend on every hyperparameter, the seed and nothing else."""
    text = json.dumps(dotted(trial.config), sort_keys=True)
    steps = np.arange(points + 1, dtype=np.int64) * steps_per_point
    rise = np.linspace(0, 1, points + 1)[:, None] * np.linspace(0.9, 1.0, num_seeds)[None, :]
    mean = -1200.0 + 1000.0 * _share(text) * rise
    spread = np.full_like(mean, 10.0)
    return Curve(steps, mean, spread, mean - spread, mean + spread, np.full_like(mean, 200.0), 4, steps[-1])


def gain(trial: Trial, interval: int) -> float:
    """From 0 to 100, of every hyperparameter and of nothing else but the interval."""
    return 100 * _share(json.dumps([interval, dotted(trial.config)], sort_keys=True))


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
