"""`run-study --join` in several processes: one leads, the others train for it, and when it is killed one of them leads."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperlax import cli
from hyperlax.backends.local_agents import Share
from hyperlax.errors import HyperlaxError
from hyperlax.study.joining import lead_or_join
from hyperlax.study.lock import StudyRunning
from tests.desk import results
from tests.test_agent_command import hosts, start
from tests.waiting import eventually

RECIPE = """
import os, time
from hyperlax.space import UniformContinuous
from hyperlax.tasks import Function, Measure

def train(params, report, seed):
    for step in (1, 2):
        while "trial_00003" < report.directory.parent.name and not os.path.exists(os.environ.get("GO", "/")):
            time.sleep(0.05)
        report(step, score=params["x"] * step + seed)

def get_task():
    return Function(train, Measure("score", "maximize"), budget=2, evaluations=2)

def get_base_params():
    return {"x": 0.5}

def get_base_hyperparam_distributions():
    return {"x": UniformContinuous(domain=(0.0, 1.0))}
"""
STUDY = """
algo_and_network_config: {recipe}
n_trials: 12
seed: 3
num_seeds: 2
slots: 2
optuna_study_batch_size: 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (recipe := tmp_path / "score.py").write_text(RECIPE)
    (path := tmp_path / "study.yaml").write_text(STUDY.format(recipe=recipe))
    return path


def test_the_next_process_leads_when_the_leader_is_killed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(shlex.split(f"run-study {file} --output-root {tmp_path / 'alone'}")) == 0
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    words = ["run-study", str(file), "--join", "--output-root", str(tmp_path / "joined")]
    joined = tmp_path / "joined" / "score"
    leader = start(words, tmp_path, tmp_path / "leader.log")
    eventually(lambda: list((joined / "work").glob("*.agent")))
    others = [start(words, tmp_path, tmp_path / f"other_{index}.log") for index in range(2)]
    eventually(lambda: len(list((joined / "work").glob("*.agent"))) > 1 or leader.poll() is not None)
    eventually(lambda: (joined / "optuna_exec_batch_0000" / "success.txt").exists())
    leader.send_signal(signal.SIGKILL)
    assert leader.wait() == -9, (tmp_path / "leader.log").read_text()
    (tmp_path / "go").touch()
    statuses = [other.wait() for other in others]
    said = "".join((tmp_path / f"other_{index}.log").read_text() for index in range(2))
    assert statuses == [0, 0], said
    assert said.count("The leader has ended. This process leads now.") == 1 and "Nobody leads" not in said
    assert "This agent trains for the study in" in said and "trains alone" not in said
    assert said.count(f"Training for process {leader.pid} on ") == 2
    (alone,) = (tmp_path / "alone").iterdir()
    assert results(joined) == results(alone)
    assert len(hosts(joined)) == 12


def test_one_that_trains_for_another_has_the_same_options_but_those_of_its_machine_and_ends_on_term(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run-study", str(file), "--output-root", str(tmp_path / "joined"), "--agents", "0"]
    leader = start(words, tmp_path, tmp_path / "leader.log")
    work = tmp_path / "joined" / "score" / "work"
    eventually((work / "leader.json").exists)
    assert cli.main([*words[:-2], "--join", "--seed", "5"]) == 2
    assert "--seed: study has 3, given 5" in capsys.readouterr().err
    assert cli.main(words) == 2
    said = f"is running this study. Train for it: hyperlax agent {work.parent}. Or wait for it, or stop it and resume."
    assert said in capsys.readouterr().err
    other = start([*words[:-2], "--join", "--quiet", "--slots", "3"], tmp_path, tmp_path / "other.log")
    eventually(lambda: list(work.glob("*.agent")))
    (card,) = work.glob("*.agent")
    assert json.loads(card.read_text())["slots"] == 3 and (tmp_path / "other.log").read_text() == ""
    for process in (other, leader):
        process.terminate()
        assert process.wait() == 143, (tmp_path / "other.log").read_text()


@pytest.mark.parametrize("more", ["", "--plan-only"])
def test_refusals(file: Path, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = f"{file} {file}" if not more else str(file)
    assert cli.main(shlex.split(f"run-study {files} --join {more}")) == 2
    assert "--join runs the study of one file. Give one, without --plan-only." in capsys.readouterr().err


class Trains:
    """A child that trains until its input is closed."""

    def __init__(self, begin: Callable[[], object]):
        self.input, self._begin = io.BytesIO(), begin

    def is_alive(self) -> bool:
        self._begin()
        self._begin = lambda: None
        return not self.input.closed

    def wait(self) -> str:
        return "exited with status 143"


@pytest.mark.parametrize("how", ["removed", "moved", "another in its place"])
def test_a_study_that_is_gone_is_not_led(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (root := tmp_path / "study").mkdir()
    (root / "study.json").touch()
    moved = tmp_path / "moved"

    def plan(takes_over: bool) -> Any:
        assert not takes_over
        raise StudyRunning(root, "process 1")

    def move() -> None:
        root.rename(moved)
        if how == "removed":
            shutil.rmtree(moved)
        if how == "another in its place":
            shutil.copytree(moved, root)

    monkeypatch.setattr("hyperlax.study.joining.start_agent", lambda *_: Trains(move))
    monkeypatch.setattr("hyperlax.study.joining.holder_of", lambda root: None)
    with pytest.raises(HyperlaxError, match=f"^{root}: the study was moved or removed.$"):
        lead_or_join(plan, Share(), "INFO")
