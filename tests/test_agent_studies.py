"""A study that agents train is the one that a process trains, whatever happens to the agents. Training is a fake's."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyperlax.agent import Policy
from hyperlax.analysis.pages import report_page, write_pages
from hyperlax.analysis.study_data import StudyData
from hyperlax.backends import work
from hyperlax.backends.agent_process import AgentProcess
from hyperlax.backends.agent_training import ClosedTraining, Training
from hyperlax.backends.agents import Agents
from hyperlax.backends.base import Backend
from hyperlax.backends.wire import RESULT, AgentCard, BatchDone, Engine, Item, Ticket, pack_done, read_done
from hyperlax.backends.work import Work, agents_in_words
from hyperlax.cli import main
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.files import write_text
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.io_errors import ending_on_io_error
from hyperlax.study.leading import join
from hyperlax.study.lock import only_one_process
from hyperlax.study.stopping import StopRequest
from hyperlax.study.view import load_study
from hyperlax.trial import SegmentResult
from tests.agents_at_work import Slow, at_work, claimed, has_ended, leading, meanwhile, place_of
from tests.fake_backend import FakeBackend
from tests.study_cases import Case, Finished
from tests.waiting import eventually

POLICY = Policy({"activation": "tanh"}, {"head.kernel": np.arange(6, dtype=np.float32).reshape(2, 3, 1)})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The study as one process trains it."""
    return Finished(lambda: tmp_path_factory.mktemp("alone"))(tmp_path_factory.mktemp("copy") / "study")


def lead(case: Case, **changes: object) -> None:
    assert case.start(leading(case), **changes) == 0  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("agents", [1, 2, 4])
def test_any_number_of_agents_trains_the_same_study(tmp_path: Path, alone: Case, agents: int) -> None:
    case = Case(tmp_path)
    with at_work(case, *(Slow(seconds=0.01, slots=2) for _ in range(agents))) as all_of_them:
        lead(case)
    assert case.told() == alone.told()
    said = {(batch / "timing.json").read_text() for batch in case.batches()}
    assert all(any(agent.name in text for agent in all_of_them) for text in said)
    assert os.listdir(case.directory / "work") == []


