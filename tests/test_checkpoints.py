"""A batch that was saved between two segments goes on as if nothing had happened, to the bit; what cannot go on begins anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from hyperlax.checkpoints import Checkpoints, Head
from hyperlax.engine.lanes import Program
from hyperlax.engine.registry import Registry
from hyperlax.engine.runner import LaneRunner
from hyperlax.trial import BatchResult, HparamBatch, Interrupted, Trial
from tests import small
from tests.toy import Descent, batch, run, runner, same_curves, trial

pytestmark = pytest.mark.timeout(300)

BATCH = batch(trial(4, 0.3), trial(9, 1e5), trial(2, 0.1))
HEAD = Head((4, 9, 2), {"jax": "1"}, 2, {"train_seconds": 1.5})
ARRAYS = {"lanes_00000": np.arange(6.0).reshape(2, 3), "finite": np.array([[True, False]])}


def trained(lane_runner: LaneRunner, hparam_batch: HparamBatch, saved: Checkpoints, stop_after: int) -> Any:
    """The batch's result, or None if it was interrupted after so many segments of this run."""
    asked = itertools.count(1)
    try:
        return lane_runner.run(
            hparam_batch,
            should_stop=lambda: next(asked) >= stop_after,
            report=lambda steps: None,
            checkpoint=saved.of(hparam_batch.numbers),
        )
    except Interrupted:
        return None


def same(one: BatchResult, other: BatchResult) -> bool:
    """Whether two results are equal to the bit in all but times."""
    return all(
        (a.number, a.state, a.reason) == (b.number, b.state, b.reason) and same_curves(a.curve, b.curve)
        for a, b in zip(one.outcomes, other.outcomes, strict=True)
    )


def interrupted_at_every_segment(
    make: Callable[[], LaneRunner], hparam_batch: HparamBatch, directory: Path
) -> tuple[BatchResult, int]:
    """The result of a batch that is trained one segment at a time, by a new runner each; and how many that took."""
    saved = Checkpoints(directory, 1e9)
    for count in itertools.count(1):
        result = trained(make(), hparam_batch, saved, stop_after=1)
        if result is not None:
            return result, count
        assert [(head.trials, head.segments) for head in saved.heads()] == [(hparam_batch.numbers, count)]
    raise AssertionError


def test_a_batch_interrupted_at_every_segment_equals_one_that_is_not(tmp_path: Path) -> None:
    whole = run(runner(), BATCH)
    result, runs = interrupted_at_every_segment(runner, BATCH, tmp_path)
    assert runs == 3 and same(result, whole)
    assert [outcome.state for outcome in result.outcomes] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert result.timing["steps"] == whole.timing["steps"]
    assert result.timing["useful_lane_segments"] == whole.timing["useful_lane_segments"]


