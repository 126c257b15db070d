"""Faults around agents: dead ones on the leader's machine, foreign things on the desk, another user, agents that fail."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hyperlax.backends.agent_process import AgentProcess
from hyperlax.backends.agents import Agents
from hyperlax.backends.base import Evicted
from hyperlax.backends.child import beginning
from hyperlax.backends.local_agents import ENDS_WITH_INPUT, LocalAgents, Share
from hyperlax.backends.open_agents import make_agents
from hyperlax.backends.wire import TICKET, AgentCard, Item, Ticket, pack_done, read_done
from hyperlax.backends.work import Work, agents_in_words
from hyperlax.errors import HyperlaxError, UsageError
from hyperlax.recipe import load
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.leading import join
from hyperlax.trial import SegmentResult
from tests.agents_at_work import DEVICE, LEASE, Slow, at_work, claimed, has_ended, leading, meanwhile, place_of
from tests.fake_backend import FakeBackend
from tests.faults.test_forbidden import as_a_user
from tests.study_cases import MIXED, Case, Finished, Killed, recipe_of
from tests.test_joining import RECIPE
from tests.waiting import PATIENCE, eventually

ASHA: dict[str, Any] = {"pruner": "asha", "pruner_min_segments": 1, "sampler": "tpe"}


def dead_process() -> tuple[int, str]:
    """The number of a process that was killed, and its beginning."""
    process = subprocess.Popen(["sleep", "60"])
    began = beginning(process.pid)
    process.kill()
    process.wait()
    return process.pid, began


def reused_number() -> tuple[int, str]:
    """The number of this process, as one before it had it."""
    ticks = beginning(os.getpid()).split()[1]
    return os.getpid(), beginning(os.getpid()).replace(ticks, "1")


def claim_as(case: Case, process: int, began: str) -> None:
    """Claim a batch as an agent of some process that says nothing more, and let another agent train the rest."""
    work = Work(case.directory)
    claim = claimed(work, "gone-1-a")
    work.write_card("gone-1-a", AgentCard("host", process, "cpu", 1, "today", {}, beginning=began))
    with at_work(case, FakeBackend()):
        eventually(lambda: not work.path(claim).exists())
        eventually(lambda: has_ended(case))


@pytest.mark.skipif(not beginning(os.getpid()), reason="only Linux says when a process began")
@pytest.mark.parametrize("process", [dead_process, reused_number])
@pytest.mark.parametrize("kind", [{}, ASHA], ids=["closed", "asha"])
def test_an_agent_that_has_died_on_this_machine_is_lost_at_once(
    tmp_path: Path, finished: Finished, caplog: pytest.LogCaptureFixture, process: Any, kind: dict[str, Any]
) -> None:
    alone, case = finished(tmp_path / "alone", **kind), Case(tmp_path / "agents", **kind)
    with meanwhile(claim_as, case, *process()):
        assert case.start(leading(case, lease=5000.0)) == 0
    assert case.told() == alone.told()
    assert ": its agent has died. Waiting for another agent." in caplog.text
    assert not list(case.directory.glob("work/*.agent"))


@pytest.mark.parametrize("began", ["began 7 ticks after boot of-another-machine", "this process"])
def test_the_leader_says_for_whom_it_waits(
    tmp_path: Path, finished: Finished, caplog: pytest.LogCaptureFixture, began: str
) -> None:
    """For an agent of another machine, or one that lives here and is silent."""
    caplog.set_level(logging.INFO, "hyperlax")
    alone, case = finished(tmp_path / "alone"), Case(tmp_path / "agents")
    mine = beginning(os.getpid()) if began == "this process" else began
    with meanwhile(claim_as, case, os.getpid(), mine):
        assert case.start(leading(case, lease=0.9)) == 0
    assert case.told() == alone.told()
    (waiting,) = (said for said in caplog.messages if said.startswith("Waiting for agent gone-1-a"))
    said = r"Waiting for agent gone-1-a, last heard of 0\.[3-9] s ago. Another one trains its trials if that becomes 0.9 s\."
    assert re.fullmatch(said, waiting)
    assert "its agent gone-1-a was not heard of for 0.9 s" in caplog.text


def test_agents_that_join_train_at_once(tmp_path: Path, finished: Finished) -> None:
    """The planner has one slot, and the batch of the first agent does not end."""
    alone, case = finished(tmp_path / "alone"), Case(tmp_path / "agents")
    first, second = Slow(seconds=PATIENCE), Slow(seconds=PATIENCE)

    def train() -> None:
        with at_work(case, first):
            eventually(first.asleep.is_set)
            with at_work(case, second):
                eventually(second.asleep.is_set)
                for one in (first, second):
                    one.seconds = 0.0
                    one.wake()
                eventually(lambda: has_ended(case))

    with meanwhile(train):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told()


@pytest.mark.parametrize("has_card", [True, False])
def test_a_batch_of_a_silent_agent_takes_no_room_from_what_is_done(
    tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch, has_card: bool
) -> None:
    """The leader and an agent of another machine are killed. The next leader has one slot, and no agent yet."""
    alone, case = finished(tmp_path / "alone"), Case(tmp_path / "agents")
    work = Work(case.directory)

    def begin() -> None:
        claimed(work, "gone-1-a")
        if has_card:
            work.write_card("gone-1-a", AgentCard("host", 1, "cpu", 1, "today", {}, beginning="of another machine"))
        with at_work(case, FakeBackend()):
            eventually(lambda: [item for item in work.items() if item.kind == "result"])

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, meanwhile(begin), pytest.raises(Killed):
        patch.setattr(Agents, "_take", killed)
        patch.setattr(Work, "clear", lambda work: None)
        case.start(leading(case))
    (claim,) = [item for item in work.items() if item.kind == "claim"]

    def continue_() -> None:
        eventually(lambda: case.states()[3:6] == ["COMPLETE"] * 3)
        assert work.renew(claim) and case.states()[0] != "COMPLETE"
        work.give_back(claim)
        with at_work(case, FakeBackend()):
            eventually(lambda: has_ended(case))

    with meanwhile(continue_):
        assert case.resume(leading(case)) == 0
    assert case.told() == alone.told()


@dataclass
class _Held(Slow):
    """A backend that takes its time in a search or in its confirmation, where it continues at an evaluation."""

    confirms: bool = False

    @property
    def restored(self) -> dict[int, int]:
        return dict.fromkeys(tuple(self.in_lanes), 3)

    def advance(self) -> tuple[list[SegmentResult], list[Evicted]]:
        return super().advance() if self.config.is_confirmation == self.confirms else FakeBackend.advance(self)


@pytest.mark.parametrize(("confirms", "does", "logs"), [(False, "", "Training"), (True, "confirms ", "Confirming")])
def test_an_agent_says_how_far_a_batch_is_and_whether_it_confirms(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, confirms: bool, does: str, logs: str
) -> None:
    caplog.set_level(logging.INFO, "hyperlax.backends")
    case, held, said = Case(tmp_path, n_trials=3, confirm_top=1, confirm_seeds=2), _Held(confirms=confirms), list[str]()
    case.confirmer, held.seconds, is_over = leading(case), PATIENCE, threading.Event()

    def look() -> None:
        with at_work(case, held):
            eventually(held.asleep.is_set)
            said.extend(eventually(lambda: agents_in_words(case.directory, is_led=True)))
            held.seconds = 0.0
            held.wake()
            eventually(is_over.is_set)

    with meanwhile(look):
        assert case.start(leading(case)) == 0
        is_over.set()
    assert re.search(
        rf": {does}(trials 0, 1, 2|trial \d and the default configuration) \(evaluation 3 of 5\); last heard", said[0]
    )
    assert any(message.startswith(f"{logs} trial") for message in caplog.messages)


def plant(path: Path, kind: str) -> None:
    """Put something that is not a file."""
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("what", ["directory", "pipe", "link"])
@pytest.mark.parametrize("kind", [{}, ASHA], ids=["closed", "asha"])
def test_what_is_not_a_file_is_named_once_and_left_lying(
    tmp_path: Path, finished: Finished, caplog: pytest.LogCaptureFixture, kind: dict[str, Any], what: str
) -> None:
    alone, case = finished(tmp_path / "alone", **kind), Case(tmp_path / "agents", **kind)
    digest, work = "a" * 12, case.directory / "work"
    names = [
        f"b99998-{digest}.ticket",
        f"b99997-{digest}.x-1-a.claim",
        f"b99996-{digest}.result",
        "n00000099.x-1-a.news",
    ]
    work.mkdir(parents=True)
    for name in names:
        plant(work / name, what)
    with at_work(case, FakeBackend()):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told()
    assert sorted(path.name for path in work.iterdir()) == sorted(names)
    for name in names:  # by the leader and by the agent
        assert caplog.messages.count(f"{work / name}: is not a file, and is ignored. Remove it.") == 2


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Path]:
    """The study's directory of a leader whose files another user may not write."""
    work = Work(tmp_path / "study")
    work.lead("engine")
    work.offer(f"b00001-{0:012x}", Ticket("engine", [(1, {})]))
    yield work.study
    for path in (work.study, *work.study.rglob("*")):
        path.chmod(0o755)


