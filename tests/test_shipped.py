"""The recipes and studies that come with Hyperlax are listed, shown and copied by name, also without a clone."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

from hyperlax import cli, shipped
from hyperlax.file_studies import planned_studies
from hyperlax.recipe import load
from tests.desk import ROOT

pytestmark = pytest.mark.usefixtures("elsewhere")


def said(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(shlex.split(command)) == 0
    return capsys.readouterr().out


def test_each_is_listed_with_a_line(capsys):
    lines = said("recipes", capsys).splitlines()
    files = [*(ROOT / "recipes").glob("*.py"), *(ROOT / "studies").glob("*.yaml")]
    assert len(files) >= 3 + 6
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    assert listed.keys() == {path.stem for path in files} and all(line.endswith(".") for line in listed.values())
    assert listed["sac_mlp"] == "SAC with multilayer perceptrons, for continuous actions."


def test_one_is_printed_as_it_is(capsys):
    assert said("recipes show sac_mlp", capsys) == (ROOT / "recipes" / "sac_mlp.py").read_text()


def test_a_copied_recipe_is_the_one_that_its_name_means(capsys):
    assert said("recipes copy sac_mlp recipes/small.py", capsys).endswith("--algo-and-network-config small\n")
    assert load("small").path == Path("recipes/small.py")
    assert said("recipes copy sac_mlp", capsys).endswith("--algo-and-network-config sac_mlp\n")
    assert load("sac_mlp").path == Path("recipes/sac_mlp.py")
    assert said("recipes copy sac_mlp mine.py", capsys).endswith("--algo-and-network-config mine.py\n")
    assert load("mine.py").space == load("sac_mlp").space


def test_a_copied_study_runs_as_the_copy_says(capsys):
    words = shlex.split(said("recipes copy ppo_cartpole_quick", capsys).partition(": hyperlax ")[2])
    [study] = planned_studies(words[1:], {})
    assert words[0] == "run-study" and study.recipe.name == "ppo_mlp"


def test_an_edited_copy_is_not_replaced(capsys):
    said("recipes copy sac_mlp", capsys)
    Path("recipes/sac_mlp.py").write_text("mine")
    assert cli.main(["recipes", "copy", "sac_mlp"]) == 2
    assert Path("recipes/sac_mlp.py").read_text() == "mine"


def test_a_wheel_has_them(monkeypatch, tmp_path):
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert packed["force-include"] == {kind: f"hyperlax/shipped/{kind}" for kind in ("recipes", "studies")}
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path)
    (tmp_path / "shipped" / "studies").mkdir(parents=True)
    (tmp_path / "shipped" / "studies" / "one.yaml").write_text("# One study.\n")
    assert [one.line for one in shipped.shipped("studies")] == ["One study."]
