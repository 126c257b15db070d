"""`--engine ray`: the study is that of one process, whatever happens to actors and nodes, and no disk is shared."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyperlax import cli
from hyperlax.backends import ray_desk
from hyperlax.backends.base import Backend, BackendLost, EngineConfig
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.ray_agents import RayAgents
from hyperlax.backends.ray_cluster import connected
from hyperlax.backends.ray_desk import AgentDesk, DeskActor, LeaderDesk
from hyperlax.backends.wire import Item, Ticket
from hyperlax.backends.work import Work
from hyperlax.config.sent_recipes import receive, send
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.files import read_csv
from hyperlax.recipe import from_source, load
from hyperlax.study import ray_study
from hyperlax.study.manifest import resume_command
from hyperlax.study.ray_study import _settle
from hyperlax.study.study_run import MakeBackend
from hyperlax.trial import Trial
from tests.agents_at_work import DEVICE, at_work
from tests.desk import ROOT, hyperlax, python, results, study_of, write_small_recipes
from tests.fake_backend import FakeBackend
from tests.study_cases import Case
from tests.test_agent_command import PPO
from tests.test_agent_command import start as start_command
from tests.waiting import eventually

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
ENVIRONMENT = {NICENESS: "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
PRUNED: dict[str, Any] = {"pruner": "median", "pruner_min_segments": 1}
RACING: dict[str, Any] = {"seed_schedule": "racing", "num_seeds": 3, "pruner_reduction_factor": 2}
BATCH, SAVED = "b00003-0123456789ab", (Metadata((3,), {"jax": "1"}, 2, {}), {"weights": np.arange(5.0)})
LEAVES_A_FILE = """(report.directory / f"was_here_{os.getppid()}").touch()
        time.sleep(0.4)"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster with two CPUs."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install "hyperlax[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
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
def test_a_study_on_ray_is_that_of_one_process_also_if_an_actor_dies(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path, confirmed = recipe(tmp_path / "code", DIES_ONCE), "--confirm-top 1 --confirm-seeds 2"
    words = search(path, tmp_path / "ray", f"{confirmed} --engine ray --ray-address local --agents 2")
    for _ in range(4):
        capfd.readouterr()
        status, said = cli.main(words), capfd.readouterr()
        if "node timed out during startup" not in said.err:  # Ray waits for it for 30 s, however busy the machine is
            break
    assert status == 0, said.err
    assert not re.search(r"raylet|gcs|\bpid=|\[20\d\d-", said.out + said.err)
    assert len(re.findall(r"Lost trial 0: its agent (has )?died\. Waiting for another agent", caplog.text)) == 1
    assert cli.main(search(path, tmp_path / "alone", confirmed)) == 0
    alone, ray = (tmp_path / place / "score" for place in ("alone", "ray"))
    assert results(ray) == results(alone)
    assert (ray / "confirmation.csv").read_bytes() == (alone / "confirmation.csv").read_bytes()
    assert all(agent.startswith("ray-") for agent in agents(ray))
    assert [path.name for path in (ray / "work").iterdir()] == ["ended.json"]  # as agents in the directory are told


@needs_ray
@pytest.mark.slow
def test_what_a_stopped_study_keeps_comes_to_the_leader_and_goes_on(cluster: Any, tmp_path: Path) -> None:
    path, root = recipe(tmp_path / "code", LEAVES_A_FILE), tmp_path / "ray"
    study = root / "score"
    leader = start_command(search(path, root, on(cluster)), tmp_path, tmp_path / "leader.log")
    eventually((study / "optuna_exec_batch_0000" / "success.txt").exists)
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
def test_an_address_without_a_cluster_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []  # which takes minutes
    monkeypatch.setattr("ray.init", lambda *address, **_: asked.append(address))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert cli.main(search(recipe(tmp_path / "code"), tmp_path, f"--engine ray --ray-address {address}")) == 1
    said = capsys.readouterr().err
    assert not asked
    assert f"No Ray cluster can be used at {address} (Connection refused)." in said and len(said.splitlines()) == 1
    assert not (tmp_path / "score").exists()


@needs_ray
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cpu=9", "--agent-resources cpu=9: this machine has 2 CPUs. Give less, or"),
        ("cpu=1,gpus=1", "--agent-resources cpu=1,gpus=1: this machine has 2 CPUs and no gpus. Give less, or"),
        ("gpu=1", "--agent-resources gpu=1: this machine has 2 CPUs and no gpu. Give less, or the --ray-address"),
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


@needs_ray
def test_a_desk_that_cannot_be_reached_is_a_lost_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.exceptions import RayActorError

    def get(reference: object) -> None:
        raise RayActorError

    monkeypatch.setattr(ray, "get", get)
    actor: Any = SimpleNamespace(wait=SimpleNamespace(remote=lambda *arguments: None))
    desk = AgentDesk(actor, "a study", Path(), 0.0)
    with pytest.raises(
        BackendLost, match="The Ray cluster that trains the study in a study cannot be reached any more"
    ):
        desk.wait()
    monkeypatch.setattr(ray, "get", lambda reference: (0, {}))
    with pytest.raises(BackendLost):  # for the agent's other thread
        desk.wait()


def test_only_a_refusal_says_that_a_node_cannot_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(error: Exception) -> str:
        def run() -> None:
            raise error

        monkeypatch.setattr(ray_study, "AgentProcess", lambda *arguments, **more: SimpleNamespace(run=run))
        return ray_study.train(
            None, {"study": "a study", "seconds": 1.0, "recipe": {}, "name": "one"}, lambda *two: two[0]
        )

    monkeypatch.setattr(ray_study, "_settle", lambda desk, about: None)
    monkeypatch.setattr(ray_study, "receive", lambda sent, root: None)
    assert train(UsageError("its jax is old")).endswith(" does not train: its jax is old")
    with pytest.raises(BackendLost):
        train(BackendLost("it cannot be reached"))


@needs_ray
def test_a_signal_while_ray_starts_is_an_interrupt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(*arguments: Any, **more: Any) -> None:
        sys.exit(15)

    monkeypatch.setattr(ray, "init", init)
    assert cli.main(search(recipe(tmp_path / "code"), tmp_path, "--engine ray --ray-address local")) == 143
    assert capsys.readouterr().err.endswith("interrupted.\n")


@needs_ray
@pytest.mark.slow
def test_a_signal_to_the_group_of_a_leader_with_an_own_cluster_hands_everything_back(tmp_path: Path) -> None:
    path, log = recipe(tmp_path / "code", LEAVES_A_FILE), tmp_path / "leader.log"
    leader = start_command(search(path, tmp_path / "ray", "--engine ray"), tmp_path, log, has_own_session=True)
    eventually((tmp_path / "ray" / "score" / "optuna_exec_batch_0000" / "success.txt").exists)
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
        ("--engine ray --agent-resources cpu=1,memory=1", "memory=1: Ray has no resource of this name."),
        (
            "--engine ray --agent-resources object_store_memory=100",
            "Ray has no resource of this name. Use cpu, gpu, or",
        ),
        ("--engine ray --agent-resources gpu=1.5", "gpu=1.5: Ray gives a part of one GPU, or whole ones."),
        ("--engine ray --agent-resources cpu=0.00001", "cpu=1e-05: Ray counts at least 0.0001 of a resource."),
        ("--engine ray --agents 0", "--agents 0: with --engine ray nothing would train."),
        ("--engine ray --ray-address here", "--ray-address here: is not the address of a Ray cluster."),
        ("--engine dask", "--engine"),
    ],
)
def test_refusals(more: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(search(recipe(tmp_path / "code"), tmp_path / "studies", more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "studies").exists()


@needs_ray
def test_a_cluster_that_asks_for_a_token_is_not_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = search(recipe(tmp_path / "code"), tmp_path, "--engine ray --ray-address 127.0.0.1:1")
    assert cli.main(words) == 1
    assert "If it asks for a token, run `export RAY_AUTH_MODE=token` first." in capsys.readouterr().err
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    assert cli.main(words) == 1
    said = "(Connection refused). If it asks for the token in ~/.ray/auth_token, run `export RAY_AUTH_MODE=token` first. If there"
    assert said in capsys.readouterr().err


def test_a_stopped_study_is_resumed_where_it_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_on_ray(options: Any, recipe: Any, directory: Path, *more: Any) -> int:
        print(resume_command(directory))
        return 130

    monkeypatch.setattr("hyperlax.study.ray_study.run_on_ray", run_on_ray)
    for more, end in (("--ray-address head:1", " --ray-address head:1"), ("", "")):
        assert cli.main(search(recipe(tmp_path / "code"), tmp_path, f"--engine ray {more}")) == 130
        assert capsys.readouterr().out.strip().endswith(f"--resume-from {tmp_path / 'score'}{end}")


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
    """The desk's actor in this process, in a thread of its own: a call is its result."""

    def __init__(self, study: Path) -> None:
        study.mkdir(parents=True, exist_ok=True)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._actor = DeskActor(str(study))

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            found = getattr(self._actor, name)(*arguments)
            return await found if asyncio.iscoroutine(found) else found

        def remote(*arguments: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(call(*arguments), self._loop).result()

        return SimpleNamespace(remote=remote)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Desks whose actors are `_Actor`."""
    monkeypatch.setattr(ray_desk, "result_of", lambda reference, study: reference)


def leading(actor: _Actor, case: Case) -> MakeBackend:
    """What makes the backend of a study's leader."""

    def make(config: EngineConfig, checkpoints: CheckpointManager | None) -> Backend:
        desk, planner = LeaderDesk(actor, case.directory, "cpu=1"), FakeBackend().bind(config, checkpoints)
        return make_agents(desk, planner, config, DEVICE, LocalAgents(case.directory), checkpoints)

    return make


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("given", [{}, PRUNED], ids=["closed", "pruned"])
def test_agents_that_see_no_directory_train_the_same_study(tmp_path: Path, given: dict[str, Any]) -> None:
    case, alone = Case(tmp_path / "ray", **given), Case(tmp_path / "alone", **given)
    actor = _Actor(case.directory)
    desks = [AgentDesk(actor, "a study", tmp_path / f"agent_{index}", 0.0) for index in range(2)]
    with at_work(case, FakeBackend(), desk=desks[0]), at_work(case, FakeBackend(), desk=desks[1]):
        assert case.start(leading(actor, case)) == 0
    assert alone.start(FakeBackend()) == 0
    assert case.told() == alone.told()
    assert list((case.directory / "work").iterdir()) == []


def _agents(study: Path) -> tuple[Work, list[AgentDesk]]:
    """The desk of a leader that has handed out trial 3, and those of two agents."""
    actor = _Actor(study)
    (leader := Work(study)).offer(BATCH, Ticket("e", [(3, {})]))
    return leader, [AgentDesk(actor, "a study", study.parent / name, 0.0) for name in ("one", "two")]


def _taken(desk: AgentDesk, agent: str) -> Item:
    """The batch that waits, read and claimed by an agent."""
    (item,) = desk.items()
    assert desk.read(item) is not None
    return desk.claim(item, agent)


@pytest.mark.usefixtures("in_process")
def test_what_an_agent_saves_is_there_for_the_next_one(tmp_path: Path) -> None:
    study, (metadata, arrays) = tmp_path / "study", SAVED
    leader, (one, two) = _agents(study)
    claim, saved = _taken(one, "one"), one.checkpoints(False)
    saved.save_batch(metadata, arrays)
    (saved.own_directory(3) / "seed_0").mkdir()
    (weights := saved.own_directory(3) / "seed_0" / "weights").write_bytes(b"12")
    assert one.renew(claim) and (study / weights.relative_to(tmp_path / "one")).read_bytes() == b"12"
    weights.write_bytes(b"123")
    one.give_back(claim)
    claim, saved = _taken(two, "two"), two.checkpoints(False)
    found = saved.load_batch([3])
    assert found is not None and found[0] == metadata and np.array_equal(found[1]["weights"], arrays["weights"])
    assert (saved.own_directory(3) / "seed_0" / "weights").read_bytes() == b"123"
    assert CheckpointManager(study / "checkpoints", 0.0).batches() == [metadata]
    assert two.finish(claim, b"result") and leader.result(leader.items()[0]) == b"result"
    assert not (tmp_path / "two" / "trials" / "trial_00003").exists()


@pytest.mark.usefixtures("in_process")
def test_lanes_of_all_agents_are_there_for_each_the_latest_first(tmp_path: Path) -> None:
    _, (one, two) = _agents(tmp_path / "study")
    saved = {desk: desk.checkpoints(False).owned_by(name) for desk, name in ((two, "b"), (one, "a"))}
    for place, manager in enumerate(saved.values(), 1):
        manager.save_pools([(replace(SAVED[0], segments=place), SAVED[1])] * 2)
    assert [metadata.segments for metadata, _ in saved[two].pools()] == [2, 2, 1, 1]
    saved[one].save_pools([])
    assert [metadata.segments for metadata, _ in saved[two].pools()] == [1, 1]


@pytest.mark.usefixtures("in_process")
def test_a_late_agent_does_not_replace_the_files_of_another(tmp_path: Path) -> None:
    leader, (late, other) = _agents(tmp_path / "study")
    claims = [_taken(late, "late")]
    leader.forget(BATCH)
    leader.offer(BATCH, Ticket("e", [(3, {})]))
    claims.append(_taken(other, "other"))
    for desk, name, claim in ((other, "other", claims[1]), (late, "late", claims[0])):
        (desk.checkpoints(False).own_directory(3) / "name").write_text(name)
        desk.send_files(claim)
    assert (tmp_path / "study" / "trials" / "trial_00003" / "name").read_text() == "other"
    assert not late.renew(claims[0]) and not late.finish(claims[0], b"")


class _LeavesFiles(FakeBackend):
    """A fake whose trials leave a file of their own."""

    def enter(self, trials: Sequence[Trial], repetition: int = 0, group: int = 0) -> list[int]:
        entered = super().enter(trials, repetition, group)
        assert self.checkpoints
        for number in entered:
            (self.checkpoints.own_directory(number) / f"model_{repetition}").touch()
        return entered


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("given", [PRUNED, {**RACING, "n_trials": 4}], ids=["pruned", "racing"])
def test_files_of_own_code_come_to_the_leader_when_a_trial_ends(tmp_path: Path, given: dict[str, Any]) -> None:
    case = Case(tmp_path / "ray", **given)
    actor = _Actor(case.directory)
    desk = AgentDesk(actor, "a study", tmp_path / "agent", 60.0)
    with at_work(case, _LeavesFiles(fail={1: "it was told to"}), desk=desk, checkpoints=desk.checkpoints):
        assert case.start(leading(actor, case)) == 0
    states = case.states()
    assert states.count("FAIL") == 1 and "COMPLETE" in states
    for number, state in enumerate(states):
        models = {path.name for path in (case.directory / "trials" / f"trial_{number:05d}").glob("*")}
        if state == "COMPLETE":
            assert models == {f"model_{repetition}" for repetition in range(given.get("num_seeds", 1))}
            assert not (tmp_path / "agent" / "trials" / f"trial_{number:05d}").exists()
        elif state == "FAIL":
            assert models


def test_nothing_is_written_for_agents_of_a_study_that_was_removed(tmp_path: Path) -> None:
    actor = _Actor(tmp_path / "study")
    (tmp_path / "study").rmdir()
    with pytest.raises(FileNotFoundError):
        actor.write_files.remote("checkpoints/*", {"checkpoints/trial_00003.npz": b""})
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_leave_those_before(tmp_path: Path) -> None:
    actor = _Actor(tmp_path)
    actor.write_files.remote("trials/*", {"trials/a": b"before"})
    with pytest.raises(TypeError):
        actor.write_files.remote("trials/*", {"trials/a": b"new", "trials/b": None})
    assert actor.read_files.remote("trials/*") == {"trials/a": b"before"}


def test_agents_of_a_node_share_its_cores() -> None:
    actor = DeskActor("a study")
    assert [actor.take_cores("node", name, [0, 1, 2, 3], 2) for name in ("one", "two")] == [[0, 1], [2, 3]]
    actor.release_cores("one")
    assert actor.take_cores("node", "three", [0, 1, 2, 3], 2) == [0, 1]


class _Actors(SimpleNamespace):
    """Ray, with actors on node b that have ended as they are told: with an error or with why they cannot train."""

    def __init__(self, *ends: Exception | str) -> None:
        super().__init__(ends=ends, wait=lambda references, **more: (references, []), alive="ab", options=[])

    def get(self, reference: int) -> tuple[str, str]:
        if isinstance(end := self.ends[reference], Exception):
            raise end
        return "b", end

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": name, "Resources": {"CPU": 1.0}} for name in self.alive]

    def remote(self, actor: type) -> Any:
        def made(**options: Any) -> Any:
            self.options.append(options)
            run = SimpleNamespace(remote=lambda *arguments: len(self.options))
            return SimpleNamespace(remote=lambda: SimpleNamespace(run=run))

        return SimpleNamespace(options=made)

    def kill(self, actor: Any) -> None:
        raise RuntimeError("it is dead")


def _ended(
    monkeypatch: pytest.MonkeyPatch, desk: LeaderDesk, *ends: Exception | str, most: int | None = 2
) -> RayAgents:
    """Agents that have ended."""
    monkeypatch.setitem(sys.modules, "ray", _Actors(*ends))
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=RuntimeError))
    agents = RayAgents(desk, "", {}, {"CPU": 1}, most)
    agents._running = {index: (f"ray-{index}", None) for index in range(len(ends))}  # pyright: ignore[reportPrivateUsage]
    return agents


def test_a_study_ends_once_no_agent_can_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = LeaderDesk(_Actor(tmp_path), tmp_path, "cpu=1")
    agents = _ended(monkeypatch, desk, *["node b does not train: its jax is old."] * 2)
    assert agents.dead() == {}  # node a may
    agents = _ended(monkeypatch, desk, *["node b does not train: its jax is old."] * 2)
    monkeypatch.setattr(sys.modules["ray"], "alive", "b")
    with pytest.raises(BackendLost, match=r"can train this study\. node b does not train: its jax is old\.$"):
        agents.dead()
    agents.close()  # raises nothing, although actors are dead


@pytest.mark.parametrize(("alive", "started"), [("a", 1), ("ab", 1), ("abc", 2)])
def test_agents_start_on_nodes_that_have_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: str, started: int
) -> None:
    agents = _ended(monkeypatch, LeaderDesk(_Actor(tmp_path), tmp_path, "cpu=1"), "node b does not train.", most=None)
    assert agents.dead() == {}
    ray: Any = sys.modules["ray"]
    ray.alive = alive
    agents.start()
    assert [options["label_selector"] for options in ray.options] == [{"ray.io/node-id": "!in(b)"}] * started


