"""Who was in which lane when: as it was trained, on disk, and on the report's axis."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlax.analysis.plots import draw_all
from hyperlax.analysis.plots.timeline import PLOT
from hyperlax.analysis.study_data import StudyData
from hyperlax.checkpoints import Checkpoints
from hyperlax.engine import batch as batches
from hyperlax.engine import pool
from hyperlax.files import read_csv
from hyperlax.stays import PROCESS, TIMELINE, Stay, from_array, to_array
from hyperlax.trial import HparamBatch, Interrupted
from tests import toy
from tests.fake_runner import FakeRunner
from tests.made_up_studies import study, write_timeline
from tests.study_cases import Case
from tests.test_pools import LASTS, UNEVEN, finish, pooled, trials

pytestmark = pytest.mark.timeout(300)
POOLED: dict[str, Any] = {"pruner": "asha", "pruner_min_segments": 1, "pruner_reduction_factor": 2}
RACING: dict[str, Any] = {"seed_schedule": "racing", "num_seeds": 3}


def check_lanes(stays: Iterable[Stay]) -> None:
    """No lane holds two trials at once."""
    by_lane: dict[tuple[Any, ...], list[Stay]] = {}
    for stay in stays:
        assert stay.began < stay.ended
        by_lane.setdefault(stay[:4], []).append(stay)
    for own in by_lane.values():
        own.sort(key=lambda stay: stay.began)
        assert all(first.ended <= second.began for first, second in itertools.pairwise(own))


def test_the_trials_of_a_batch_are_side_by_side_in_its_lanes() -> None:
    result = toy.run(toy.runner(), toy.batch(toy.trial(4), toy.trial(9), toy.trial(2)))
    stays = [stay for outcome in result.outcomes for stay in outcome.stays]
    assert [(stay.slot, stay.pool, stay.lane, stay.process) for stay in stays] == [(0, 0, n, PROCESS) for n in range(3)]
    assert len({(stay.began, stay.ended) for stay in stays}) == 1
    assert stays[0].ended - stays[0].began >= result.timing["train_seconds"]


def test_a_batch_that_another_process_went_on_with_was_in_its_lanes_twice(tmp_path: Path, monkeypatch: Any) -> None:
    saved, batch = Checkpoints(tmp_path, 1e9), toy.batch(toy.trial(4), toy.trial(9))
    with pytest.raises(Interrupted):
        train(batch, saved, stop=True)
    monkeypatch.setattr(batches, "PROCESS", PROCESS + 1000)
    result = train(batch, saved, stop=False)
    for lane, outcome in enumerate(result.outcomes):
        assert [(stay.process, stay.lane) for stay in outcome.stays] == [(PROCESS, lane), (PROCESS + 1000, lane)]


def train(batch: HparamBatch, saved: Checkpoints, stop: bool) -> Any:
    return toy.runner().run(
        batch, should_stop=lambda: stop, report=lambda steps: None, checkpoint=saved.of(batch.numbers)
    )


@pytest.mark.parametrize("slots", [1, 2])
def test_lanes_that_are_refilled_hold_one_trial_after_another(slots: int) -> None:
    mixed = [toy.trial(n, rate=0.1 * (n + 1), dimensions=2 + n % 2) for n in range(8)]
    ended = finish(pooled(toy.Descents(UNEVEN), 2, slots), mixed)
    assert ended.keys() == LASTS.keys() and all(len(advance.stays) == 1 for advance in ended.values())
    stays = [stay for advance in ended.values() for stay in advance.stays]
    check_lanes(stays)
    assert {stay.slot for stay in stays} == set(range(slots)) and len({stay[:3] for stay in stays}) <= 4 * slots


def test_a_pool_that_another_process_went_on_with_knows_both_times(tmp_path: Path, monkeypatch: Any) -> None:
    pools, saved = pooled(toy.Descents(UNEVEN), 2), Checkpoints(tmp_path, 0)
    first, second = trials(2)
    assert pools.enter(first) and pools.enter(second)
    pools.advance()
    pools.save(saved)
    monkeypatch.setattr(pool, "PROCESS", PROCESS + 1000)
    pools = pooled(toy.Descents(UNEVEN), 2)
    pools.restore(saved, {0: first, 1: second}, {0, 1})
    for advance in pools.advance()[0]:
        assert [stay.process for stay in advance.stays] == [PROCESS, PROCESS + 1000]


def test_stays_are_saved_to_the_bit() -> None:
    stays = (Stay(0, 1, 2, 1.7e9 + 0.123, 0.1 + 0.2, 7.0), Stay(3, 0, 0, PROCESS, 1.0, 2.0))
    assert from_array(to_array(stays)) == stays and from_array(to_array(())) == ()


@pytest.mark.parametrize(
    "arguments", [{}, POOLED, {**POOLED, **RACING}, RACING], ids=["fixed", "pruned", "both", "racing"]
)
def test_every_trial_that_trained_is_on_disk_with_its_times(tmp_path: Path, arguments: dict[str, Any]) -> None:
    case = Case(tmp_path, **arguments)
    assert case.start(FakeRunner(fail={5: "loss is nan"}, racing="seed_schedule" in arguments)) == 0
    found: dict[int, list[dict[str, str]]] = {}
    for path in case.directory.glob(f"optuna_exec_batch_*/samples/*/{TIMELINE}"):
        for row in read_csv(path):
            found.setdefault(int(row["trial"]), []).append(row)
    assert sorted(found) == list(range(12))
    assert {number: {row["state"] for row in rows} for number, rows in found.items()} == {
        number: {state} for number, state in enumerate(case.states())
    }
    stays = [stay_of(row) for rows in found.values() for row in rows]
    check_lanes(stays)
    seeds = {"COMPLETE": 3 if "seed_schedule" in arguments else 1}
    assert all(len(rows) == seeds[rows[0]["state"]] for rows in found.values() if rows[0]["state"] in seeds)


def stay_of(row: dict[str, str]) -> Stay:
    slot, pool_, lane = (int(row[name]) for name in ("slot", "pool", "lane"))
    return Stay(slot, pool_, lane, *(float(row[name]) for name in ("process", "began", "ended")))


def test_trials_whose_lanes_broke_keep_the_times_before(tmp_path: Path) -> None:
    case = Case(tmp_path, **POOLED)
    assert case.start(FakeRunner(raises={4: RuntimeError("division by zero")})) == 0
    rows = [row for path in case.directory.glob(f"*/samples/*/{TIMELINE}") for row in read_csv(path)]
    assert {int(row["trial"]) for row in rows} == set(range(12)) - {4}


def test_processes_follow_one_another_on_the_axis(tmp_path: Path) -> None:
    record = study(tmp_path, np.arange(8.0), failed={5})
    first, second = sorted({trial.batch_directory for trial in record.trials if trial.batch_directory})
    write_timeline(first, record.trials[:4], [Stay(0, 0, lane, 2000.0, 7.0, 9.5) for lane in range(4)])
    write_timeline(second, record.trials[4:], [Stay(1, 0, lane, 1000.0, 100.0, 104.0) for lane in range(4)])
    found = StudyData(record).timeline
    assert found.starts == [0.0, 4.0] and found.unknown == 0 and found.seconds == 6.5
    assert [(bar.trial, bar.began, bar.ended) for bar in found.bars] == [
        *((number, 0.0, 4.0) for number in range(4, 8)),
        *((number, 4.0, 6.5) for number in range(4)),
    ]


def test_the_plot_has_a_row_a_lane_and_a_bar_a_stay(tmp_path: Path) -> None:
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
