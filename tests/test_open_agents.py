"""Studies with a pruner or racing seeds that agents train are those that a process trains. Training is a fake's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hyperlax.backends.agent_process import AgentProcess, Place
from hyperlax.backends.agents import Batch, numbers_in
from hyperlax.backends.base import Backend
from hyperlax.backends.local_agents import LocalAgents
from hyperlax.backends.open_agents import OpenAgents
from hyperlax.backends.open_training import OpenTraining
from hyperlax.backends.wire import NEWS, RESULT, AgentCard, BatchDone, Item, Ticket, pack_done, read_done
from hyperlax.backends.work import Work
from hyperlax.config.checks import checked
from hyperlax.engine.checkpoint import CheckpointManager, Metadata
from hyperlax.errors import OptionError
from hyperlax.recipe import load
from hyperlax.study.leading import device_kind
from hyperlax.study.stopping import StopRequest
from hyperlax.study.study_run import local_backend
from tests.agents_at_work import Slow, at_work, claimed, leading, meanwhile, place_of
from tests.desk import results, run
from tests.fake_backend import POINTS, FakeBackend
from tests.study_cases import Case, Finished, arguments_of
from tests.test_bad_input import TABLES
from tests.waiting import eventually

ASHA = {"pruner": "asha", "pruner_min_segments": 1, "pruner_reduction_factor": 2}
KINDS: dict[str, dict[str, Any]] = {
    "asha": {**ASHA, "sampler": "tpe"},
    "median": {"pruner": "median", "pruner_min_segments": 1},
    "racing": {"seed_schedule": "racing", "num_seeds": 3, "pruner_reduction_factor": 2, "sampler": "tpe"},
}


@pytest.fixture
def alone(tmp_path: Path, finished: Finished) -> Case:
    """The study with asha as one process trains it."""
    return finished(tmp_path / "alone", **KINDS["asha"])


@pytest.mark.parametrize("agents", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_agents_trains_the_same_study(tmp_path: Path, finished: Finished, kind: str, agents: int) -> None:
    alone = finished(tmp_path / "alone", **KINDS[kind])
    case = Case(tmp_path / "agents", **KINDS[kind])
    with at_work(case, *(FakeBackend(lanes=1 + index % 3) for index in range(agents))):
        assert case.start(leading(case)) == 0
    assert "PRUNED" in case.states() and "COMPLETE" in case.states()
    assert case.told() == alone.told()
    assert curves(case) == curves(alone)
    assert os.listdir(case.directory / "work") == [] and not (case.directory / "checkpoints").exists()


def curves(case: Case) -> list[str]:
    """The rows of all learning curves, without headers."""
    return sorted(row for path in case.directory.rglob("curves.csv") for row in path.read_text().splitlines()[1:])


def test_an_agent_says_what_it_trained_and_what_was_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hyperlax.backends")
    case = Case(tmp_path, **KINDS["asha"])
    with at_work(case, FakeBackend()):
        assert case.start(leading(case)) == 0
        for number, state in enumerate(case.states()):
            said = {f"Trained trial {number}.", *([f"Stopped trial {number}."] if state == "PRUNED" else [])}
            eventually(lambda said=said: said & set(caplog.messages))


def test_the_number_in_flight_decides_and_not_who_trains(tmp_path: Path, finished: Finished) -> None:
    more = {**KINDS["asha"], "in_flight": 5, "optuna_study_batch_size": "auto"}
    alone, case = finished(tmp_path / "alone", **more), Case(tmp_path / "agents", **more)
    with at_work(case, FakeBackend(), FakeBackend()):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told() != finished(tmp_path / "other", **{**more, "in_flight": 3}).told()
    assert case.stored()["super_batch"] == 5 and len(case.batches()) > 1


def test_one_trial_may_be_in_flight(tmp_path: Path) -> None:
    seen = list[int]()
    backend = FakeBackend(after_segment=lambda count: seen.append(len(backend.in_lanes)))
    case = Case(tmp_path, **KINDS["asha"], in_flight=1, optuna_study_batch_size="auto")
    assert case.start(backend) == 0
    assert case.stored()["super_batch"] == 1 and set(seen) == {1}


def test_the_number_in_flight_is_refused_where_nothing_ends_early(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--in-flight 4 is for studies with --pruner or --seed-schedule racing"):
        checked(arguments_of(tmp_path, in_flight=4))


def test_a_trial_whose_lease_ran_out_is_trained_by_another_agent(
    tmp_path: Path, alone: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case, is_over = Case(tmp_path / "agents", **KINDS["asha"]), threading.Event()

    def vanish() -> None:
        claimed(Work(case.directory), "gone-1-a")
        with at_work(case, FakeBackend()):
            eventually(is_over.is_set)

    with meanwhile(vanish):
        assert case.start(leading(case, lease=0.5)) == 0
        is_over.set()
    assert case.told() == alone.told()
    assert "Lost trial 0: its agent gone-1-a was not heard of for 0.5 s." in caplog.text


@pytest.mark.parametrize("what", ["lost", "twice", "late", "damaged"])
def test_news_may_be_lost_or_damaged_or_come_twice_or_late(
    tmp_path: Path, alone: Case, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    case, real, posted = Case(tmp_path / "agents", **KINDS["asha"]), Work.post, list[tuple[Item, bytes]]()

    def post(work: Work, item: Item, content: bytes) -> None:
        posted.append((item, content))
        is_third = len(posted) % 3 == 0
        if what == "damaged" and is_third:
            content = content[:200]
        if what != "lost" or not is_third:
            real(work, item, content)
        if what in ("twice", "late"):
            old = posted[-1 if what == "twice" else -min(5, len(posted))]
            real(work, Item(f"n{99_000_000 + len(posted)}", f"again-{len(posted)}", NEWS), old[1])

    monkeypatch.setattr(Work, "post", post)
    monkeypatch.setattr("hyperlax.backends.open_training._REPEAT_SECONDS", 0.05)
    monkeypatch.setattr("hyperlax.backends.open_agents.MOST_LOSSES", 100)
    with at_work(case, FakeBackend(), FakeBackend()):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told()


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that agents tell."""
    real, posted = Work.post, list[bytes]()

    def post(work: Work, item: Item, content: bytes) -> None:
        posted.append(content)
        real(work, item, content)

    monkeypatch.setattr(Work, "post", post)
    return posted


