"""Compiled verbs on disk: a loaded one does what a compiled one does; what a damaged file held is compiled again."""

from __future__ import annotations

import dataclasses
import json
import logging
import operator
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlax import envs
from hyperlax.algorithms import registry
from hyperlax.algorithms.program import AlgorithmTask
from hyperlax.engine import device
from hyperlax.engine import executables as module
from hyperlax.engine.device import identity
from hyperlax.engine.executables import Executables, open_executables
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Preparation, Program, of_lane
from hyperlax.envs.conformance import check as check_environment
from hyperlax.errors import UsageError
from tests import toy
from tests.desk import python
from tests.small import BASES, ENVIRONMENTS, RUN_LENGTH, same_bits, to_numpy

TWICE = """
import hashlib, json, sys
from pathlib import Path
import hyperlax
import jax, jax.numpy as jnp, numpy as np
from hyperlax.engine.device import identity, prepare_jax
from hyperlax.engine.executables import open_executables
from hyperlax.engine.keys import evaluation_keys, training_keys
from hyperlax.engine.lanes import Program
from hyperlax.engine.session import stacked
from hyperlax.trial import Trial
from tests import toy
from tests.small import BASES, workload
traced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **more: traced.append(str(more.get("fun_name"))) if "jaxpr_trace" in event else None
)
prepare_jax(compilation_cache=True)
is_toy = sys.argv[2] == "toy"
device, load = jax.local_devices()[0], toy.Descents() if is_toy else workload(sys.argv[2], 8)
trial = toy.trial(0) if is_toy else Trial(0, BASES[sys.argv[2]])
kept = open_executables(Path(sys.argv[1]) / "executables", identity())
program = Program(load.program(trial), 1, 2, device, refills=True, executables=kept)
hypers, keys = stacked(program, [load.lane(trial)]), training_keys(7, [3], 2)
program.load(load.lane(trial))
made = program.prepare(load.lane(trial))
lanes = program.train(program.start(keys, hypers), hypers, 0, 3)
lanes = program.restore(program.save(lanes))
lanes = program.branch(lanes, jnp.asarray([0]), keys)
lanes = program.refill(lanes, jnp.asarray([False]), program.start(keys, hypers))
lanes = program.train(lanes, hypers, 3, 2)
scores = program.evaluate(lanes, hypers, evaluation_keys(7, 2))
arrays = [*program.save(lanes), *map(np.asarray, jax.tree.leaves(scores))]
print(json.dumps({
    "cached": {compilation.verb: compilation.cached for compilation in program.compilations},
    "prepared": made.seconds > 0 and len(made.compilations),
    "traced": [name for name in traced if "lanes_" in name],
    "bits": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest(),
    "code": program.code(),
    "memory": program.memory_bytes(),
}))
"""


