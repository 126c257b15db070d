"""Training on CPUs ends, under every supported jax; where it could not, it is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperlax import xla
from hyperlax.errors import UsageError

ROOT = Path(__file__).parents[1]
needs_flag = pytest.mark.skipif(not xla.jax_needs_flag(), reason="this jax does not hang without the flag")
needs_no_flag = pytest.mark.skipif(xla.jax_needs_flag(), reason="this jax hangs without the flag")

SHOW_FLAGS = "import os, hyperlax; print(os.environ.get('XLA_FLAGS'))"
TRAIN_EIGHT_LANES = """
import hyperlax
import jax
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine.device import prepare_jax
from hyperlax.engine.programs import Programs
from hyperlax.trial import Trial
from tests import small, toy
prepare_jax(compilation_cache=True)
workload = AlgorithmTask(small.BASES["ppo_discrete"], {}, "gymnax.cartpole", small.RUN_LENGTH)
backend = toy.batches(workload, Programs(8, 2, sequential=False), seed=0)
batch = tuple(Trial(n, small.changed("ppo_discrete", epochs=n + 1)) for n in range(8))
result = toy.run(backend, batch)
assert len(result.outcomes) == 8
print(*(outcome.state for outcome in result.outcomes))
"""
JAX_FIRST = """
import jax
jax.devices()
import hyperlax
from hyperlax.engine.device import prepare_jax
prepare_jax(compilation_cache=False)
print("prepared")
"""

FORKED = """
import multiprocessing, sys, warnings
warnings.simplefilter("ignore")
import hyperlax
import jax
def child():
    try:
        hyperlax.search("ppo_mlp", "gymnax.cartpole", output_root="/dev/null/nowhere")
    except hyperlax.errors.UsageError as error:
        print(error, flush=True)
jax.block_until_ready(jax.numpy.ones(3) + 1)
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(240)
print("hangs" if process.is_alive() else "ended")
process.kill()
"""


def python(program: str, flags: str | None, timeout: float = 550) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh process on CPU, killed at the timeout; `flags` is its XLA_FLAGS, None for none."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    if flags is not None:
        environment["XLA_FLAGS"] = flags
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_eight_lanes_of_ppo_train_to_their_end_in_a_process_of_their_own() -> None:
    done = python(TRAIN_EIGHT_LANES, flags="--xla_backend_optimization_level=1")  # half the time to compile
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["COMPLETE"] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_after_jax_started_is_refused() -> None:
    said, ended = python(FORKED, flags=None).stdout.splitlines()
    assert said.startswith("this process was forked after JAX started") and "Use spawn" in said
    assert ended == "ended"


@needs_flag
def test_jax_that_started_first_and_without_the_flag_is_refused_with_the_line_to_add() -> None:
    done = python(JAX_FIRST, flags=None)
    assert done.returncode != 0
    assert "UsageError" in done.stderr
    assert f'XLA_FLAGS="{xla.FLAG}"' in done.stderr
    assert "Import hyperlax first" in done.stderr


@needs_flag
def test_jax_that_started_first_but_with_the_flag_is_fine() -> None:
    done = python(JAX_FIRST, flags=xla.FLAG)
    assert done.stdout == "prepared\n", done.stderr


@needs_no_flag
def test_a_jax_that_does_not_hang_may_start_first() -> None:
    done = python(JAX_FIRST, flags=None)
    assert done.stdout == "prepared\n", done.stderr


@needs_flag
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, xla.FLAG),
        ("--xla_dump_to=/nowhere", f"--xla_dump_to=/nowhere {xla.FLAG}"),
        (f"--{xla.FLAG_NAME}=true", f"--{xla.FLAG_NAME}=true"),
    ],
)
def test_importing_hyperlax_adds_the_flag_to_the_users_own_and_leaves_their_choice(
    before: str | None, after: str
) -> None:
    assert python(SHOW_FLAGS, before).stdout.strip() == after


def test_flags_that_are_in_a_file_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA ends a process whose `XLA_FLAGS` name a file and then a flag."""
    file = tmp_path / "flags"
    file.write_text("--xla_dump_to=/nowhere\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    monkeypatch.setattr(xla, "jax_needs_flag", lambda: True)
    monkeypatch.setattr(xla, "backend_started", lambda: False)
    assert xla.flags() == "--xla_dump_to=/nowhere"
    xla.set_safe_scheduler()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=/nowhere {xla.FLAG}"
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "absent"))
    xla.set_safe_scheduler()
    assert os.environ["XLA_FLAGS"] == xla.flags() == str(tmp_path / "absent")


@needs_no_flag
@pytest.mark.parametrize("before", [None, "--xla_dump_to=/nowhere"])
def test_importing_hyperlax_sets_nothing_where_jax_does_not_hang(before: str | None) -> None:
    assert python(SHOW_FLAGS, before).stdout.strip() == str(before)


@pytest.mark.parametrize(
    ("version", "needed"),
    [("0.9.2", True), ("0.10.2", True), ("0.11.0", False), ("0.11.0.dev1", False), ("1.0", False)],
)
def test_the_flag_is_needed_below_jax_0_11(version: str, needed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "version", lambda package: version)
    assert xla.jax_needs_flag() == needed


def test_other_backends_than_the_cpu_are_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "_started_without_flag", True)
    xla.require_safe_scheduler("gpu")
    with pytest.raises(UsageError, match="hanging on CPUs"):
        xla.require_safe_scheduler("cpu")