def with_old_news(case: Case, news: BatchDone) -> Callable[..., Backend]:
    """What makes a leader that finds old news on the desk."""
    lead = leading(case)

    def make(*arguments: Any) -> Backend:
        (case.directory / "work").mkdir(parents=True, exist_ok=True)
        (case.directory / "work" / "n00000007.old-1-ab.news").write_bytes(pack_done(news))
        return lead(*arguments)

    return make


def test_news_of_another_configuration_is_not_a_result(tmp_path: Path, alone: Case, posted: list[bytes]) -> None:
    first = Case(tmp_path / "first", **KINDS["asha"])
    with at_work(first, FakeBackend()):
        assert first.start(leading(first)) == 0
    (done, result), *_ = (
        (done, one) for done in map(read_done, posted) for one in done.results if one.number == 1 and one.is_done
    )
    better = replace(result, curve=replace(result.curve, mean=result.curve.mean + 1000.0))
    name = (f"b00001-{0:012x}",)
    for root, news in {
        "result": BatchDone((1,), "old-1-ab", (better,), done.timing, batches=name),
        "error": BatchDone((1,), "old-1-ab", error=ValueError("of another version"), batches=name),
    }.items():
        case = Case(tmp_path / root, **KINDS["asha"])
        with at_work(case, FakeBackend()):
            assert case.start(with_old_news(case, news)) == 0
        assert case.told() == alone.told()


def test_the_failure_of_an_earlier_try_is_not_that_of_the_next(tmp_path: Path, posted: list[bytes]) -> None:
    case = Case(tmp_path, **KINDS["median"])
    with at_work(case, FakeBackend(fail={4: "loss is nan"})):
        assert case.start(leading(case)) == 0
    assert case.states()[4] == "FAIL"
    (failure, *_) = (done for done in map(read_done, posted) for one in done.results if one.fault_step is not None)
    with at_work(case, FakeBackend()):
        assert case.resume(with_old_news(case, failure), retry_failed=True) == 0
    assert "FAIL" not in case.states()