MAY_NOT = r"study: this user may not claim what the leader hands out there \(Permission denied\)\. Run the agent as "


@pytest.mark.parametrize("closed", ["work", "work/leader.json"])
def test_an_agent_of_another_user_says_so_before_anything(shut: Path, closed: str) -> None:
    (shut / closed).chmod(0o555)
    work = Work(shut)
    with as_a_user(), pytest.raises(UsageError, match=MAY_NOT):
        work.check_claims(is_led=True)
    if closed == "work":
        (item,) = work.items()
        with as_a_user(), pytest.raises(UsageError, match=MAY_NOT):
            work.claim(item, "mine-1-a")


def test_the_command_of_an_agent_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.directory.mkdir(parents=True)
    monkeypatch.setattr(AgentProcess, "run", lambda agent: pytest.fail("it has begun"))
    case.directory.chmod(0o555)
    try:
        with as_a_user(), pytest.raises(UsageError, match="this user may not claim"):
            joining(case)
    finally:
        case.directory.chmod(0o755)


def joining(case: Case) -> int:
    parts = StudyDirectory(case.directory), case.recipe, lambda: case.recipe, 0, FakeBackend().bind
    return join(*parts, any_device=True, idle_timeout=None)


class _Ended:
    """An agent's process that has ended. A leader gets them in a row, and then one that lives."""

    pid = 1

    def __init__(self, status: int | None):
        self.status = status

    def is_alive(self) -> bool:
        return self.status is None

    def wait(self, seconds: float = 0.0) -> str:
        return f"exited with status {self.status}"


