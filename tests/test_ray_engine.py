"""`--engine ray`: the study is that of one process, whatever happens to actors and nodes, and no disk is shared."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyperlax import cli
from hyperlax.backends.base import Backend, EngineConfig
from hyperlax.backends.desk import Item, ticket_of
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.ray_agents import connect
from hyperlax.backends.ray_desk import ClusterLost, DeskInMemory, RayDesk
from hyperlax.backends.ray_files import AgentDesk, LeaderDesk
from hyperlax.config.sent_recipes import receive, send
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.errors import HyperlaxError
from hyperlax.files import read_csv
from hyperlax.recipe import from_source, load
from tests.agents_at_work import DEVICE, at_work
from tests.desk import ROOT, hyperlax, python, study_of, write_small_recipes
from tests.fake_backend import FakeBackend
from tests.study_cases import Case
from tests.test_agent_command import PPO, until_there
from tests.test_agent_command import start as start_command
from tests.test_own_code import results

pytestmark = pytest.mark.timeout(180)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install "hyperlax[ray]"')
NICENESS = "RAY_worker_niceness"
RECIPE = """
import os, signal, time
from pathlib import Path
from hyperlax.space import UniformContinuous
from hyperlax.tasks import Function, Measure

def train(params, report, seed):
    once = Path({once!r}, "once")
    for step in (1, 2):
        {between}
        report(step, score=params["x"] * step + seed)

def get_task():
    return Function(train, Measure("score", "maximize"), budget=2, evaluations=2)

def get_base_params():
    return {{"x": 0.5}}

def get_base_hyperparam_distributions():
    return {{"x": UniformContinuous(domain=(0.0, 1.0))}}
"""
DIES_ONCE = """if step == 2 and params["x"] == 0.5 and seed == 3 and not once.exists():
            once.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)"""
LEAVES_A_FILE = """(report.directory / f"was_here_{os.getppid()}").touch()
        time.sleep(0.4)"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster with two CPUs, whose workers are not as nice to others as Ray has them."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install "hyperlax[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ((NICENESS, "0"), ("RAY_USAGE_STATS_ENABLED", "0"), ("PYTHONPATH", str(ROOT))):
            patch.setenv(name, value)
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield made
        made.shutdown()


def recipe(directory: Path, between: str = "") -> Path:
    """A recipe, below a directory."""
    directory.mkdir(exist_ok=True)
    (path := directory / "score.py").write_text(RECIPE.format(once=str(directory), between=between or "pass"))
    return path


def search(path: Path, root: Path, more: str = "") -> list[str]:
    words = f"optuna-hp-search --algo-and-network-config {path} --seed 3 --n-trials 6 --num-seeds 2"
    more = more if "--engine" in more else f"{more} --slots 2"
    return shlex.split(f"{words} --output-root {root} {more}")


def on(cluster: Any) -> str:
    return f"--engine ray --ray-address {cluster.address}"


def agents(directory: Path) -> list[str]:
    """The agent of every batch."""
    return [json.loads(path.read_text())["agent"] for path in directory.rglob("timing.json")]


@needs_ray
def test_a_study_on_ray_is_that_of_one_process(cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path / "code")
    confirmed = "--confirm-top 1 --confirm-seeds 2"
    assert cli.main(search(path, tmp_path / "alone", confirmed)) == 0
    capfd.readouterr()
    assert cli.main(search(path, tmp_path / "ray", f"{confirmed} {on(cluster)}")) == 0
    alone, ray = (tmp_path / place / "score" for place in ("alone", "ray"))
    assert results(ray) == results(alone)
    assert (ray / "confirmation.csv").read_bytes() == (alone / "confirmation.csv").read_bytes()
    assert len(set(agents(ray))) == 2 and all(agent.startswith("ray-") for agent in agents(ray))
    assert list((ray / "work").iterdir()) == []
    said = capfd.readouterr()
    assert not re.search(r"raylet|gcs|\bpid=|\[20\d\d-", said.out + said.err)