@dataclass
class AtDesk:
    """An agent's training at a desk that a test lays."""

    root: Path

    def __post_init__(self) -> None:
        config: Any = SimpleNamespace(kind="refilled", super_batch=1)
        self.backend = FakeBackend().bind(config, CheckpointManager(self.root / "checkpoints", 60.0))
        self.work, base = Work(self.root), Case(self.root).recipe.config.algorithm
        self.training = OpenTraining(self.work, "agent-1-a", self.backend, "", base, seconds=60.0)

    def claim(self, name: str) -> None:
        """Let the agent claim a trial."""
        self.offer(name)
        (item,) = (item for item in self.work.items() if item.batch == name)
        ticket, claim = self.work.read(item), self.work.claim(item, "agent-1-a")
        assert ticket and claim
        self.training.add(claim, ticket)

    def offer(self, name: str) -> None:
        """Let a trial wait for the agent."""
        self.work.offer(name, Ticket("e", [(int(name[1:6]), {})]))

    def wanted(self) -> list[str]:
        """The trials that the agent would claim."""
        waiting = [item for item in self.work.items() if item.kind == "ticket"]
        wanted = [
            item.batch for item in waiting if (ticket := self.work.read(item)) and self.training.wants(item, ticket)
        ]
        self.training.start()
        return wanted


def test_a_claim_that_is_lost_before_it_begins_takes_no_lane(tmp_path: Path) -> None:
    desk, name = AtDesk(tmp_path), f"b00003-{0:012x}"
    desk.claim(name)
    desk.training.start()  # which waits for more
    desk.work.forget(name)
    desk.training.look()
    desk.training.start()
    assert desk.backend.in_lanes == {} and desk.training.batches == {} and not desk.training.is_busy


def test_the_next_repetition_of_a_lost_trial_waits_until_that_has_left(tmp_path: Path) -> None:
    desk, lost, again = AtDesk(tmp_path), f"b00001-{0:012x}", f"b00001-{1:012x}"
    desk.claim(lost)
    for _ in range(2):
        desk.training.start()
    desk.work.forget(lost)
    desk.offer(again)
    assert desk.wanted() == []
    desk.training.look()
    assert desk.wanted() == [again]


@pytest.mark.parametrize("trials", [{}, {1: {"no.such": 1}}, {1: {"algorithm.hyperparam.gamma": "x"}}])
def test_a_ticket_whose_trials_are_not_of_the_study_is_damaged(tmp_path: Path, trials: dict[int, Any]) -> None:
    training = AtDesk(tmp_path).training
    assert training.is_sound(Ticket("e", [(1, {"algorithm.hyperparam.gamma": 0.5})]))
    assert not training.is_sound(Ticket("e", list(trials.items())))
    assert not training.is_sound(Ticket("e", [(1, {})], -1))


def test_nothing_is_claimed_past_a_trial_that_has_to_be_alone(tmp_path: Path) -> None:
    desk = AtDesk(tmp_path)
    desk.claim(f"b00001-{0:012x}")
    for _ in range(2):
        desk.training.start()
    assert list(desk.backend.in_lanes) == [1]
    for name in ("a00002", "b00003", "b00004"):
        desk.offer(f"{name}-{0:012x}")
        assert desk.wanted() == []


def test_the_lanes_of_agents_that_have_gone_are_not_counted(tmp_path: Path) -> None:
    work, nobody = Work(tmp_path), list[Any]([None])
    work.root.mkdir()
    leader = OpenAgents(work, FakeBackend(), *nobody, "", *nobody, checkpoints=None)
    for agent in ("gone-1-a", "here-1-a"):
        work.write_card(agent, AgentCard("host", 1, "cpu", 1, "today", {}))
        leader._note(BatchDone((), agent, (), {"lanes": 4}))
    leader._look_at_agents()
    assert leader.timing([])["lanes"] == 8
    work.remove_card("gone-1-a")
    leader._look_at_agents()
    assert leader.timing([])["lanes"] == 4


def test_a_result_that_is_older_than_the_known_one_is_not_taken(tmp_path: Path) -> None:
    work, nobody, name = Work(tmp_path), list[Any]([None]), f"b00001-{0:012x}"
    leader, one = OpenAgents(work, FakeBackend(), *nobody, "", *nobody, checkpoints=None), list[Any]()
    leader._batches[name] = Batch(name, tuple[Any](SimpleNamespace(number=number) for number in (1,)), 0)
    for segments in (2, 1, 2):
        one.append(SimpleNamespace(number=1, segments=segments, is_done=False, fault_step=None, intervals=()))
        leader._note(BatchDone((1,), "agent-1-a", tuple(one[-1:]), {}, batches=(name,), trained=(segments,)))
    assert leader._done[1] is one[0]