def started_by_itself(case: Case, monkeypatch: pytest.MonkeyPatch, *statuses: int) -> Callable[..., Any]:
    """What makes a leader that starts an agent, whose processes end with these."""
    work, local, ends = Work(case.directory), LocalAgents(case.directory), iter([*statuses, None])
    monkeypatch.setattr("hyperlax.backends.local_agents.start_agent", lambda *_: _Ended(next(ends)))
    local.shares = [Share()]
    return lambda config, checkpoints: make_agents(
        work, FakeBackend().bind(config, checkpoints), config, DEVICE, local, checkpoints, LEASE
    )


def test_a_leader_whose_own_agent_has_failed_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path)
    with pytest.raises(HyperlaxError) as error:
        case.start(started_by_itself(case, monkeypatch, 1))
    assert str(error.value) == (
        "An agent of this machine exited with status 1; what it said is above. All that is complete is kept. To resume:\n"
        f"  hyperlax optuna-hp-search --resume-from {case.directory}"
    )
    with at_work(case, FakeBackend()):
        assert case.resume(leading(case)) == 0


def test_an_agent_that_was_asked_to_end_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    with at_work(case, FakeBackend()):
        assert case.start(started_by_itself(case, monkeypatch, 143, 130)) == 0


@pytest.mark.parametrize(
    ("variable", "advice"), [("1", "Free some space."), ("", "Free some space, then run the command again.")]
)
def test_an_agent_with_a_full_disk_leaves_it_to_its_leader_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, advice: str
) -> None:
    case = Case(tmp_path)
    case.directory.mkdir(parents=True)

    def full(agent: AgentProcess) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "work/b.result")

    monkeypatch.setattr(AgentProcess, "run", full)
    if variable:
        monkeypatch.setenv(ENDS_WITH_INPUT, variable)
    with pytest.raises(HyperlaxError) as error:
        joining(case)
    assert str(error.value) == f"work/b.result: No space left on device. {advice}"


