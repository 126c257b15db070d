"""A batch that was saved between two segments continues as if nothing had happened, to the bit. One that cannot, restarts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.training import Interrupted
from hyperlax.backends.closed import ClosedBatches
from hyperlax.engine.checkpoint import CheckpointManager, Metadata, SaveTimer
from hyperlax.engine.lanes import Program
from hyperlax.engine.programs import Programs
from hyperlax.engine.session import LaneSession
from hyperlax.files import staying
from hyperlax.trial import BatchResult, Trial
from tests import small
from tests.toy import Descent, backend, batch, batches, numbers, run, same_curves, trial

BATCH = batch(trial(4, 0.3), trial(9, 1e5), trial(2, 0.1))
HEAD = Metadata((4, 9, 2), {"jax": "1"}, 2, {"train_seconds": 1.5})
ARRAYS = {"lanes_00000": np.arange(6.0).reshape(2, 3), "finite": np.array([[True, False]])}


def trained(closed: ClosedBatches, hparam_batch: tuple[Trial, ...], saved: CheckpointManager, stop_after: int) -> Any:
    """The batch's result, or None if it was interrupted after so many segments of this run."""
    try:
        return run(closed, hparam_batch, saved, stop_after)
    except Interrupted:
        return None


def same(one: BatchResult, other: BatchResult) -> bool:
    """Whether two results are equal to the bit in all but times."""
    return all(
        (a.number, a.state, a.reason) == (b.number, b.state, b.reason) and same_curves(a.curve, b.curve)
        for a, b in zip(one.outcomes, other.outcomes, strict=True)
    )


def interrupted_at_every_segment(
    make: Callable[[], ClosedBatches], hparam_batch: tuple[Trial, ...], directory: Path
) -> tuple[BatchResult, int]:
    """The result of a batch that is trained one segment at a time, by a new runner each; and how many that took."""
    saved = CheckpointManager(directory, 1e9)
    for count in itertools.count(1):
        result = trained(make(), hparam_batch, saved, stop_after=1)
        if result is not None:
            return result, count
        assert [(head.trials, head.segments) for head in saved.batches()] == [(numbers(hparam_batch), count)]
    raise AssertionError


def test_a_batch_interrupted_at_every_segment_equals_one_that_is_not(tmp_path: Path) -> None:
    whole = run(backend(), BATCH)
    result, runs = interrupted_at_every_segment(backend, BATCH, tmp_path)
    assert runs == 3 and same(result, whole)
    assert [outcome.state for outcome in result.outcomes] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert result.timing["steps"] == whole.timing["steps"]
    assert result.timing["useful_lane_segments"] == whole.timing["useful_lane_segments"]


