"""A saved batch continues only if everything that decides its bits is unchanged. If not, the reason is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperlax.backends.closed import ClosedBatches
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.recipe import RunLength
from hyperlax.trial import BatchResult, Trial
from tests.test_checkpoints import BATCH, same, trained
from tests.toy import backend, batch, numbers, run, trial

MACHINE = ("hyperlax", "jax", "jaxlib", "XLA_FLAGS", "device", "cores")
STUDY = ("program", "lanes", "seeds", "seed", "stream", "budget", "evaluations", "episodes", "hyperparameters")
KNOWN_WHEN_LOWERED = ("code",)
ALIKE = batch(*[trial(number, 0.3) for number in (4, 9, 2)])


@pytest.fixture(scope="module")
def shared() -> ClosedBatches:
    """One runner, so that its program is loaded once."""
    return backend()


def saved_after_a_segment(closed: ClosedBatches, hparam_batch: tuple[Trial, ...], directory: Path) -> CheckpointManager:
    saved = CheckpointManager(directory, 1e9)
    assert trained(closed, hparam_batch, saved, stop_after=1) is None
    return saved


def with_saved(closed: ClosedBatches, saved: CheckpointManager) -> ClosedBatches:
    closed._checkpoints = saved
    return closed


def gone_on(
    closed: ClosedBatches, hparam_batch: tuple[Trial, ...], saved: CheckpointManager
) -> tuple[BatchResult, int]:
    """Return the batch's result, trained from the saved state if it can continue, and the number of segments trained."""
    told: list[Any] = []
    result = run(closed, hparam_batch, saved, on_segment=told.extend)
    return result, len({shown.segments for shown in told})


@pytest.mark.parametrize("name", [*MACHINE, *STUDY, *KNOWN_WHEN_LOWERED])
def test_what_was_saved_with_another_value_restarts_and_says_which(
    name: str, shared: ClosedBatches, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = saved_after_a_segment(shared, BATCH, tmp_path)
    loaded = saved.load_batch(numbers(BATCH))
    assert loaded is not None and name in loaded[0].identity
    saved.save_batch(replace(loaded[0], identity={**loaded[0].identity, name: "another"}), loaded[1])
    said = (
        f"Trials 4, 9, 2 restart from the beginning: saved with {name} another, now it is {loaded[0].identity[name]}."
    )
    if name not in KNOWN_WHEN_LOWERED:
        planned = with_saved(shared, saved).plan([trial(0), *BATCH]).batches
        assert caplog.messages == [said] and numbers(BATCH) not in [numbers(made) for made in planned]
        caplog.clear()
    result, segments = gone_on(shared, BATCH, saved)
    assert caplog.messages[0] == said and segments == 3
    assert same(result, run(shared, BATCH))


def test_what_was_saved_with_the_same_values_goes_on(
    shared: ClosedBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, restored = saved_after_a_segment(shared, BATCH, tmp_path), list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(shared, "_should_stop", lambda batch: restored.append(shared.restored))  # after a segment
        result, segments = gone_on(shared, BATCH, saved)
    assert segments == 2 and same(result, run(shared, BATCH))
    assert restored == [dict.fromkeys(numbers(BATCH), 1)]


PATCHES: dict[str, tuple[str, Any]] = {
    "hyperlax": ("hyperlax.engine.device.VERSION", "0"),
    "jax": ("jax.__version__", "0"),
    "jaxlib": ("hyperlax.engine.device.version", lambda package: "0"),
    "device": ("hyperlax.engine.device.cpu_info", lambda *names: "a new one"),
    "cores": ("hyperlax.engine.device.cores", lambda: 999),
    "seed": ("tests.toy.SEED", 6),
}
BACKENDS: dict[str, dict[str, Any]] = {
    "lanes": {"lanes": 4},
    "seeds": {"seeds": 3},
    "budget": {"run_length": RunLength(22, 3, 4)},
    "evaluations": {"run_length": RunLength(20, 2, 4)},
    "episodes": {"run_length": RunLength(20, 3, 5)},
}
TRIALS = {
    "program": [*BATCH[:2], trial(2, 0.1, dimensions=2)],
    "hyperparameters": [trial(4, 0.4), *BATCH[1:]],
}


@pytest.mark.parametrize("name", [*PATCHES, *BACKENDS, *TRIALS, "XLA_FLAGS"])
def test_another_version_machine_study_or_trial_is_told_apart(
    name: str,
    shared: ClosedBatches,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = saved_after_a_segment(shared, BATCH, tmp_path)
    if name in PATCHES:
        monkeypatch.setattr(*PATCHES[name])
    elif name == "XLA_FLAGS":
        monkeypatch.setenv("XLA_FLAGS", "--xla_none")
    with_saved(backend(**BACKENDS.get(name, {})), saved).plan(TRIALS.get(name, BATCH))
    assert f"Trials 4, 9, 2 restart from the beginning: saved with {name} " in caplog.text


@pytest.mark.parametrize("numbers", [(4, 2, 9), (4, 9, 3), (4, 9)], ids=["order", "one other", "fewer"])
def test_trials_in_another_order_and_other_trials_do_not_go_on_from_it(
    numbers: tuple[int, ...], shared: ClosedBatches, tmp_path: Path
) -> None:
    saved = saved_after_a_segment(shared, ALIKE, tmp_path)
    other = batch(*[trial(number, 0.3) for number in numbers])
    result, segments = gone_on(shared, other, saved)
    assert segments == 3 and same(result, run(shared, other))