def test_an_agent_whose_code_is_not_the_leaders_loads_it_again_or_ends(tmp_path: Path) -> None:
    old, new = (replace(recipe_of(MIXED), code=code) for code in ("old", "new"))
    case = Case(tmp_path, recipe=new)
    case.directory.joinpath("work").mkdir(parents=True)

    def join() -> None:
        place = place_of(case.directory, old, FakeBackend(), load=lambda: old)
        with pytest.raises(UsageError) as error:
            AgentProcess(place, threading.Event().is_set).run()
        assert str(error.value).startswith(
            f"{case.directory}: the code in {old.path} is not what the leader has loaded."
        )
        with at_work(Case(tmp_path, recipe=old), FakeBackend(), load=lambda: new):
            eventually(lambda: has_ended(case))

    with meanwhile(join):
        assert case.start(leading(case)) == 0


def test_the_code_of_a_recipe_is_that_of_its_file_when_it_was_loaded(tmp_path: Path) -> None:
    (path := tmp_path / "mine.py").write_text(RECIPE)
    first = load(str(path))
    path.write_bytes(RECIPE.replace("\n", "\r\n").encode())  # as another system writes it
    assert load(str(path)).code == first.code != ""
    path.write_text(RECIPE.replace("* step", "+ step"))
    edited = load(str(path))
    assert edited.code != first.code


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ETIMEDOUT])
def test_a_file_server_that_is_away_for_a_moment_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    work, calls = Work(tmp_path), itertools.count()
    work.lead("engine")
    work.offer(name := f"b00001-{0:012x}", Ticket("engine", [(1, {})]))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if next(calls) == 0:
                raise OSError(code, os.strerror(code))
            return real(*arguments, **more)

        return call

    for place, what in ((os, "scandir"), (os, "replace"), (Path, "stat")):
        calls = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(place, what, failing(getattr(place, what)))
            if what == "replace":
                work.lead("other")
            elif what == "stat":
                assert (work.renewed(Item(name, "", TICKET)) is None) == (code == errno.ESTALE)
            else:
                assert [item.batch for item in work.items()] == [name]
    assert work.engine_now() == "other"


@pytest.mark.parametrize("what", ["others", "fewer"])
def test_a_result_of_other_trials_than_its_batch_is_damaged(
    tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    alone, case, real = finished(tmp_path / "alone"), Case(tmp_path / "agents"), Work.finish
    given = list[bytes]()

    def finish(work: Work, claim: Item, result: bytes) -> bool:
        done, given[:] = read_done(result), [*given, result]
        if len(given) == 1:
            others = tuple(replace(one, number=one.number + 50) for one in done.results)
            result = pack_done(replace(done, results=others if what == "others" else done.results[1:]))
        return real(work, claim, result)

    monkeypatch.setattr(Work, "finish", finish)
    with at_work(case, FakeBackend()):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told() and "its result cannot be read (it has " in caplog.text


def test_segments_that_another_leader_was_told_count_as_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first leader is stopped while an agent trains, and another one continues under the next from what is saved."""
    caplog.set_level(logging.INFO, "hyperlax.backends")
    case = Case(tmp_path, **ASHA)

    def stop(count: int) -> None:
        if count == 4:
            os.kill(os.getpid(), 15)
            eventually(Work(case.directory).is_stopping)

    with at_work(case, FakeBackend(after_segment=stop)):
        assert case.start(leading(case)) == 143
    with at_work(case, FakeBackend()):
        assert case.resume(leading(case)) == 0
    timings = [json.loads((batch / "timing.json").read_text()) for batch in case.batches()]
    assert all(0 < timing["useful_share"] <= 1 and "told_before" not in timing for timing in timings)
    assert "continues from step" in caplog.text