def test_another_repetition_that_was_saved_does_not_continue(tmp_path: Path) -> None:
    desk, saved = AtDesk(tmp_path), SimpleNamespace(number=1, repetition=1)
    fake: Any = desk.backend

    def restore(*_: Any) -> list[Any]:
        fake.in_lanes[1] = saved
        return [saved]

    fake.restore = restore
    desk.claim(f"b00001-{0:012x}")
    for _ in range(2):
        desk.training.start()
    assert fake.in_lanes[1] is not saved and fake.in_lanes[1].repetition == 0


def test_a_result_that_cannot_be_read_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "hyperlax")
    Work(tmp_path).post(item := Item(f"b00001-{0:012x}", "", RESULT), b"half")
    assert numbers_in(item, Work(tmp_path)) == ()
    assert "The result of b00001-000000000000 cannot be read (" in caplog.text


def test_an_error_of_a_program_is_told_as_where_it_was(tmp_path: Path) -> None:
    reasons = []
    for root in ("alone", "agents"):
        case, backend = Case(tmp_path / root, **KINDS["asha"]), FakeBackend(raises={4: ValueError("no luck")})
        with at_work(case, backend):
            assert case.start(backend if root == "alone" else leading(case)) == 0
        assert case.states()[4] == "FAIL" and case.states().count("FAIL") == 1
        reasons.append([trial.user_attrs.get("reason") for trial in case.study().trials])
    assert reasons[0] == reasons[1] and reasons[0][4].startswith("ValueError: no luck")