def in_a_process(directory: Path, what: str) -> dict[str, Any]:
    done = python("-c", TWICE, str(directory), what, HYPERLAX_CACHE_DIR=str(directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["toy", pytest.param("ppo_discrete", marks=pytest.mark.slow)])
def test_a_second_process_loads_every_verb_untraced_and_gets_the_same_bits(tmp_path: Path, what: str) -> None:
    compiled, loaded = in_a_process(tmp_path, what), in_a_process(tmp_path, what)
    verbs = {"start", "train", "evaluate", "refill", "branch"}
    assert compiled.pop("cached") == dict.fromkeys(verbs, False)
    assert loaded.pop("cached") == dict.fromkeys(verbs, True)
    assert len(compiled.pop("traced")) >= len(verbs)
    assert loaded.pop("traced") == []
    assert loaded == compiled
    assert loaded["prepared"] == 4
    assert not list(tmp_path.glob("*lanes_*")), "JAX's cache does not keep the same programs once more"


ARGUMENTS = (training_keys(toy.SEED, [0, 1], 1), toy.hypers([0.1, 0.3]), evaluation_keys(toy.SEED, 1))
LANE = of_lane(ARGUMENTS[1], 0)


def descent(kept: Executables | None, dimensions: int = 3, **more: Any) -> Program:
    return Program(toy.Descent(dimensions), 2, 1, jax.local_devices()[0], executables=kept, **more)


def prepared(kept: Executables | None, **more: Any) -> tuple[Program, Preparation]:
    program = descent(kept, **more)
    return program, program.prepare(LANE)


def result(program: Program) -> Any:
    return to_numpy(program.train(program.start(*ARGUMENTS[:2]), ARGUMENTS[1], 0, 2))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Executables:
    """The toy's verbs, compiled and kept."""
    opened = open_executables(tmp_path_factory.mktemp("cache") / "executables", identity())
    assert opened
    assert not prepared(opened)[1].cached
    return opened


def files(kept: Executables, verb: str = "") -> list[Path]:
    return [path for path in kept.directory.glob(f"lanes_{verb}*") if not path.is_symlink()]


def test_a_program_that_is_kept_is_not_compiled(kept: Executables) -> None:
    program, made = prepared(kept)
    assert made.cached and sorted(c.verb for c in made.compilations) == ["evaluate", "start", "train"]
    assert made.seconds > 0
    assert program.prepare(LANE) == (0.0, [])
    plain, _ = prepared(None)
    assert program.code() == plain.code()
    assert program.memory_bytes() == plain.memory_bytes()
    assert same_bits(result(program), result(plain))


def test_a_program_that_was_compiled_early_is_that_of_the_first_preparation(tmp_path: Path) -> None:
    program = descent(open_executables(tmp_path / "executables", identity()))
    program.load(LANE)
    assert not program.is_ready
    program.compile(LANE)
    assert program.is_ready
    made = program.prepare(LANE)
    assert not made.cached and len(made.compilations) == 3
    assert program.prepare(LANE) == (0.0, [])
    assert program.code() == prepared(None)[0].code()


def test_loading_early_is_reported_by_the_first_preparation_and_does_not_skip_the_memory_check(
    kept: Executables,
) -> None:
    program = descent(kept, room=lambda device: 10)
    program.load({"rate": np.float32(1), "spread": np.float32(1)})
    assert program.is_ready
    with pytest.raises(MemoryError) as refused:
        program.prepare(LANE)
    assert refused.value.preparation.cached and len(refused.value.preparation.compilations) == 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "renamed", "writable"])