@pytest.mark.parametrize(
    "case", ["ppo_discrete", "dqn", *(pytest.param(case, marks=pytest.mark.slow) for case in ("ppo_continuous", "sac"))]
)
def test_real_training_goes_on_to_the_bit_with_its_replay_its_normalizer_and_its_keys(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = small.workload(case, small.WIDEST)
    closed = batches(load, Programs(small.LANES, small.SEEDS), seed=small.SEED)
    values = {"normalize_observations": True} if case.startswith("ppo") else {}
    hparam_batch = batch(Trial(3, small.changed(case, **values)), Trial(1, small.changed(case, gamma=0.5)))
    states = states_met(monkeypatch)
    whole = run(closed, hparam_batch)
    uninterrupted = states.copy()
    states.clear()
    result, runs = interrupted_at_every_segment(lambda: closed, hparam_batch, tmp_path)
    assert runs == 2 and same(result, whole)
    assert len(states) == 5 and states == uninterrupted


def states_met(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The whole training state, to the bit, wherever it is trained or evaluated from now on; the last one is the final state."""
    states: list[list[bytes]] = []

    def looking(verb: Callable[..., Any]) -> Callable[..., Any]:
        def look(program: Program, lanes: Any, *arguments: Any) -> Any:
            states.append([array.tobytes() for array in program.save(lanes)])
            return verb(program, lanes, *arguments)

        return look

    monkeypatch.setattr(Program, "train", looking(Program.train))
    monkeypatch.setattr(Program, "evaluate", looking(Program.evaluate))
    return states


def test_the_times_of_a_saved_batch_go_on_too(tmp_path: Path) -> None:
    closed = backend()
    assert trained(closed, BATCH, CheckpointManager(tmp_path, 1e9), 1) is None
    (head,) = CheckpointManager(tmp_path, 1e9).batches()
    assert head.segments == 1 and head.timing["programs_compiled"] in (0, 1)
    result = trained(closed, BATCH, CheckpointManager(tmp_path, 1e9), 9)
    for name in ("train_seconds", "evaluate_seconds", "wall_seconds"):
        assert result.timing[name] > head.timing[name] > 0
    assert result.timing["compile_seconds"] == head.timing["compile_seconds"]


@pytest.mark.parametrize(("seconds", "segments"), [(0.0, [1, 2]), (1e9, [])], ids=["whenever it can", "seldom"])
def test_a_batch_is_saved_when_it_is_due(
    seconds: float, segments: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, seen = CheckpointManager(tmp_path, seconds), []

    advance = LaneSession.advance

    def looking(session: LaneSession) -> Any:
        seen.extend(metadata.segments for metadata in saved.batches())
        return advance(session)

    monkeypatch.setattr(LaneSession, "advance", looking)
    run(backend(), BATCH, saved)
    assert seen == segments


def planned(closed: ClosedBatches, saved: CheckpointManager, wanted: range) -> list[tuple[int, ...]]:
    trials = [next((t for t in BATCH if t.number == n), trial(n)) for n in wanted]
    closed._checkpoints = saved
    return [numbers(b) for b in closed.plan(trials).batches]


def test_a_saved_batch_keeps_its_composition_and_comes_first(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path, 1e9)
    assert trained(backend(), BATCH, saved, 1) is None
    assert planned(backend(), saved, range(10)) == [(4, 9, 2), (0, 1, 3), (5, 6, 7), (8,)]
    assert planned(backend(), saved, range(4)) == [(0, 1, 2), (3,)]


@pytest.mark.parametrize("keep", [0, 10, 700, -1], ids=["empty", "head cut", "state cut", "a byte changed"])
def test_a_damaged_file_is_reported_and_its_batch_restarts(
    keep: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, closed = CheckpointManager(tmp_path, 1e9), backend()
    assert trained(closed, BATCH, saved, 1) is None
    (path,) = tmp_path.glob("trial_*.npz")
    content = bytearray(path.read_bytes())
    if keep < 0:
        content[content.index(b"state_00001.npy") + 150] ^= 1
    path.write_bytes(content[:keep] if keep >= 0 else content)
    closed.plan(BATCH)
    result = trained(closed, BATCH, saved, 9)
    assert same(result, run(closed, BATCH))
    assert f"{path} cannot be read (" in caplog.text and "from the beginning" in caplog.text


def test_whatever_byte_of_a_file_is_damaged_it_is_read_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path, 60)
    saved.save_batch(HEAD, ARRAYS)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    loaded = saved.load_batch(HEAD.trials)
    assert loaded is not None and saved.load_batch(HEAD.trials[1:]) is None
    for name, array in loaded[1].items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (64, 1)[place % 2]]) + content[place + 1 :])
        assert saved.batches() in ([], [HEAD])
        loaded = saved.load_batch(HEAD.trials)
        if loaded is not None:
            assert loaded[0] == HEAD and loaded[1].keys() == ARRAYS.keys()
            assert all(np.array_equal(array, ARRAYS[name]) for name, array in loaded[1].items())
        saved.prune((5, 7))
    saved.prune(HEAD.trials[:1])
    assert not path.exists()


def test_a_changed_environment_or_rule_of_learning_restarts_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, before = CheckpointManager(tmp_path, 1e9), Descent.step
    assert trained(backend(), BATCH, saved, 1) is None
    monkeypatch.setattr(Descent, "step", lambda self, state, lane, iteration: before(self, state, lane, 2 * iteration))
    result = trained(backend(), BATCH, saved, 9)
    assert "Trials 4, 9, 2 restart from the beginning: saved with code " in caplog.text
    assert same(result, run(backend(), BATCH))


def test_a_disk_that_will_not_have_it_costs_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyperlax.files.os.fsync", full)
    saved = CheckpointManager(tmp_path, 0.0)
    result = trained(backend(), BATCH, saved, 9)
    assert same(result, run(backend(), BATCH))
    assert "(No space left on device): training continues." in caplog.text and not list(tmp_path.iterdir())


def test_a_study_that_is_moved_says_so_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (study := tmp_path / "study").mkdir()
    with staying(study):
        study.rename(tmp_path / "moved")
        assert trained(backend(), BATCH, CheckpointManager(study / "checkpoints", 0.0), 9)
    assert caplog.text == "" and not study.exists()


def test_saved_batches_are_forgotten_by_any_of_their_trials(tmp_path: Path) -> None:
    saved = CheckpointManager(tmp_path / "checkpoints", 60)
    for trials in ((4, 9, 2), (0, 1)):
        saved.save_batch(Metadata(trials, {}, 1, {}), ARRAYS)
    saved.prune((4, 9, 2))
    saved.prune((5, 7))
    assert [head.trials for head in saved.batches()] == [(0, 1), (4, 9, 2)]
    saved.prune((2, 3))
    assert [head.trials for head in saved.batches()] == [(0, 1)]
    (tmp_path / "checkpoints" / "notes.npz").write_text("a user's own")
    saved.forget([1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["notes.npz"]
    (tmp_path / "checkpoints" / "notes.npz").unlink()
    saved.tidy()
    assert not (tmp_path / "checkpoints").exists()
    saved.tidy()


def test_saving_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hyperlax.engine.checkpoint.time.monotonic", lambda: now[0])
    timer = SaveTimer(60)
    now[0] = 60.0
    assert timer.is_due()
    with timer.saving():
        now[0] += 30.0
    due = [seconds for seconds in (91.0, 389.0, 390.0) if now.__setitem__(0, seconds) or timer.is_due()]
    assert due == [390.0]