def test_a_cluster_that_was_started_here_ends_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[bool]()
    fake = SimpleNamespace(is_initialized=lambda: False, shutdown=lambda: ended.append(True))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr("hyperlax.backends.ray_cluster._connect", lambda address, resources: None)
    with pytest.raises(HyperlaxError), connected(None, {}):
        raise HyperlaxError("no desk can be made")
    assert ended == [True]


@pytest.mark.parametrize(("amounts", "taken"), [({"CPU": 0.5}, {0}), ({"CPU": 2.0}, {0, 1}), ({"GPU": 0.25}, None)])
def test_an_agent_uses_what_it_reserves(
    monkeypatch: pytest.MonkeyPatch, amounts: dict[str, float], taken: set[int] | None
) -> None:
    context = SimpleNamespace(get_assigned_resources=lambda: amounts, get_node_id=lambda: "node")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    monkeypatch.setattr(os, "environ", dict[str, str]())
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: used.append(set(cores)), raising=False)
    used = list[set[int]]()
    desk: Any = SimpleNamespace(ask=lambda name, *arguments: getattr(DeskActor(""), name)(*arguments))
    _settle(desk, {"name": "one", "threads": None})
    assert used == ([] if taken is None else [taken])
    assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == (None if taken else "0.188")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ppo_on_ray_is_that_of_one_process_while_nodes_come_and_go(cluster: Any, tmp_path: Path) -> None:
    """A node is added, trains, and is removed with what it trains."""
    write_small_recipes(tmp_path)
    words = shlex.split(PPO.format(steps=400_000))
    assert hyperlax(tmp_path, *words, "--output-root", "alone").returncode == 0
    node = cluster.add_node(num_cpus=2, resources={"guest": 2})
    more = ["--engine", "ray", "--ray-address", cluster.address, "--agent-resources", "cpu=1,guest=1", "--agents", "2"]
    log = tmp_path / "leader.log"
    leader = start_command([*words, "--output-root", "ray", *more], tmp_path, log)
    study = tmp_path / study_of(Path(), "ppo_mlp", "ray")
    eventually((study / "checkpoints").exists)
    cluster.remove_node(node)
    eventually(lambda: "Lost trial" in log.read_text() or leader.poll() is not None)
    assert "Lost trial" in log.read_text()  # its agent has died; Ray may not know yet that the node has, too
    cluster.add_node(num_cpus=2, resources={"guest": 2})
    assert leader.wait() == 0, log.read_text()
    assert results(study) == results(tmp_path / study_of(Path(), "ppo_mlp", "alone"))
