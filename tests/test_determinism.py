"""The same command gives the same study: on any number of slots, in whatever order its batches end."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperlax.analysis.tables import write_best
from hyperlax.errors import counted
from hyperlax.study.directory import BEST_FILE, PARETO_FILE
from tests.desk import curves, finished_study, hyperlax, search, study_of, told
from tests.fake_backend import FakeBackend
from tests.study_cases import TWO, Case

SAMPLERS: dict[str, dict[str, Any]] = {"tpe": {}, "nsgaii": TWO}


class Irregular(FakeBackend):
    """Its batches take random times, so that on several slots they end in any order."""

    def __init__(self, slots: int, seed: int):
        super().__init__(lanes=2, slots=slots)
        self.draw = random.Random(seed)

    def _first_batch(self) -> int:
        return self.draw.choice(sorted({lane.group for lane in self.in_lanes.values()}))


def best(directory: Path, root: str) -> Any:
    """The best parameters, or the front's; only times and the output root in the command may differ."""
    (path,) = [directory / name for name in (BEST_FILE, PARETO_FILE) if (directory / name).exists()]
    found = json.loads(path.read_text(encoding="utf-8"))
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        entry["metrics"].pop("train_seconds")
        assert f" --params {root}/" in entry["command"]
        entry["command"] = entry["command"].replace(f" --params {root}/", " --params ")
    return entries


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_is_the_same_on_any_number_of_slots_in_whatever_order_its_batches_end(tmp_path, sampler):
    seen, orders = [], set()
    for slots in (1, 2, 3):
        case = Case(tmp_path / str(slots), sampler=sampler, n_trials=16, **SAMPLERS[sampler])
        case.write_pages = lambda record, directory, is_latest=True: write_best(record, record.directory)
        runner = Irregular(slots, seed=slots)
        assert case.start(runner) == 0
        orders.add(tuple(runner.trained))
        seen.append((case.told(), curves(case.directory), best(case.directory, str(case.root))))
    assert len(orders) > 1, "the batches ended in one order only: nothing is shown"
    assert len(seen[0][1]) == 16 and all(other == seen[0] for other in seen[1:])


@contextmanager
def one_core() -> Iterator[None]:
    """Processes that are started in this block get one core, and so one slot."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives no process fewer cores")
def test_real_training_is_the_same_to_the_bit_on_one_slot_and_on_many(desk):
    recipe = "dqn_mlp"
    many, one = finished_study(desk, recipe), study_of(desk, recipe, "one_slot")
    with one_core():
        run = hyperlax(desk, *search(recipe, "one_slot"))
    assert run.returncode == 0, run.stderr
    slots = [json.loads((path / "study.json").read_text())["device"] for path in (many, one)]
    assert slots[1].endswith(", 1 slot") and slots[0].endswith(f", {counted(len(os.sched_getaffinity(0)), 'slot')}")
    assert told(one) == told(many)
    assert curves(one) == curves(many)
    assert best(one, "one_slot") == best(many, "studies")