def test_a_damaged_file_is_told_in_one_sentence_and_compiled_again(
    kept: Executables, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    (path,), (other,) = files(kept, "train"), files(kept, "start")
    whole = path.read_bytes()
    damaged = {"cut": whole[:-100], "garbage": b"?" * 1000, "empty": b"", "renamed": other.read_bytes()}
    path.write_bytes(damaged.get(damage, whole))
    path.chmod(0o666 if damage == "writable" else 0o600)
    with caplog.at_level(logging.WARNING, "hyperlax"):
        program, made = prepared(kept)
    assert len(caplog.messages) == 1 and str(path) in caplog.messages[0]
    assert [c.verb for c in made.compilations if not c.cached] == ["train"]
    assert same_bits(result(program), result(prepared(None)[0]))
    assert prepared(kept)[1].cached


@pytest.mark.parametrize("placed", ["link outside", "link to itself", "pipe"])
def test_what_is_not_a_file_of_its_own_is_replaced_and_nothing_outside_is_touched(
    kept: Executables, tmp_path: Path, placed: str
) -> None:
    (path,), precious = files(kept, "train"), tmp_path / "precious"
    precious.write_text("not a program")
    (link,) = (link for link in kept.directory.iterdir() if link.is_symlink() and link.readlink().name == path.name)
    where = path if placed == "pipe" else link
    where.unlink()
    if placed == "pipe":
        os.mkfifo(where)
    else:
        where.symlink_to(precious if placed == "link outside" else where.name)
    assert same_bits(result(prepared(kept)[0]), result(prepared(None)[0]))
    assert prepared(kept)[1].cached
    assert path.is_file() and link.readlink() == Path(path.name)
    assert precious.read_text() == "not a program"


def test_a_changed_source_is_traced_and_what_it_left_as_it_was_is_not_compiled(
    kept: Executables, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.key(jax.local_devices()[0])
    monkeypatch.setattr(module, "_source", lambda: "another source")
    assert kept.key(jax.local_devices()[0]) != before
    count = len(files(kept))
    assert prepared(kept)[1].cached
    assert len(files(kept)) == count


def test_a_program_whose_source_was_changed_while_it_runs_has_no_name(
    kept: Executables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the old text nor the new one says what was imported, or loaded again by a notebook."""
    path, before = tmp_path / "algorithm.py", sorted(kept.directory.iterdir())
    path.write_text("changed")
    os.utime(path, (1, 1))  # as copied by a tool that keeps times
    changed = path.stat().st_ctime
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    monkeypatch.setattr(module, "_IMPORTED", changed + 1)
    assert kept.key(jax.local_devices()[0]) == kept.key(jax.local_devices()[0]) != ""
    monkeypatch.setattr(module, "_IMPORTED", changed - 1)
    program, _ = prepared(kept)
    assert same_bits(result(program), result(prepared(None)[0]))
    assert program._key == "" and sorted(kept.directory.iterdir()) == before


def test_what_only_jaxs_cache_has_since_a_process_was_killed_is_kept_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_executables(tmp_path / "executables", identity())
    with monkeypatch.context() as killed:
        killed.setattr(Executables, "_keep", lambda *_: None)
        assert not prepared(opened, dimensions=5)[1].cached
    assert [prepared(opened, dimensions=5)[1].cached for _ in range(3)] == [True, False, True]
    program = descent(opened, dimensions=5)
    program.load(LANE)
    assert program.is_ready


@pytest.mark.parametrize(
    ("given", "found"), [("~/x", "/home/me/x"), ("$PLACE/x", "/place/x"), ("kept", "HERE/kept"), ("/a/b", "/a/b")]
)
def test_the_directory_of_programs_is_a_full_path_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, found: str
) -> None:
    for name, value in (("HOME", "/home/me"), ("PLACE", "/place"), ("HYPERLAX_CACHE_DIR", given)):
        monkeypatch.setenv(name, value)
    device._absolute.cache_clear()
    monkeypatch.chdir(tmp_path)
    assert str(device.cache_directory()) == found.replace("HERE", str(tmp_path))
    monkeypatch.chdir("/")
    assert str(device.cache_directory()) == found.replace("HERE", str(tmp_path))


@pytest.mark.parametrize(("given", "word"), [("$NOT_SET/x", "NOT_SET"), ("~nosuchuser/x", "~nosuchuser"), ("", "~")])
def test_a_directory_of_programs_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str, word: str
) -> None:
    monkeypatch.setenv("HYPERLAX_CACHE_DIR", given)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match=f"{word} is not (set|the home).*HYPERLAX_CACHE_DIR names another"):
        device.cache_directory()


@dataclasses.dataclass(frozen=True)
class Hoarding(toy.Descent):
    """A descent with a buffer that its evaluation does not read."""

    buffer: int = 0

    def init(self, key: Any, lane: Any) -> toy.State:
        return super().init(key, lane)._replace(scrap=jnp.zeros(self.buffer, jnp.int32))

    def step(self, state: toy.State, lane: Any, iteration: Any) -> toy.State:
        return super().step(state, lane, iteration)._replace(scrap=state.scrap + iteration)


def test_verbs_that_differ_only_in_what_they_do_not_read_are_told_apart(kept: Executables) -> None:
    for buffer in (2, 4):
        program = Program(Hoarding(buffer=buffer), 2, 1, jax.local_devices()[0], executables=kept)
        assert not program.prepare(LANE).cached
        lanes = program.start(*ARGUMENTS[:2])
        assert np.isfinite(program.evaluate(lanes, ARGUMENTS[1], ARGUMENTS[2]).mean).all()


DEVICE = ("platform", "device_kind", "id", "client.platform_version")
PROGRAM: dict[str, dict[str, Any]] = {
    "lanes": {"lanes": 3},
    "seeds": {"seeds": 2},
    "one after another": {"sequential": False},
    "sizes": {"algorithm": toy.Descent(4)},
    "algorithm": {"algorithm": Hoarding()},
}


@pytest.mark.parametrize(
    "part", ["version", "library", "python", "configuration", "hyperparameters", *DEVICE, *PROGRAM]
)
def test_whatever_decides_a_program_is_in_its_name(
    kept: Executables, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    device, lane = jax.local_devices()[0], {"rate": np.float32(1), "spread": np.float32(1)}
    program = descent(kept)
    if part == "version":
        program.executables = Executables(kept.directory, {**kept.identity, "jaxlib": "0.0.1"})
    elif part == "configuration":
        monkeypatch.setattr(type(jax.config), "values", {**jax.config.values, "jax_enable_x64": True})
    elif part == "hyperparameters":
        lane["rate"] = np.float64(1)  # pyright: ignore[reportArgumentType]
    elif part == "library":
        monkeypatch.setattr(module, "version", lambda name: f"{version(name)}{'.1' * (name == 'optax')}")
    elif part == "python":
        monkeypatch.setattr(platform, "python_version", lambda: "3.0.0")
    elif part in PROGRAM:
        program = dataclasses.replace(program, **PROGRAM[part])
    else:
        names = {name.rpartition(".")[2]: operator.attrgetter(name)(device) for name in DEVICE}
        assert kept.key(_device(**names)) == kept.key(device)
        assert kept.key(_device(**{**names, part.rpartition(".")[2]: "another"})) != kept.key(device)
        return
    program.load(lane)
    assert not program.is_ready


def _device(platform_version: str, **properties: Any) -> Any:
    return SimpleNamespace(client=SimpleNamespace(platform_version=platform_version), **properties)


def test_files_that_were_not_used_for_long_and_those_beyond_the_size_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_executables(tmp_path / "executables", identity())
    assert opened
    prepared(opened)
    (old,) = files(opened, "start")
    left, being_written = (opened.directory / f".lanes_train.{number}.tmp" for number in (1, 2))
    for path in (left, being_written):
        path.write_bytes(b"half of a program")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    os.utime(old, (0, 0))
    _, made = prepared(opened)
    assert made.cached, "a file that is used is not old"
    os.utime(old, (0, 0))
    descent(opened, dimensions=2).prepare(LANE)
    assert not old.exists()
    assert not left.exists() and being_written.exists()
    assert all(path.exists() for path in opened.directory.iterdir()), "no link points to nothing"
    monkeypatch.setattr(module, "_MOST_BYTES", 1)
    descent(opened, dimensions=4).prepare(LANE)
    assert files(opened) == []


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_directory_that_others_can_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    directory = tmp_path / "executables"
    assert open_executables(directory, identity())
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(mode)
    with caplog.at_level(logging.WARNING, "hyperlax"):
        assert open_executables(directory, identity()) is None
        assert open_executables(directory, identity()) is None
    assert len(caplog.messages) == 1 and "others can write to it" in caplog.messages[0]


def test_only_the_programs_of_shipped_algorithms_and_environments_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    base, environment = BASES["ppo_discrete"], ENVIRONMENTS["ppo_discrete"]
    assert AlgorithmTask(base, {}, environment, RUN_LENGTH).is_shipped
    shipped = envs.make(environment)
    own = envs.Environment("own.cartpole", 4, shipped.action, 500, shipped.reset, shipped.step, shipped.reference)
    check_environment(own)
    envs.register("own.cartpole", lambda: own)
    assert not AlgorithmTask(base, {}, "own.cartpole", RUN_LENGTH).is_shipped
    monkeypatch.setitem(registry.ALGORITHMS, type(base), "somewhere.ppo")
    assert not registry.is_shipped(base)


CUT = """
import logging
import jax
import numpy as np
from hyperlax.engine.device import cache_directory, prepare_jax

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)

def run():
    jax.clear_caches()
    before = len(hits)
    jax.jit(lambda x: (x * 2 + 1).sum())(np.ones(17))
    return len(hits) - before

logging.basicConfig(format="%(message)s")
prepare_jax(compilation_cache=True)
assert run() == 0
(entry,) = cache_directory().glob("jit__lambda-*-cache")
for damaged in (entry.read_bytes()[:100], b"", bytes(entry.stat().st_size)):
    entry.write_bytes(damaged)
    print(run(), run())
"""


def test_an_entry_of_jaxs_cache_that_was_cut_short_is_compiled_once_and_then_read(tmp_path: Path) -> None:
    ended = python("-W", "ignore", "-c", CUT, HYPERLAX_CACHE_DIR=str(tmp_path))
    assert ended.stdout == "0 1\n" * 3, ended.stderr
    said = ended.stderr.splitlines()
    assert len(said) == 3
    assert all(
        one.endswith("-cache: a compiled program is damaged. It is removed, and compiled again.") for one in said
    )
