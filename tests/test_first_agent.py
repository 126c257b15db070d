"""A leader without agents of its own leaves the choice of programs to the first agent that comes. Training is a fake's."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hyperlax.backends.agent_process import AgentProcess
from hyperlax.backends.base import EngineConfig
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.wire import AgentCard, Engine
from hyperlax.backends.work import Work
from hyperlax.cli import main
from hyperlax.engine.checkpoint import CheckpointManager
from hyperlax.errors import UsageError
from hyperlax.study.leading import FirstAgent, run_with_agents
from hyperlax.study.search import run_study, search_config
from hyperlax.study.stopping import StopRequest
from hyperlax.study.study_run import local_backend, local_planner
from hyperlax.study.view import load_study
from hyperlax.tasks import Function, Measure
from tests.agents_at_work import DEVICE, at_work, meanwhile, place_of
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Killed, arguments_of, killing
from tests.test_open_agents import curves
from tests.waiting import eventually

AUTO: dict[str, Any] = {
    "runner_hparam_batch_size": "auto",
    "optuna_study_batch_size": "auto",
    "sampler": "tpe",
    "n_trials": 18,
}
KINDS: dict[str, dict[str, Any]] = {
    "closed": {},
    "asha": {"pruner": "asha", "pruner_min_segments": 1, "pruner_reduction_factor": 2},
    "racing": {"seed_schedule": "racing", "num_seeds": 3, "pruner_reduction_factor": 2},
    "confirmed": {"confirm_top": 2, "confirm_seeds": 3, "n_trials": 8},
}
CHOICE = ("lanes", "packing", "super_batch", "overlaps", "device")


@dataclass
class Choosing(FakeBackend):
    """Chooses for its own machine, by default one that trains, unless the study has a choice already."""

    slots: int = 2
    device: str = "a machine"
    packing: dict[str, Any] = field(default_factory=dict)

    def bind(self, config: EngineConfig, checkpoints: CheckpointManager | None = None) -> FakeBackend:
        super().bind(config, checkpoints)
        own = {"lanes": self.lanes, "slots": self.slots, "super_batch": config.super_batch or self.lanes * self.slots}
        self.packing = dict(config.chosen or own)
        self.lanes = self.packing["lanes"]
        return self


def login_node(config: EngineConfig, checkpoints: CheckpointManager | None = None) -> FakeBackend:
    return Choosing(lanes=2, slots=1, device="a login node").bind(config, checkpoints)


@pytest.fixture(autouse=True)
def _planned_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperlax.backends.local.make_backend", login_node)
    monkeypatch.setattr("hyperlax.study.leading.leave_gpu_memory", lambda: None)


def run(case: Case, resume: bool, **more: Any) -> int:
    arguments = arguments_of(case.root, **{**AUTO, **case.arguments})
    return run_study(arguments, case.recipe, case.directory if resume else None, **more)


def lead(case: Case, resume: bool = False) -> int:
    """`--agents 0`."""
    return run_with_agents(case.directory, 0, lambda config: config, partial(run, case, resume))


def trained_alone(root: Path, backend: Callable[..., Any], **kind: Any) -> Case:
    """The study as one process trains it."""
    case = Case(root, **kind)
    assert run(case, False, make_backend=backend) == 0
    return case


def choice(case: Case) -> dict[str, Any]:
    return {name: case.stored()[name] for name in CHOICE}


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_is_that_of_one_process_on_the_machine_of_the_first_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.INFO, "hyperlax")
    alone = trained_alone(tmp_path / "alone", Choosing().bind, **KINDS[kind])
    case = Case(tmp_path / "agents", **KINDS[kind])
    with at_work(case, Choosing()):
        assert lead(case) == 0
    assert case.told() == alone.told()
    assert choice(case) == choice(alone)
    assert caplog.text.count("Waiting for the first agent. Agents join with") == caplog.text.count("Agents join") == 1
    assert curves(case) == curves(alone) and choice(case)["super_batch"] == 6 and case.stored()["packing"]["slots"] == 2


def test_one_that_dies_before_it_answers_is_not_waited_for(tmp_path: Path) -> None:
    case, is_over = Case(tmp_path / "agents"), threading.Event()

    def die(config: EngineConfig, checkpoints: CheckpointManager) -> Any:
        raise Killed

    def join() -> None:
        eventually((case.directory / "work" / "leader.json").exists)
        with pytest.raises(Killed):
            AgentProcess(place_of(case.directory, case.recipe, Choosing(), make_backend=die), is_over.is_set).run()
        with at_work(case, Choosing()):
            eventually(is_over.is_set)

    with meanwhile(join):
        assert lead(case) == 0
        is_over.set()
    assert case.told() == trained_alone(tmp_path / "alone", Choosing().bind).told()


def test_only_the_kind_of_device_kind_the_first_agent_trains(tmp_path: Path) -> None:
    case, answered = Case(tmp_path), threading.Event()
    other = place_of(case.directory, case.recipe, Choosing(), device_kind=lambda config: "a CPU")

    def join() -> None:
        eventually(lambda: (case.directory / "study.json").exists() and case.stored()["lanes"])
        with pytest.raises(UsageError, match="it trains on a GPU, and this machine has a CPU"):
            AgentProcess(other, threading.Event().is_set).run()
        answered.set()

    def wait(count: int) -> None:
        eventually(answered.is_set)

    with at_work(case, Choosing(after_batch=wait), device_kind=lambda config: "a GPU"), meanwhile(join):
        assert lead(case) == 0


def terminated(case: Case, resume: bool = False) -> int:
    """Lead until that waits for an agent, and get SIGTERM there."""

    def terminate() -> None:
        eventually((case.directory / "work" / "leader.json").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(terminate):
        return lead(case, resume)


def test_a_study_that_waits_for_its_first_agent_is_one_for_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(tmp_path / "agents")
    study = str(case.directory)
    assert terminated(case) == 143
    assert "Interrupted with 18 trials to go. To resume:\n  hyperlax optuna-hp-search" in capsys.readouterr().out
    assert case.stored()["lanes"] == 0 and os.listdir(case.directory / "work") == []
    assert load_study(case.directory, "show").state == "stopped"
    for words in (["list", str(case.root)], ["show", study], ["watch", study], ["report", study]):
        assert main(words) == 0, words
    assert case.repair() == case.plan(resume=True) == 0
    local = case.copy(tmp_path / "local")
    assert terminated(case, resume=True) == 143
    with at_work(case, Choosing()):
        assert lead(case, resume=True) == 0
    assert case.told() == trained_alone(tmp_path / "alone", Choosing().bind).told()
    assert run(local, True, make_backend=login_node) == 0
    assert local.told() == trained_alone(tmp_path / "login", login_node).told()
    abandoned = Case(tmp_path / "abandoned")
    assert terminated(abandoned) == 143 and main(["delete", str(abandoned.directory), "--yes"]) == 0
    assert not abandoned.directory.exists()


def test_a_leader_that_is_killed_while_it_waits_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path / "agents")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Work, "wait", killing(Work.wait, 3))
        lead(case)
    assert case.stored()["lanes"] == 0 and "leader.json" in os.listdir(case.directory / "work")
    with at_work(case, Choosing()):
        assert lead(case, resume=True) == 0
    assert case.told() == trained_alone(tmp_path / "alone", Choosing().bind).told()


def test_an_agent_that_has_chosen_for_a_leader_that_was_killed_chooses_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, wait = Case(tmp_path / "agents"), FirstAgent._wait  # pyright: ignore[reportPrivateUsage]

    def wait_and_die(first: FirstAgent, config: EngineConfig) -> None:
        wait(first, config)
        raise Killed

    with at_work(case, Choosing()):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(FirstAgent, "_wait", wait_and_die)
            lead(case)
        case.arguments["n_trials"] = 8
        assert lead(case, resume=True) == 0
    assert case.told() == trained_alone(tmp_path / "alone", Choosing().bind, n_trials=8).told()


def test_a_resume_keeps_the_choice_and_takes_the_device_of_the_agent_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, case = trained_alone(tmp_path / "alone", Choosing().bind), Case(tmp_path / "agents")

    def stop(count: int) -> None:
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            eventually((case.directory / "work" / "stop").exists)

    with at_work(case, Choosing(after_batch=stop)):
        assert lead(case) == 143
    before = choice(case)
    capsys.readouterr()
    assert terminated(case, resume=True) == 143
    assert "trials to go" in capsys.readouterr().out and choice(case) == before
    with at_work(case, Choosing(lanes=5, slots=1, device="newer"), device_kind=lambda config: "another kind"):
        assert lead(case, resume=True) == 0
    assert case.told() == alone.told()
    assert choice(case) == {**before, "device": "newer"}


def test_only_an_answer_to_this_question_counts(tmp_path: Path) -> None:
    case = Case(tmp_path)
    work = Work(case.directory)
    config = search_config(arguments_of(case.root, **AUTO), case.recipe, None)
    question = Engine.of(config, None, "", 60.0).digest
    other = Engine.of(replace(config, lanes=7), None, "", 60.0).digest
    assert question != other
    packing = {"lanes": 4, "slots": 2, "super_batch": 8}
    answer = AgentCard("host", 1, "newest", 2, "now", {}, question, DEVICE, 4, packing)
    work.root.mkdir(parents=True)
    work.write_card("dead", replace(answer, device="of a leader before"))
    made = list[Any]()

    def tell() -> None:
        eventually(lambda: work.engine_now() == question)
        (work.root / "damaged.agent").write_text(json.dumps({**vars(answer), "lanes": "many"}))
        work.write_card("other", replace(answer, engine=other, device="for another"))
        threading.Event().wait(0.3)
        assert not made
        work.write_card("good", answer)

    first = FirstAgent(work, LocalAgents(case.directory), StopRequest())
    with meanwhile(tell):
        made.append(first.make_backend(config, None))
    assert (made[0].device, made[0].slots, made[0].lanes) == ("newest", 2, 4)
    assert made[0].packing == packing

    def train() -> None:
        eventually(lambda: work.engine_now() not in ("", question))
        work.write_card("busy", replace(answer, engine=other, device="busy"))

    with meanwhile(train):
        resumed = FirstAgent(work, LocalAgents(case.directory), StopRequest())
        assert resumed.make_backend(replace(config, chosen={**packing, "lanes": 3}), None).device == "busy"


def test_a_leader_needs_nothing_that_a_trial_needs() -> None:
    task = Function(print, Measure("score", "maximize"), budget=1, evaluations=1, cores=10_000, resources={"gpu": 99})
    arguments = arguments_of(Path(), **AUTO)
    config = replace(search_config(arguments, Case(Path()).recipe, None), task=task)
    with pytest.raises(UsageError):
        local_backend(config, CheckpointManager(Path(), 0.0))
    local_planner(config, CheckpointManager(Path(), 0.0)).close()


def test_what_cannot_run_is_refused_before_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise UsageError("the budget is too small.")

    monkeypatch.setattr("hyperlax.backends.local.make_backend", refuse)
    case = Case(tmp_path)
    with pytest.raises(UsageError, match="too small"):
        lead(case)
    assert not case.directory.exists()
