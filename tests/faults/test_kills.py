"""Law 2, at any instant: a study that is killed again and again ends as one that is left alone."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from tests.desk import study_of, told
from tests.faults.agents import kill_leaders_and_agents
from tests.faults.harness import TOY, check, commands, kill_often
from tests.faults.study import ARGUMENTS, PRUNED, run_toy
from tests.study_cases import Case

HYPERBAND = (
    "--pruner hyperband --pruner-min-segments 1 --pruner-reduction-factor 2 --num-evaluations 6 --total-timesteps 1536"
)


@pytest.mark.timeout(500)
@pytest.mark.parametrize("kills", [10, pytest.param(25, marks=pytest.mark.slow)])
def test_studies_survive_kills(kills: int, tmp_path: Path) -> None:
    _, trials = kill_often(run_toy, TOY, tmp_path, kills, seed=0)
    assert trials == 16


@pytest.mark.timeout(500)
@pytest.mark.parametrize("mode", ["closed", "hyperband", "racing"])
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_studies_survive_kills_of_leaders_and_agents(kills: int, mode: str, tmp_path: Path) -> None:
    changes = {"closed": {}, "hyperband": PRUNED, "racing": {"seed_schedule": "racing", "num_seeds": 3}}[mode]
    whole = Case(tmp_path / "whole", **ARGUMENTS, **changes)
    assert whole.start() == 0
    died = studies = 0
    while died < kills:
        root = tmp_path / f"killed_{studies}"
        died += kill_leaders_and_agents(root, kills - died, seed=studies, **changes)
        assert check(root / TOY, whole.directory) == 16
        studies += 1


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_studies_with_hyperband_survive_25_kills(tmp_path: Path) -> None:
    _, trials = kill_often(partial(run_toy, **PRUNED), TOY, tmp_path, kills=25, seed=0)
    assert trials == 16
    states = [trial[1] for trial in told(tmp_path / "whole" / TOY)]
    assert "PRUNED" in states and "COMPLETE" in states


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("options", ["", HYPERBAND], ids=["closed batches", "hyperband"])
def test_studies_of_real_ppo_survive_5_kills(desk: Path, tmp_path: Path, options: str) -> None:
    def search(root: Path) -> list[str]:
        return [sys.executable, "-m", "tests.faults.search", str(desk), str(root), *options.split()]

    _, trials = kill_often(commands(search), study_of(Path(), "ppo_mlp", ""), tmp_path, kills=5, seed=0)
    assert trials == 12
