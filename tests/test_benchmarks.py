"""The instruments behind benchmarks/README.md run, and their tables say what was measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.mixed import exact_and_mixed
from benchmarks.timed import Row, Version, cells, in_turn, process
from tests.desk import ROOT


def test_a_row_has_medians_paired_ratios_and_the_mark():
    samples = {
        "before": [{"wall": 10.0}, {"wall": 30.0}, {"wall": 20.0}],
        "now": [{"wall": 5.0}, {"wall": 10.0}, {"wall": 8.0}],
    }
    assert cells(Row("study", "wall", "before", "now", mark=2.2), samples) == [
        *("study", "wall", "20.0 s", "8.0 s", "2.50 (2.00 to 3.00)", "2.2")
    ]
    assert cells(Row("study", "wall", "before", "now", mark=2.6), samples)[-1] == "2.6, missed"
    assert cells(Row("start", "wall", "before", "now", limit=3), samples)[-1] == "3 s, missed"
    assert cells(Row("speed", "wall", "before", "now", steps=800), samples)[2:4] == ["40 steps/s", "100 steps/s"]
    assert cells(Row("alone", "wall", "absent", "now", mark=2), samples)[2:] == ["", "8.0 s", "", "2"]


def test_cases_take_turns_in_both_orders():
    order = []
    cases = {name: lambda name=name: order.append(name) or {"wall": 1.0} for name in "ab"}
    assert len(in_turn(cases, 2)["a"]) == 2
    assert order == ["a", "b", "b", "a"]


def test_a_process_is_timed_stopped_in_time_and_its_failure_shown():
    command = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.3)"]
    sample = process(command, {})
    assert sample["wall"] > 0.6 and 0.3 <= sample["CPU"] < sample["wall"]
    with pytest.raises(TimeoutError):
        process([sys.executable, "-c", "import time; time.sleep(60)"], {}, limit=0.5)
    with pytest.raises(SystemExit, match="no such thing"):
        process([sys.executable, "-c", "raise SystemExit('no such thing')"], {})


def test_another_version_is_run_from_its_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hyperlax").mkdir()
    (tmp_path / "hyperlax" / "__init__.py").touch()
    (tmp_path / "hyperlax" / "cli.py").write_text("raise SystemExit('the other version')")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="the other version"):
        Version("other", tmp_path, Path(sys.executable)).search("", tmp_path)


def test_mixed_and_exact_programs_train_the_same_steps(desk):
    cases, steps = exact_and_mixed(str(desk / "recipes" / "ppo_mlp.py"), "gymnax.cartpole", 1, trials=1, seconds=0.0)
    assert steps == 64
    assert all(set(run()) == {"wall", "CPU"} for run in cases.values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_scaling_measures_what_fits_into_its_time(desk, tmp_path, monkeypatch):
    tasks = {name: (str(desk / "recipes" / f"{recipe}.py"), place) for name, (recipe, place) in scaling.TASKS.items()}
    monkeypatch.setattr(scaling, "TASKS", tasks)
    report = scaling.Report(tmp_path, time.monotonic() + 600)
    scaling.study(report, 2, 1_200)
    scaling.memory(report, 2, 64)
    scaling.devices(report, 2, 256)
    scaling.ladder(report, [1, 2], 0.01)
    report.deadline = time.monotonic()
    scaling.ladder(report, [4096], 0.01)
    report.plot()
    text = report.write()
    assert (tmp_path / "scaling.md").read_text() == text and (tmp_path / "scaling.png").stat().st_size > 1000
    assert "2 SAC trials, 1,200 steps each, cold" in text and re.search(r"\| 2 lanes, .* \| 1 \| 2 of 2 \|", text)
    assert [name for name, *_ in re.findall(r"\| (\w+ \w+) \| (\d) \| [\d,]+ \|", text)] == [scaling.PPO] * 2 + [
        scaling.SAC
    ] * 2
    assert text.count("lanes reach half") == 2
    assert "several devices (there is one)" in text and "PPO CartPole with 4096 lanes" in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", ["study", "rate", "pruning", "architectures", "wide", "batch", "rejax", "mixed"])
def test_each_comparison_runs_at_a_tiny_size(command, desk, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    words = ["--quick", "--rounds", "1", "--rejax-python", str(fake)]
    words += ["--against", str(ROOT), "--python", sys.executable] if command == "study" else []
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", command, *words],
        cwd=desk,  # its recipes are found before the shipped ones
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    head, line, *rows = done.stdout.splitlines()
    assert head.startswith("| | time | ") and line.startswith("|---") and rows
    assert all(re.search(r" (\d+\.\d s|[\d,]+ steps/s) \|", row) for row in rows)


@pytest.mark.slow
def test_lanes_of_a_jax_program_are_compared_at_a_tiny_size(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lanes", "--quick", "--rounds", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\| .* \| wall \| ", done.stdout, re.M)) == 4 and "Best accuracy: " in done.stdout


@pytest.mark.slow
def test_looks_are_measured_at_a_tiny_size():
    command = [sys.executable, "-m", "benchmarks.looking", "--trials", "12", "--studies", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| 12 (\| \d+\.\d\d / \d+\.\d\d ){4}\| \d\.\d MB \|$", done.stdout, re.M)
    assert "`list` of 2 studies of 10 trials: " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("what", ["overhead", "forest", "pruning"])
def test_functions_are_compared_at_a_tiny_size(what, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.functions", what, "--quick", "--rounds", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines()[2:]]
    last = ["folds that count", "folds trained", "best accuracy"] if what == "pruning" else ["best"]
    assert names == ["loop", "whole", "whole, CPU", *last]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("batch", r"a batch: [\d.]+ ms here, [\d.]+ ms through an agent, which adds -?[\d.]+ ms"),
        ("leader", r"CPU of a leader of 64 agents.*\n +100 trials  +[\d.]+ .*\n +300 trials  +[\d.]+ "),
        ("pair", r"two agents: [\d.]+ times as fast as one"),
    ],
)
def test_agents_are_measured_at_a_tiny_size(what, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agents", what, "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout)
