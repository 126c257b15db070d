"""`--agents` and `hyperlax agent`, with processes of their own: the same study as in one process, and refusals in plain words."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hyperlax import cli
from tests.desk import hyperlax, results, study_of, write_small_recipes
from tests.test_bad_input import TABLES
from tests.waiting import eventually

RECIPE = TABLES / "own_code.py"
FUNCTIONS = f"optuna-hp-search --algo-and-network-config {RECIPE} --slots 2 --seed 3 --n-trials 6 --num-seeds 2"
PPO = (
    "optuna-hp-search --algo-and-network-config ppo_mlp --env-config gymnax.cartpole --n-trials 6 --seed 1 --num-seeds 2 "
    "--num-evaluations 10 --num-eval-episodes 2 --checkpoint-seconds 0 --total-timesteps {steps}"
)


def start(words: Sequence[str], cwd: Path, log: Path, has_own_session: bool = False) -> subprocess.Popen[bytes]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "hyperlax.cli", *words]
    with log.open("wb") as out:
        return subprocess.Popen(
            command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=has_own_session
        )


def hosts(directory: Path) -> list[str]:
    """The agent of every batch."""
    return [json.loads(path.read_text())["agent"] for path in directory.rglob("timing.json")]


@pytest.mark.parametrize(
    "more",
    [
        "--pruner asha --pruner-min-segments 1 --confirm-top 1 --confirm-seeds 2",
        pytest.param("--seed-schedule racing", marks=pytest.mark.slow),
    ],
)
def test_functions_that_end_early_train_in_agents_as_in_one_process(tmp_path: Path, more: str) -> None:
    for place, agents in (("alone", "none"), ("agents", "2")):
        assert cli.main(shlex.split(f"{FUNCTIONS} --output-root {tmp_path / place} --agents {agents} {more}")) == 0
    alone, agents = (next((tmp_path / place).iterdir()) for place in ("alone", "agents"))
    assert results(agents) == results(alone)
    assert "PRUNED" in str(results(agents)) and all(hosts(agents))


def test_functions_train_in_agents_as_in_one_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, more in (("alone", ""), ("agents", "--agents 2")):
        assert cli.main(shlex.split(f"{FUNCTIONS} --output-root {tmp_path / place} {more}")) == 0
    alone, agents = (next((tmp_path / place).iterdir()) for place in ("alone", "agents"))
    assert results(agents) == results(alone)
    assert len(hosts(agents)) == 6
    assert cli.main(["agent", str(agents), "--algo-and-network-config", "ppo_mlp"]) == 2
    said = f"--algo-and-network-config ppo_mlp: the study in {agents} trains {RECIPE}. Leave the option out."
    assert said in capsys.readouterr().err
    assert cli.main(["agent", str(agents), "--algo-and-network-config", str(RECIPE)]) == 0
    assert cli.main(["agent", str(agents)]) == 0
    assert f"The study in {agents} has ended." in caplog.text
    assert cli.main(["agent", str(agents), "--sbatch"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[0] == "sbatch" and words[-1] == f"exec hyperlax agent {agents} --idle-timeout 600"
    assert "--cpus-per-task" in words and "--gres" not in words
    assert cli.main(["delete", str(agents), "--yes"]) == 0
    assert not agents.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("agent nowhere", "agent nowhere: is not a directory. Give the directory of a study"),
        ("agent empty", "agent empty: holds no study.json"),
        ("agent above", "agent above: holds no study.json. Give the study below it: above/ppo_mlp/gymnax_cartpole"),
        ("agent above/ppo_mlp", "Give the study below it: above/ppo_mlp/gymnax_cartpole"),
        ("agent empty --idle-timeout -1", "--idle-timeout needs"),
        (
            f"{FUNCTIONS} --in-flight 2",
            "--in-flight 2 is for studies with --pruner or --seed-schedule racing.",
        ),
        (f"{FUNCTIONS} --agents -1", "--agents needs a whole number of at least 0 or none, got -1."),
    ],
)
def test_refusals(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (study := tmp_path / "above" / "ppo_mlp" / "gymnax_cartpole").mkdir(parents=True)
    (study / "study.json").touch()
    assert cli.main(shlex.split(words)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--pruner median --pruner-min-segments 7"])
def test_ppo_trains_in_agents_that_come_and_go_as_in_one_process(tmp_path: Path, more: str) -> None:
    """One agent is terminated in the middle of a batch, one is killed, and two more train what is left."""
    write_small_recipes(tmp_path)
    search = shlex.split(f"{PPO.format(steps=200_000)} {more}")
    assert hyperlax(tmp_path, *search, "--output-root", "alone").returncode == 0
    leader = start([*search, "--output-root", "agents", "--agents", "0"], tmp_path, tmp_path / "leader.log")
    study = tmp_path / study_of(Path(), "ppo_mlp", "agents")
    eventually((study / "work" / "leader.json").exists)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        agent = start(["agent", str(study)], tmp_path, tmp_path / f"{number}.log")
        eventually((study / "checkpoints").exists)
        time.sleep(0.5)
        agent.send_signal(number)
        assert agent.wait() == status, (tmp_path / f"{number}.log").read_text()
    others = [start(["agent", str(study)], tmp_path, tmp_path / f"other_{index}.log") for index in range(2)]
    assert leader.wait() == 0, (tmp_path / "leader.log").read_text()
    assert [agent.wait() for agent in others] == [0, 0]
    assert "continue" in "".join((tmp_path / f"other_{index}.log").read_text() for index in range(2))
    assert results(study) == results(tmp_path / study_of(Path(), "ppo_mlp", "alone"))