@needs_ray
def test_an_actor_that_dies_loses_its_batch_once(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recipe(tmp_path / "code", DIES_ONCE)
    assert cli.main(search(path, tmp_path / "ray", f"{on(cluster)} --agents 2")) == 0
    assert caplog.text.count("Lost trial 0: its agent died. Waiting for another agent.") == 1
    assert cli.main(search(path, tmp_path / "alone")) == 0
    assert results(tmp_path / "ray" / "score") == results(tmp_path / "alone" / "score")


@needs_ray
def test_what_a_stopped_study_keeps_comes_to_the_leader_and_goes_on(cluster: Any, tmp_path: Path) -> None:
    path, root = recipe(tmp_path / "code", LEAVES_A_FILE), tmp_path / "ray"
    study = root / "score"
    leader = start_command(search(path, root, on(cluster)), tmp_path, tmp_path / "leader.log")
    until_there(study / "optuna_exec_batch_0000" / "success.txt")
    leader.send_signal(signal.SIGINT)
    assert leader.wait() == 130, (tmp_path / "leader.log").read_text()
    began = {directory.name: list(directory.rglob("was_here_*")) for directory in (study / "trials").iterdir()}
    assert any(began.values())
    assert cli.main(["optuna-hp-search", "--resume-from", str(study), "--ray-address", str(cluster.address)]) == 0
    assert len(read_csv(study / "trials.csv")) == 6
    assert not set(agents(study)) & {"", None}
    assert all(
        before <= {*(study / "trials" / name).rglob("was_here_*")}
        for name, paths in began.items()
        if (before := {*paths})
    )


@needs_ray
def test_an_address_without_a_cluster_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        began = time.monotonic()
        assert cli.main(search(recipe(tmp_path / "code"), tmp_path, f"--engine ray --ray-address {address}")) == 1
    assert time.monotonic() - began < 10
    said = capsys.readouterr().err
    assert f"No Ray cluster can be used at {address} (Connection refused)." in said and len(said.splitlines()) == 1
    assert not (tmp_path / "score").exists()


@needs_ray
def test_processes_of_an_own_cluster_are_beyond_signals_to_the_leaders_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray._private import services

    found: list[Any] = []

    def init(*arguments: Any, **more: Any) -> None:
        process = services.start_ray_process([sys.executable, "-c", "input()"], "test", True, pipe_stdin=True).process
        found.extend((os.getpgid(process.pid), process.pid, os.environ[NICENESS]))
        process.communicate(b"\n")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.delenv(NICENESS, raising=False)
    assert connect("local", {"CPU": 2.0})
    group, process, niceness = found
    assert group == process and niceness == "0"


@needs_ray
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cpu=9", "--agent-resources cpu=9: this machine has 2 CPUs. Give less, or"),
        ("cpu=1,gpus=1", "--agent-resources cpu=1,gpus=1: this machine has 2 CPUs and no `gpus`. Did you mean `gpu`?"),
        ("gpu=1", "--agent-resources gpu=1: this machine has 2 CPUs and no `gpu`. Give less, or the --ray-address"),
    ],
)
def test_what_this_machine_has_not_is_refused_before_anything_runs(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ended: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda *arguments, **more: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setenv("RAY_ADDRESS", "local")
    path = recipe(tmp_path / "code")
    assert cli.main(search(path, tmp_path / "ray", f"--engine ray --agent-resources {given}")) == 2
    assert said in capsys.readouterr().err
    assert ended == [True] and not (tmp_path / "ray").exists()


def test_a_lost_cluster_is_told_with_the_command_that_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*arguments: Any) -> None:
        raise ClusterLost("The Ray cluster cannot be reached any more.")

    agents = SimpleNamespace(about={}, close=lambda: None)
    for name, value in {
        "find_spec": lambda package: True,
        "connect": lambda address, resources: True,
        "room_for": lambda resources: 2,
        "make_desk": lambda study: None,
        "RayAgents": lambda *arguments: agents,
        "make_agents": lose,
    }.items():
        monkeypatch.setattr(f"hyperlax.study.ray_study.{name}", value)
    assert cli.main(search(recipe(tmp_path / "code"), tmp_path, "--engine ray")) == 1
    study = tmp_path / "score"
    said = capsys.readouterr().err
    assert said.endswith(
        f"All that is complete is kept. To resume:\n  hyperlax optuna-hp-search --resume-from {study}\n"
    )


