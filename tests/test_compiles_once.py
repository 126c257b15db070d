"""What is compiled, and when: JAX's own events are the witness."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest

from hyperlax.engine.programs import Programs
from hyperlax.trial import Trial
from tests import toy
from tests.desk import python
from tests.small import LANES, SEED, SEEDS, WIDEST, changed, with_values, workload

CACHED_RUN = """
import json, os, sys
from collections import Counter
import jax
from hyperlax.engine.device import cache_directory, prepare_jax
events = Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
prepare_jax(compilation_cache=sys.argv[1] == "cached")
assert str(cache_directory()) == os.environ["HYPERLAX_CACHE_DIR"]
from tests import toy
outcome = toy.run(toy.backend(), toy.batch(toy.trial(0))).outcomes[0]
print(json.dumps({
    "hits": events["/jax/compilation_cache/cache_hits"],
    "misses": events["/jax/compilation_cache/cache_misses"],
    "curve": outcome.curve.mean.tolist(),
}))
"""


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of JAX's events of compilation (and tracing, and lowering) while the block runs."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if "compil" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def second_batch_compiles_nothing(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    with compilations() as seen:
        first()
    assert any("backend_compile" in event for event in seen)
    with compilations() as seen:
        result = second()
    assert seen == []
    assert result.timing["programs_compiled"] == 0


def test_the_second_batch_of_a_toy_compiles_nothing_even_if_it_is_shorter() -> None:
    backend = toy.backend(lanes=3, slots=2)
    second_batch_compiles_nothing(
        lambda: toy.run(backend, toy.batch(toy.trial(0, 0.1), toy.trial(1, 0.2), toy.trial(2, 0.3))),
        lambda: toy.run(backend, toy.batch(toy.trial(3, 0.4), toy.trial(4, 0.5))),
    )


def test_the_second_batch_of_ppo_compiles_nothing_though_every_hyperparameter_and_network_differs() -> None:
    case = "ppo_discrete"
    backend = toy.batches(workload(case, WIDEST), Programs(LANES, SEEDS), seed=SEED)
    prefix = "algorithm.network.actor_network.pre_torso."
    other = with_values(case, {prefix + "layer_sizes": [8], prefix + "activation": "elu"})
    fast = changed(case, gamma=0.5, epochs=5, normalize_observations=True, decay_learning_rates=True, actor_lr=1.0)
    second_batch_compiles_nothing(
        lambda: toy.run(backend, (Trial(0, changed(case)), Trial(1, changed(case)))),
        lambda: toy.run(backend, (Trial(2, fast), Trial(3, other))),
    )


def run_in_a_process_of_its_own(directory: Path, mode: str) -> dict[str, Any]:
    done = python("-c", CACHED_RUN, mode, HYPERLAX_CACHE_DIR=str(directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_process_finds_every_program_of_the_first_in_the_cache(tmp_path: Path) -> None:
    first = run_in_a_process_of_its_own(tmp_path / "cache", "cached")
    files = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert all(any(f"lanes_{verb}" in name for name in files) for verb in ("start", "train", "evaluate"))
    assert first["misses"] > 0
    second = run_in_a_process_of_its_own(tmp_path / "cache", "cached")
    assert second["misses"] == 0
    assert second["hits"] >= 3
    assert second["curve"] == first["curve"]


NOT_KEPT = """
import errno, os, sys
import hyperlax
import jax
from hyperlax.engine.device import costs_of_device, executables, prepare_jax
def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
if sys.argv[1] == "full":
    os.replace = full
prepare_jax(compilation_cache=True)
for power in (2, 3):
    jax.jit(lambda x: x**power)(1.0)
executables()
costs_of_device(True).learn_program("a kind", "a program", 1.0, cached=False)
print(jax.jit(lambda x: x + 1)(1.0))
"""


@pytest.mark.parametrize(("below", "why"), [("full", "No space left on device"), ("a_file/cache", "Not a directory")])
def test_a_cache_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path, below: str, why: str) -> None:
    (tmp_path / "a_file").write_text("")
    done = python("-c", NOT_KEPT, below, HYPERLAX_CACHE_DIR=str(tmp_path / below))
    assert done.stdout == "2.0\n", done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("Compiled programs are kept for this run only: ") and why in said
    assert not list(tmp_path.rglob("*-cache")), "an entry is whole or absent"


def test_without_the_compilation_cache_nothing_is_written(tmp_path: Path) -> None:
    result = run_in_a_process_of_its_own(tmp_path / "cache", "uncached")
    assert (result["hits"], result["misses"]) == (0, 0)
    assert not (tmp_path / "cache").exists()
