"""A study of real training that prunes, as a user runs, interrupts and resumes it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.desk import batches, hyperlax, optuna_trials, popen, rows, search, study_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FLAGS = {
    "--n-trials": "12", "--num-evaluations": "4", "--num-eval-episodes": "4", "--total-timesteps": "1100",
    "--optuna-study-batch-size": "4",
    "--pruner": "asha", "--pruner-min-segments": "1", "--pruner-reduction-factor": "2", "--checkpoint-seconds": "0",
}  # fmt: skip


def words(output_root: str, **more: str) -> list[str]:
    given = search("ppo_mlp", output_root)
    for name, value in {**FLAGS, **more}.items():
        if name in given:
            given[given.index(name) + 1] = value
        else:
            given += [name, value]
    return given


def told(directory: Path) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in optuna_trials("ppo_mlp", directory)
    ]


def curves(directory: Path) -> dict[str, list[str]]:
    """Trial -> the lines of its curve."""
    found: dict[str, list[str]] = {}
    for batch in batches(directory):
        for line in (batch / "curves.csv").read_text().splitlines()[1:]:
            found.setdefault(line.split(",")[0], []).append(line)
    return found


def test_an_interrupted_study_that_prunes_ends_as_one_that_was_left_alone(desk: Path) -> None:
    run = hyperlax(desk, *words("whole"))
    assert run.returncode == 0, run.stderr
    whole, directory = study_of(desk, "ppo_mlp", "whole"), study_of(desk, "ppo_mlp", "parts")
    assert {"COMPLETE", "PRUNED"} == {trial[1] for trial in told(whole)}
    with popen(desk, *words("parts")) as process:
        patience = time.monotonic() + 300
        while not batches(directory) and time.monotonic() < patience:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err
    run = hyperlax(desk, "optuna-hp-search", "--resume-from", str(directory.relative_to(desk)))
    assert run.returncode == 0, run.stderr
    assert told(directory) == told(whole)
    assert curves(directory) == curves(whole)
    assert not (directory / "checkpoints").exists()


def test_a_race_over_seeds_trains_all_seeds_of_what_is_complete(desk: Path) -> None:
    run = hyperlax(desk, *words("race", **{"--pruner": "none", "--seed-schedule": "racing", "--num-seeds": "2"}))
    assert run.returncode == 0, run.stderr
    directory = study_of(desk, "ppo_mlp", "race")
    for batch in batches(directory):
        seeds = {row["trial"]: set[str]() for row in rows(batch / "summary.csv")}
        for row in rows(batch / "curves.csv"):
            seeds[row["trial"]].add(row["seed"])
        for row in rows(batch / "summary.csv"):
            assert seeds[row["trial"]] == ({"0", "1"} if row["state"] == "COMPLETE" else {"0"})
        assert 0 < json.loads((batch / "timing.json").read_text())["useful_share"] <= 1