@needs_ray
@pytest.mark.slow
def test_a_signal_to_the_group_of_a_leader_with_an_own_cluster_hands_everything_back(tmp_path: Path) -> None:
    path, log = recipe(tmp_path / "code", LEAVES_A_FILE), tmp_path / "leader.log"
    leader = start_command(search(path, tmp_path / "ray", "--engine ray"), tmp_path, log, has_own_session=True)
    until_there(tmp_path / "ray" / "score" / "optuna_exec_batch_0000" / "success.txt")
    os.killpg(leader.pid, signal.SIGTERM)
    assert leader.wait() == 143, log.read_text()
    assert "To resume:" in log.read_text() and "Lost" not in log.read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--ray-address auto", "--ray-address auto: is for --engine ray. Give that as well"),
        ("--agent-resources cpu=2", "--agent-resources cpu=2: is for --engine ray."),
        ("--engine ray --agent-resources cpu=0", "needs names and amounts above 0, such as cpu=2,gpu=1."),
        ("--engine ray --agent-resources gpu", "needs names and amounts above 0"),
        ("--engine ray --agents 0", "--agents 0: with --engine ray nothing would train."),
        ("--engine ray --ray-address here", "--ray-address here: is not the address of a Ray cluster."),
        ("--engine dask", "--engine"),
    ],
)
def test_refusals(more: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(search(recipe(tmp_path / "code"), tmp_path, more)) == 2
    assert said in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlax.study.ray_study.find_spec", lambda package: None)
    assert cli.main(search(recipe(tmp_path / "code"), tmp_path, "--engine ray")) == 2
    assert capsys.readouterr().err.endswith('--engine ray needs the package ray: pip install "hyperlax[ray]"\n')


def test_other_options_for_several_machines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlax.study.ray_study.find_spec", lambda package: True)
    words = f"optuna-hp-search --algo-and-network-config ppo_mlp --env-config gymnax.cartpole --output-root {tmp_path}"
    assert cli.main(shlex.split(f"{words} --engine ray --devices 0")) == 2
    assert "with --engine ray agents have what --agent-resources says. Leave --devices out." in capsys.readouterr().err
    (file := tmp_path / "study.yaml").write_text(f"algo_and_network_config: {recipe(tmp_path / 'code')}\nengine: ray\n")
    assert cli.main(["run-study", str(file), "--join", "--output-root", str(tmp_path)]) == 2
    assert "--join is for machines that see one directory" in capsys.readouterr().err


def test_ray_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, hyperlax, hyperlax.study.ray_study; assert 'ray' not in sys.modules"
    assert python("-c", code).returncode == 0


def test_a_recipe_travels_with_its_code(tmp_path: Path) -> None:
    path = recipe(tmp_path / "leader")
    sent = json.loads(json.dumps(send(load(str(path)))))
    assert receive(sent, tmp_path / "node").path == path  # the same file is here
    path.unlink()
    received = receive(sent, tmp_path / "node")
    assert received.path == tmp_path / "node" / "score.py" and list(received.space) == ["x"]


def test_a_function_and_a_command_travel(tmp_path: Path) -> None:
    (tmp_path / "leader").mkdir()
    (file := tmp_path / "leader" / "sent_function.py").write_text("def train(params):\n    return params['x']\n")
    form: dict[str, Any] = {
        "measure": {"name": "score", "direction": "maximize"},
        "measures": [],
        "budget": 1,
        "evaluations": 1,
        "cores": 1,
        "resources": {},
        "name": "sent",
        "path": "sent",
        "params": {"x": 0.5},
        "space": {},
    }
    function = from_source({**form, "function": f"{file}:train"}, "a test")
    command = from_source({**form, "command": ["true"], "directory": str(tmp_path / "leader")}, "a test")
    sent = [json.loads(json.dumps(send(one))) for one in (function, command)]
    file.unlink()
    file.parent.rmdir()
    received, elsewhere = (receive(one, tmp_path / "node") for one in sent)
    assert received.task is not None and received.task.source()["function"] == f"{tmp_path}/node/sent_function.py:train"  # pyright: ignore
    assert elsewhere.task is not None and elsewhere.task.source()["directory"] == str(Path.cwd())  # pyright: ignore


class _Actor:
    """A desk's actor in this process: a call is its result."""

    def __init__(self) -> None:
        self._desk, self._lock = DeskInMemory(), threading.Lock()
        self.call, self.look = SimpleNamespace(remote=self._call), SimpleNamespace(remote=self._look)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            return getattr(self._desk, name)(*arguments)

    def _look(self, side: str, seen: int, seconds: float) -> tuple[int, Any, Any]:
        until = time.monotonic() + seconds
        while self._desk.news[side] == seen and time.monotonic() < until:
            time.sleep(0.005)
        with self._lock:
            return self._desk.news[side], *self._desk.look()


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> _Actor:
    monkeypatch.setattr(RayDesk, "_get", lambda self, reference: reference)
    return _Actor()


@pytest.mark.parametrize("given", [{}, {"pruner": "median", "pruner_min_segments": 1}], ids=["closed", "pruned"])
def test_a_desk_in_memory_does_what_a_directory_does(actor: _Actor, tmp_path: Path, given: dict[str, Any]) -> None:
    case = Case(tmp_path / "memory", **given)

    def make(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        desk, planner = LeaderDesk(actor, case.directory), FakeBackend().bind(config, checkpoints)
        return make_agents(desk, planner, config, DEVICE, LocalAgents(case.directory), checkpoints)

    desks = [AgentDesk(actor, "a study", tmp_path / f"agent_{index}", 0.0) for index in range(2)]
    with at_work(case, FakeBackend(), desk=desks[0]), at_work(case, FakeBackend(), desk=desks[1]):
        assert case.start(make) == 0
    alone = Case(tmp_path / "alone", **given)
    assert alone.start(FakeBackend()) == 0
    assert case.told() == alone.told()
    assert actor.call.remote("look")[0] == [] and actor.call.remote("names", "") == []
    assert list((case.directory / "work").iterdir()) == []


def test_what_an_agent_saves_comes_to_the_leader_and_to_the_next_agent(actor: _Actor, tmp_path: Path) -> None:
    (study := tmp_path / "study").mkdir()
    leader = LeaderDesk(actor, study)
    first, second = (AgentDesk(actor, "a study", tmp_path / name, 0.0) for name in ("first", "second"))
    leader.put_engine("e", json.dumps({"config": {"is_confirmation": False}}))
    leader.offer("b00003-0123456789ab", ticket_of({3: {}}, "e", 0))
    metadata, arrays = Metadata((3,), {"jax": "1"}, 2, {}), {"weights": np.arange(5.0)}
    (item,) = first.items()
    claim = _taken(first, item, "one")
    assert second.claim(item, "two") is None
    saved = first.checkpoints(False)
    saved.save_batch(metadata, arrays)
    (kept := saved.own_directory(3) / "seed_0").mkdir()
    (kept / "weights").write_bytes(b"12")
    first.give_back(claim)
    leader.cards()
    assert (study / "trials" / "trial_00003" / "seed_0" / "weights").read_bytes() == b"12"
    (item,) = second.items()
    claim = _taken(second, item, "two")
    found, others = second.checkpoints(False).load_batch([3]), second.checkpoints(False)
    assert found is not None and found[0] == metadata and np.array_equal(found[1]["weights"], arrays["weights"])
    assert (others.own_directory(3) / "seed_0" / "weights").read_bytes() == b"12"
    assert CheckpointManager(study / "checkpoints", 0.0).batches() == [metadata]
    assert second.finish(claim, b"result") and not first.renew(Item(claim.batch, "one", "claim"))
    leader.wait()
    assert leader.result(leader.items()[0]) == b"result"
    leader.forget(claim.batch)
    assert leader.items() == [] and actor.call.remote("names", "") == []


def _taken(desk: AgentDesk, item: Item, agent: str) -> Item:
    """An item that an agent has read and claimed."""
    assert desk.read(item) is not None
    claim = desk.claim(item, agent)
    assert claim is not None
    return claim


def test_a_leader_takes_no_other_files(actor: _Actor, tmp_path: Path) -> None:
    leader = LeaderDesk(actor, tmp_path)
    actor.call.remote("save", 3, "trials/../../trial_00003.zip", b"")
    with pytest.raises(HyperlaxError, match="which no agent saves"):
        leader.cards()


def test_agents_of_a_node_share_its_cores(actor: _Actor) -> None:
    taken = [actor.call.remote("take_cores", "node", name, [0, 1, 2, 3], 2) for name in ("one", "two")]
    assert taken == [[0, 1], [2, 3]]
    actor.call.remote("remove_card", "one")
    assert actor.call.remote("take_cores", "node", "three", [0, 1, 2, 3], 2) == [0, 1]
    assert [actor.call.remote("agree", device) for device in ("a CPU", "another")] == ["a CPU", "a CPU"]


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_on_ray_is_that_of_one_process_while_nodes_come_and_go(cluster: Any, tmp_path: Path) -> None:
    """A node is added, trains, and is removed with what it trains."""
    write_small_recipes(tmp_path)
    words = shlex.split(PPO.format(steps=200_000))
    assert hyperlax(tmp_path, *words, "--output-root", "alone").returncode == 0
    node = cluster.add_node(num_cpus=2, resources={"guest": 2})
    more = ["--engine", "ray", "--ray-address", cluster.address, "--agent-resources", "cpu=1,guest=1", "--agents", "2"]
    log = tmp_path / "leader.log"
    leader = start_command([*words, "--output-root", "ray", *more], tmp_path, log)
    study = tmp_path / study_of(Path(), "ppo_mlp", "ray")
    until_there(study / "checkpoints")
    cluster.remove_node(node)
    until_said("its agent died with its node", log)
    cluster.add_node(num_cpus=2, resources={"guest": 2})
    assert leader.wait() == 0, log.read_text()
    assert results(study) == results(tmp_path / study_of(Path(), "ppo_mlp", "alone"))


def until_said(words: str, log: Path) -> None:
    """Wait for words in a log."""
    until = time.monotonic() + 120
    while words not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