@pytest.mark.parametrize(
    "case", ["ppo_continuous", "sac", *(pytest.param(case, marks=pytest.mark.slow) for case in ("dqn", "ppo_discrete"))]
)
def test_real_training_goes_on_to_the_bit_with_its_replay_its_normalizer_and_its_keys(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, device = small.workload(case, small.WIDEST), jax.local_devices()[:1]
    lane_runner = LaneRunner(load, Registry(small.LANES, small.SEEDS), seed=small.SEED, slot_devices=device)
    values = {"normalize_observations": True} if case.startswith("ppo") else {}
    hparam_batch = batch(Trial(3, small.changed(case, **values)), Trial(1, small.changed(case, gamma=0.5)))
    states = states_met(monkeypatch)
    whole = run(lane_runner, hparam_batch)
    uninterrupted = states.copy()
    states.clear()
    result, runs = interrupted_at_every_segment(lambda: lane_runner, hparam_batch, tmp_path)
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
    lane_runner = runner()
    assert trained(lane_runner, BATCH, Checkpoints(tmp_path, 1e9), 1) is None
    (head,) = Checkpoints(tmp_path, 1e9).heads()
    assert head.segments == 1 and head.timing["programs_compiled"] in (0, 1)
    result = trained(lane_runner, BATCH, Checkpoints(tmp_path, 1e9), 9)
    for name in ("train_seconds", "evaluate_seconds", "wall_seconds"):
        assert result.timing[name] > head.timing[name] > 0
    assert result.timing["compile_seconds"] == head.timing["compile_seconds"]


@pytest.mark.parametrize(("seconds", "segments"), [(0.0, [1, 2]), (1e9, [])], ids=["whenever it can", "seldom"])
def test_a_batch_is_saved_when_it_is_due(seconds: float, segments: list[int], tmp_path: Path) -> None:
    saved, seen = Checkpoints(tmp_path, seconds), []

    def look(steps: int) -> None:
        seen.extend(head.segments for head in saved.heads())

    lane_runner = runner()
    lane_runner.run(BATCH, should_stop=lambda: False, report=look, checkpoint=saved.of(BATCH.numbers))
    assert seen == segments


def planned(lane_runner: LaneRunner, saved: Checkpoints, numbers: range) -> list[tuple[int, ...]]:
    trials = [next((t for t in BATCH.trials if t.number == n), trial(n)) for n in numbers]
    return [b.numbers for b in lane_runner.plan(trials, saved.heads()).batches]


def test_a_saved_batch_keeps_its_composition_and_comes_first(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, 1e9)
    assert trained(runner(), BATCH, saved, 1) is None
    assert planned(runner(), saved, range(10)) == [(4, 9, 2), (0, 1, 3), (5, 6, 7), (8,)]
    assert planned(runner(), saved, range(4)) == [(0, 1, 2), (3,)]


def test_what_was_saved_by_another_program_begins_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Checkpoints(tmp_path, 1e9)
    assert trained(runner(), BATCH, saved, 1) is None
    wider = runner(lanes=4)
    assert planned(wider, saved, range(10)) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert caplog.messages == ["Trials 4, 9, 2 begin anew: they were saved with lanes 3, now it is 4."]
    result = trained(wider, BATCH, saved, 9)
    assert same(result, run(wider, BATCH))


def test_a_changed_hyperparameter_is_another_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = Checkpoints(tmp_path, 1e9)
    assert trained(runner(), BATCH, saved, 1) is None
    runner().plan([trial(4, 0.4), *BATCH.trials[1:]], saved.heads())
    assert "they were saved with hyperparameters " in caplog.text


@pytest.mark.parametrize("keep", [0, 10, 700, -1], ids=["empty", "head cut", "state cut", "a byte changed"])
def test_a_damaged_file_is_reported_and_its_batch_begins_anew(
    keep: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved, lane_runner = Checkpoints(tmp_path, 1e9), runner()
    assert trained(lane_runner, BATCH, saved, 1) is None
    (path,) = tmp_path.glob("trial_*.npz")
    content = bytearray(path.read_bytes())
    if keep < 0:
        content[content.index(b"lanes_00001.npy") + 150] ^= 1
    path.write_bytes(content[:keep] if keep >= 0 else content)
    lane_runner.plan(BATCH.trials, saved.heads())
    result = trained(lane_runner, BATCH, saved, 9)
    assert same(result, run(lane_runner, BATCH))
    assert f"{path} cannot be read (" in caplog.text and "begin anew" in caplog.text


def test_whatever_byte_of_a_file_is_damaged_it_is_read_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, 60)
    file = saved.of(HEAD.trials)
    file.save(HEAD, ARRAYS)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for place, mask in itertools.product(range(len(content)), (1, 64)):
        path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        assert saved.heads() in ([], [HEAD])
        loaded = file.load()
        if loaded is not None:
            assert loaded[0] == HEAD and loaded[1].keys() == ARRAYS.keys()
            assert all(np.array_equal(array, ARRAYS[name]) for name, array in loaded[1].items())
        saved.keep_only((5, 7))
    saved.keep_only(HEAD.trials[:1])
    assert not path.exists()


def test_a_changed_environment_or_rule_of_learning_begins_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, before = Checkpoints(tmp_path, 1e9), Descent.step
    assert trained(runner(), BATCH, saved, 1) is None
    monkeypatch.setattr(Descent, "step", lambda self, state, lane, tick: before(self, state, lane, 2 * tick))
    result = trained(runner(), BATCH, saved, 9)
    assert "Trials 4, 9, 2 begin anew: they were saved with code " in caplog.text
    assert same(result, run(runner(), BATCH))


def test_a_disk_that_will_not_have_it_costs_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyperlax.files.os.fsync", full)
    saved = Checkpoints(tmp_path, 0.0)
    result = trained(runner(), BATCH, saved, 9)
    assert same(result, run(runner(), BATCH))
    assert "(No space left on device): training goes on." in caplog.text and not list(tmp_path.iterdir())


def test_a_checkpoint_reads_back_exactly(tmp_path: Path) -> None:
    file = Checkpoints(tmp_path, 60).of(HEAD.trials)
    assert file.load() is None
    file.save(HEAD, ARRAYS)
    loaded = Checkpoints(tmp_path, 60).of(HEAD.trials).load()
    assert loaded is not None and loaded[0] == HEAD and loaded[1].keys() == ARRAYS.keys()
    for name, array in loaded[1].items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_saved_batches_are_forgotten_by_any_of_their_trials(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "checkpoints", 60)
    for trials in ((4, 9, 2), (0, 1)):
        saved.of(trials).save(Head(trials, {}, 1, {}), ARRAYS)
    saved.keep_only((4, 9, 2))
    saved.keep_only((5, 7))
    assert [head.trials for head in saved.heads()] == [(0, 1), (4, 9, 2)]
    saved.keep_only((2, 3))
    assert [head.trials for head in saved.heads()] == [(0, 1)]
    (tmp_path / "checkpoints" / "notes.npz").write_text("a user's own")
    saved.forget([1])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["notes.npz"]
    (tmp_path / "checkpoints" / "notes.npz").unlink()
    saved.tidy()
    assert not (tmp_path / "checkpoints").exists()
    saved.tidy()


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hyperlax.checkpoints.time.monotonic", lambda: now[0])

    def slow(*args: Any, **kwargs: Any) -> None:
        now[0] += 30.0

    monkeypatch.setattr("hyperlax.checkpoints.np.savez", slow)
    file = Checkpoints(tmp_path, 60).of([0])
    now[0] = 60.0
    assert file.is_due()
    file.save(HEAD, ARRAYS)
    due = [seconds for seconds in (91.0, 389.0, 390.0) if now.__setitem__(0, seconds) or file.is_due()]
    assert due == [390.0]
