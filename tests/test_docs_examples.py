"""The Python in the documentation's pages runs, and the examples in docstrings come out as written."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from typing import Any

import pytest

import hyperlax
from hyperlax import api, recipe
from hyperlax.agent import save_agent
from hyperlax.envs import make, registry
from hyperlax.study.agents import agent_path
from tests.desk import ROOT
from tests.fake_backend import train_with_fakes
from tests.test_docs import python_of
from tests.test_docs_commands import CARTPOLE

API = ROOT / "docs" / "api.md"
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "hyperlax").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize(("name", "size"), [("lab.tank", 1), ("lab.heavy_pole", 4)])
def test_an_environment_of_ones_own_is_what_the_protocol_asks_for(monkeypatch, name, size):
    (block,) = (text for text in python_of(ROOT / "docs" / "environments.md") if f'register("{name}"' in text)
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(block, names)  # noqa: S102
    environment = make(name)
    assert (environment.name, environment.observation_size) == (name, size)


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """An empty working directory, in which a search is trained by a fake."""
    monkeypatch.chdir(tmp_path)
    train_with_fakes(monkeypatch)


@pytest.mark.usefixtures("notebook")
def test_the_page_of_the_python_api_runs_from_top_to_bottom(tmp_path):
    names: dict[str, Any] = {}
    for block in python_of(API):
        if "load_agent" in block:  # which the fake did not train
            best = names["study"].best.number
            save_agent(agent_path(names["study"].directory, best), CARTPOLE, {"trial": best, "seed": 0})
        exec(block, names)  # noqa: S102
    assert len(names["table"]) == 64 and names["study"].best.number in names["table"].index
    assert len(names["returns"]) > 1 and names["figure"].data and names["page"].exists()
    assert len(names["five"]) == 5 and names["five"][0][0] == names["study"].best.number
    assert names["actions"].shape == (2,) and names["params"].items() <= names["config"].items()
    (block,) = (text for text in python_of(API) if "def get_base_config" in text)
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    assert len(recipe.load(str(tmp_path / "mine.py")).space) == 2


def test_the_page_of_the_python_api_has_every_public_name():
    page = API.read_text(encoding="utf-8")
    assert all(f"## hyperlax.{name}\n" in page for name in hyperlax.__all__)
    members = [f"study.{name}" for name in vars(api.Study) if not name.startswith("_")]
    plots = [f"study.plot.{name}(" for name in vars(api.Plots) if not name.startswith("_")]
    assert [name for name in (*members, "study.directory", *plots) if f"`{name}" not in page] == []


def test_what_the_page_lists_of_a_module_exists():
    tables = re.findall(r"\| `(hyperlax\.\w+)` \|.*\|\n\|---\|---\|\n((?:\|.*\n)+)", API.read_text(encoding="utf-8"))
    assert [module for module, _ in tables] == [
        f"hyperlax.{name}" for name in ("recipe", "hyperparams", "space", "tasks", "envs")
    ]
    for module, rows in tables:
        for row in rows.splitlines():
            for name, arguments in re.findall(r"`(\w+)(?:\(([^)]*)\))?`", row.split("|")[1]):
                parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
                given = re.sub(r"=(\([^)]*\)?|\[[^]]*\]|\w+)", "", arguments).split(", ") if arguments else []
                assert all(one in parameters for one in given if one.isidentifier()), row


@pytest.mark.usefixtures("notebook")
def test_the_readmes_python_runs(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr("plotly.graph_objects.Figure.show", lambda figure: shown.append(figure))
    (search,) = python_of(ROOT / "README.md")
    exec(search, {})  # noqa: S102
    hyperlax.search("ppo_mlp", "gymnax.cartpole", n_trials=4)
    names: dict[str, Any] = {}
    for block in python_of(ROOT / "docs" / "files.md"):
        exec(block, names)  # noqa: S102
    assert len(shown) == 1 and len(names["study"].trials) == 5


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_come_out_as_written(name, finished, tmp_path):
    module = importlib.import_module(name)
    of_a_study = {"directory": finished(tmp_path / "study").directory} if name == "hyperlax.api" else {}
    result = doctest.testmod(module, extraglobs=of_a_study)
    assert result.attempted > 0 and result.failed == 0
    examples = [example for test in doctest.DocTestFinder().find(module) for example in test.examples]
    assert not any("+SKIP" in example.source for example in examples)
