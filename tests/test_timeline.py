"""Who was in which lane when: as it was trained, on disk, and on the report's axis."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.training import Interrupted
from hyperlax.analysis.plots import draw_all
from hyperlax.analysis.plots.timeline import PLOT
from hyperlax.analysis.study_data import StudyData
from hyperlax.engine import assignment
from hyperlax.engine.assignment import PROCESS, intervals_from_array, intervals_to_array
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.files import read_csv, read_json, read_text, write_json
from hyperlax.study.record import StudyRecord
from hyperlax.trial import TIMELINE, LaneInterval, Trial
from tests import toy
from tests.fake_backend import FakeBackend
from tests.made_up_studies import study, write_timeline
from tests.study_cases import Case
from tests.test_pools import LASTS, UNEVEN, finish, pooled, trials

POOLED: dict[str, Any] = {"pruner": "asha", "pruner_min_segments": 1, "pruner_reduction_factor": 2}
RACING: dict[str, Any] = {"seed_schedule": "racing", "num_seeds": 3}


def check_lanes(intervals: Iterable[LaneInterval]) -> None:
    """No lane holds two trials at once."""
    by_lane: dict[tuple[Any, ...], list[LaneInterval]] = {}
    for interval in intervals:
        assert interval.began < interval.ended
        by_lane.setdefault(interval[:4], []).append(interval)
    for own in by_lane.values():
        own.sort(key=lambda interval: interval.began)
        assert all(first.ended <= second.began for first, second in itertools.pairwise(own))


def test_the_trials_of_a_batch_are_side_by_side_in_its_lanes() -> None:
    result = toy.run(toy.backend(), toy.batch(toy.trial(4), toy.trial(9), toy.trial(2)))
    intervals = [interval for outcome in result.outcomes for interval in outcome.intervals]
    assert [interval[:4] for interval in intervals] == [(0, 0, n, PROCESS) for n in range(3)]
    assert len({(interval.began, interval.ended) for interval in intervals}) == 1
    assert intervals[0].ended - intervals[0].began >= result.timing["train_seconds"]


def test_a_batch_that_another_process_went_on_with_was_in_its_lanes_twice(tmp_path: Path, monkeypatch: Any) -> None:
    saved, batch = CheckpointManager(tmp_path, 1e9), toy.batch(toy.trial(4), toy.trial(9))
    with pytest.raises(Interrupted):
        train(batch, saved, stop=True)
    monkeypatch.setattr(assignment, "PROCESS", PROCESS + 1000)
    result = train(batch, saved, stop=False)
    for lane, outcome in enumerate(result.outcomes):
        assert [(interval.process, interval.lane) for interval in outcome.intervals] == [
            (PROCESS, lane),
            (PROCESS + 1000, lane),
        ]


def train(batch: tuple[Trial, ...], saved: CheckpointManager, stop: bool) -> Any:
    return toy.run(toy.backend(), batch, saved, 1 if stop else None)


@pytest.mark.parametrize("slots", [1, 2])
def test_lanes_that_are_refilled_hold_one_trial_after_another(slots: int) -> None:
    mixed = [toy.trial(n, rate=0.1 * (n + 1), dimensions=2 + n % 2) for n in range(8)]
    ended = finish(pooled(toy.Descents(UNEVEN), 2, slots), mixed)
    assert ended.keys() == LASTS.keys() and all(len(advance.intervals) == 1 for advance in ended.values())
    intervals = [interval for advance in ended.values() for interval in advance.intervals]
    check_lanes(intervals)
    assert {interval.slot for interval in intervals} == set(range(slots)) and len(
        {interval[:3] for interval in intervals}
    ) <= 4 * slots


def test_a_pool_that_another_process_went_on_with_knows_both_times(tmp_path: Path, monkeypatch: Any) -> None:
    saved = CheckpointManager(tmp_path, 0)
    pools = pooled(toy.Descents(UNEVEN), 2, saves=saved)
    first, second = trials(2)
    assert pools.enter([first, second]) == [0, 1]
    pools.advance()
    pools.save()
    monkeypatch.setattr(assignment, "PROCESS", PROCESS + 1000)
    pools = pooled(toy.Descents(UNEVEN), 2, saves=saved)
    pools.restore({0: first, 1: second}, {0, 1})
    for advance in pools.advance()[0]:
        assert [interval.process for interval in advance.intervals] == [PROCESS, PROCESS + 1000]


def test_intervals_are_saved_to_the_bit() -> None:
    intervals = (LaneInterval(0, 1, 2, 1.7e9 + 0.123, 0.1 + 0.2, 7.0), LaneInterval(3, 0, 0, PROCESS, 1.0, 2.0))
    for some in (intervals, ()):
        assert intervals_from_array(intervals_to_array(some)) == some


@pytest.mark.parametrize(
    "arguments", [{}, POOLED, {**POOLED, **RACING}, RACING], ids=["fixed", "pruned", "both", "racing"]
)
def test_every_trial_that_trained_is_on_disk_with_its_times(tmp_path: Path, arguments: dict[str, Any]) -> None:
    case = Case(tmp_path, **arguments)
    assert case.start(FakeBackend(fail={5: "loss is nan"})) == 0
    found: dict[int, list[dict[str, str]]] = {}
    for path in case.directory.glob(f"optuna_exec_batch_*/samples/*/{TIMELINE}"):
        for row in read_csv(path):
            found.setdefault(int(row["trial"]), []).append(row)
    assert sorted(found) == list(range(12))
    assert {number: {row["state"] for row in rows} for number, rows in found.items()} == {
        number: {state} for number, state in enumerate(case.states())
    }
    intervals = [stay_of(row) for rows in found.values() for row in rows]
    check_lanes(intervals)
    seeds = {"COMPLETE": 3 if "seed_schedule" in arguments else 1}
    assert all(len(rows) == seeds[rows[0]["state"]] for rows in found.values() if rows[0]["state"] in seeds)


def stay_of(row: dict[str, str]) -> LaneInterval:
    slot, pool_, lane = (int(row[name]) for name in ("slot", "pool", "lane"))
    process, began, ended = (float(row[name]) for name in ("process", "began", "ended"))
    return LaneInterval(slot, pool_, lane, process, began, ended, row["agent"])


def test_trials_whose_lanes_broke_keep_the_times_before(tmp_path: Path) -> None:
    case = Case(tmp_path, **POOLED)
    assert case.start(FakeBackend(raises={4: RuntimeError("division by zero")})) == 0
    rows = [row for path in case.directory.glob(f"*/samples/*/{TIMELINE}") for row in read_csv(path)]
    assert {int(row["trial"]) for row in rows} == set(range(12)) - {4}


def test_processes_follow_one_another_on_the_axis(tmp_path: Path) -> None:
    record = study(tmp_path, np.arange(8.0), failed={5})
    first, second = sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})
    write_timeline(first, record.trials[:4], [LaneInterval(0, 0, lane, 2000.0, 7.0, 9.5) for lane in range(4)])
    write_timeline(second, record.trials[4:], [LaneInterval(1, 0, lane, 1000.0, 100.0, 104.0) for lane in range(4)])
    found = StudyData(record).timeline
    assert found.starts == [0.0, 4.0] and found.unknown == 0 and found.seconds == 6.5
    assert [(bar.trial, bar.began, bar.ended) for bar in found.bars] == [
        *((number, 0.0, 4.0) for number in range(4, 8)),
        *((number, 4.0, 6.5) for number in range(4)),
    ]


def by_agents(directory: Path) -> StudyRecord:
    """A study of two agents that trained at the same time, one of them on when the study was resumed after a minute."""
    record = study(directory, np.arange(8.0))
    runs = [datetime.fromtimestamp(time, UTC).isoformat() for time in (1_000.0, 1_100.0)]
    one, other = LaneInterval(0, 0, 0, 990.0, 20.0, 30.0, "vm-1"), LaneInterval(0, 0, 0, 1_005.0, 15.0, 35.0, "vm-2")
    later = LaneInterval(0, 0, 0, 1_005.0, 105.0, 115.0, "vm-2")
    first, second = sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})
    write_timeline(first, record.trials[:4], [one, one._replace(began=30.0, ended=40.0), other, other])
    write_timeline(second, record.trials[4:], [later] * 4)
    for batch, agents in ((first, "vm-1; vm-2"), (second, "vm-2")):
        number = agents.count(";") + 1
        where = {"agent": agents, "host": "; ".join(["vm"] * number), "device": "; ".join(["cpu, AMD"] * number)}
        write_json(batch / "timing.json", read_json(read_text(batch / "timing.json")) | where)
    return replace(record, runs=[{"began": began, "commit": ""} for began in runs])


def test_agents_that_train_at_the_same_time_are_beside_each_other(tmp_path: Path) -> None:
    data = StudyData(by_agents(tmp_path))
    assert [(bar.agent, bar.began, bar.ended) for bar in data.timeline.bars] == [
        ("vm-1", 0.0, 10.0),
        ("vm-1", 10.0, 20.0),
        *[("vm-2", 10.0, 30.0)] * 2,
        *[("vm-2", 30.0, 40.0)] * 4,
    ]
    assert data.timeline.starts == [0.0, 30.0]
    assert data.cost.duration == 40.0 and data.cost.elapsed == 60.0
    figure: Any = PLOT.draw(data)
    assert list(figure.layout.yaxis.ticktext) == ["vm-1, lane 0", "vm-2, lane 0"]


def test_each_agent_has_one_row_for_what_it_trained(tmp_path: Path) -> None:
    assert [tuple(share) for share in StudyData(by_agents(tmp_path)).agents] == [
        ("vm-1", "vm", "cpu, AMD", 1, 2, 20.0),
        ("vm-2", "vm", "cpu, AMD", 2, 6, 30.0),
    ]


def test_the_wall_time_is_not_known_where_the_clock_of_an_agent_differs(tmp_path: Path) -> None:
    record = by_agents(tmp_path)
    late = replace(record, runs=[{"began": "1970-01-01T01:00:00+00:00", "commit": ""}])
    assert StudyData(late).cost.duration and StudyData(late).cost.elapsed is None


def test_the_plot_has_a_row_a_lane_and_a_bar_an_interval(tmp_path: Path) -> None:
    figure: Any = PLOT.draw(StudyData(study(tmp_path, np.arange(10.0), failed={5})))
    bars = {trace.name: trace for trace in figure.data}
    assert set(bars) == {"COMPLETE", "FAIL"}
    assert len(bars["COMPLETE"].y) == 9 and list(bars["FAIL"].text) == ["5"]
    assert list(figure.layout.yaxis.ticktext) == [f"slot {slot}, lane {lane}" for slot in (0, 1) for lane in range(4)]
    assert list(bars["FAIL"].y) == [5] and list(bars["FAIL"].base) == [0.0] and list(bars["FAIL"].x) == [2.5]
    assert "trial 5" in bars["FAIL"].hovertext[0] and "slot 1, lane 1" in bars["FAIL"].hovertext[0]


def test_batches_that_do_not_say_when_they_trained_are_counted(tmp_path: Path) -> None:
    """As those of a Hyperlax that noted no times."""
    record = study(tmp_path, np.arange(8.0))
    paths = sorted(tmp_path.rglob(TIMELINE))
    paths[0].unlink()
    found = StudyData(record).timeline
    assert found.unknown == 1 and found.seconds is None and {bar.trial for bar in found.bars} == {4, 5, 6, 7}
    assert "without 1 batch whose" in str(PLOT.draw(StudyData(record)).to_json())
    paths[1].unlink()
    (drawn,) = (drawn for drawn in draw_all(StudyData(record)) if drawn.name == "timeline")
    assert "No batch says when its trials trained" in drawn.words


def test_a_damaged_timeline_costs_its_plot_alone(tmp_path: Path) -> None:
    record = study(tmp_path, np.arange(8.0))
    next(tmp_path.rglob(TIMELINE)).write_text("trial,state\n0,COMPLETE\n")
    drawings = {drawn.name: drawn for drawn in draw_all(StudyData(record))}
    assert drawings["timeline"].error.endswith("timeline.csv: is damaged (lacks 'slot').")
    assert all(json.loads(drawn.figure) for name, drawn in drawings.items() if name != "timeline")