def test_curves_and_policies_travel_to_the_bit(tmp_path: Path) -> None:
    alone, backend = FakeBackend(policy=POLICY), FakeBackend(policy=POLICY)
    Case(tmp_path / "alone").start(alone)
    case = Case(tmp_path / "agents")
    with at_work(case, backend):
        lead(case)
    assert backend.config == replace(alone.config, chosen={})
    one, other = (sorted((tmp_path / name).rglob("curves.csv")) for name in ("alone", "agents"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other] != []
    one, other = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("alone", "agents"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other] != []


def test_an_error_of_a_program_is_told_as_where_it_was(tmp_path: Path) -> None:
    reasons = []
    for root in ("alone", "agents"):
        case, backend = Case(tmp_path / root), FakeBackend(raises={4: ValueError("no luck")})
        with at_work(case, backend):
            case.start(backend if root == "alone" else leading(case))
        assert case.states() == ["FAIL" if number == 4 else "COMPLETE" for number in range(12)]
        reasons.append(case.study().trials[4].user_attrs["reason"])
    assert reasons[0] == reasons[1] and reasons[0].startswith("ValueError: no luck")
    assert "On the agent" in (case.batch_of(4) / "timing.json").read_text()


def test_only_one_agent_gets_a_batch(tmp_path: Path) -> None:
    work, won = Work(tmp_path), list[str]()
    for number in range(30):
        work.offer(f"b{number:05d}-{0:012x}", Ticket("e", [(number, {})]))
    start = threading.Barrier(4)

    def take(agent: str) -> None:
        start.wait()
        for item in work.items():
            if item.kind == "ticket" and work.claim(item, agent):
                won.append(item.batch)

    threads = [threading.Thread(target=take, args=(f"agent-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [f"b{number:05d}-{0:012x}" for number in range(30)]
    assert {item.kind for item in work.items()} == {"claim"}


def test_a_study_whose_files_for_agents_were_removed_continues(tmp_path: Path, alone: Case) -> None:
    case, removed = Case(tmp_path), threading.Event()
    backend = leading(case, lease=0.5)

    def make(*arguments: Any) -> Backend:
        made: Any = backend(*arguments)
        look = made._look

        def remove_and_look() -> None:
            if not removed.is_set():
                Work(case.directory).clear()  # as a leader does that has ended
                removed.set()
            look()

        made._look = remove_and_look
        return made

    def train() -> None:
        eventually(removed.is_set)
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))

    with meanwhile(train):
        assert case.start(make) == 0
    assert case.told() == alone.told()


def test_a_batch_whose_lease_ran_out_is_trained_by_another_agent(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(tmp_path)
    work = Work(case.directory)

    def vanish() -> None:
        claim = claimed(work, "gone-1-a")
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))
        assert not work.renew(claim)

    with meanwhile(vanish):
        assert case.start(leading(case, lease=0.5)) == 0
    assert case.told() == alone.told()
    assert "Lost trials 0, 1, 2: its agent gone-1-a was not heard of for 0.5 s." in caplog.text


class _Deaf(AgentProcess):
    """An agent that cannot renew its leases, as a stopped process cannot."""

    def _renew(self, training: Training) -> None:
        return


def test_an_agent_that_is_too_late_drops_its_result(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case, slow = Case(tmp_path), Slow(seconds=30.0)
    stop = threading.Event()

    def be_late() -> None:
        deaf = _Deaf(place_of(case.directory, case.recipe, slow), stop.is_set)
        with meanwhile(deaf.run):
            eventually(slow.asleep.is_set)
            with at_work(case, FakeBackend()):
                eventually(lambda: has_ended(case, 0))
            slow.seconds = 0.0
            slow.wake()

    caplog.set_level(logging.INFO, "hyperlax")
    with meanwhile(be_late):
        assert case.start(leading(case, lease=0.5), n_trials=8) == 0
        eventually(lambda: "comes too late" in caplog.text)
        stop.set()
    assert case.told() == alone.told()[:8]
    assert "The result of trials 0, 1, 2 comes too late and is dropped." in caplog.text


def test_a_result_that_comes_twice_is_dropped(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, finish, advance, finished = Case(tmp_path), Work.finish, ClosedTraining.advance, dict[str, bytes]()
    work = Work(case.directory)

    def keep(work: Work, claim: Item, result: bytes) -> bool:
        finished[claim.batch] = result
        return finish(work, claim, result)

    def finish_again(training: ClosedTraining) -> None:
        for batch, result in finished.items():
            work.post(Item(batch, "", RESULT), result)
        advance(training)

    monkeypatch.setattr(Work, "finish", keep)
    monkeypatch.setattr(ClosedTraining, "advance", finish_again)
    caplog.set_level(logging.DEBUG, "hyperlax")
    stop = threading.Event()
    twice = AgentProcess(place_of(case.directory, case.recipe, Slow(seconds=0.1)), stop.is_set)

    with meanwhile(twice.run):
        assert case.start(leading(case)) == 0
        stop.set()
    assert case.told() == alone.told()
    assert re.search(r"Dropped the result of b\d+-\w+\.", caplog.text)


def test_a_trial_that_agents_lose_three_times_fails_alone(
    tmp_path: Path, alone: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, real, renewed, left = Case(tmp_path), ClosedTraining.add, Work.renewed, set[str]()
    is_over, signs = threading.Event(), itertools.count()

    def add(training: ClosedTraining, claim: Item, ticket: Ticket) -> None:
        """Leave trial 4 to those who die of it."""
        if 4 in ticket.numbers:
            left.add(claim.batch)
        else:
            real(training, claim, ticket)

    def sign(work: Work, item: Item) -> float | None:
        """Keep the other leases from running out on a busy machine."""
        return renewed(work, item) if item.batch in left else float(next(signs))

    monkeypatch.setattr(ClosedTraining, "add", add)
    monkeypatch.setattr(Work, "renewed", sign)
    careful = AgentProcess(place_of(case.directory, case.recipe, FakeBackend()), is_over.is_set)
    with meanwhile(careful.run):
        assert case.start(leading(case, lease=0.1)) == 0
        is_over.set()
    assert case.states() == ["FAIL" if number == 4 else "COMPLETE" for number in range(12)]
    reason = case.study().trials[4].user_attrs["reason"]
    assert reason.startswith("lost three times, the last time because its agent ")
    assert [row for row in case.told() if row[0] < 4] == alone.told()[:4]


def test_clocks_are_not_compared(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent whose clock is an hour off, on a file system that takes its times. It trains longer than its lease."""
    case, real, renewals, lease = Case(tmp_path), os.utime, itertools.count(), 0.6
    now = [0.0]  # the leader's clock, which cannot run ahead of a busy agent

    def an_hour_off(path: Path | int) -> None:
        if isinstance(path, int):
            return real(path)
        now[0] += lease / 4
        then = time.time() + (-3600 if os.fspath(path).endswith("claim") else 3600) + next(renewals) / 1000
        return real(path, (then, then))

    monkeypatch.setattr("hyperlax.backends.work.os.utime", an_hour_off)
    monkeypatch.setattr("hyperlax.leases.time", SimpleNamespace(monotonic=lambda: now[0]))
    with at_work(case, Slow(seconds=2.0)):
        assert case.start(leading(case, lease=lease), n_trials=3, optuna_study_batch_size=3) == 0
    assert now[0] > 2 * lease
    assert case.told() == alone.told()[:3]
    assert "Lost" not in caplog.text


@pytest.mark.parametrize("hours", [-1, 1])
def test_words_do_not_depend_on_the_clock_of_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    agent, leader = Work(tmp_path), Work(tmp_path)
    agent.root.mkdir()
    for name in ("right", "wrong"):
        agent.write_card(name, AgentCard("host", 1, "cpu", 1, "now", {}))
    monkeypatch.setattr("hyperlax.leases.time", SimpleNamespace(monotonic=lambda: 0.0))
    wrote_at(tmp_path, right=NOW, wrong=NOW + 3600 * hours)
    leader.cards()
    leader.lead("e")
    assert heard_of(tmp_path, True, monkeypatch) == [0, 0]
    os.utime(agent.root / "leader.json", (NOW, NOW))
    assert max(heard_of(tmp_path, False, monkeypatch)) == 3600


NOW = 1_800_000_000


def wrote_at(study: Path, **times: int) -> None:
    """Let agents have written their cards at these times."""
    for name, then in times.items():
        os.utime(Work(study).root / f"{name}.agent", (then, then))


def heard_of(study: Path, is_led: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many seconds ago each agent was last heard of, if it is `NOW`."""
    monkeypatch.setattr("hyperlax.backends.work.time", SimpleNamespace(time=lambda: NOW, monotonic=time.monotonic))
    found = [re.search(r"; last heard of (\d+) s ago$", line) for line in agents_in_words(study, is_led)]
    return [int(one[1]) for one in found if one]


def test_agents_that_died_with_their_leader_grow_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(tmp_path)
    work.root.mkdir()
    work.write_card("dead", AgentCard("host", 1, "cpu", 1, "now", {}))
    wrote_at(tmp_path, dead=NOW - 7200)
    assert heard_of(tmp_path, False, monkeypatch) == [7200]


def test_an_agent_that_is_terminated_hands_its_batch_back(tmp_path: Path, alone: Case) -> None:
    case, slow, stop = Case(tmp_path), Slow(seconds=30.0), StopRequest()
    agent = AgentProcess(place_of(case.directory, case.recipe, slow), stop.is_set)
    stop.tell(agent.stop)

    def leave() -> None:
        with meanwhile(agent.run):
            eventually(slow.asleep.is_set)
            stop.set()
        assert {item.kind for item in Work(case.directory).items()} == {"ticket"}
        assert Work(case.directory).cards() == {}
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))

    with meanwhile(leave):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told()


def test_a_leader_that_stops_has_the_agents_hand_back(tmp_path: Path, alone: Case) -> None:
    case, slow = Case(tmp_path), Slow(seconds=30.0)
    backend = leading(case)

    def make(*arguments: object) -> object:
        made = backend(*arguments)  # pyright: ignore
        look = made._look  # pyright: ignore

        def look_and_stop() -> None:
            look()
            if slow.asleep.is_set() and not made._is_stopping:  # pyright: ignore
                os.kill(os.getpid(), signal.SIGTERM)

        made._look = look_and_stop  # pyright: ignore
        return made

    with at_work(case, slow):
        assert case.start(make) == 143  # pyright: ignore
        slow.seconds = 0.0
        assert Work(case.directory).items() == []
        assert case.resume(leading(case)) == 0
    assert case.told() == alone.told()


def test_a_new_leader_takes_what_was_trained_without_one(
    tmp_path: Path, alone: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are as a leader leaves them that is killed before it has taken the first result."""
    case, kept, finish = Case(tmp_path), tmp_path / "kept", Work.finish
    kept.mkdir()

    def keep(work: Work, claim: Item, result: bytes) -> bool:
        if 0 in read_done(result).numbers:
            (kept / f"{claim.batch}.result").write_bytes(result)
        return finish(work, claim, result)

    monkeypatch.setattr(Work, "finish", keep)
    with at_work(case, FakeBackend()):
        lead(case)
    shutil.rmtree(case.directory / "optuna_exec_batch_0000" / "samples")
    shutil.rmtree(case.directory / "optuna_exec_batch_0001")
    case.lose_database()
    shutil.copytree(kept, case.directory / "work", dirs_exist_ok=True)
    backend = Slow(seconds=0.01)
    with at_work(case, backend):
        assert case.resume(leading(case)) == 0
    assert case.told() == alone.told()
    assert not {0, 1, 2} & set(backend.trained)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {"hyperlax": "9.9"}}, r"its leader has hyperlax 9\.9, this agent 0\.1"),
        ({"device_kind": "a TPU"}, "it trains on a TPU, and this machine has a device of a test"),
    ],
)
def test_other_versions_and_devices_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    case = Case(tmp_path)
    (case.directory / "work").mkdir(parents=True)
    real = Engine.of

    def other(*arguments: object) -> Engine:
        engine = real(*arguments)  # pyright: ignore
        return replace(engine, **{**change, "versions": {**engine.versions, **change.get("versions", {})}})  # pyright: ignore

    monkeypatch.setattr(Engine, "of", other)
    agent = AgentProcess(place_of(case.directory, case.recipe, FakeBackend()), threading.Event().is_set)
    refused = list[str]()

    def join() -> None:
        with pytest.raises(UsageError, match=words) as error:
            agent.run()
        refused.append(str(error.value))
        monkeypatch.setattr("hyperlax.backends.agent_process.refusal", lambda *arguments: None)
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))

    with meanwhile(join):
        lead(case)
    assert refused


def test_an_agent_says_that_nobody_leads_and_that_the_study_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlax.backends.agent_process._LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "hyperlax")
    case = Case(tmp_path)
    case.directory.mkdir(parents=True)
    place = place_of(case.directory, case.recipe, FakeBackend())
    for said, has_leader in (("Nobody leads the study", False), ("has no --agents and trains alone", True)):
        looks, stop = itertools.count(), threading.Event()

        def is_led(looks=looks, stop=stop, has_leader=has_leader) -> bool:
            if next(looks) == 4:
                stop.set()
            return has_leader

        AgentProcess(replace(place, is_led=is_led, trains_alone=lambda: True), stop.is_set).run()
        assert caplog.text.count(said) == 1
    AgentProcess(place, threading.Event().is_set, idle_timeout=0.2).run()
    assert "Nothing to train for 0.2 s." in caplog.text
    case.directory.rmdir()
    with pytest.raises(HyperlaxError, match="the study was moved or removed"):
        AgentProcess(place, threading.Event().is_set).run()


def test_an_agent_says_for_whom_it_trains_and_at_the_end_only_that_the_study_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader takes its configuration back, writes its report, leaves the study, and says then that it has ended."""
    monkeypatch.setattr("hyperlax.backends.agent_process._LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "hyperlax.backends")
    case, has_left = Case(tmp_path), threading.Event()
    (case.directory / "work").mkdir(parents=True)

    def is_led() -> bool:
        if has_left.is_set():
            Work(case.directory).set_ended(True)  # between two looks of the agent
        return not has_left.is_set()

    with at_work(case, FakeBackend(slots=2), is_led=is_led):
        lead(case)
        has_left.set()
        eventually(lambda: "has ended" in caplog.text)
    said = [message for message in caplog.messages if "the study in" in message.lower()]
    assert said == [
        f"This agent trains for the study in {case.directory}, on 2 slots.",
        f"The study in {case.directory} has ended.",
    ]


def test_the_command_of_an_agent_says_that_the_leader_trains_alone(
    alone: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlax.backends.agent_process._LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "hyperlax")
    said = (
        f"The process that runs the study in {alone.directory} has no --agents and trains alone. For agents, stop it and resume "
        "the study with --agents."
    )

    def end() -> None:
        eventually(lambda: said in caplog.messages)
        os.kill(os.getpid(), signal.SIGTERM)

    with only_one_process(alone.directory), meanwhile(end):
        parts = StudyDirectory(alone.directory), alone.recipe, lambda: alone.recipe, 0, FakeBackend().bind
        assert join(*parts, any_device=True, idle_timeout=None) == 143


def test_an_agent_waits_for_the_next_leader_until_the_study_says_that_it_has_ended(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All trials of the search are there. The leader was killed while it confirmed, or ran failed trials again."""
    monkeypatch.setattr("hyperlax.backends.agent_process._LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "hyperlax")
    shutil.copytree(alone.directory, root := tmp_path / "copy")
    parts = StudyDirectory(root), alone.recipe, lambda: alone.recipe, 0, FakeBackend().bind

    def end() -> None:
        eventually(
            lambda: f"Nobody leads the study in {root}. Waiting for a process that resumes it." in caplog.messages
        )
        os.kill(os.getpid(), signal.SIGTERM)

    assert join(*parts, any_device=True, idle_timeout=None) == 0  # it has never had agents
    Work(root).set_ended(True)
    assert join(*parts, any_device=True, idle_timeout=None) == 0
    Work(root).set_ended(False)
    with meanwhile(end):
        assert join(*parts, any_device=True, idle_timeout=None) == 143


def test_the_command_of_an_agent_says_that_the_study_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.directory.mkdir(parents=True)

    def move(agent: AgentProcess) -> None:
        case.directory.rename(tmp_path / "moved")
        write_text(case.directory / "work" / "n00000020.a.news", "")

    monkeypatch.setattr(AgentProcess, "run", move)
    with pytest.raises(HyperlaxError, match=f"^{case.directory}: the study was moved or removed.$"):
        parts = StudyDirectory(case.directory), case.recipe, lambda: case.recipe, 0, FakeBackend().bind
        join(*parts, any_device=True, idle_timeout=None)


@pytest.mark.parametrize("is_training", [True, False])
def test_an_agent_of_a_study_that_is_removed_says_that_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_training: bool
) -> None:
    """It trains, or waits for a leader that has finished."""
    monkeypatch.setattr("hyperlax.backends.agent_process._LOOK_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "hyperlax.backends")
    case, slow = Case(tmp_path / "old"), Slow(seconds=30.0 if is_training else 0.0)
    agent = AgentProcess(place_of(case.directory, case.recipe, slow), threading.Event().is_set)

    def train() -> None:
        eventually(case.directory.exists)
        with pytest.raises(HyperlaxError, match=f"{case.directory}: the study was moved or removed."):
            agent.run()

    def remove() -> None:
        eventually(slow.asleep.is_set)
        (tmp_path / "old").rename(tmp_path / "new")
        slow.seconds = 0.0
        slow.wake()

    with meanwhile(train):
        if is_training:
            with meanwhile(remove), pytest.raises(HyperlaxError, match="was moved to .*new.* while the study ran"):
                lead(case)
        else:
            lead(case)
            (tmp_path / "old").rename(tmp_path / "new")
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
    assert "Handed back" not in caplog.text
    assert not (tmp_path / "old").exists()


def test_an_agent_whose_disk_is_full_hands_its_batch_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    agent = AgentProcess(place_of(case.directory, case.recipe, FakeBackend()), threading.Event().is_set)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def fail() -> None:
        write = work._write
        monkeypatch.setattr(work, "_write", full)
        words = r"work/b00000-\w+\.result: No space left on device\. Free some space, then run the command again\."
        with pytest.raises(HyperlaxError, match=words), ending_on_io_error(case.directory):
            agent.run()
        assert {item.kind for item in Work(case.directory).items()} == {"ticket"}
        monkeypatch.setattr(work, "_write", write)
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))

    with meanwhile(fail):
        lead(case)


def test_a_damaged_result_is_trained_again(tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture) -> None:
    case, written, write = Case(tmp_path), list[Path](), work._write

    def once(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 1:
            raise FileNotFoundError(errno.ENOENT, "a leader has removed the temporary file", str(path))
        write(path, content[:100] if len(written) == 2 else content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_write", once)
        with at_work(case, FakeBackend()):
            lead(case)
    assert case.told() == alone.told()
    assert "its result cannot be read" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_damaged_ticket_is_replaced_or_left_lying(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """As a power cut leaves tickets that wait. No agent ends of it, and the next leader writes its own again."""
    case, name = Case(tmp_path), Agents._name
    work = Work(case.directory)

    def planted(self: Agents, *batch: Any) -> str:
        for planted in (found := name(self, *batch), "b99998-aaaaaaaaaaaa"):
            work.path(Item(planted, "", "ticket")).write_bytes(content)
        eventually(lambda: "b99998-aaaaaaaaaaaa.ticket: " in caplog.text)
        return found

    monkeypatch.setattr(Agents, "_name", planted)
    with at_work(case, FakeBackend()):
        lead(case)
    assert case.told() == alone.told()
    assert caplog.text.count("b99998-aaaaaaaaaaaa.ticket: ") == 1 < caplog.text.count("It is not trained here.")


def test_the_end_of_a_batch_reads_back_as_it_was(tmp_path: Path) -> None:
    backend, results = FakeBackend(policy=POLICY), list[SegmentResult]()
    case = Case(tmp_path)
    backend.gives = {1: lambda result: results.append(result) or result}
    case.start(backend)
    done = BatchDone((1,), "me-1-a", (results[0],), {"steps": 3, "peak_memory_bytes": None})
    again = read_done(pack_done(done))
    (result,) = again.results
    assert replace(again, results=()) == replace(done, results=())
    assert replace(result, curve=results[0].curve, policy=POLICY) == replace(results[0], policy=POLICY)
    for name in ("steps", "mean", "std", "min", "max", "length"):
        np.testing.assert_array_equal(getattr(result.curve, name), getattr(results[0].curve, name), strict=True)
    assert result.policy is not None and result.policy.description == POLICY.description
    np.testing.assert_array_equal(result.policy.arrays["head.kernel"], POLICY.arrays["head.kernel"], strict=True)


def test_the_report_and_show_say_who_trains_what_where(
    tmp_path: Path, alone: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case, seen = Case(tmp_path, write_pages=write_pages), list[tuple[str, str]]()

    def look(agents: list[AgentProcess], slow: Slow) -> None:
        eventually(slow.asleep.is_set)
        eventually(lambda: load_study(case.directory, "show").agents)
        assert main(["show", str(case.directory)]) == 0
        seen.append((capsys.readouterr().out, report_page(load_study(case.directory, "report").record)))
        slow.seconds = 0.0
        slow.wake()

    slow = Slow(seconds=30.0)
    with at_work(case, slow) as agents, meanwhile(look, agents, slow):
        lead(case)
    (name,), ((shown, page),) = [agent.name for agent in agents], seen
    line = re.compile(
        rf"{name} on \S+, a device of a test, since \d{{4}}-\d\d-\d\d \d\d:\d\d UTC\S*: "
        r"trials 0, 1, 2 \(evaluation 0 of \d+\); last heard of \d+ s ago\."
    )
    assert line.search(shown) and line.search(page)
    report = (case.directory / "report.html").read_text()
    assert "<h2>Agents</h2>" in report and "last heard of" not in report
    record = load_study(case.directory, "report").record
    (own,) = StudyData(record).agents
    assert own[:5] == (name, socket.gethostname(), "a device of a test", len(case.batches()), 12)
    assert "<h2>Agents</h2>" in report_page(record)
    assert "<h2>Agents</h2>" not in report_page(load_study(alone.directory, "report").record)
