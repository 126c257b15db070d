"""Law 2, at any instant: a study that is killed again and again ends as one that is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.desk import study_of, told
from tests.faults.harness import TOY, Differences, commands, kill_often
from tests.faults.kills import AGENTS, MODES, kill_mode

HYPERBAND = (
    "--pruner hyperband --pruner-min-segments 1 --pruner-reduction-factor 2 --num-evaluations 6 --total-timesteps 1536"
)


FEW = {"hyperband, racing seeds": 3, "`--confirm-top`": 3, "agents": 3, "agents, hyperband": 3}
"""Kills of some kinds of studies by default."""


@pytest.mark.parametrize(
    ("mode", "kills"), [*FEW.items(), *(pytest.param(name, 20, marks=pytest.mark.slow) for name in [*MODES, *AGENTS])]
)
def test_studies_of_every_kind_survive_kills(mode: str, kills: int, tmp_path: Path) -> None:
    found = kill_mode(mode, tmp_path / "studies", kills, seed=0)
    assert [one[1:] for one in found] == [(0, 0, 0)] * len(found)


@pytest.mark.slow
def test_studies_with_hyperband_survive_25_kills(tmp_path: Path) -> None:
    found = kill_mode("hyperband", tmp_path / "studies", 25, seed=0)
    assert found == [Differences(16, 0, 0, 0)] * len(found)
    states = [trial[1] for trial in told(tmp_path / "studies" / "whole" / TOY)]
    assert "PRUNED" in states and "COMPLETE" in states


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("options", ["", HYPERBAND], ids=["closed batches", "hyperband"])
def test_studies_of_real_ppo_survive_5_kills(desk: Path, tmp_path: Path, options: str) -> None:
    def search(root: Path) -> list[str]:
        return [sys.executable, "-m", "tests.faults.search", str(desk), str(root), *options.split()]

    found = kill_often(commands(search), study_of(Path(), "ppo_mlp", ""), tmp_path, kills=5, seed=0)
    assert found == [Differences(12, 0, 0, 0)] * len(found)
