"""A study whose directory is moved or removed while it runs ends with a sentence, and nothing makes the directory again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hyperlax.analysis.pages import write_pages
from hyperlax.errors import HyperlaxError
from tests.fake_backend import FakeBackend
from tests.faults.study import PRUNED
from tests.study_cases import Case

ONE_BY_ONE: dict[str, Any] = {"n_trials": 4, "optuna_study_batch_size": 1, "runner_hparam_batch_size": 1}


def one_by_one(root: Path, **more: Any) -> Case:
    return Case(root, write_pages=write_pages, **ONE_BY_ONE, **more)


@pytest.mark.parametrize(("batches", "is_replaced"), [(1, False), (3, True), (4, False)])
def test_a_study_that_is_moved_names_its_new_place_and_continues_there(tmp_path, batches, is_replaced):
    case, whole = one_by_one(tmp_path / "old"), Case(tmp_path / "whole", **ONE_BY_ONE)
    assert whole.start(FakeBackend(lanes=1)) == 0

    def move(count: int) -> None:
        if count == batches:
            (tmp_path / "old").rename(tmp_path / "new")
            if is_replaced:
                case.directory.mkdir(parents=True)

    with pytest.raises(HyperlaxError) as ended:
        case.start(FakeBackend(lanes=1, after_batch=move))
    moved = one_by_one(tmp_path / "new")
    assert str(ended.value) == (
        f"{case.directory}: was moved to {moved.directory} while the study ran, where {batches - 1} of 4 trials are complete. "
        f"To continue it there:\n  hyperlax optuna-hp-search --resume-from {moved.directory}"
    )
    assert ended.value.exit_code == 1
    assert list(case.directory.iterdir()) == [] if is_replaced else not (tmp_path / "old").exists()
    runner = FakeBackend(lanes=1)
    assert moved.resume(runner) == 0 and runner.trained == list(range(batches - 1, 4))
    assert moved.told() == whole.told()


def test_a_study_of_refilled_lanes_that_is_moved_continues(tmp_path):
    case, moved = (Case(tmp_path / name, write_pages=write_pages, **PRUNED) for name in ("old", "new"))

    def move(count: int) -> None:
        if count == 10:
            (tmp_path / "old").rename(tmp_path / "new")

    with pytest.raises(HyperlaxError, match=f"was moved to {moved.directory} while the study ran"):
        case.start(FakeBackend(after_segment=move))
    assert not (tmp_path / "old").exists()
    assert moved.resume() == 0


def test_a_study_that_is_removed_says_so(tmp_path):
    case = one_by_one(tmp_path / "old")

    def remove(count: int) -> None:
        while count == 3 and (tmp_path / "old").exists():
            shutil.rmtree(tmp_path / "old", ignore_errors=True)  # a page may be written meanwhile

    with pytest.raises(HyperlaxError, match=f"{case.directory}: was removed while the study ran") as ended:
        case.start(FakeBackend(lanes=1, after_batch=remove))
    assert ended.value.exit_code == 1
    assert not (tmp_path / "old").exists()