def test_a_trial_that_kills_its_agents_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours die with it, and are not at fault."""
    case, is_over, dead = Case(tmp_path, **KINDS["median"]), threading.Event(), list[str]()

    class Dead(BaseException):
        """Stands for an agent that is killed: nothing is handed back."""

    @dataclass
    class Deadly(FakeBackend):
        def advance(self) -> Any:
            if 4 in self.in_lanes:
                raise Dead
            return super().advance()

    def die(agent: AgentProcess) -> None:
        agent._training = None

    monkeypatch.setattr(AgentProcess, "_hand_back", die)
    monkeypatch.setattr(LocalAgents, "dead", lambda self: {dead.pop(): "died" for _ in range(len(dead))})

    def train() -> None:
        while not is_over.is_set():
            agent = AgentProcess(place_of(case.directory, case.recipe, Deadly()), is_over.is_set)
            try:
                agent.run()
            except Dead:
                dead.append(agent.name)

    with meanwhile(train):
        assert case.start(leading(case, lease=3.0)) == 0
        is_over.set()
    assert case.states()[4] == "FAIL" and case.states().count("FAIL") == 1
    assert case.study().trials[4].user_attrs["reason"].startswith("lost three times, the last time because its agent ")


@dataclass
class Watched(Slow):
    """Takes its time for a segment. begun: trials that entered, from their first segment on."""

    begun: list[int] = field(default_factory=list)

    def enter(self, trials: Any, repetition: int = 0, group: int = 0) -> list[int]:
        entered = super().enter(trials, repetition, group)
        self.begun += entered
        return entered


def test_an_agent_that_is_terminated_hands_its_trials_back_with_their_checkpoint(tmp_path: Path, alone: Case) -> None:
    case, stop, is_over = Case(tmp_path / "agents", **KINDS["asha"]), StopRequest(), threading.Event()
    whole = {number for number, state in enumerate(alone.states()) if state == "COMPLETE"}

    def stop_in_the_middle(count: int) -> None:
        """Stop while a trial trains that the leader does not stop."""
        if any(number in whole and 1 < lane.segments < POINTS for number, lane in first.in_lanes.items()):
            stop.set()

    first, second = Watched(seconds=0.05, lanes=2, after_segment=stop_in_the_middle), Watched(seconds=0.01)
    agent = AgentProcess(place_of(case.directory, case.recipe, first), stop.is_set)
    stop.tell(agent.stop)

    def leave() -> None:
        agent.run()
        handed_back = {number for number, lane in first.in_lanes.items() if lane.segments}
        assert {item.kind for item in Work(case.directory).items()} <= {"ticket", NEWS}
        with at_work(case, second):
            eventually(is_over.is_set)
        assert handed_back and not handed_back & set(second.begun)

    with meanwhile(leave):
        assert case.start(leading(case)) == 0
        is_over.set()
    assert case.told() == alone.told()
    assert not (case.directory / "checkpoints").exists()


def test_a_leader_that_stops_has_the_agents_hand_back(tmp_path: Path, alone: Case) -> None:
    case, slow = Case(tmp_path / "agents", **KINDS["asha"]), Slow(seconds=0.1)
    backend = leading(case)

    def make(*arguments: Any) -> Any:
        made: Any = backend(*arguments)
        look = made._look

        def look_and_stop() -> None:
            look()
            if len(case.batches()) > 1 and not made._is_stopping:
                os.kill(os.getpid(), signal.SIGTERM)

        made._look = look_and_stop
        return made

    with at_work(case, slow):
        assert case.start(make) == 143
        assert Work(case.directory).items() == []
        assert case.resume(leading(case)) == 0
    assert case.told() == alone.told()


def test_a_lane_that_is_left_late_costs_only_time(tmp_path: Path, alone: Case) -> None:
    """An agent that never sees what is decided trains every trial to its end."""
    case = Case(tmp_path / "agents", **KINDS["asha"])

    class Blind(Work):
        def items(self) -> list[Item]:
            return [item for item in super().items() if item.kind == "ticket"]

        def renew(self, claim: Item) -> bool:
            super().renew(claim)
            return True

    with at_work(case, FakeBackend(), desk=Blind(case.directory)):
        assert case.start(leading(case)) == 0
    assert case.told() == alone.told()


def test_lanes_of_a_program_continue_on_another_agent_to_the_same_bits(tmp_path: Path) -> None:
    """Real lanes: one agent hands back in the middle, and two more train what is left, from its checkpoint."""
    recipe = TABLES / "own_lanes.py"
    words = f"optuna-hp-search --algo-and-network-config {recipe} --seed 3 --n-trials 8 --num-seeds 2 --in-flight 3 "
    words += "--pruner asha --pruner-min-segments 1 --runner-hparam-batch-size 2 --log-level WARNING"
    run(f"{words} --output-root {tmp_path / 'alone'}")
    study, stop, is_over = tmp_path / "agents" / "own_lanes", StopRequest(), threading.Event()
    place = Place(
        desk=Work(study),
        recipe=load(str(recipe)),
        make_backend=local_backend,
        checkpoints=lambda is_confirmation: CheckpointManager(study / "checkpoints", 0.0),
        device_kind=device_kind,
        is_over=is_over.is_set,
        is_led=lambda: True,
    )

    def train() -> None:
        first, others = AgentProcess(place, stop.is_set), [AgentProcess(place, is_over.is_set) for _ in range(2)]
        with meanwhile(first.run):
            eventually(lambda: list((study / "checkpoints").glob("pool_*.npz")))
            stop.set()
        with meanwhile(others[0].run), meanwhile(others[1].run):
            eventually(is_over.is_set)

    with meanwhile(train):
        run(f"{words} --agents 0 --output-root {study.parent}")
        is_over.set()
    assert results(study) == results(tmp_path / "alone" / "own_lanes")
    assert not (study / "checkpoints").exists()


def test_what_two_agents_save_does_not_clash(tmp_path: Path) -> None:
    saves = CheckpointManager(tmp_path, 0.0)
    one, other = saves.owned_by("host-1-a"), saves.owned_by("host-1-ab")

    def saved(*trials: int) -> tuple[Metadata, dict[str, np.ndarray]]:
        return Metadata(trials, {"hyperparameters": [f"of {trial}" for trial in trials]}, 1, {}), {"state": np.zeros(1)}

    def held() -> list[tuple[int, ...]]:
        return sorted(metadata.trials for metadata, _ in saves.pools())

    one.save_pools([saved(0), saved(1, 2)])
    other.save_pools([saved(3)])
    one.save_pools([saved(1, 2)])
    assert held() == [(1, 2), (3,)]
    saves.prune_pools(["host-1-ab"], [4])
    assert held() == [(3,)]
    saves.prune_pools([], [3])
    assert held() == [(3,)]
    saves.save_pools([saved(5)])
    assert held() == [(5,)]
    assert saved(7, 8, 9)[0].only([9, 7]) == saved(9, 7)[0]
