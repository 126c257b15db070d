"""The Python in the documentation's pages runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hyperlax.envs import make, registry
from tests.fake_backend import train_with_fakes

ROOT = Path(__file__).parents[1]


def python_of(page: Path) -> list[str]:
    """The blocks of Python in a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


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
def test_what_is_said_of_python_runs_from_top_to_bottom():
    names: dict[str, Any] = {}
    for block in python_of(ROOT / "docs" / "python.md"):
        exec(block, names)  # noqa: S102
    assert len(names["table"]) == 32 and names["study"].best.number in names["table"].index
    assert len(names["returns"]) > 1 and names["figure"].data and names["page"].exists()


@pytest.mark.usefixtures("notebook")
def test_the_readmes_python_runs(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr("plotly.graph_objects.Figure.show", lambda figure: shown.append(figure))
    by_optuna, search, *_ = python_of(ROOT / "README.md")
    exec(search, {})  # noqa: S102
    exec(by_optuna, {})  # noqa: S102
    assert len(shown) == 1
